"""
Ids of stream entries as clients write them, and the intervals they make of them.

    1760000000000-0    1760000000000 (any sequence)    - (the first)    + (the last)    (1760000000000-0 (exclusive)

Rule: pure; an id is a pair of numbers until it is text again. Source: Redis 7, t_stream.c; the errors are its own.
"""

from __future__ import annotations

from typing import Final

Id = tuple[int, int]
"""Unix ms and sequence."""

LARGEST: Final = 2**64 - 1
FIRST: Final[Id] = (0, 0)
LAST: Final[Id] = (LARGEST, LARGEST)
INVALID: Final = "ERR Invalid stream ID specified as stream command argument"


def parse(text: bytes, missing: int = 0) -> Id:
    """
    The id that *text* is; *missing* is the sequence of one that has none.

    Raises:
        ValueError: it is none; the text is the error for the client.
    """
    ms, dash, sequence = text.partition(b"-")
    if not _is_number(ms) or (dash and not _is_number(sequence)):
        raise ValueError(INVALID)
    return int(ms), int(sequence) if dash else missing


def interval(start: bytes, end: bytes) -> tuple[Id, Id]:
    """
    The first and the last id that may be meant, both inclusive; the first may be above the last: nothing is meant.

    Raises:
        ValueError: one of them is none; the text is the error for the client.
    """
    first, last = _bound(start, 0), _bound(end, LARGEST)
    if start.startswith(b"("):
        if first == LAST:
            raise ValueError("ERR invalid start ID for the interval")
        first = after(first)
    if end.startswith(b"("):
        if last == FIRST:
            raise ValueError("ERR invalid end ID for the interval")
        last = before(last)
    return first, last


def before(one: Id) -> Id:
    """The next id below *one*, which is not FIRST."""
    ms, sequence = one
    return (ms, sequence - 1) if sequence else (ms - 1, LARGEST)


def after(one: Id) -> Id:
    """The next id above *one*, which is not LAST."""
    ms, sequence = one
    return (ms, sequence + 1) if sequence < LARGEST else (ms + 1, 0)


def written(one: Id) -> str:
    """``ms-sequence``."""
    return f"{one[0]}-{one[1]}"


def _bound(text: bytes, missing: int) -> Id:
    if text == b"-":
        return FIRST
    if text == b"+":
        return LAST
    return parse(text.removeprefix(b"("), missing)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 20 and int(text) <= LARGEST
