"""
The desk: every outcome of this child is judged, written to the store, told and counted here.

    finish --> inbox --judge--> batch --settle (one call, one in flight)--> receipts, log, events, pardons

Rule: an outcome that cannot be written stays in memory and is repeated until it is; it is never
lost while this process lives, and never turned into a release. What comes in while a call is out
is the next batch, so a slow store gets larger batches instead of more calls.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import gevent.event

from pbus.clock import Clock
from pbus.core.brake import Brake
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Rules
from pbus.delivery.finished import Ears, Finished
from pbus.delivery.judging import Judging
from pbus.delivery.pardons import Pardons
from pbus.delivery.report import Report
from pbus.delivery.store_health import Backoff, StoreHealth
from pbus.errors import Conflict
from pbus.storage.driver import Driver

BATCH: Final = 1000
GATHER_S: Final = 0.001
"""Under load the next batch is given so long to grow: a call costs as much as twenty settlements in it."""

Key = tuple[str, str, str]
"""(owner, topic path, id): what tells one claim from another."""

Trace = Callable[[Delivery, Outcome, Settlement, float], None]
"""Called with an attempt that the store has, and when it ended (unix seconds)."""
Receipt = Callable[[str, Sequence[str]], None]
"""Called with (owner, ids): the store has what became of these claims."""


@dataclass(slots=True)
class Entry:
    """One outcome on its way into the store; read-only by agreement (freezing it doubles the cost of making one)."""

    delivery: Delivery
    outcome: Outcome
    settlement: Settlement
    ended_s: float


@dataclass(slots=True)
class Batch:
    """
    What is written by one call.

    Attributes:
        parts: In the order in which they came.
        settlements: Of all parts, in the same order.
    """

    parts: list[Entry | Finished] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)

    def deliveries(self) -> Iterator[Delivery]:
        """Whose claims end."""
        for part in self.parts:
            if isinstance(part, Finished):
                yield from part.deliveries
            else:
                yield part.delivery


class StoreDesk:
    """
    See ``lane.Desk``; one per storage. One owner: its own greenlet, ``run``.

    Args:
        store: Where claims are settled.
        rules: What each (queue, topic) allows.
        report: Log, events and counters.
        health: Told how calls went.
        fenced: Called once when the store refuses this boot.
        clock: Where ages come from.
        delayed: Called with the shortest delay of the retries of a batch, once they are written.
        brakes: The brake of each topic that has one.
        pardons: Gives attempts back after a brake has tripped.
        measure: Told of each outcome at once, before it is written.
        trace: Told of each attempt once it is written; None: nobody keeps what becomes of jobs.
        ears: Told of many at once instead, where these ended well; None: ``measure`` and ``trace`` are.
    """

    def __init__(
        self, store: Driver, rules: Mapping[tuple[str, str], Rules], *, report: Report, health: StoreHealth,
        fenced: Callable[[], None], clock: Clock, delayed: Callable[[float], None] | None = None,
        brakes: Mapping[tuple[str, str], Brake] | None = None, pardons: Pardons | None = None,
        measure: Callable[[Delivery, Outcome], None] | None = None, trace: Trace | None = None,
        ears: Ears | None = None,
    ) -> None:
        self._store = store
        self._measure = measure or _unmeasured
        self._trace = trace
        self._ears = ears
        self._delayed = delayed
        self._judging = Judging(rules, brakes or {}, clock)
        self._pardons = pardons
        self._report = report
        self._health = health
        self._fenced = fenced
        self._clock = clock
        self._inbox: collections.deque[tuple[Delivery, Outcome, float] | Finished] = collections.deque()
        self._writing = Batch()
        self._filled = gevent.event.Event()
        self._receipts: dict[tuple[str, str], Receipt] = {}
        self._wake: Callable[[], None] = _nobody
        self._came_back: Callable[[str], None] = _ignore
        self._backoff = Backoff()
        self._is_fenced = False
        self.is_unsure = False
        """A settle failed that may have been executed, and is being repeated; nothing may be claimed meanwhile."""

    def connect(self, wake: Callable[[], None], came_back: Callable[[str], None]) -> None:
        """
        Make the claimer known.

        Args:
            wake: Look at the lanes' wants.
            came_back: That queue has ready deliveries again.
        """
        self._wake, self._came_back = wake, came_back

    def receipts_for(self, queue: str, topic: str, receipt: Receipt) -> None:
        """Tell *receipt* what has been written for that topic."""
        self._receipts[queue, topic] = receipt

    # -- Desk -------------------------------------------------------------------------------------

    def finish(self, delivery: Delivery, outcome: Outcome) -> None:
        """See ``lane.Desk.finish``."""
        self._inbox.append((delivery, outcome, self._clock.wall_s() if self._trace is not None else 0.0))
        self._measure(delivery, outcome)
        self._filled.set()

    def done(self, finished: Finished) -> None:
        """See ``lane.Desk.done``."""
        if self._ears is None:
            for delivery, outcome in finished.each():
                self.finish(delivery, outcome)
            return
        self._inbox.append(finished)
        self._ears.measure(finished)
        self._filled.set()

    def wake(self) -> None:
        """See ``lane.Desk.wake``."""
        self._wake()

    # -- for the claimer and the drain ------------------------------------------------------------

    def pending(self, owner: str) -> set[tuple[str, str, str]]:
        """(queue, topic, id) of claims of *owner* whose end is not written yet."""
        unwritten = list(self._writing.deliveries())
        for item in self._inbox:
            unwritten += item.deliveries if isinstance(item, Finished) else item[:1]
        return {(each.queue, each.topic, each.id) for each in unwritten if each.owner == owner}

    @property
    def idle(self) -> bool:
        """Everything is written."""
        return not self._inbox and not self._writing.parts and (self._pardons is None or self._pardons.idle)

    # -- its greenlet -----------------------------------------------------------------------------

    def run(self) -> None:
        """Write batches for ever."""
        while True:
            self._filled.wait()
            self._filled.clear()
            while self._inbox and not self._is_fenced:
                self._writing = self._judged()
                took_effect = self._write(self._writing.settlements)
                written, self._writing = self._writing, Batch()
                if took_effect is not None:
                    self._tell(written, took_effect)
                if len(written.settlements) > 1:
                    gevent.sleep(GATHER_S)
            if self._is_fenced:
                self._inbox.clear()  # the store takes nothing from this boot; whoever fenced it gives them back

    def _judged(self) -> Batch:
        """The next batch: each outcome with what it means for its claim."""
        now_s, now_ms = self._clock.monotonic_s(), int(self._clock.wall_s() * 1000)
        batch = Batch()
        while self._inbox and len(batch.settlements) < BATCH:
            item = self._inbox.popleft()
            if not isinstance(item, Finished):
                self._judge(batch, *item, now_s, now_ms)
            elif self._judging.passes(item):
                batch.parts.append(item)
                batch.settlements += item.settlements()
            else:
                for delivery, outcome in item.each():
                    self._judge(batch, delivery, outcome, item.ended_s, now_s, now_ms)
        self._judging.count(now_s)
        return batch

    def _judge(
        self, batch: Batch, delivery: Delivery, outcome: Outcome, ended_s: float, now_s: float, now_ms: int
    ) -> None:
        settlement = self._judging.judge(delivery, outcome, now_s, now_ms)
        batch.parts.append(Entry(delivery, outcome, settlement, ended_s))
        batch.settlements.append(settlement)

    def _write(self, settlements: list[Settlement]) -> list[bool] | None:
        """
        Settle until it is written. None: this boot is fenced.

        A repeated settle answers False for what the lost try had written; since nobody else settles
        claims of living owners, that is taken for our own work.
        """
        repeated = False
        while True:
            try:
                took_effect = self._store.settle(settlements)
            except Conflict:
                self._is_fenced = True
                self._fenced()
                return None
            except Exception as error:  # noqa: BLE001 a driver's bug must not lose outcomes: said in the log, repeated
                repeated = self.is_unsure = True
                self._health.away("desk", error)
                self._report.unwritten(len(settlements) + len(self._inbox), error)
                gevent.sleep(self._backoff.pause_s())
            else:
                self._backoff.reset()
                self._health.back("desk")
                self._know()
                return [True] * len(settlements) if repeated else took_effect

    def _know(self) -> None:
        """Everything that was tried is written: claiming may go on."""
        if self.is_unsure:
            self.is_unsure = False
            self._wake()

    def _tell(self, written: Batch, took_effect: Sequence[bool]) -> None:
        receipts: dict[tuple[str, str, str], list[str]] = {}
        back: set[str] = set()
        delays: list[float] = []
        at = 0
        for part in written.parts:
            if isinstance(part, Finished):
                end = at + len(part.deliveries)
                if part.path in self._receipts:
                    receipts.setdefault((*part.path, part.owner), []).extend([each.id for each in part.deliveries])
                self._tell_finished(part, written.settlements[at:end], took_effect[at:end])
                at = end
                continue
            ours = took_effect[at]
            at += 1
            delivery = part.delivery
            if (delivery.queue, delivery.topic) in self._receipts:
                receipts.setdefault((delivery.queue, delivery.topic, delivery.owner), []).append(delivery.id)
            if ours:
                self._tell_end(part, back, delays)
        for (queue, topic, owner), ids in receipts.items():
            self._receipts[queue, topic](owner, ids)
        for queue in back:
            self._came_back(queue)
        if delays and self._delayed is not None:
            self._delayed(min(delays))
        self._tell_brakes()
        self._report.batch_over()

    def _tell_end(self, entry: Entry, back: set[str], delays: list[float]) -> None:
        """One attempt is over, and the store has it; *back*, *delays*: where its queue and its delay are noted."""
        delivery, settlement = entry.delivery, entry.settlement
        self._report.ended(delivery, entry.outcome, settlement)
        if self._trace is not None:
            self._trace(delivery, entry.outcome, settlement, entry.ended_s)
        if settlement.move is Move.ACK:
            return
        # What came back is ready; what did not leaves room to whoever was refused an exclusive claim.
        back.add(delivery.queue)
        if settlement.move is Move.RETRY:
            delays.append(settlement.delay_s)

    def _tell_finished(
        self, finished: Finished, settlements: Sequence[Settlement], took_effect: Sequence[bool]
    ) -> None:
        """The same for many that ended well."""
        ours = finished.only(took_effect)
        if ours is None:
            return
        if ours is not finished:
            settlements = [each for each, took in zip(settlements, took_effect, strict=True) if took]
        self._report.done(ours, settlements)
        if self._ears is not None and self._ears.trace is not None:
            self._ears.trace(ours)

    def _tell_brakes(self) -> None:
        """The failures of this batch are written: attempts can be given back, and probes have had their answer."""
        for path, tripped in self._judging.tripped():
            self._report.brake_tripped(*path, tripped)
            if self._pardons is not None:
                self._pardons.grant(*path, tripped.forgive)
        if self._judging.stirred:
            self._judging.stirred = False
            self._wake()


def _unmeasured(_: Delivery, __: Outcome) -> None:
    """Nobody counts."""


def _nobody() -> None:
    """No claimer is connected yet."""


def _ignore(_: str) -> None:
    """No claimer is connected yet."""
