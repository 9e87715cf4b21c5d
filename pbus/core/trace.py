"""
What is kept of a job's story, and how much of it.

    received (a range of ids, whose) --> attempt 1 --> attempt 2 .. a topic       refused: was never a job

Rule: pure. The story is lossy, and bounded in bytes at the moment of writing. When room is short whole jobs are left
out, by a hash of their id: who keeps a larger share of the jobs keeps all that others keep, so every child and node
keeps the same jobs without asking. Failures and slow ones have a shelf, and room, of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from zlib import crc32

from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Verdict

RECENT_PART: Final = 0.5
KEPT_PART: Final = 0.3
INDEX_PART: Final = 0.2
"""How ``trace.max_bytes`` of a storage is shared among the shelves."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
EXCERPT_BYTES: Final = 4096
"""Of an answer's body, of STDERR and of an error."""
REPLAYED: Final = "replayed"
REPLAY: Final = "replay"
"""Verdicts of number 0: a replay runs this job again as another one; this job was made by a replay."""
PARDON: Final = "pardon"
PURGE: Final = "purge"
"""Two more: the brake gave an attempt back; everything of the topic that waited was cancelled."""
NOTES: Final = "0-0"
"""In the place of an id: it is about every job that waited then. Such records are of second 0."""
_HEADER_CHARS: Final = 200
_SLOW_TIMES: Final = 10
SLOW_S: Final = 1.0
"""No attempt is slow that takes less."""
_FEW: Final = 20
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


class Stored(NamedTuple):
    """
    What one append of a queue stored, of many clients: ids that follow one another. Instead of a ``Received`` each.

    Attributes:
        first: The id of the first job.
        parts: Whose the next so many jobs are, in order.
    """

    first: str
    parts: Sequence[tuple[tuple[str, str, str, str], int]]

    def received(self) -> Iterator[Received]:
        """The same, one by one."""
        ms, _, sequence = self.first.partition("-")
        begin = int(sequence)
        for peer, jobs in self.parts:
            yield Received(f"{ms}-{begin}", f"{ms}-{begin + jobs - 1}", peer)
            begin += jobs


class Done(NamedTuple):
    """
    Attempts of one topic at one place that went as nearly all go: done at once, nothing said, no time to speak of.

    Attributes:
        topic, target: As of an ``Attempt``.
        rows: Of each its id, when it ended and was claimed (unix seconds), seconds that it ran.
    """

    topic: str
    target: str
    rows: Sequence[tuple[str, float, float, float]]


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
    if attempt.verdict == Verdict.RELEASED:
        return Shelf.RECENT                           # it never began
    plain = attempt.verdict == Verdict.DONE and attempt.attempt == 1
    return Shelf.RECENT if plain and not 0 < slow_us <= attempt.run_us else Shelf.KEPT


def attempt_of(delivery: Delivery, outcome: Outcome, settlement: Settlement, ended_s: float) -> Attempt:
    """What is told of an attempt that is over since *ended_s* (unix seconds) and settled like that."""
    begun_s = ended_s - outcome.run_s
    claimed_s = delivery.claimed_s or begun_s
    wait_ms = int(claimed_s * 1000) - int(delivery.id.partition("-")[0]) if delivery.attempt == 1 else 0
    told = outcome.verdict is not Verdict.DONE or outcome.stderr
    return Attempt(
        delivery.id, delivery.topic, delivery.attempt, int(ended_s * 1000), wait_ms if wait_ms > 0 else 0,
        max(0, round((begun_s - claimed_s) * 1000)), int(outcome.run_s * 1e6), outcome.verdict.value,
        settlement.move.value, outcome.target or delivery.owner,
        _more(outcome, settlement, ended_s) if told else NOTHING,
    )


def is_plain(delivery: Delivery, outcome: Outcome) -> bool:
    """Whether its attempt is one of ``Done``: it costs a third of what an ``Attempt`` does."""
    return (
        outcome.verdict is Verdict.DONE and delivery.attempt == 1 and outcome.run_s < SLOW_S and not outcome.stderr
    )


def decision(id: str, topic: str, word: str, at_s: float, by: str) -> Attempt:
    """What a person decided about a delivery: *word* is a ``core.job.Move``, *by* says who and where."""
    return Attempt(id, topic, 0, int(at_s * 1000), 0, 0, 0, word, word, by)


