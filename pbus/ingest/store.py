"""
One storage as this child sees it: opened, declared, watched while it is away.

Rule: a store that is away stops nothing but its own queues. The first call that finds it away says
so (a problem, one line in the log), everybody else is refused at once, and one greenlet tries until
it is back. A store without room refuses pushes and nothing else.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import gevent
import gevent.event

from pbus.core.job import Delivery, Push, Settlement
from pbus.core.names import job_id_ms
from pbus.errors import BootError, Conflict, StorageError, StoreFull, Unavailable
from pbus.ingest.access import TopicEntry
from pbus.ingest.account import Account
from pbus.ingest.claims import Key
from pbus.ingest.committer import Committer
from pbus.ingest.fullness import Fullness
from pbus.ingest.gate import LEAST_IMPORTANT, Gate
from pbus.ingest.glance import Glance, Look
from pbus.ingest.holder import Holder
from pbus.ingest.overdue import Overdue
from pbus.ingest.puller import Puller
from pbus.ingest.spans import IngestSpans
from pbus.ingest.stories import Stories
from pbus.storage.driver import Appended, Bell, Driver, Entry, Held, JobRecord, QueueSpec, Running, Want
from pbus.storage.open import StoreTarget
from pbus.storage.traces_writer import TraceWriter
from pbus.supervisor.attempt_spans import AttemptSpans
from pbus.supervisor.child import Child
from pbus.supervisor.handed import Handed
from pbus.supervisor.soon_due import SoonDue

_LAST_ID: Final = "99999999999999-0"
_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 1.0
WATCH_S: Final = 1.0
"""Between two looks at how full it is."""
CALM_AFTER_S: Final = 3.0
"""A claim sent by a process that died with it may reach the store later than its death reached us."""
FULL_S: Final = 10.0
"""A store is said to have no room until so long after its last refusal."""
_T = TypeVar("_T")


class Store:
    """
    A storage and everything of this child that waits for it.

    Attributes:
        name: Its name in the configuration.
        away: Why it cannot be used now; empty while it can.
        gate: Whether pushes may come near it.
        committer, puller: The child's one writer of pushes, and its one taker of claims.
        holder: Its one taker of claims for programs that bear a token.
        stories: What is kept of pushes and attempts; None: nothing.

    Args:
        target: What the configuration says of it.
        driver: Not opened yet; its calls must yield under gevent.
        queues: What it keeps.
        pulls: Those of them that have a topic for pulling.
        programs: Topics whose jobs programs take by a token.
        traces: Writes what became of jobs; None: nobody keeps that.
        indexed: Queue -> values by which its jobs are found.
        spans: Tells an OpenTelemetry receiver; None: there is none.
    """

    def __init__(
        self, target: StoreTarget, driver: Driver, queues: Sequence[QueueSpec], pulls: Sequence[str], child: Child,
        programs: Sequence[TopicEntry] = (), traces: TraceWriter | None = None,
        indexed: Mapping[str, Sequence[str]] | None = None, spans: AttemptSpans | None = None,
    ) -> None:
        self.name = target.name
        self.away = "not open yet"
        self._driver = driver
        self._queues = queues
        self._pulls = pulls
        self._child = child
        self._opened = False
        self._fenced = False
        self._looking: list[gevent.Greenlet] = []
        self._lost = gevent.event.Event()
        self._first = gevent.event.Event()
        self._owner = str(child.owner)
        self.gate = Gate(self.name, target.high_water)
        self.gate.away(self.away)
        self._fullness = Fullness({spec.name: spec for spec in queues}, child.clock)
        self._glance = Glance(self._look, child.clock)
        self._full_s = float("-inf")
        self.committer = Committer(
            self.name, self._append, self.lost, self._fullness.text, self.gate, target.call_timeout_s, child.clock,
            elsewhere=not driver.capabilities.blocking,
        )
        self._programs = sorted({topic.queue for topic in programs})
        self._traces = traces
        self._indexed = tuple(indexed or ())
        self.stories = Stories(traces, indexed or {}, child.clock) if traces is not None else None
        self.committer.stories = self.stories
        self._spans = IngestSpans(spans, self._owner, child.clock) if spans is not None else None
        self.committer.spans = self._spans
        self._account = Account(child, self.stories, self._spans)
        self._soon = SoonDue(lambda in_s: child.tell("delayed", store=self.name, in_s=in_s), child.clock)
        self.puller = Puller(self, self._owner, self._account, child.clock, child.log)
        self.holder = Holder(self, Handed(child.run_dir), self._account, child.clock, child.log)
        self._overdue = Overdue(self.holder, programs, child)
        self._deaths = child.scoreboard.deaths
        self._calm_s = child.clock.monotonic_s() + CALM_AFTER_S  # we may be somebody's successor

    def start(self) -> None:
        """Begin; ``wait_first`` tells when the first try to open is over."""
        self._lost.set()
        self._looking.append(gevent.spawn(self._keep))
        self._looking.append(gevent.spawn(self._watch))
        self._looking.append(gevent.spawn(self._tell_account))
        gevent.spawn(self.committer.run)
        if self._traces is not None and self.stories is not None:
            self._traces.before.append(self.stories.flush)
            self.stories.beat()
            self._traces.follow(self._driver)
            gevent.spawn(self._traces.run)
        self.puller.start()
        if self._programs:
            self.holder.start()

    def wait_first(self) -> None:
        """Until it is open, or known to be away."""
        self._first.wait()

    def _append(self, batch: int, pushes: Sequence[Push]) -> Sequence[Appended]:
        return self._driver.append(self._owner, batch, pushes)

    def claim(self, wants: list[Want]) -> list[Delivery]:
        """``Driver.claim``."""
        claimed = self._call(lambda: self._driver.claim(wants))
        now_s = self._child.clock.wall_s()
        for each in claimed:
            each.claimed_s = now_s
        if self._spans is not None:
            self._spans.claimed(claimed)
        return claimed

    def settle(self, settlements: list[Settlement]) -> list[bool]:
        """``Driver.settle``."""
        return self._call(lambda: self._driver.settle(settlements))

    def held(self) -> list[Held]:
        """``Driver.held`` of this child."""
        return self._call(lambda: self._driver.held(self._owner))

    def held_by(self, owner: str) -> list[Held]:
        """``Driver.held`` of a process that takes jobs by a token."""
        return self._call(lambda: self._driver.held(owner))

    def holders(self, queue: str, topic: str, ids: list[str]) -> list[str]:
        """``Driver.holders``."""
        return self._call(lambda: self._driver.holders(queue, topic, ids))

    def give_back(self, owner: str, settlements: list[Settlement]) -> list[bool]:
        """``Driver.give_back``: another child's claims, acked by way of this one."""
        return self._call(lambda: self._driver.give_back(owner, settlements))

    def reassign(self, owner: str, heir: str, claims: list[Key]) -> list[bool]:
        """``Driver.reassign``."""
        return self._call(lambda: self._driver.reassign(owner, heir, claims))

    def promote(self, queues: Sequence[str]) -> None:
        """What is due of *queues* becomes ready now; the scheduler does it within a second where this fails."""
        with contextlib.suppress(StorageError):
            self._call(lambda: self._driver.promote_due(queues=queues))

    def soon_due(self, delay_s: float) -> None:
        """A retry was written that is due in *delay_s*: the scheduler looks in time."""
        self._soon.delayed(delay_s)

    def job(self, queue: str, id: str) -> JobRecord | None:
        """``Driver.job``."""
        return self._call(lambda: self._driver.job(queue, id))

    def entries(self, queue: str, first: str, last: str, limit: int, *, newest: bool = False) -> list[Entry]:
        """``Driver.entries``."""
        return self._call(lambda: self._driver.entries(queue, first, last, limit, newest=newest))

    def running(self, queue: str, topic: str, limit: int) -> list[Running]:
        """``Driver.running``."""
        return self._call(lambda: self._driver.running(queue, topic, limit))

    def reading(self, queue: str, topic: str, id: str) -> tuple[bytes, float] | None:
        """What the client of this child who reads a job calls itself, and since when (monotonic); None: none does."""
        claim = self.puller.claims.find(queue, topic, id)
        return (claim.consumer, claim.since_s) if claim is not None and claim.reader is not None else None

    def cancel(self, queue: str, topic: str, ids: Sequence[str]) -> list[int]:
        """``Driver.cancel``."""
        counts = self._call(lambda: self._driver.cancel(queue, topic, ids))
        if self.stories is not None:
            self.stories.cancelled(queue, topic, [job for job, count in zip(ids, counts, strict=True) if count])
        return counts

    def backlog(self, queue: str) -> int:
        """``Driver.backlog``."""
        return self._call(lambda: self._driver.backlog(queue))

    def dropped(self) -> int:
        """Records of stories that nobody will see, since the last call."""
        return self._traces.news() if self._traces is not None else 0

    def look(self) -> Look:
        """The numbers of every queue and topic, and what they were a while ago; one look for all who ask at once."""
        return self._glance.take()

    def look_with_rates(self) -> Look:
        """The same, sure to have a look before it."""
        return self._glance.take_with_rates()

    def _look(self) -> Look:
        at_s = self._child.clock.monotonic_s()
        return Look(at_s, self._call(self._driver.numbers), self._call(self._driver.queue_numbers))

    def bell(self) -> Bell:
        """A bell of this child for the queues that can be pulled from."""
        return self._driver.bell(f"ingest-{self._owner.rpartition('/')[2]}", self._pulls)

    def bell_of_programs(self) -> Bell:
        """Another one, for the queues that programs take from."""
        return self._driver.bell(f"ingest-{self._owner.rpartition('/')[2]}-p", self._programs)

    def _call(self, function: Callable[[], _T]) -> _T:
        """A call that marks the store as away when it fails, and is refused at once while it is."""
        if self.away:
            raise Unavailable(self.away)
        try:
            return function()
        except StorageError as error:
            self.lost(error)
            raise

    def lost(self, error: StorageError) -> None:
        """A call met *error*: refuse further ones until a try succeeds; without room, further pushes."""
        if isinstance(error, StoreFull):
            self._note_full(str(error))
            return
        self._note(error)
        self._lost.set()

    def _note(self, error: StorageError) -> None:
        if isinstance(error, Conflict) and not self._fenced:
            self._fenced = True                       # this process is over; the master replaces it
            self._child.tell("fenced")
        self._mark(str(error) or type(error).__name__)

    def _mark(self, away: str) -> None:
        if away and not self.away:
            self._child.log.error("store.away", storage=self.name, reason=away)
        elif self.away and not away and self._first.is_set():
            self._child.log.info("store.back", storage=self.name)
        self.away = away
        self.gate.away(away)
        text = f"storage {self.name} is away: {away}" if away else ""
        self._child.problem(f"storage.{self.name}", text)

    def _keep(self) -> None:
        """Open it, and each time it is lost try until it is back, for ever."""
        while True:
            self._lost.wait()
            self._lost.clear()
            delay_s = _RETRY_FIRST_S
            while not self._try():
                self._first.set()
                self._child.clock.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(_RETRY_MOST_S, delay_s * 2)
            self._first.set()

    def _try(self) -> bool:
        """Whether it can be used; also makes sure of its queues (it may have come back empty)."""
        if self._fenced:
            return False
        try:
            begins = not self._opened
            if begins:
                self._driver.open()
                self._opened = True
            else:
                self._driver.check()
            self._driver.declare(self._queues)
            if begins and self.stories is not None:
                self.stories.begin(self._newest_ms())
        except BootError as error:
            if not self._first.is_set():
                self._child.fail(str(error), error.exit_status)
            self._mark(str(error))
            return False
        except StorageError as error:
            if not self._first.is_set():
                self.away = ""                        # the first failure is told, too
            self._note(error)
            return False
        except Exception as error:
            self._child.log.exception("store.failed", storage=self.name)
            self._mark(repr(error))
            return False
        self._mark("")
        self.puller.look()
        self.holder.look()
        return True

    def _newest_ms(self) -> dict[str, int]:
        """Of indexed queues the newest job in the log."""
        found = {}
        for queue in self._indexed:
            for entry in self._driver.entries(queue, "0-0", _LAST_ID, 1, newest=True):
                found[queue] = job_id_ms(entry.id)
        return found

    def _tell_account(self) -> None:
        """Once a second, for ever: what was done, and whose job is out of time."""
        while True:
            self._child.clock.sleep(WATCH_S)
            self._account.tell()
            if self.stories is not None:
                self.stories.beat()
            if dropped := self.dropped():
                self._child.tell("traces", dropped={self.name: dropped})
            if self._programs:
                self._see_deaths()
            if self._programs and not self.away:
                try:
                    self._overdue.look()
                except StorageError:
                    continue                          # the next look is soon
                except Exception:                     # a bug must not end the watch
                    self._child.log.exception("store.failed", storage=self.name)

    def _see_deaths(self) -> None:
        """For a while after a death, claims may come to light that nobody knows of."""
        now_s, deaths = self._child.clock.monotonic_s(), self._child.scoreboard.deaths
        if deaths != self._deaths:
            self._deaths, self._calm_s = deaths, now_s + CALM_AFTER_S
        if now_s < self._calm_s:
            self.holder.doubt()

    # -- how full it is -----------------------------------------------------------------------

    def _note_full(self, reason: str) -> None:
        """It has no room: the next push is tried at the next look."""
        if not self._is_full:
            self._child.log.error("store.full", storage=self.name, reason=reason)
        self._full_s = self._child.clock.monotonic_s()
        self.gate.full(reason)
        self._child.problem(f"storage.{self.name}.full", f"storage {self.name} has no room for pushes: {reason}")

    @property
    def _is_full(self) -> bool:
        return self._child.clock.monotonic_s() < self._full_s + FULL_S

    def _watch(self) -> None:
        """Look how full it is, once a second, for ever."""
        while True:
            self._child.clock.sleep(WATCH_S * random.uniform(0.9, 1.1))
            try:
                self.watch()
            except StorageError:
                continue                              # who pushes next finds out, and says so
            except Exception:                         # a bug of a driver must not end the watch
                self._child.log.exception("store.failed", storage=self.name)
                self._child.clock.sleep(FULL_S)

    def watch(self) -> None:
        """
        One look.

        Raises:
            StorageError: it cannot be asked now.
        """
        self.gate.full("")
        if not self._is_full:
            self._child.problem(f"storage.{self.name}.full", "")
        if self.away:
            return
        share = self._driver.fill().share
        if self.gate.fill(share):
            self._tell_fill(share)
        if self._fullness.wanted:
            look = self.look()
            self._fullness.heard(look.topics, look.queues)
            for name, text in self._fullness.problems().items():
                self._child.problem(name, text)

    def _tell_fill(self, share: float) -> None:
        """Other queues than before are refused, or none."""
        level = self.gate.refused_from
        name, percent = f"storage.{self.name}.fill", f"{share:.0%}".replace("%", " %")
        if level > LEAST_IMPORTANT:
            self._child.problem(name, "")
            self._child.log.info("store.has_room", storage=self.name, share=round(share, 3))
            return
        self._child.log.warning("store.fills", storage=self.name, share=round(share, 3), refused_from=level)
        whom = f"pushes to queues of importance {level}" + (" and above" if level < LEAST_IMPORTANT else "")
        self._child.problem(name, f"storage {self.name} is {percent} full: {whom} are refused")

    def close(self) -> None:
        """Give the driver back; the child is about to exit."""
        gevent.killall(self._looking)
        self.puller.stop()
        self.holder.stop()
        if self._traces is not None:
            self._traces.close()
        self._driver.close()
