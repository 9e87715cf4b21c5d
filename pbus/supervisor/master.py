"""
The master: forks and supervises everything, and does nothing else.

    take_signals -> reap -> keep_house -> decide -> act -> sleep

Rule: one thread, plain Python, no gevent, no storage, no network but its control sockets. Every
duty is short and none waits, except ``sleep``, which waits for all of them. Deciding is a pure
function (``reconcile``); acting is ``Children``.
"""

from __future__ import annotations

import datetime
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import setproctitle

from pbus.clock import Clock, SystemClock
from pbus.config.standing import standing
from pbus.errors import BootError, Exit
from pbus import __version__
from pbus.supervisor import adoption, health, process, reconcile, signs
from pbus.supervisor.adoption import Adopts, Memory
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.children import PROGRAM, Children
from pbus.supervisor.control import Caller, Door, Request
from pbus.supervisor.deploys import Deploys
from pbus.supervisor.errands import ORDER, Errands
from pbus.supervisor.exposed import exposed
from pbus.supervisor.follow import HEARS as WATCH
from pbus.supervisor.follow import Followers
from pbus.supervisor.handle import Death, Handle
from pbus.supervisor.house import House
from pbus.supervisor.notify import Notifier
from pbus.supervisor.numbers import HEARS as NUMBERS
from pbus.supervisor.numbers import NumberDesk, Numbers
from pbus.supervisor.plan import Plan, Rehearsed
from pbus.supervisor.relay import BOOTS, Relay
from pbus.supervisor.reloads import Reloads
from pbus.supervisor.restarts import Restarts
from pbus.supervisor.signals import Signals
from pbus.supervisor.spawn import Nursery, allow_descriptors
from pbus.supervisor.status import Facts, build
from pbus.supervisor.topics import Topics, without
from pbus.supervisor.upgrade import VERSION as LAYOUT
from pbus.supervisor.upgrades import Upgrades
from pbus.supervisor.workforce import Workforce
from pbus.telemetry import log as logs
from pbus.telemetry.rotate import rotate

MOST_DOORS: Final = 256
"""Ingest children, whoever asks for them."""

FAST_S: Final = 1.0
"""The grace of a fast stop."""

_TICK_S: Final = 1.0
_OPENING_S: Final = 0.1
_ENDS_A_START: Final = (Exit.TEMPORARY, Exit.NO_PERMISSION, Exit.CONFIG)
_LONG_START_S: Final = 10.0
_SWEEP_S: Final = 1.0


class Announcer(Protocol):
    """Whoever started the bus and wants to hear how it goes."""

    def waiting(self, why: str) -> None:
        """The start takes longer, because of *why*."""

    def ready(self, pid: int, problems: list[str]) -> None:
        """The start of the master *pid* is over; with *problems* the bus is degraded."""


