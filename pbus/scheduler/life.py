"""
The life of the scheduler child, after gevent has been patched in.

    boot     open every storage (one that is away makes the bus degraded, not the boot fail)
    (turn)   one that is to replace another begins with nothing before that one has gone
    ready    a greenlet a storage takes its duties in turn; another answers for numbers; one plans
    drain    the last dead are given back, statistics are written, the WAL is put away, the boot is forgotten
    exit

Rule: it decides nothing about jobs that a store would not refuse if it were wrong, so it may die
and be replaced at any moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from gevent.threadpool import ThreadPool

from pbus.config.scaling import rules_of
from pbus.config.schema import Node
from pbus.core.names import topic_path
from pbus.core.outcome import Rules
from pbus.errors import Conflict, PbusError, StorageError
from pbus.scheduler import namesake
from pbus.scheduler.accounts import Accounts
from pbus.scheduler.boots import Boots
from pbus.scheduler.bulletin import Teller
from pbus.scheduler.due import Due
from pbus.scheduler.fitness import Fitness
from pbus.scheduler.leases import Leases
from pbus.scheduler.looks import Looks
from pbus.scheduler.nodes import Nodes
from pbus.scheduler.numbers import Source, answer
from pbus.scheduler.orders import Orders
from pbus.scheduler.orphans import Orphans
from pbus.scheduler.planner import Planner
from pbus.scheduler.reclaim import Reclaim
from pbus.scheduler.recorder import Recorder
from pbus.scheduler.replays import Replays
from pbus.scheduler.roster import Duty, Roster, Store
from pbus.scheduler.sampler import Sampler
from pbus.scheduler.standing import counted, told
from pbus.scheduler.statistics import Processor, Statistics
from pbus.scheduler.trim import Checkpoint, TraceTrim, Trim
from pbus.scheduler.watch import Watch
from pbus.storage.bulletin import Bulletin, home
from pbus.storage.driver import Driver
from pbus.storage.open import StoreTarget, make, queue_specs
from pbus.storage.threaded import Threaded
from pbus.storage.traces_writer import make_trimmer, make_writer
from pbus.supervisor.child import Child
from pbus.supervisor.handed import Handed
from pbus.telemetry.log import FILE_NAME
from pbus.telemetry.log_reader import LogReader
from pbus.telemetry.sink import STDOUT

LAST_TURN_S: Final = 3.0
"""How long a drain waits for a turn that hangs in its store."""


class Scheduler:
    """The parts of this child and their life."""

    def __init__(self, child: Child) -> None:
        args: Mapping[str, Any] = child.spec.args
        self._child = child
        self._node: Node = args["node"]
        self._leave = threading.Event()
        self._boots = Boots(args["stores"], lambda boot: child.tell("forgotten", boots=[boot]))
        self._rules = _rules(args["queues"])
        self._programs = _programs(args["queues"])
        self._targets: Mapping[str, StoreTarget] = args["stores"]
        self._stores = [
            Store(name, _driver(target), queue_specs(args["queues"], name)) for name, target in args["stores"].items()
        ]
        self._fenced_told = False

    def _assemble(self) -> None:
        """Everything that begins where somebody else has left off."""
        child, args = self._child, self._child.spec.args
        places = rules_of(args["queues"], args["backends"], args["systems"])
        self._sampler = Sampler(places)
        self._orders = Orders(self._node.data_dir, places, child.clock, child.problem, child.log)
        self._recorder = Recorder(self._node.data_dir, child.clock, child.log)
        self._planner = Planner(
            places, self._sampler, self._orders, self._recorder, child.tell, child.clock, child.log
        )
        for store in self._stores:
            store.traces = make_writer(
                self._targets[store.name], args["traces"], f"{self._node.name}/scheduler", lambda: ThreadPool(1).apply,
                child.clock,
            )
        self._sources = [Source(store, child.clock) for store in self._stores]
        self._looks: dict[str, Looks] = {}
        self._fitness: dict[str, Fitness] = {}
        self._processor = Processor(child.clock)
        self._statistics: dict[str, Statistics] = {}
        self._orphans = Orphans.noted(args.get("orphans"), self._node, child.run_dir, child.log)
        self._watch = Watch(args, child.owner, child.histograms.read, child.clock, child.log)
        self._rosters = [
            Roster(store, self._duties(store), child.clock, child.log, child.problem, self._fenced)
            for store in self._stores
        ]

    def live(self) -> None:
        """Boot, work until told to drain, leave tidily."""
        child = self._child
        for store in self._stores:
            self._open(store)
        waits = child.waits
        if waits:
            child.ready()
        if child.wait_turn():
            self._assemble()
            self._work_on(said=waits)
        else:
            self._close()

    def _work_on(self, *, said: bool) -> None:
        """From its first duty on; *said*: that it is ready."""
        child = self._child
        working = [_spawn(self._work, roster) for roster in self._rosters]
        for store in self._stores:
            if store.traces is not None:
                store.traces.follow(store.driver)
                _spawn(store.traces.run)
        for source in self._sources:
            _spawn(source.serve)
        self._orders.load()
        _spawn(self._plan)
        _spawn(self._look_for_outages)
        child.on_frame("boots", lambda frame: self._boots.told(frame["over"], frame["living"]))
        child.on_frame("numbers", self._numbers)
        child.on_frame("delayed", self._delayed)
        child.on_frame("work", self._sampler.worked)
        child.on_frame("machine", self._sampler.machine)
        child.on_frame("machine", self._processor.hear)
        child.on_frame("machine", self._watch.conditions.hear)
        child.on_frame("deployed", self._watch.conditions.hear_of_deploy)
        child.on_frame("order", self._hear_order)
        child.on_frame("sample_please", lambda _: child.tell("sampled", **self._sampled()))
        child.on_drain(self._go)
        if not said:
            child.ready()
        self._leave.wait()
        for thread in working:
            thread.join(LAST_TURN_S)
        for store, roster in zip(self._stores, self._rosters, strict=True):
            self._finish(store, roster)
        for source in self._sources:
            source.end()
        self._recorder.close()

    def _rest(self, seconds: float) -> bool:
        """Wait so long; whether it is in vain."""
        self._child.clock.sleep(seconds)
        return self._child.draining

    def _close(self) -> None:
        """It was never our turn: nothing of it is ours."""
        for store in self._stores:
            with contextlib.suppress(PbusError):
                store.driver.close()

    def _duties(self, store: Store) -> list[Duty]:
        child, node = self._child, self._node
        duties: list[Duty] = []
        living: Callable[[], int] = _alone
        if store.driver.capabilities.many_nodes:
            nodes = Nodes(
                store, child.owner, node.heartbeat_s, node.lost_after_s, self._boots, self._rules, child.clock,
                child.log,
            )
            duties, living = [nodes], nodes.living
        self._fitness[store.name] = Fitness(store, child.problem)
        looks = self._looks[store.name] = Looks(store, self._sampler, child.clock, living)
        statistics = self._statistics[store.name] = Statistics(
            store, node.name, child.histograms.read, looks, self._processor, child.clock, child.log
        )
        trim = make_trimmer(self._targets[store.name], child.spec.args["traces"], lambda: ThreadPool(1).apply)
        traces = [TraceTrim(trim, child.log)] if trim is not None else []
        return [
            looks, *duties, *traces, *self._teller(store), self._reclaim(store), Due(store), Trim(store),
            Checkpoint(store), self._fitness[store.name],
            Accounts(store, self._rules, child.problem, child.log, lambda: looks.latest), statistics,
            Replays(
                store, str(child.owner), child.histograms.read, node.lost_after_s, child.clock, child.log, node.data_dir
            ),
            self._watch.duty(store, looks), Leases(store, child.clock, child.log),
            *self._orphans.duties(store, living, child.clock),
        ]

    def _teller(self, store: Store) -> list[Duty]:
        """Tells the other nodes what happens here, where there may be others and this is the store for it."""
        target = home(self._targets)
        if target is None or target.name != store.name or self._node.log_dir == STDOUT:
            return []
        reader = LogReader(os.path.join(self._node.log_dir, FILE_NAME), self._child.clock)
        reader.to_end()
        return [Teller(Bulletin(target, self._child.clock), reader, self._node.name)]

    def _reclaim(self, store: Store, *, killed: bool = False) -> Reclaim:
        child = self._child
        return Reclaim(
            store, child.owner, child.scoreboard, self._boots, self._rules, child.clock, child.log, killed=killed,
            programs=self._programs, handed=Handed(child.run_dir),
        )

    def _open(self, store: Store) -> None:
        """
        The first try: what can never work ends the start, what is away is the roster's business.

        Raises:
            BootError: wrong eviction policy, damage, no permission, another node's file or name.
        """
        child = self._child
        try:
            store.prepare()
            if store.driver.capabilities.many_nodes and not child.waits:
                namesake.refuse(
                    store.driver, self._node.name, child.owner.boot, child.run_dir, self._node.heartbeat_s,
                    self._rest,
                )
        except Conflict:
            self._fenced()
        except StorageError as error:
            self._child.problem(f"storage.{store.name}", f"storage {store.name} is away: {error}")

    def _work(self, roster: Roster) -> None:
        """Turn after turn until the drain; a fenced roster's turns do nothing any more."""
        while not self._leave.is_set():
            roster.rest(roster.turn())

    def _go(self) -> None:
        self._leave.set()
        for roster in self._rosters:
            roster.stir()

    def _delayed(self, frame: Mapping[str, Any]) -> None:
        """A delivery child has written a retry that is due before we would look."""
        for store, roster in zip(self._stores, self._rosters, strict=True):
            if store.name == frame["store"]:
                roster.hasten(Due.name, frame["in_s"])

    def _plan(self) -> None:
        """Tick after tick until the drain; a tick that fails is said, and the last plan holds."""
        while not self._leave.wait(self._planner.next_s):
            try:
                self._planner.tick()
            except Exception as error:
                self._child.log.exception("planner.failed")
                self._child.problem("planner", f"nothing is scaled: {type(error).__name__}: {error}")
            else:
                self._child.problem("planner", "")

    def _look_for_outages(self) -> None:
        """Tick after tick until the drain."""
        outages = self._watch.outages({
            store.name: roster for store, roster in zip(self._stores, self._rosters, strict=True)
        }, self._fitness)
        while outages is not None and not self._leave.wait(self._watch.look_s):
            try:
                outages.tick()
            except Exception:
                self._child.log.exception("scheduler.duty_failed", duty="outages")

    def _hear_order(self, frame: Mapping[str, Any]) -> None:
        """Somebody's order is answered when it is on the disk. Or: documents of replays have changed, look at them."""
        if frame.get("look") == Replays.name:
            for roster in self._rosters:
                roster.hasten(Replays.name, 0.0)
            self._child.tell("ordered", id=frame["id"])
            return
        _spawn(lambda: self._child.tell("ordered", id=frame["id"], **self._orders.take(frame)))

    def _fenced(self) -> None:
        if not self._fenced_told:
            self._fenced_told = True
            self._child.tell("fenced")

    def _numbers(self, frame: Mapping[str, Any]) -> None:
        """The listener must not be held up, so the answer is prepared beside it."""

        def prepare() -> None:
            numbers = answer(self._sources, self._child.clock)
            self._child.tell("numbers", id=frame.get("id"), **numbers, alarms=told(self._watch.standing))

        _spawn(prepare)

    def _sampled(self) -> dict[str, Any]:
        """What is known of every store, for the page of metrics; none is asked."""
        stores = list(zip(self._stores, self._rosters, strict=True))
        seen = [self._looks[store.name] for store in self._stores]
        return {
            "topics": [[*path, dataclasses.asdict(numbers)] for looks in seen for path, numbers in looks.known.items()],
            "queues": {name: dataclasses.asdict(each) for looks in seen for name, each in looks.queues.items()},
            "alarms": counted(self._watch.standing),
            "storages": {
                store.name: {
                    "is_up": roster.is_up, "failures": roster.failures_total,
                    "latency_s": self._looks[store.name].took_s, "age_s": self._looks[store.name].age_s,
                }
                for store, roster in stores
            },
        }

    def _finish(self, store: Store, roster: Roster) -> None:
        """Give back what the last dead held, put the WAL away; forget this boot when nothing is left of it."""
        child = self._child
        if roster.over or not store.ready or not store.lock.acquire(timeout=LAST_TURN_S):
            return
        try:
            if all(row.slot == child.slot.slot for row in child.scoreboard.living()):
                self._reclaim(store, killed=True).look()
                store.driver.forget(child.owner.boot)
            if store.traces is not None:
                store.traces.close()
            self._looks[store.name].interrupted()     # a last look at everything, not what is some seconds old
            self._looks[store.name].turn()
            self._statistics[store.name].write()
            self._watch.leave(store)
            store.driver.checkpoint()
            store.driver.close()
        except PbusError as error:
            child.log.warning("store.left_untidy", storage=store.name, error=str(error))
        finally:
            store.lock.release()


def _driver(target: StoreTarget) -> Driver:
    """The driver of *target*; one that blocks runs on a thread of its own."""
    driver = make(target)
    return Threaded(driver, ThreadPool(1).apply) if driver.capabilities.blocking else driver


def _alone() -> int:
    return 1


def _programs(queues: Mapping[str, Any]) -> list[str]:
    """Topics whose jobs programs take by a token."""
    return [
        topic_path(queue, topic) for queue, settings in queues.items() for topic, of_topic in settings.topic.items()
        if of_topic.command is not None and of_topic.command.protocol == "pepper"
    ]


def _rules(queues: Mapping[str, Any]) -> dict[tuple[str, str], Rules]:
    return {(name, topic): settings.rules for name, queue in queues.items() for topic, settings in queue.topic.items()}


def _spawn(act: Callable[..., None], *args: Any) -> threading.Thread:
    """A greenlet (threading is patched)."""
    thread = threading.Thread(target=act, args=args, daemon=True)
    thread.start()
    return thread
