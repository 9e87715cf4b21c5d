"""
What is kept of a job's story, and how much of it.

    received (a range of ids, whose) --> attempt 1 --> attempt 2 .. a topic       refused: was never a job

Rule: pure. The story is lossy, and bounded in bytes at the moment of writing. When room is short whole jobs are left
out, by a hash of their id: who keeps a larger share of the jobs keeps all that others keep, so every child and node
keeps the same jobs without asking. Failures and slow ones have a shelf, and room, of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from zlib import crc32

from pbus.core.outcome import Verdict

RECENT_PART: Final = 0.5
KEPT_PART: Final = 0.3
INDEX_PART: Final = 0.2
"""How ``trace.max_bytes`` of a storage is shared among the shelves."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_MARKS: Final = 1 << 32
_LOOKED_AT: Final = 64
_AT_ONCE: Final = 7 / 16
_IN_A_KEEP: Final = 8 / 16
"""Of the cap. The rest is for blocks that are too old and not dropped yet."""


class Shelf(enum.IntEnum):
    """
    How long a record is kept, and whose room it takes. The numbers are stored.

    RECENT: everything, for ``trace.keep``. KEPT: attempts that failed or were slow, and those after them, for
    ``trace.keep_failed``. INDEX: marks of the values by which jobs are found.
    """

    RECENT = 1
    KEPT = 2
    INDEX = 3


class Received(NamedTuple):
    """
    Pushes of one client that were stored by one append of a queue. Nobody else's id is between its ids.

    Attributes:
        first, last: Their ids, in order.
        peer: Address, identity, client name, library; what is not known is empty.
    """

    first: str
    last: str
    peer: tuple[str, str, str, str]


class Attempt(NamedTuple):
    """
    One attempt of one topic, as it ended. What began and never ended is a claim, which the store knows.

    Attributes:
        id, topic: Whose.
        attempt: 1-based.
        ended_ms: When, unix ms by the child's clock.
        wait_ms: From the moment it was ready until it was claimed.
        pool_ms: From the claim until it was sent: it waited for a place.
        run_us: From the first byte sent to the verdict.
        verdict: A word of ``core.outcome.Verdict``.
        move: How its claim was settled, a word of ``core.job.Move``.
        target: Where it ran.
        more: For people, of what did not go well: status, headers, output, stderr, error, fingerprint, next_ms.
            JSON values.
    """

    id: str
    topic: str
    attempt: int
    ended_ms: int
    wait_ms: int
    pool_ms: int
    run_us: int
    verdict: str
    move: str
    target: str
    more: Mapping[str, Any] = NOTHING


Record = Received | Attempt


class Run(NamedTuple):
    """Ids that follow one another: *first* and those with the next sequences of the same ms, *jobs* in all."""

    first: str
    jobs: int

    def ids(self) -> list[str]:
        """Each of them."""
        ms, _, sequence = self.first.partition("-")
        return [f"{ms}-{number}" for number in range(int(sequence), int(sequence) + self.jobs)]


def is_run(first: str, last: str, count: int) -> bool:
    """Whether *count* ids in order, of which these are the first and the last one, are a ``Run``."""
    ms, _, low = first.partition("-")
    last_ms, _, high = last.partition("-")
    return ms == last_ms and int(high) - int(low) + 1 == count


def caps(max_bytes: int) -> dict[Shelf, int]:
    """Bytes of each shelf of a storage whose ``trace.max_bytes`` is that."""
    parts = {Shelf.RECENT: RECENT_PART, Shelf.KEPT: KEPT_PART, Shelf.INDEX: INDEX_PART}
    return {shelf: int(max_bytes * part) for shelf, part in parts.items()}


def is_kept(id: str, share: float) -> bool:
    """Whether *id* is among the *share* (0 to 1) of all jobs whose story is kept; a larger share has these, too."""
    return share >= 1.0 or crc32(id.encode()) < share * _MARKS


def keeps_any(first: str, last: str, share: float) -> bool:
    """Whether one of the ids *first* to *last* is kept; a range that is too long to look at each is."""
    if share >= 1.0:
        return True
    ms, _, low = first.partition("-")
    last_ms, _, high = last.partition("-")
    count = int(high) - int(low) + 1
    if ms != last_ms or count > _LOOKED_AT:
        return True
    return any(is_kept(f"{ms}-{int(low) + place}", share) for place in range(count))


def shelf_of(attempt: Attempt, slow_us: int) -> Shelf:
    """Where *attempt* is kept, on a topic of which attempts are slow from *slow_us* on (0: never)."""
    plain = attempt.verdict == Verdict.DONE and attempt.attempt == 1
    return Shelf.RECENT if plain and not 0 < slow_us <= attempt.run_us else Shelf.KEPT


class Budget:
    """
    The bytes that one writer may put on one shelf: a bucket that holds nearly half of its cap when it is full and gets
    half of it anew in every ``keep``, so within one ``keep`` it never gives more than the cap. A short rush is kept
    whole; in a long one the share settles where what is kept is what flows in.

    Args:
        cap_bytes: Of this writer: the shelf's cap divided by how many write.
        keep_s: How long what is written stays.
        now_s: Of the clock that ``share`` and ``spend`` are told.
    """

    __slots__ = ("_at_s", "_depth", "_left", "_per_s")

    def __init__(self, cap_bytes: int, keep_s: float, now_s: float) -> None:
        self._depth = cap_bytes * _AT_ONCE
        self._per_s = cap_bytes * _IN_A_KEEP / keep_s
        self._left = self._depth
        self._at_s = now_s

    def share(self, now_s: float) -> float:
        """Which share of the jobs to keep now, 0 to 1: all while the bucket is more than half full."""
        self._fill(now_s)
        return min(1.0, 2 * self._left / self._depth) if self._depth else 0.0

    def spend(self, size: int, now_s: float) -> bool:
        """Whether *size* bytes may be written; if so they are counted."""
        self._fill(now_s)
        if size > self._left:
            return False
        self._left -= size
        return True

    def _fill(self, now_s: float) -> None:
        # A clock that goes back gives nothing.
        self._left = min(self._depth, self._left + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
