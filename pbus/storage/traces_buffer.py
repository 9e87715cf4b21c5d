"""
What one process has to tell of its jobs, until it is written: bounded, and never in the way of a job.

    tell, mark, refused --> this --drain, 5 times a second--> blocks by queue and second --> Traces.put

Rule: telling costs some tenths of a microsecond a job: no text is made, no call, no lock (one thread). What has no room
is counted and forgotten. The greenlet that drains and writes is the role's.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pbus.clock import Clock
from pbus.codec import trace_block
from pbus.core.trace import (
    Attempt, Budget, Done, Received, Record, Run, Shelf, Stored, is_kept, keeps_any, text_bytes,
)
from pbus.storage.traces import BLOCK_COST, MARKS_SPAN_S, REFUSALS, Block, TraceLimits

MOST_RECORDS: Final = 20_000
"""Held at once, of records and of marks: 200 ms at 100,000 a second, some 8 MiB."""
MOST_TEXT_BYTES: Final = 4 * 1024 * 1024
"""Of what failures say, held at once."""
MANY_MARKS: Final = 5_000
"""These make a block that is large enough to be written."""
TOPIC_PART: Final = 8
"""A topic has this part of the room of failures at most: one that fails always pushes nobody else's out."""
_MOST_TOPICS: Final = 10_000
_FAILURE_BYTES: Final = 32
_PACKED: Final = 4
"""So many times smaller texts are in a block, about."""
_MOST_SECONDS: Final = 10
_MOST_GAPS: Final = 50_000
"""Half a day of one queue while nothing can be written."""
_LEFT_OUT: Final = trace_block.pack_marks((), (), ())
_MS_DIGITS: Final = 3
"""What an id's time has behind its second."""


class Marks(NamedTuple):
    """
    Marks of the jobs of one append.

    Attributes:
        queue, runs: Which jobs, in order; of one append nearly always one run.
        paths: The mark of each path.
        columns: Per path the mark of each job.
    """

    queue: str
    runs: Sequence[Run]
    paths: tuple[int, ...]
    columns: Sequence[Sequence[int]]


Row = tuple[str, str, str, str, float, float, float]
"""Queue, topic and place of an attempt that is plainly done, and its row (``core.trace.Done``)."""


