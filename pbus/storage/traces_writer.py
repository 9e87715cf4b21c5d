"""
Writes what one process has to tell of its jobs: the one caller of ``Traces.put``.

    TraceBuffer --drain, 5 times a second--> [the role's thread, if the store blocks] --> Traces.put

Rule: nothing waits for it, and no error leaves it. What the store does not take is counted and forgotten. No gevent
here: the role runs ``run`` in a greenlet and passes ``apply`` of a one-thread pool of its own.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pbus.clock import Clock
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Rules, Verdict, judge
from pbus.core.trace import (
    PARDON, SLOW_S, Attempt, Shelf, attempt_of, brief, decision, is_plain, reclaim_of, shelf_of, text_bytes,
)
from pbus.errors import StorageError
from pbus.storage.driver import Driver, Expired
from pbus.storage.open import StoreTarget
from pbus.storage.traces import Block, Put, TraceLimits, Traces, make
from pbus.storage.traces_buffer import Row, TraceBuffer

FLUSH_S: Final = 0.2
MARKS_EACH: Final = 10
"""Turns: a look-up by value reads every block of marks, so they are made larger."""
MARKS_LATE_S: Final = 3.0
"""So long after its push a job can be found by its values at the latest, as long as its store is well."""
SAME: Final = 16
"""Attempts of one topic and error, a turn, that are told with all they say."""
_SAME_CHARS: Final = 64
AGAIN_S: Final = 1.0
"""After the store refused: what comes meanwhile is kept as far as there is room."""
_NAP_S: Final = 0.01

Apply = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


@dataclass(frozen=True, slots=True)
class TracePlan:
    """``[trace]`` for one node: its limits, and how many processes of the node write to each storage."""

    limits: TraceLimits
    writers: int

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self.limits.max_bytes > 0


class TraceWriter:
    """
    One per process and storage.

    Args:
        traces: Where to; not opened yet.
        buffer: What to; this is woken by it.
        apply: Calls a function with arguments where the store may block.
        clock: Its ``sleep`` yields.

    Attributes:
        buffer: Where the role tells.
        before: Each is called at each turn before the buffer is drained.
        slow_us: (queue, topic) -> from which run time on an attempt is slow, microseconds.
        refused: Why the store took nothing at the last turn; empty: it did.
    """

    def __init__(self, traces: Traces, buffer: TraceBuffer, apply: Apply, clock: Clock) -> None:
        self.buffer = buffer
        self.before: list[Callable[[], None]] = []
        self.slow_us: Mapping[tuple[str, str], int] = {}
        self.refused = ""
        self._traces = traces
        self._apply = apply
        self._clock = clock
        self._turn = 0
        self._same: dict[tuple[str, str, str], int] = {}
        self._lost = 0
        self._writing = 0
        self._told = 0
        self._expired: collections.deque[Expired] = collections.deque()
        self._filled = threading.Event()              # a green one where gevent is patched in
        buffer.wake = self._filled.set

    @property
    def dropped_total(self) -> int:
        """Records that nobody will see: sampled, without room, or refused by the store."""
        return self.buffer.dropped_total + self._lost

    def follow(self, driver: Driver) -> None:
        """Tell of deliveries that calls of *driver* end because their time to live is over, if it says which."""
        self._expired = getattr(driver, "expired", self._expired)

    def look(self) -> None:
        """Now and then: whether something has expired."""
        if self._expired:
            self._filled.set()

    def _tell_expired(self) -> None:
        now_s = self._clock.wall_s()
        while self._expired:
            queue, topic, job = self._expired.popleft()
            self.buffer.tell(queue, decision(job, topic, Move.EXPIRE.value, now_s, "its ttl"), Shelf.KEPT)

    def news(self) -> int:
        """How many records were dropped since the last call."""
        self.look()
        told, self._told = self._told, self.dropped_total
        return self._told - told

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement, ended_s: float) -> None:
        """An attempt is over since *ended_s* (unix seconds), and the store has it."""
        if is_plain(delivery, outcome):
            run_s = outcome.run_s
            self.buffer.done((
                delivery.queue, delivery.topic, outcome.target or delivery.owner, delivery.id, ended_s,
                delivery.claimed_s or ended_s - run_s, run_s,
            ))
            return
        attempt = attempt_of(delivery, outcome, settlement, ended_s)
        if attempt.more:
            attempt = self._brief(delivery.queue, attempt)
        shelf = shelf_of(attempt, self.slow_us.get((delivery.queue, delivery.topic), 0))
        self.buffer.tell(delivery.queue, attempt, shelf, text_bytes(attempt) if attempt.more else 0)

    def done(
        self, deliveries: Sequence[Delivery], runs_s: Sequence[float], target: str, ended_s: float
    ) -> None:
        """Attempts of one topic that ended well at about *ended_s* after so many seconds, and the store has them."""
        rows: list[Row] = []
        for delivery, run_s in zip(deliveries, runs_s, strict=True):
            if delivery.attempt == 1 and run_s < SLOW_S:  # as ``is_plain`` says
                rows.append((
                    delivery.queue, delivery.topic, target or delivery.owner, delivery.id, ended_s,
                    delivery.claimed_s or ended_s - run_s, run_s,
                ))
            else:
                outcome = Outcome(verdict=Verdict.DONE, run_s=run_s, target=target)
                self.ended(delivery, outcome, judge(delivery, outcome, Rules(), 0, 0.0), ended_s)
        self.buffer.all_done(rows)

    def _brief(self, queue: str, attempt: Attempt) -> Attempt:
        """Of failures that say the same the first ones of each turn tell everything, the rest which error it was."""
        same = queue, attempt.topic, attempt.more.get("fingerprint") or attempt.more.get("error", "")[:_SAME_CHARS]
        self._same[same] = count = self._same.get(same, 0) + 1
        return attempt if count <= SAME else brief(attempt)

    def reclaimed(self, attempt: int, settlement: Settlement) -> None:
        """The claim of a dead process was ended like that, before attempt number *attempt* or during it."""
        now_ms = int(self._clock.wall_s() * 1000)
        record = reclaim_of(attempt, settlement, now_ms)
        self.buffer.tell(settlement.queue, record, Shelf.KEPT, text_bytes(record))

    def pardoned(self, queue: str, topic: str, ids: Sequence[str]) -> None:
        """The brake of that topic gave these an attempt back."""
        now_s = self._clock.wall_s()
        for job in ids:
            self.buffer.tell(queue, decision(job, topic, PARDON, now_s, "the brake"), Shelf.KEPT)

    def stir(self) -> None:
        """``before`` has something to add."""
        self._filled.set()

    def run(self) -> None:
        """Write for ever, 5 times a second while there is something; the life of a greenlet."""
        while True:
            self._filled.wait()
            self._clock.sleep(AGAIN_S if self.refused else FLUSH_S)
            self._filled.clear()
            self.write()
            if self.buffer.has_marks:
                self._filled.set()

    def write(self, *, last: bool = False) -> None:
        """One turn; *last*: with everything there is. Never raises."""
        self._turn += 1
        self._same.clear()
        for act in self.before:
            act()
        self._tell_expired()
        marks = last or self.buffer.has_many_marks or self._turn % MARKS_EACH == 0
        blocks, refusals = self.buffer.drain(marks=marks)
        if not blocks and not refusals:
            return
        told = self.buffer.drained
        self._writing += 1
        answer = self._apply(_put, (self._traces, blocks, refusals))
        self._writing -= 1
        if isinstance(answer, Put):
            self.refused = ""
            self.buffer.share_among(self._traces.writers)
            if answer.dropped:
                self._lost += -(-told * answer.dropped // len(blocks))
                self._note_gaps(blocks)
            return
        self.refused = str(answer)
        self._lost += told
        self._note_gaps(blocks)

    def _note_gaps(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if block.shelf is Shelf.INDEX:
                self.buffer.lost(block)

    def close(self) -> None:
        """Write what is left, and give the store back; who is writing just now has a second."""
        until_s = self._clock.monotonic_s() + AGAIN_S
        while self._writing and self._clock.monotonic_s() < until_s:
            self._clock.sleep(_NAP_S)
        self.write(last=True)
        self._apply(self._traces.close, ())


def make_writer(
    target: StoreTarget, plan: TracePlan, by: str, pool: Callable[[], Apply], clock: Clock
) -> TraceWriter | None:
    """
    The writer of a process; None: nothing is kept, or the storage keeps no traces.

    Args:
        by: Whose it is: node and process.
        pool: Makes ``apply`` of a thread, for a store that blocks.
    """
    traces = make(target, plan.limits) if plan.is_on else None
    if traces is None:
        return None
    buffer = TraceBuffer(by, plan.limits, plan.writers, clock)
    return TraceWriter(traces, buffer, pool() if traces.blocking else _here, clock)


def make_trimmer(target: StoreTarget, plan: TracePlan, pool: Callable[[], Apply]) -> Callable[[], None] | None:
    """What drops the stories that are too old, and raises what it could not; None: there is nothing to drop."""
    traces = make(target, plan.limits) if plan.is_on else None
    if traces is None:
        return None
    apply = pool() if traces.blocking else _here

    def trim() -> None:
        error = apply(_trim, (traces,))
        if error is not None:
            raise error

    return trim


def _trim(traces: Traces) -> Exception | None:
    try:
        traces.trim()
    except Exception as error:  # noqa: BLE001 - see _put
        return error
    return None


def _put(traces: Traces, blocks: Sequence[Block], refusals: Sequence[tuple[str, bytes]]) -> Put | Exception:
    """An error as a value: whoever waits for a thread would print it at each turn."""
    try:
        return traces.put(blocks, refusals)
    except StorageError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a bug of a trace store costs traces, never the process
        return error


def _here(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)
