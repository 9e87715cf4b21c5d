"""
Words of a POSIX shell that mean exactly these bytes, whatever is in them.

Rule: what is printed here is pasted into terminals. Job data comes from strangers, so nothing of it is ever outside
of quotes, and what a terminal would obey or not show is never written as it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")
_NAME: Final = re.compile(r"[^A-Za-z0-9]+")


def word(text: str) -> str:
    """*text* as one word; what cannot be shown is written by ``printf`` in it (which cannot end in a line feed)."""
    if _PLAIN.match(text):
        return text
    if text.isprintable():
        return _quoted(text)
    octal = "".join(f"\\{byte:03o}" for byte in text.encode("utf-8", "surrogateescape"))
    return f"\"$(printf '{octal}')\""


def words(texts: Iterable[str]) -> str:
    """A line of such words."""
    return " ".join(map(word, texts))


def _quoted(text: str) -> str:
    inner = text.replace("'", "'\\''")
    return f"'{inner}'"


def printing(data: bytes, *, ascii_only: bool = False) -> str:
    """
    A command that prints exactly *data*: readable where all of it can be shown, else by base64.

    Args:
        data: Any bytes, of any length.
        ascii_only: Whoever reads the line shows nothing else.
    """
    try:
        text = data.decode("ascii" if ascii_only else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return f"printf %s {_quoted(text)}"
    return f"printf %s {base64.b64encode(data).decode()} | base64 -d"


def variable(name: str) -> str:
    """The shell variable that stands for the value of *name*: ``PBUS_X_API_KEY`` for ``X-Api-Key``."""
    return "PBUS_" + _NAME.sub("_", name).strip("_").upper()


def assigned(prefix: str, name: str) -> str:
    """*prefix* and the value of ``variable(name)`` as one word."""
    return f'{word(prefix)}"${{{variable(name)}}}"'
