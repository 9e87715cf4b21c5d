"""
Where the stories of jobs are kept: blocks of records, by queue and second of the id.

    role --collects--> TraceBuffer --blocks, every 200 ms--> Traces.put
    people: Traces.blocks(queue, shelf, seconds) --> codec.trace_block --> records of a job

Rules
-----
* Lossy: whoever calls ``put`` drops what it refuses, and counts it. Nothing waits for a trace.
* What is inside a block is not this room's business (``codec.trace_block``).
* Bounded: a shelf takes no more than its cap. What does not fit is not stored, and ``put`` says so. Old blocks go
  by their time of writing, never by the time in the id: a job that waited for a day keeps the story of its call.
* Plain blocking calls; a driver raises nothing but ``errors.StorageError``. With ``blocking`` it must be called
  on a thread of its own, not on the storage thread: a push never waits for a trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, NamedTuple, Protocol

from pbus.core import trace
from pbus.core.trace import Shelf
from pbus.storage.open import StoreTarget

BLOCK_COST: Final = 160
"""Bytes that a block takes beside its data, at most: its row and index, or its field and a part of its key."""

MOST_SECONDS: Final = 600
"""Longest span of one ``blocks`` call."""

MARKS_SPAN_S: Final = 10
"""A block of marks is of so many seconds, its ``second`` is the first one: who looks for a value reads all blocks."""

REFUSALS: Final = 1_000
"""Refused pushes that are kept of a queue."""
REFUSAL_BYTES: Final = 512
"""A longer one is cut."""


class Block(NamedTuple):
    """
    Attributes:
        queue: Of which the jobs are.
        shelf: How long it is kept.
        second: Of the ids of its jobs, unix seconds; of marks the first one of ``MARKS_SPAN_S``.
        data: See ``codec.trace_block``.
    """

    queue: str
    shelf: Shelf
    second: int
    data: bytes


class Put(NamedTuple):
    """How many blocks were stored, and how many had no room."""

    stored: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TraceLimits:
    """
    ``[trace]`` of the configuration.

    Attributes:
        keep_s: Of RECENT.
        keep_failed_s: Of KEPT and of refused pushes.
        max_bytes: Of all shelves of the storage, over all nodes.
        keep_marks_s: Of INDEX. A mark is 4 bytes: the longer they are kept, the fewer jobs a second are all marked.
    """

    keep_s: float
    keep_failed_s: float
    max_bytes: int
    keep_marks_s: float = 7_200.0

    def keep_of(self, shelf: Shelf) -> float:
        """Seconds that a block of *shelf* is kept."""
        keeps = {Shelf.RECENT: self.keep_s, Shelf.KEPT: self.keep_failed_s, Shelf.INDEX: self.keep_marks_s}
        return keeps[shelf]

    def caps(self) -> Mapping[Shelf, int]:
        """Bytes of each shelf."""
        return trace.caps(self.max_bytes)


class Traces(Protocol):
    """The trace store beside one storage, as one process sees it."""

    blocking: bool
    writers: int
    """How many processes, of all nodes, were seen to write lately; 0: not known."""

    def open(self) -> None:
        """
        Make it usable; what is damaged is thrown away, it is only traces. Idempotent.

        Raises:
            StorageError: not now.
        """

    def close(self) -> None:
        """Give everything back; idempotent, never raises."""

    def put(self, blocks: Sequence[Block], refusals: Sequence[tuple[str, bytes]] = ()) -> Put:
        """
        Store what has room. Not atomic; repeating it tells twice. Lost with the power, not with the process.

        Args:
            blocks: Oldest first.
            refusals: (queue, text) of pushes that were refused, oldest first; queue is a declared name, or empty for
                pushes to a name that nobody bears.
        """

    def blocks(self, queue: str, shelf: Shelf, first_s: int, last_s: int) -> list[Block]:
        """
        What is kept of jobs whose ids are of these seconds (both included), in order of seconds.

        Raises:
            ValueError: more than ``MOST_SECONDS``.
        """

    def refusals(self, queue: str, limit: int = 100) -> list[bytes]:
        """Refused pushes of *queue*, newest first."""

    def used(self) -> dict[Shelf, int]:
        """Bytes of each shelf that are taken, ``BLOCK_COST`` included."""

    def trim(self) -> None:
        """Drop what is too old. A duty of one process, about once in 10 s."""


# Found without installed metadata; further drivers have no trace store yet.
_BUILT_IN: Final[Mapping[str, tuple[str, str]]] = {
    "sqlite": ("pbus.storage.traces_sqlite", "SqliteTraces"),
    "redis": ("pbus.storage.traces_redis", "RedisTraces"),
    "redis+unix": ("pbus.storage.traces_redis", "RedisTraces"),
}


def make(target: StoreTarget, limits: TraceLimits) -> Traces | None:
    """The trace store beside that storage, not opened yet; None: its driver has none."""
    found = _BUILT_IN.get(target.url.partition(":")[0])
    if found is None:
        return None
    made: Traces = getattr(import_module(found[0]), found[1])(target, limits)
    return made


def check_span(first_s: int, last_s: int) -> None:
    """
    Raises:
        ValueError: more than ``MOST_SECONDS``.
    """
    if last_s - first_s >= MOST_SECONDS:
        raise ValueError(f"{last_s - first_s + 1} seconds of traces at once; at most {MOST_SECONDS}")
