"""
Header blocks as CGI answers and HTTP responses carry them, and the values pbus reads from them.

Rule: a block that is not clean is refused, never guessed at: a handler whose warnings ran into its
headers must not be taken for one that answered. Source: RFC 9110 section 5, RFC 3875 section 6.
"""

from __future__ import annotations

import email.utils
import re
from typing import Final

MAX_BLOCK_BYTES: Final = 64 * 1024

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_END: Final = re.compile(rb"\r?\n\r?\n")


def find_end(buffer: bytes | bytearray, start: int = 0) -> tuple[int, int] | None:
    """Where the block that begins at *start* ends and what follows begins; None: not complete."""
    match = _END.search(buffer, start)
    return None if match is None else match.span()


def fields(block: bytes) -> dict[str, str]:
    """
    The fields of a header block without its empty line.

    Returns:
        Lower-case name -> value; repeated fields are joined by ``", "`` in order.

    Raises:
        ValueError: a line is not ``name: value`` (folded lines included).
    """
    found: dict[str, str] = {}
    for line in block.split(b"\n") if block else ():
        raw_name, colon, raw_value = line.partition(b":")
        if not colon or _NAME.match(raw_name) is None:
            raise ValueError(f"not a header: {line[:80]!r}")
        name = raw_name.decode("ascii").lower()
        value = raw_value.strip().decode("utf-8", "replace")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def retry_after_s(value: str, wall_s: float) -> float | None:
    """
    The wait that ``Retry-After`` asks for, seconds from now; None when it says nothing usable.

    Args:
        value: Seconds or an HTTP date (RFC 9110 section 10.2.3).
        wall_s: Now, unix seconds.
    """
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - wall_s)
    except (ValueError, OverflowError, OSError):
        return None
