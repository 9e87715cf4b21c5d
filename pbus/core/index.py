"""
By which values of its body a job is found: ``index = ["$.uid", "$.order.id"]``.

    body --column--> one number of 32 bits a path --stored--> candidates --matches--> jobs

Rule: pure. Marks are made at every push of an indexed queue and must cost about 0.3 us a path, so the text of the
body is searched instead of parsed (json.loads: 2.8 us) wherever that is certain to find the value. A mark may belong
to another value: whoever finds a candidate asks ``matches`` with the body. Only JSON objects are found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from zlib import crc32

PATH: Final = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_-]{0,63}){1,8}\Z")
"""What may be indexed: a value in an object, in an object."""

NONE: Final = 0
"""The mark of a body without that value; no value has it."""

PARSED_BYTES: Final = 65_536
"""A longer body is never parsed: what its text does not tell is not found."""

_VALUE: Final = rb'\s*+:\s*+(?:"([^"\\]*+)"|([-+.0-9A-Za-z]++))'
SHARE: Final = 0.05
"""Of a process' time that marks may take, whatever comes; two fields of a body take about a microsecond."""
AT_ONCE_S: Final = 0.02
"""So much may be taken at once after a quiet time."""


def mark(value: bytes) -> int:
    """The mark of a value as text: a string without its quotes, else as JSON has it; 1 to 2**32 - 1."""
    return crc32(value) or 1


Column = Callable[[Iterable[bytes]], list[int]]


def column(path: str) -> Column:
    """
    What makes the mark of each of many bodies for *path*; ``NONE`` where it has no value there.

    Raises:
        ValueError: it cannot be indexed (``PATH``).
    """
    needle = b'"' + _names(path)[-1].encode() + b'"'
    search = re.compile(re.escape(needle) + _VALUE).search

    def marks(bodies: Iterable[bytes]) -> list[int]:
        found: list[int] = []
        append = found.append
        for body in bodies:
            match = search(body)
            if match is not None and body.count(needle) == 1:
                append(crc32(match[1] or match[2] or b"") or 1)
            elif match is None and needle not in body and b"\\u" not in body:
                append(NONE)
            else:  # the name is there twice, is written with escapes, or its value is: only parsing tells
                append(_parsed(body, path))
        return found

    return marks


class Effort:
    """
    How much of its time a process may still spend on marks: a bucket of seconds. What does not fit is left out, told as
    left out, and found in the log by who looks for it: a flood of pushes is never slowed down by its index.

    Args:
        now_s: Of the clock that ``allows`` and ``spend`` are told.
    """

    __slots__ = ("_at_s", "_left_s")

    def __init__(self, now_s: float) -> None:
        self._at_s = now_s
        self._left_s = AT_ONCE_S

    def allows(self, now_s: float) -> bool:
        """Whether some more may be made now."""
        self._left_s = min(AT_ONCE_S, self._left_s + max(0.0, now_s - self._at_s) * SHARE)
        self._at_s = now_s
        return self._left_s > 0

    def spend(self, seconds: float) -> None:
        """They took so long."""
        self._left_s -= max(0.0, seconds)


def value_at(body: bytes, path: str) -> str | None:
    """The string, number, true, false or null at *path* as text; None: the body has none there."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for name in _names(path):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    if isinstance(found, str):
        return found
    return None if isinstance(found, dict | list) else json.dumps(found)


def matches(body: bytes, path: str, value: str) -> bool:
    """Whether *body* has *value* at *path*; numbers are compared as numbers (``1e3`` is ``1000.0``)."""
    found = value_at(body, path)
    return found is not None and (found == value or _same_number(found, value))


def _parsed(body: bytes, path: str) -> int:
    value = value_at(body, path) if len(body) <= PARSED_BYTES else None
    return NONE if value is None else mark(value.encode("utf-8", "surrogatepass"))


def _names(path: str) -> list[str]:
    if not PATH.match(path):
        raise ValueError(f"{path!r} is no path that can be indexed: $.name or $.name.name")
    return path.split(".")[1:]


def _same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False
