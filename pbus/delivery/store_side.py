"""
One storage inside a delivery child: its driver, claimer, desk and lanes, from opening to closing.

Rule: a store that is away never ends the child: it is degraded, and goes on by itself. Only what
can never work (BootError) does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
import gevent.event

from pbus.core.brake import Brake, BrakePolicy
from pbus.core.job import Delivery, Settlement
from pbus.core.outcome import Outcome, Rules
from pbus.delivery.claimer import Claimer
from pbus.delivery.comparing import Comparing, Plan
from pbus.delivery.desk import StoreDesk, Trace
from pbus.delivery.finished import Ears, Finished
from pbus.delivery.lane import Lane
from pbus.delivery.pardons import Pardons
from pbus.delivery.report import Report
from pbus.delivery.store_health import Backoff, StoreHealth
from pbus.delivery.work import Work
from pbus.errors import BootError, StorageError
from pbus.storage.driver import Driver, QueueSpec
from pbus.storage.traces_writer import TraceWriter
from pbus.supervisor.attempt_spans import AttemptSpans
from pbus.supervisor.child import Child
from pbus.supervisor.soon_due import SoonDue


class StoreSide:
    """
    One per storage that has a lane here.

    Args:
        name: Of the storage.
        store: Its driver, not opened yet (wrapped if it blocks).
        specs: Every queue it keeps.
        rules: What each of its topics allows.
        brakes: When each of them is braked.
        child: Our process.
        report: Where ends of attempts are told.
        fenced: Called when the store refuses this boot.
        work: Measures what attempts take.
        traces: Writes what became of jobs; None: nobody keeps that.
        spans: Tells an OpenTelemetry receiver; None: there is none.
        shadows: Which topics are compared; None or empty: none.
    """

    def __init__(
        self, name: str, store: Driver, specs: Sequence[QueueSpec], rules: Mapping[tuple[str, str], Rules], *,
        brakes: Mapping[tuple[str, str], BrakePolicy], child: Child, report: Report, fenced: Callable[[], None],
        work: Work, traces: TraceWriter | None = None, spans: AttemptSpans | None = None, shadows: Plan | None = None,
    ) -> None:
        self.name = name
        self._store = store
        self._specs = specs
        self._rules = rules
        self._brakes = {path: Brake(policy) for path, policy in brakes.items()}
        self._braked: set[tuple[str, str]] = set()  # as it was told last
        self._report = report
        self._traces = traces
        self._spans = spans
        self._comparing = Comparing(
            store, shadows, child.clock, child.log.bind(storage=name),
            lambda shadows: child.tell("compared", shadows=shadows),
        ) if shadows else None
        self._pardons = Pardons(store, child.log.bind(storage=name), traces.pardoned if traces is not None else None)
        self._child = child
        self._fenced = fenced
        self._health = StoreHealth(name, child.problem)
        self._tried = gevent.event.Event()
        self._listener: Any = None
        self._bell: Any = None
        self._writer: Any = None
        self._is_comparing = False
        soon_due = SoonDue(lambda in_s: child.tell("delayed", store=name, in_s=in_s), child.clock)
        self.desk = StoreDesk(
            store, rules, report=report, health=self._health, fenced=fenced, clock=child.clock,
            delayed=soon_due.delayed, brakes=self._brakes, pardons=self._pardons, measure=work.ended,
            trace=_told(traces, spans, self._comparing),
            ears=_ears(work, traces) if spans is None and self._comparing is None else None,
        )
        self.claimer: Claimer | None = None

    def compare(self, owner: str) -> None:
        """Look soon which claims the store lists for *owner*."""
        if self.claimer is not None:
            self.claimer.compare(owner)

    def braked(self, queue: str, topic: str) -> str:
        """Why that topic is braked, one sentence; empty while it is not. Asked now and then; a release is told here."""
        brake = self._brakes.get((queue, topic))
        if brake is None:
            return ""
        if brake.sparing:
            self._braked.add((queue, topic))
        elif (queue, topic) in self._braked:
            self._braked.discard((queue, topic))
            self._report.brake_released(queue, topic)
        return brake.reason

    def spares(self, queue: str, topic: str) -> bool:
        """The topic is braked: one job at a time."""
        brake = self._brakes.get((queue, topic))
        return brake is not None and brake.sparing

    def start(self, lanes: Sequence[Lane], wait_s: float, *, claims: bool = True) -> None:
        """
        Begin to claim for *lanes*; returns when the store has answered or failed once.

        Without *claims* everything is prepared for that, and ``begin`` is waited for.

        Raises:
            BootError: the store can never work as it is.
        """
        child = self._child
        self.claimer = Claimer(
            self._store, lanes, owner=str(child.owner), desk=self.desk, prepare=self._declare, health=self._health,
            fenced=self._fenced, log=child.log.bind(storage=self.name), clock=child.clock,
            brakes=self._brakes, rules=self._rules, claimed=self._spans.claimed if self._spans is not None else None,
        )
        if not claims:
            self.claimer.wait()
        self.desk.connect(self.claimer.wake, self.claimer.came_back)
        if self._traces is not None:
            self._traces.follow(self._store)
            self._writer = gevent.spawn(self._traces.run)
        gevent.spawn(self._open, sorted({lane.queue for lane in lanes}))
        self._tried.wait(wait_s)

    def dropped(self) -> int:
        """Records of stories that nobody will see, since the last call."""
        return self._traces.news() if self._traces is not None else 0

    def begin(self) -> None:
        """Claim from now on."""
        if self.claimer is not None:
            self.claimer.begin()

    def is_done_with(self, owner: str) -> bool:
        """Everything of that consumer is written, and nothing is claimed for it any more."""
        return not self.desk.pending(owner) and (self.claimer is None or self.claimer.is_done_with(owner))

    def stop_claiming(self) -> None:
        """Take nothing new; what is in hand is settled."""
        if self.claimer is not None:
            self.claimer.stop()

    def close(self) -> None:
        """
        Give everything back. The desk has written everything.

        Who listens to the bell is killed, not left with a closed one; whoever may be inside a
        storage call is not killed, but ends by itself.
        """
        if self._listener is not None:
            self._listener.kill()
        if self._bell is not None:
            self._bell.close()
        if self.claimer is not None:
            self.claimer.end()
        if self._traces is not None and self._writer is not None:
            self._traces.close()
        if self._is_comparing and self._comparing is not None:
            self._comparing.close()
        self._store.close()

    def _open(self, queues: Sequence[str]) -> None:
        """Open, with retries for as long as it takes, then let claimer, desk and bell run."""
        backoff = Backoff()
        while True:
            try:
                self._store.open()
                self._declare()
                self._bell = self._store.bell(f"delivery-{self._child.owner.slot}.{self._child.owner.n}", queues)
                break
            except BootError as error:
                self._child.fail(str(error), error.exit_status)
            except Exception as error:  # a bug of a driver must not end deliveries: said, then tried again
                if not isinstance(error, StorageError):
                    self._child.log.error("store.away", storage=self.name, exc_info=error)
                self._health.away("open", error)
                self._tried.set()
                gevent.sleep(backoff.pause_s())
        assert self.claimer is not None
        self._health.back("open")
        gevent.spawn(self.desk.run)
        gevent.spawn(self._pardons.run, self.claimer.came_back)
        gevent.spawn(self.claimer.run)
        if self._comparing is not None:
            self._is_comparing = True
            gevent.spawn(self._comparing.run)
        self._listener = gevent.spawn(self.claimer.listen, self._bell)
        self._tried.set()

    def _declare(self) -> None:
        self._store.declare(self._specs)


def _ears(work: Work, traces: TraceWriter | None) -> Ears:
    """Who hears of many attempts at once, where nobody wants to hear of each."""
    if traces is None:
        return Ears(work.done, None)

    def told(finished: Finished) -> None:
        traces.done(finished.deliveries, finished.runs_s, finished.target, finished.ended_s)

    return Ears(work.done, told)


def _told(
    traces: TraceWriter | None, spans: AttemptSpans | None, comparing: Comparing | None = None
) -> Trace | None:
    """Who hears of each attempt: one call where one hears, none where nobody does."""
    ears: list[Trace] = [each.ended for each in (traces, spans, comparing) if each is not None]
    if len(ears) < 2:
        return ears[0] if ears else None

    def all_of_them(delivery: Delivery, outcome: Outcome, settlement: Settlement, ended_s: float) -> None:
        for ear in ears:
            ear(delivery, outcome, settlement, ended_s)

    return all_of_them