def replayed(old: str, copy: str, topic: str, at_s: float, by: str) -> tuple[Attempt, Attempt]:
    """What is told of job *old*, which the replay *by* runs again, and of the job *copy* that it made."""
    return (
        decision(old, topic, REPLAYED, at_s, by)._replace(more={"as": copy}),
        decision(copy, topic, REPLAY, at_s, by)._replace(more={"of": old}),
    )


def concerns(note: Attempt, id: str, attempts: Sequence[Attempt]) -> bool:
    """Whether a PURGE met job *id*, of which these are the attempts and decisions: it waited at that topic then."""
    topic = [one for one in attempts if one.topic in (note.topic, "")]
    if int(id.partition("-")[0]) > note.ended_ms or any(one.ended_ms > note.ended_ms for one in topic):
        return False
    return not topic or max(topic, key=lambda one: one.ended_ms).move in (
        Move.RETRY.value, Move.RELEASE.value, Move.REVIVE.value, PARDON
    )


def reclaim_of(attempt: int, settlement: Settlement, now_ms: int) -> Attempt:
    """What is told of a claim whose process is dead: nobody knows how long it ran."""
    said: dict[str, Any] = {"error": settlement.error or "its process is dead", "fingerprint": settlement.fingerprint}
    if settlement.move is Move.RETRY:
        said["next_ms"] = now_ms + int(settlement.delay_s * 1000)
    verdict = settlement.reason or (Verdict.UNSURE if settlement.redelivered else Verdict.RELEASED).value
    more = {name: value for name, value in said.items() if value}
    move, owner = settlement.move.value, settlement.owner
    return Attempt(settlement.id, settlement.topic, attempt, now_ms, 0, 0, 0, verdict, move, owner, more)


def text_bytes(attempt: Attempt) -> int:
    """About what it says to people, for the bound of what is held at once."""
    return sum([len(value) for value in attempt.more.values() if isinstance(value, str)])


def slow_us(counts: Sequence[int], bounds_s: Sequence[float]) -> int:
    """
    From which run time on an attempt is slow: ten times the median, a second at least.

    Args:
        counts: Attempts by class of their run time.
        bounds_s: Upper bounds of the classes but for the last.

    Returns:
        Microseconds; 0: too few attempts to say.
    """
    left = sum(counts) / 2
    if left < _FEW / 2:
        return 0
    for count, bound_s in zip(counts, bounds_s, strict=False):
        left -= count
        if left <= 0:
            return int(max(_SLOW_TIMES * bound_s, SLOW_S) * 1e6)
    return 0


def brief(attempt: Attempt) -> Attempt:
    """The same with the first line of its error, and nothing else that many others say, too."""
    more = {name: value for name, value in attempt.more.items() if name not in ("headers", "output", "stderr")}
    if "error" in more:
        more["error"] = str(more["error"]).partition("\n")[0][:_HEADER_CHARS]
    return attempt._replace(more=more)


def _more(outcome: Outcome, settlement: Settlement, ended_s: float) -> dict[str, Any]:
    said: dict[str, Any] = {
        "status": outcome.status, "error": (settlement.error or outcome.error)[:EXCERPT_BYTES],
        "headers": {str(name): str(value)[:_HEADER_CHARS] for name, value in outcome.headers.items()},
        "output": _excerpt(outcome.output), "stderr": _excerpt(outcome.stderr), "reason": settlement.reason,
        "fingerprint": settlement.fingerprint, "resent": outcome.resent,
    }
    if settlement.move is Move.RETRY:
        said["next_ms"] = int((ended_s + settlement.delay_s) * 1000)
    return {name: value for name, value in said.items() if value}


def _excerpt(text: bytes) -> str:
    """The beginning of it, and its end where an error stands there."""
    if len(text) > EXCERPT_BYTES:
        half = EXCERPT_BYTES // 2
        text = text[:half] + b" .. " + text[-half:]
    return text.decode("utf-8", "replace")


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

    def resize(self, cap_bytes: int, keep_s: float) -> None:
        """There are more writers, or fewer: as full as before, of another size."""
        depth = cap_bytes * _AT_ONCE
        self._left *= depth / self._depth if self._depth else 0.0
        self._depth = depth
        self._per_s = cap_bytes * _IN_A_KEEP / keep_s

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
