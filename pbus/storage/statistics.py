"""
Statistics as drivers keep them: what they must do, and the bytes of a row.

Every node adds its own rows, so no two write the same one; what only the store knows (pushed, expired, cancelled) is
told as totals, and the store itself keeps how far it has counted: several nodes may tell it, and nothing counts twice.

How much: a row is about 150 bytes, 1.3 KB at most (every class in use). A topic that is busy every minute has 2,560
rows a node and as many of the store's own numbers (20 bytes): 0.4 MB, 3.4 MB at most. A minute in which nothing
happened has no row.

Rule: lossy. A row that cannot be read is none; what was dropped with its keep is gone. A write that was perhaps done,
and is repeated by a later call, may count twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pbus.core.statistics import COUNTS, LEVELS, Bucket, summed

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Known:
    """
    Totals of the store that only grow; of a topic, or (name empty) of its queue.

    Where one is smaller than it was, its topic is a new one of the same name.
    """

    pushed: int = 0
    expired: int = 0
    cancelled: int = 0


class KeepsStatistics(Protocol):
    """A part of ``driver.Driver``."""

    def put_statistics(
        self, at_s: int, rows: Sequence[Bucket], known: Mapping[tuple[str, str], Known] | None = None
    ) -> None:
        """
        Add *rows* to the buckets of all levels that *at_s* is in, and what totals grew by since they were told last.

        *known*: by queue and topic; the first time that a total is told counts nothing. What is older than its level
        is kept is dropped. Atomic per queue; not idempotent as to *rows*. Not durable at once. Needs no declaration.

        Args:
            at_s: Unix time, of the caller's clock.
            rows: One per queue, topic and node at most; their ``at_s`` and ``span_s`` do not matter.
        """

    def statistics(self, queue: str, topic: str | None, since_s: int, until_s: int, span_s: int) -> list[Bucket]:
        """
        Buckets of *span_s* (one of ``LEVELS``) that overlap since .. until (not included), oldest first.

        *topic*: of that one and of the queue itself; None: of all topics. At most as far before *until_s* as the
        level is kept. Empty for a queue that nobody knows.
        """


def begin_s(at_s: int, span_s: int) -> int:
    """When the bucket of *at_s* begins."""
    return at_s // span_s * span_s


def window(since_s: int, until_s: int, span_s: int) -> range:
    """Beginnings of the buckets to read."""
    return range(begin_s(max(since_s, until_s - LEVELS[span_s]), span_s), until_s, span_s)


def joined(row: Bucket, stored: bytes | None) -> bytes:
    """The bytes of *row* and what is *stored* of it already."""
    before = unpacked(stored, row) if stored else None
    return packed(summed(row, before) if before else row)


def packed(bucket: Bucket) -> bytes:
    """
    Its numbers, without names: a byte of format, then numbers of 7 bits a byte, the lowest first.

    How many counts, the counts, and twice: how many classes, of each how far it is from the one before, and its count.
    """
    numbers = [len(COUNTS), *(max(0, getattr(bucket, name)) for name in COUNTS)]
    for classes in (bucket.wait, bucket.run):
        numbers.append(len(classes))
        last = 0
        for place in sorted(classes):
            numbers += (place - last, classes[place])
            last = place
    out = bytearray([_FORMAT])
    for number in numbers:
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7  # noqa: PLW2901 - it is eaten up
        out.append(number)
    return bytes(out)


def unpacked(stored: bytes, like: Bucket) -> Bucket | None:
    """What ``packed`` was given, with the names and the time of *like*; None: nobody can read it."""
    if not stored or stored[0] != _FORMAT or stored[-1] & 0x80:
        return None
    numbers, number, shift = [], 0, 0
    for byte in stored[1:]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(number)
            number = shift = 0
    left = iter(numbers)
    try:
        counts = [next(left) for _ in range(next(left))]
        wait = _classes([next(left) for _ in range(2 * next(left))])
        run = _classes([next(left) for _ in range(2 * next(left))])
    except StopIteration:
        return None
    return Bucket(
        like.queue, like.topic, like.node, like.at_s, like.span_s, **dict(zip(COUNTS, counts, strict=False)),
        wait=wait, run=run,
    )


def _classes(numbers: Sequence[int]) -> Mapping[int, int]:
    found, place = {}, 0
    for gap, count in zip(numbers[::2], numbers[1::2], strict=True):
        place += gap
        found[place] = count
    return found