class TraceBuffer:
    """
    One per process and storage.

    Args:
        by: Whose it is: node and process.
        limits: Of the storage.
        writers: How many write to the storage, over all nodes: each has its part of the caps.
        clock: Of the budgets.

    Attributes:
        dropped_total: Records that nobody will see, for want of room; those left out by sampling as well.
        drained: Records in the blocks of the last drain.
        wake: Called when there is something to drain again.
    """

    def __init__(self, by: str, limits: TraceLimits, writers: int, clock: Clock) -> None:
        self.dropped_total = 0
        self.drained = 0
        self.wake: Callable[[], None] = _nobody
        self._by = by
        self._clock = clock
        self._told: list[tuple[str, Shelf, Any]] = []
        self._done: list[Row] = []
        self._text_bytes = 0
        self._has_failures = False
        self._marks: list[Marks] = []
        self._marked = 0
        self._gaps: set[tuple[str, int]] = set()
        self._refused: collections.deque[tuple[str, bytes]] = collections.deque(maxlen=REFUSALS)
        now_s = clock.monotonic_s()
        self._limits = limits
        self._planned = self._writers = max(1, writers)
        self._of_topic_bytes = limits.caps()[Shelf.KEPT] // max(1, writers) // TOPIC_PART
        self._keep_failed_s = limits.keep_of(Shelf.KEPT)
        self._topics: dict[tuple[str, str], Budget] = {}
        self._budgets = {
            shelf: Budget(cap // max(1, writers), limits.keep_of(shelf), now_s) for shelf, cap in limits.caps().items()
        }

    def share_among(self, writers: int) -> None:
        """So many are known to write to the storage: a smaller part of the caps is this one's, if there are more."""
        writers = max(self._planned, writers)
        if writers == self._writers:
            return
        self._writers = writers
        for shelf, cap in self._limits.caps().items():
            self._budgets[shelf].resize(cap // writers, self._limits.keep_of(shelf))
        self._of_topic_bytes = self._limits.caps()[Shelf.KEPT] // writers // TOPIC_PART
        for budget in self._topics.values():
            budget.resize(self._of_topic_bytes, self._keep_failed_s)

    def tell(
        self, queue: str, record: Record | Stored, shelf: Shelf = Shelf.RECENT, size: int = 0
    ) -> None:
        """Keep *record* for the next drain; *size*: bytes of what it says to people, about."""
        if len(self._told) >= MOST_RECORDS or self._text_bytes + size > MOST_TEXT_BYTES:
            self.dropped_total += 1
            return
        self._text_bytes += size
        if shelf is Shelf.KEPT:
            self._has_failures = True
        if not self._told:
            self.wake()
        self._told.append((queue, shelf, record))

    def done(self, row: Row) -> None:
        """Keep an attempt that is plainly done for the next drain; this has to be fast."""
        done = self._done
        if len(done) >= MOST_RECORDS:
            self.dropped_total += 1
            return
        if not done:
            self.wake()
        done.append(row)

    def all_done(self, rows: Sequence[Row]) -> None:
        """The same for many at once."""
        room = MOST_RECORDS - len(self._done)
        if len(rows) > room:
            self.dropped_total += len(rows) - room
            rows = rows[:room]
        if rows and not self._done:
            self.wake()
        self._done += rows

    def mark(self, marks: Marks) -> None:
        """Keep the marks of an append for the next drain."""
        jobs = _jobs(marks.runs)
        if self._marked + jobs > MOST_RECORDS:
            self.dropped_total += jobs
            self.left_out(marks.queue, _second(marks.runs[0].first))
            return
        self._marked += jobs
        if not self._marks:
            self.wake()
        self._marks.append(marks)

    def left_out(self, queue: str, second: int) -> None:
        """Marks of jobs of *queue* and that second are missing: whoever looks for a value is told so."""
        if len(self._gaps) < _MOST_GAPS:
            self._gaps.add((queue, second))

    def refused(self, queue: str, text: bytes) -> None:
        """A push was refused; only the newest are kept."""
        if not self._refused:
            self.wake()
        self._refused.append((queue, text))

    @property
    def has_marks(self) -> bool:
        """Marks wait for a drain."""
        return bool(self._marks or self._gaps)

    @property
    def has_many_marks(self) -> bool:
        """So many that they need not wait."""
        return self._marked >= MANY_MARKS

    def drain(self, *, marks: bool = True) -> tuple[list[Block], list[tuple[str, bytes]]]:
        """
        Blocks and refusals for ``Traces.put``; what the budgets do not allow is dropped and counted.

        Without *marks* those of the index wait for a later one: few large blocks are found faster than many.
        """
        self.drained = 0
        blocks = self._packed()
        if marks:
            blocks += self._packed_marks()
            gaps, self._gaps = self._gaps, set()
            blocks += [Block(queue, Shelf.INDEX, second, _LEFT_OUT) for queue, second in sorted(gaps)]
        refusals = list(self._refused)
        self._refused.clear()
        return blocks, refusals

    def _packed(self) -> list[Block]:
        told, self._told = self._told, []
        self._text_bytes = 0
        now_s = self._clock.monotonic_s()
        shares = {shelf: budget.share(now_s) for shelf, budget in self._budgets.items()}
        if self._has_failures:
            self._has_failures = False
            told = self._fair(told, now_s)
        if min(shares.values()) < 1.0:
            told = self._sampled(told, shares)
        groups: dict[tuple[str, Shelf, str], list[Any]] = {}
        counts: dict[tuple[str, Shelf, str], int] = {}
        for (queue, second, topic, target), rows in self._rows(shares[Shelf.RECENT]).items():
            place = queue, Shelf.RECENT, second
            groups.setdefault(place, []).append(Done(topic, target, rows))
            counts[place] = counts.get(place, 0) + len(rows) - 1
        last, group = ("", Shelf.RECENT, ""), list[Any]()
        for queue, shelf, record in told:
            job = record[0]
            second = job[: job.index("-") - _MS_DIGITS]
            if second != last[2] or shelf is not last[1] or queue != last[0]:    # nearly always as the one before
                last = queue, shelf, second
                group = groups.setdefault(last, [])
            group.append(record)
            if type(record) is Received and not record.last.startswith(second):
                for later in _later(int(second), record):
                    groups.setdefault((queue, shelf, str(later)), []).append(record)
        blocks = []
        for place, records in groups.items():
            queue, shelf, second = place
            block = Block(queue, shelf, int(second), trace_block.pack(self._by, records))
            blocks += self._allowed(block, len(records) + counts.get(place, 0), now_s)
        return blocks

    def _rows(self, share: float) -> dict[tuple[str, str, str, str], list[tuple[str, float, float, float]]]:
        """What is plainly done and kept, by queue, second, topic and place."""
        told, self._done = self._done, []
        if share < 1.0:
            kept = [row for row in told if is_kept(row[3], share)]
            self.dropped_total += len(told) - len(kept)
            told = kept
        groups: dict[tuple[str, str, str, str], list[tuple[str, float, float, float]]] = {}
        last, add = ("", "", "", ""), list[tuple[str, float, float, float]]().append
        for queue, topic, target, job, ended_s, claimed_s, run_s in told:
            second = job[: job.index("-") - _MS_DIGITS]
            place = queue, second, topic, target
            if place != last:                         # nearly always as the one before
                last = place
                add = groups.setdefault(place, []).append
            add((job, ended_s, claimed_s, run_s))
        return groups

    def _fair(self, told: Sequence[tuple[str, Shelf, Any]], now_s: float) -> list[tuple[str, Shelf, Any]]:
        """Of failures those for which their topic has room, whole jobs as everywhere."""
        kept = []
        for each in told:
            queue, shelf, record = each
            if shelf is Shelf.KEPT and isinstance(record, Attempt):
                budget = self._topics.get((queue, record.topic)) or self._begin(queue, record.topic, now_s)
                size = _FAILURE_BYTES + (text_bytes(record) // _PACKED if record.more else 0)
                if not is_kept(record.id, budget.share(now_s)) or not budget.spend(size, now_s):
                    self.dropped_total += 1
                    continue
            kept.append(each)
        return kept

    def _begin(self, queue: str, topic: str, now_s: float) -> Budget:
        if len(self._topics) >= _MOST_TOPICS:
            self._topics.clear()
        budget = self._topics[queue, topic] = Budget(self._of_topic_bytes, self._keep_failed_s, now_s)
        return budget

    def _sampled(
        self, told: Sequence[tuple[str, Shelf, Any]], shares: Mapping[Shelf, float]
    ) -> list[tuple[str, Shelf, Any]]:
        kept = []
        for queue, shelf, record in told:
            for one in record.received() if type(record) is Stored else (record,):
                if _wanted(one, shares[shelf]):
                    kept.append((queue, shelf, one))
                else:
                    self.dropped_total += 1
        return kept

    def _packed_marks(self) -> list[Block]:
        marks, jobs, self._marks, self._marked = self._marks, self._marked, [], 0
        now_s = self._clock.monotonic_s()
        share = self._budgets[Shelf.INDEX].share(now_s)
        groups: dict[tuple[str, int, tuple[int, ...], bool], tuple[list[Run], list[list[int]]]] = {}
        for queue, runs, paths, columns in marks:
            at = 0
            for run in runs:
                if share < 1.0:
                    self.left_out(queue, _second(run.first))
                for part, places in _kept_parts(run, at, share):
                    second = _second(part.first)
                    begin = second - second % MARKS_SPAN_S if part.jobs else second
                    place = queue, begin, paths, part.jobs > 0    # a note that it is indexed stands by itself
                    kept, kept_columns = groups.setdefault(place, ([], [[] for _ in paths]))
                    kept.append(part)
                    for column, more in zip(kept_columns, columns, strict=True):
                        column.extend(more[places])
                at += run.jobs
        blocks: list[Block] = []
        for (queue, second, paths, _), (kept, kept_columns) in groups.items():
            block = Block(queue, Shelf.INDEX, second, trace_block.pack_marks(paths, kept, kept_columns))
            blocks += self._allowed(block, _jobs(kept), now_s)
        self.dropped_total += jobs - sum([_jobs(kept) for kept, _ in groups.values()])
        return blocks

    def _allowed(self, block: Block, records: int, now_s: float) -> list[Block]:
        if self._budgets[block.shelf].spend(len(block.data) + BLOCK_COST, now_s):
            self.drained += records
            return [block]
        self.dropped_total += records
        if block.shelf is Shelf.INDEX:
            self.lost(block)
        return []

    def lost(self, block: Block) -> None:
        """That block of marks will not be there, or it may not be."""
        span = 1 if block.data == _LEFT_OUT else MARKS_SPAN_S
        for second in range(block.second, block.second + span):
            self.left_out(block.queue, second)


def _nobody() -> None:
    """Nobody waits for it."""


def _kept_parts(run: Run, at: int, share: float) -> list[tuple[Run, slice]]:
    """What is kept of *run*, which begins at place *at*, and the places of each part."""
    if share >= 1.0:
        return [(run, slice(at, at + run.jobs))]
    return [
        (Run(job, 1), slice(place, place + 1)) for place, job in enumerate(run.ids(), at) if is_kept(job, share)
    ]


def _jobs(runs: Sequence[Run]) -> int:
    return sum([jobs for _, jobs in runs])


def _wanted(record: Any, share: float) -> bool:
    if isinstance(record, Received):
        return keeps_any(record.first, record.last, share)
    return is_kept(record[0], share)


def _later(second: int, record: Received) -> range:
    """The other seconds of its ids; of a range that is longer than a store ever makes, the first ones."""
    return range(second + 1, min(_second(record.last), second + _MOST_SECONDS) + 1)


def _second(id: str) -> int:
    return int(id[: id.index("-") - _MS_DIGITS])
