"""
A call as a line for a shell: curl for HTTP, cgi-fcgi for FastCGI.

Rule: whoever runs the line sends what pbus sends, to the byte: nothing of its own settings, no header more, no body
recoded. What must not be seen stands in it as a variable. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from pbus.core.shell import assigned, printing, word, words

# No ~/.curlrc, answer headers shown, the URL taken as it is, no proxy.
_CURL: Final = ("curl", "-q", "-sS", "-i", "-g", "--http1.1", "--path-as-is", "--noproxy", "*")
_OF_CURL: Final = ("Accept", "Expect", "User-Agent", "Content-Type")
_LENGTH: Final = "content-length"
"""curl says it itself, of the same bytes."""


def curl_line(
    address: str, path: str, headers: Mapping[str, str], body: bytes, *, hidden: Collection[str] = (),
    ascii_only: bool = False,
) -> str:
    """
    ``printf .. | curl ..``: a POST of *body*.

    Args:
        address: ``HOST:PORT``.
        path: Of the request line, encoded.
        headers: All of them, by name as sent.
        hidden: Names of headers whose values are left to variables (``shell.variable``).
        ascii_only: The line has nothing else.
    """
    named = {name.lower() for name in headers}
    parts = [words(_CURL)]
    parts += [words(("-H", f"{name}:")) for name in _OF_CURL if name.lower() not in named]
    for name, value in headers.items():
        if name in hidden:
            parts.append(f"-H {assigned(f'{name}: ', name)}")
        elif name.lower() != _LENGTH:
            parts.append(words(("-H", f"{name}: {value}" if value else f"{name};")))
    parts.append(words(("--data-binary", "@-", f"http://{address}{path}")))
    return f"{printing(body, ascii_only=ascii_only)} | {' '.join(parts)}"


def cgi_line(
    address: str, parameters: Mapping[str, str], body: bytes, *, hidden: Collection[str] = (), ascii_only: bool = False
) -> str:
    """``printf .. | env -i .. cgi-fcgi ..``: one request with *parameters* to ``unix:PATH`` or ``HOST:PORT``."""
    said = [
        assigned(f"{name}=", name) if name in hidden else word(f"{name}={value}") for name, value in parameters.items()
    ]
    where = words(("cgi-fcgi", "-bind", "-connect", address.removeprefix("unix:")))
    return f"{printing(body, ascii_only=ascii_only)} | env -i {' '.join(said)} {where}"