class Master:
    """One life of a node's bus. ``run`` is all of it."""

    def __init__(
        self, plan: Plan, announcer: Announcer, clock: Clock | None = None,
        rehearse: Callable[[Plan], Rehearsed] | None = None, command: Sequence[str] = (), adopts: Adopts | None = None,
    ) -> None:
        """
        Args:
            rehearse: Reads the files again for a reload, in a process of its own; None: there are none.
            command: What starts this bus again, for an upgrade.
            adopts: Of an upgrade: what this process had been handed when it became ours.
        """
        self._adopts = adopts
        state = adopts.state if adopts is not None else None
        self._announcer = announcer
        self._clock = clock if clock is not None else SystemClock()
        logs.configure(plan.log, plan.log_dir, secrets=plan.secrets, clock=self._clock, node=plan.node, role="master")
        self._log = logs.get()
        self._born_s = state.born_s if state is not None else self._clock.monotonic_s()
        self._signals = Signals()
        self._switchboard = Switchboard()
        self._house = House(plan, self._clock)
        memory = Memory(plan, state, self._clock)
        scoreboard = memory.scoreboard
        self._children = Children(plan.roles, plan.backoff, scoreboard, self._switchboard, self._hear, self._clock)
        self._histograms = memory.histograms
        self._workforce = Workforce(self._children, self._clock)
        self._followers = Followers(lambda: self._children.answering(WATCH), self._clock)
        self._numbers = NumberDesk(lambda: self._children.answering(NUMBERS), self._clock)
        self._errands = Errands(lambda: self._children.answering(ORDER), self._clock)
        of_consumers = [(topic.queue, topic.topic) for topic in plan.topics if topic.has_consumers]
        self._topics = Topics(self._children, of_consumers, self._clock)
        self._relay = Relay(
            self._children, self._followers, self._numbers, self._errands, self._house, self._topics, self._workforce,
            self._fence, self._exposed, self._clock,
        )
        self._notifier = Notifier(clock=self._clock)
        self._reloads = Reloads(
            plan, rehearse, self._switchboard, self._house, self._children, self._workforce,
            self._topics, self._histograms, self._notifier, self._sentence, self._clock,
        )
        self._upgrades = Upgrades(
            command, self._question, self._carried, self._reloads, self._switchboard, self._notifier, self._signals,
            self._clock, state,
        )
        self._door = Door(plan.run_dir, self._switchboard, self._requests())
        self._own = health.Sample()
        self._generation = 1
        self._token_key = state.token_key if state is not None else os.urandom(32)
        self._files = 0
        self._started = False
        self._stopping_since: float | None = None
        self._fast = False
        self._failure: BootError | None = None
        self._births_wait = False
        self._tick_at = 0.0
        self._day: datetime.date | None = None
        self._announced = ""
        self._losses = ""

    # -- the roster ---------------------------------------------------------------------------

    def run(self) -> int:
        """
        Live until told to stop.

        Returns:
            The exit status.

        Raises:
            BootError: it could not start; everything is given back.
        """
        if self._adopts is None:
            self._house.move_in()
        try:
            self._move_in()
            while not self._over:
                self.take_signals()
                self.reap()
                self.keep_house()
                self.act(self.decide())
                self.sleep()
        except Exception as error:
            self._log.critical("master.crashed", exc_info=error)  # the children drain by themselves
            raise
        finally:
            self._move_out()
        if self._failure is not None:
            raise self._failure
        return Exit.DONE

    def take_signals(self) -> None:
        """Do what the signals that came ask for."""
        for signum in self._signals.take():
            if signum in (signal.SIGTERM, signal.SIGINT):
                self._stop(fast=self._stopping_since is not None, why=signum.name)
            elif signum == signal.SIGQUIT:
                self._children.signal_all(signal.SIGQUIT)  # each writes its stack to stderr
                self._stop(fast=True, why=signum.name)
            elif signum == signal.SIGUSR1:
                self._reopen_logs()
            elif signum == signal.SIGHUP:
                self._reloads.ask("HUP")
            elif signum == signal.SIGUSR2:
                self._upgrades.ask("USR2")
            elif signum in (signal.SIGTTIN, signal.SIGTTOU):
                self._resize_door(1 if signum == signal.SIGTTIN else -1)

    def reap(self) -> None:
        """Bury the dead. Who gives their claims back reads the scoreboard."""
        deaths = self._children.reap()
        self._workforce.buried(deaths)
        self._reloads.buried(deaths)
        for death in deaths:
            self._judge_start(death)

    def keep_house(self) -> None:
        """While starting, the doors; once a second what slowly changes: health, earlier boots, the day's logs."""
        if not self._house.boot and self._stopping_since is None:
            self._open()
        self._numbers.settle()
        self._followers.settle()
        self._errands.settle()
        self._workforce.settle()
        self._reloads.settle()
        self._upgrades.settle()
        self._notifier.feed(self._all_alive)
        now = self._clock.monotonic_s()
        if now >= self._tick_at:
            self._tick_at = now + _TICK_S
            self._tick()

    def decide(self) -> list[reconcile.Action]:
        """What to do with the children now."""
        if not self._house.boot:
            return []
        return reconcile.reconcile(self._wanted(), self._children.seen(), self._clock.monotonic_s())

    def act(self, actions: list[reconcile.Action]) -> None:
        """Do it; then see whether that was the end of the start."""
        self._births_wait = self._children.perform(actions, self._nursery, self._generation) if actions else False
        self._children.give_turns()
        if not self._started and self._stopping_since is None and self._house.boot:
            self._finish_start()

    def sleep(self) -> None:
        """Wait for a signal, a frame, a caller, or the time at which a duty has something to do by itself."""
        now = self._clock.monotonic_s()
        if self._births_wait or self._over:
            self._switchboard.turn(0.0)
            return
        due = min(
            self._tick_at, self._numbers.next_s, self._followers.next_s, self._errands.next_s, self._notifier.next_s,
            self._reloads.next_s, self._upgrades.next_s,
        )
        if self._house.boot:
            due = min(due, reconcile.due(self._wanted(), self._children.seen(), now))
        else:
            due = min(due, now + _OPENING_S)
        self._switchboard.turn(max(0.0, due - now))

    # -- start --------------------------------------------------------------------------------

    def _move_in(self) -> None:
        plan = self._plan
        setproctitle.setproctitle(f"pbus: master {plan.node}")
        process.adopt_orphans()
        self._files = allow_descriptors()
        self._signals.install()
        self._switchboard.watch(self._signals.fileno(), lambda: None)
        if self._adopts is not None:
            self._adopt(self._adopts)
        else:
            self._door.open(self._house.uid, self._house.gid)
            self._log.info("master.starting", run_dir=plan.run_dir)
        self._adopts = None
        self._house.give_logs_away()
        gc.collect()
        gc.freeze()  # children share these pages as long as no collection touches them

    def _adopt(self, adopts: Adopts) -> None:
        """Go on as who was here before the exec; nobody outside has noticed."""
        state = adopts.state
        self._files, self._started, self._generation = state.files, True, state.generation
        self._house.adopt(state)
        self._door.adopt(state.control)
        adoption.restore(self._children, state, adopts.plan.roles)
        self._workforce.rollouts.resume(state)
        self._workforce.scaling.resume(state.decisions)
        self._relay.resume(state.relay)
        self._log.info(
            "upgrade.done", before=state.code, version=__version__, children=len(state.children), count=state.upgrades,
        )
        self._upgrades.adopted(self._reloads.resume(state))
        self._signals.let(state.mask, state.signals)

    def _carried(self) -> dict[str, Any]:
        """Fields of the State of this moment."""
        scaling, rollouts = self._workforce.scaling, self._workforce.rollouts
        return {
            **self._house.carried, **self._children.carried, **rollouts.carried, **self._reloads.carried,
            "children": adoption.collect(self._children), "born_s": self._born_s, "files": self._files,
            "token_key": self._token_key, "scoreboard": self._children.scoreboard.fd, "histograms": self._histograms.fd,
            "control": self._door.descriptors, "decisions": dict(scaling.decisions), "relay": self._relay.carried,
        }

    def _question(self) -> dict[str, Any]:
        """What the new code has to know to say whether it can take over."""
        settings = self._plan.settings
        return {"layout": LAYOUT, "standing": standing(settings.settings) if settings is not None else {}}

    def _open(self) -> None:
        """One step towards the first children."""
        try:
            opened = self._house.open()
        except BootError as error:
            self._fail(error)
            return
        if not opened:
            self._say_once(self._house.waits_for)

    def _say_once(self, why: str, after_s: float = 0.0) -> None:
        """Tell who started us why it takes longer."""
        if why and why != self._announced and self._clock.monotonic_s() >= self._born_s + after_s:
            self._announced = why
            self._announcer.waiting(why)
            self._notifier.status(why)
            self._log.warning("master.waiting", why=why)

    def _finish_start(self) -> None:
        """READY is when every role that is needed is ready (or given up)."""
        unsettled = self._children.unsettled(self._generation)
        if unsettled:
            self._say_once(f"waiting for {', '.join(unsettled)}", after_s=_LONG_START_S)
            return
        self._started = True
        self._log.info("master.ready", took_s=round(self._clock.monotonic_s() - self._born_s, 3))
        self._notifier.ready(self._sentence())
        self._announcer.ready(os.getpid(), self._problems())
        self._reloads.release()

    def _judge_start(self, death: Death) -> None:
        """A needed role that says at the first start that it can never work ends the start."""
        hopeless = death.handle.failure and death.exit_status in _ENDS_A_START and death.handle.spec.needed
        if hopeless and not self._started and self._stopping_since is None:
            self._fail(BootError(f"{death.handle.name}: {death.handle.failure}", Exit(death.exit_status)))

    def _fail(self, error: BootError) -> None:
        self._failure = error
        self._log.error("master.failed", reason=str(error), exit_status=int(error.exit_status))
        self._stop(fast=True, why="failed start")

    # -- stop ---------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self._stopping_since is not None and not len(self._children)

    def _stop(self, fast: bool, why: str) -> None:
        """Begin to stop, or hurry a stop that has begun. Nothing turns it back."""
        if self._stopping_since is None or (fast and self._grace_s > FAST_S):
            self._stopping_since = self._clock.monotonic_s()
            self._children.stopping = True
            self._fast |= fast
            self._reloads.stop()
            self._upgrades.stop()
            self._children.hurry()
            self._house.close_up()
            self._log.info("master.stopping", why=why, fast=fast, grace_s=self._grace_s)
            self._notifier.stopping()
            self._tell_manager()

    def _move_out(self) -> None:
        patience_s = self._clock.monotonic_s() + _SWEEP_S
        while self._workforce.sweep() and self._clock.monotonic_s() < patience_s:
            self._clock.sleep(_SWEEP_S / 100)  # what these have started in turn comes to us when they have gone
            self._children.reap()
        self._door.close()
        self._house.move_out()
        self._log.info("master.stopped")
        self._switchboard.close()
        self._signals.close()

    # -- children -----------------------------------------------------------------------------

    @property
    def _grace_s(self) -> float:
        """How long a drain may take."""
        return min(self._plan.grace_s, FAST_S) if self._fast else self._plan.grace_s

    @property
    def _plan(self) -> Plan:
        """The one that holds."""
        return self._reloads.plan

    def _paths(self) -> list[str]:
        """Of all topics."""
        return [f"{topic.queue}/{topic.topic}" for topic in self._plan.topics]

    def _resize_door(self, by: int) -> None:
        """One ingest child more or less, until the next reload."""
        specs = [spec for spec in self._plan.roles if spec.hands_over]
        if not self._started or self._stopping_since is not None or self._reloads.is_under_way or not specs:
            self._log.warning("door.not_resized", why="the bus starts, reloads or stops")
            return
        key = specs[0].key
        count = len(self._children.indexes(key)) + by
        if 1 <= count <= MOST_DOORS:
            self._house.have_handover(count)
            self._children.resize(key, range(count))
        self._log.info("door.resized", processes=len(self._children.indexes(key)))

    def _wanted(self) -> reconcile.Wanted:
        return self._children.wanted(self._generation, self._grace_s, self._stopping_since)

    @property
    def _nursery(self) -> Nursery:
        plan = self._plan
        return Nursery(
            node=plan.node, boot=self._house.boot, boot_lock_fd=self._house.boot_lock_fd, run_dir=plan.run_dir,
            log_dir=plan.log_dir, log_settings=plan.log, secrets=plan.secrets, grace_s=plan.grace_s, user=plan.user,
            scoreboard=self._children.scoreboard, histograms=self._histograms, clock=self._clock,
            listeners=self._house.doors, doors=self._house.addresses, forget=self._forget, files=self._files,
            token_key=self._token_key,
        )

    def _forget(self) -> None:
        """In a forked child: close what the master has open and the child must not even know."""
        self._switchboard.close()
        self._signals.close()
        self._door.forget()
        self._house.forget()

    def _hear(self, child: Handle, frame: dict[str, Any]) -> None:
        self._relay.hear(child, frame)

    def _fence(self, child: Handle) -> None:
        """Our boot was declared dead: everybody goes on under a new one. Said by each of the old children."""
        if child.boot != self._house.boot or self._stopping_since is not None:
            return
        old = self._house.boot
        self._house.begin_boot()
        self._reloads.generation += 1
        self._generation = self._reloads.generation
        self._children.generations.clear()
        self._log.error("master.fenced", by=child.name, old_boot=old, new_boot=self._house.boot)

    def _look_at_boots(self) -> None:
        """Earlier boots have ended: whoever asks the store gives their claims back."""
        if self._house.look_at_boots():
            for child in self._children.hearing(BOOTS):
                self._relay.tell_boots(child)

    # -- once a second ------------------------------------------------------------------------

    def _tick(self) -> None:
        self._workforce.tick()
        self._rotate()
        self._losses = logs.losses()
        if self._stopping_since is None:
            self._topics.tick()
        if self._house.boot:
            self._look_at_boots()
        self._tell_manager()

    def _tell_manager(self) -> None:
        """How it goes; and that what takes long is not stuck."""
        if self._stopping_since is not None:
            left_s = max(0.0, self._stopping_since + self._grace_s - self._clock.monotonic_s())
            self._notifier.status(f"stopping: {len(self._children)} processes, at most {left_s:.0f} s more")
        elif self._started:
            self._notifier.status(self._sentence())
        changes = self._reloads.is_under_way or self._upgrades.is_under_way
        if self._stopping_since is not None or not self._started or changes:
            self._notifier.ask_for_time()

    def _rotate(self) -> None:
        """A file a day (UTC, as the lines' times are)."""
        today = datetime.datetime.fromtimestamp(self._clock.wall_s(), datetime.UTC).date()
        if today != self._day:
            self._day = today
            if rotate(self._plan.log_dir, self._plan.log.days, today):
                self._reopen_logs()

    def _reopen_logs(self) -> None:
        logs.reopen()
        self._log.info("log.reopened")
        self._house.give_logs_away()
        self._children.tell_all("logs")

    # -- callers ------------------------------------------------------------------------------

    def _requests(self) -> dict[str, Request]:
        """Who does what callers ask for."""
        restarts = Restarts(self._children, self._workforce, self._paths)
        return {
            "ping": Request(self._pinged, reads=True),
            "status": Request(self._asked_for_status, reads=True),
            "watch": Request(self._followers.begin, reads=True),
            "stop": Request(self._asked_to_stop),
            "scale": Request(self._errands.send),
            "look": Request(self._errands.send),
            "restart": Request(restarts.begin),
            "restarted": Request(restarts.ask, reads=True),
            "reload": Request(self._reloads.asked),
            "reloaded": Request(self._reloads.tell, reads=True),
            "compare": Request(self._reloads.compare, reads=True),
            "upgrade": Request(self._upgrades.asked),
            "upgraded": Request(self._upgrades.tell, reads=True),
            "deployed": Request(Deploys(self._children).told),
        }

    def _asked_to_stop(self, caller: Caller, frame: dict[str, Any]) -> None:
        fast = bool(frame.get("fast"))
        caller.answer(pid=os.getpid(), grace_s=FAST_S if fast else self._grace_s)
        self._stop(fast=fast, why="asked")

    def _pinged(self, caller: Caller, _: dict[str, Any]) -> None:
        """Who we are, and what is loaded: the proof that a master carries no storage and no gevent."""
        caller.answer(pid=os.getpid(), packages=sorted({name.partition(".")[0] for name in sys.modules}))

    def _asked_for_status(self, caller: Caller, _: dict[str, Any]) -> None:
        if self._plan.topics:
            self._numbers.ask(lambda numbers: self._tell_status(caller, numbers))
        else:  # what nobody waits for is no problem when it is not known; orphaned topics may be
            self._numbers.ask(lambda numbers: self._tell_status(caller, Numbers(numbers.topics, alarms=numbers.alarms)))

    def _tell_status(self, caller: Caller, numbers: Numbers) -> None:
        caller.answer(status=self._status(numbers))

    def _exposed(self) -> dict[str, Any]:
        began_s = round(self._clock.wall_s() - (self._clock.monotonic_s() - self._born_s))
        return exposed(self._status(Numbers()), list(self._children), self._children.past, began_s, self._own.cpu_s)

    def _status(self, numbers: Numbers) -> dict[str, Any]:
        children = sorted(self._children, key=lambda child: child.n)
        now = self._clock.monotonic_s()
        health.look_at_all(children, now)
        self._own.look(os.getpid(), now)
        return build(Facts(
            state=self._state, node=self._plan.node, generation=self._reloads.generation, now_s=now,
            problems=self._problems(), wall_s=self._clock.wall_s(),
            master={
                "role": "master", "pid": os.getpid(), "state": self._state, "rss_bytes": self._own.rss_bytes,
                "uptime_s": round(now - self._born_s, 3), "restarts": 0, "running": 0, "index": 0, "path": "",
            },
            children=children, restarts={child.n: self._children.restarts(child.place) for child in children},
            topics=self._plan.topics, numbers=numbers,
            next_starts=self._children.next_starts(), decisions=self._workforce.scaling.decisions,
            rollouts=self._workforce.rollouts.rows(), door=self._relay.door.view(), fatal=self._children.given_up(),
            deaths={key: history.last for key, history in self._children.histories.items()},
            reload=self._reloads.view(),
            programs={
                spec.key: (spec.count, self._children.restarts_of(spec.key))
                for spec in self._plan.roles if spec.role == PROGRAM
            },
        ))

    @property
    def _state(self) -> str:
        if self._stopping_since is not None:
            return "stopping"
        return "running" if self._started else "starting"

    def _problems(self) -> list[str]:
        why = self._house.waits_for
        of_children = self._children.problems()
        idle = self._topics.problems(self._children.next_starts(), self._children.told_paths(of_children))
        losses = f"master: {self._losses}" if self._losses else ""
        rollouts = self._workforce.rollouts.problems()
        found = [
            *filter(None, (why, losses)), *self._reloads.problems(), *self._upgrades.problems(),
            *of_children.values(), *rollouts, *idle,
            *signs.silent(self._children, self._clock.monotonic_s()),
        ]
        # A shadow that does not run is told at its topic; nobody has to be woken, so the bus is not degraded.
        return without(found, [f"{topic.queue}/{topic.topic}" for topic in self._plan.topics if topic.shadow_of])

    def _all_alive(self, within_s: float) -> bool:
        specs, given_up = self._children.specs.values(), self._children.given_up()
        return signs.all_alive(self._children, specs, given_up, self._clock.monotonic_s(), within_s)

    def _sentence(self) -> str:
        """One line for ``systemctl status``."""
        problems = self._problems()
        return f"degraded: {problems[0]}" if problems else f"running, {len(self._children)} processes"
