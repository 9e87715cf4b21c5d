"""
All children of the master: they are born, told, and buried here.

Rule: the only file that forks, signals and reaps. What to do comes from ``reconcile``; this performs
it and keeps the facts that the next decision needs (handles, wanted places, histories, when a place
may be lived in again). How many places a role has is said by others (``resize``).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.config.schema import Backoff
from pbus.core.names import Owner
from pbus.supervisor import backoff, process
from pbus.supervisor.backoff import History, Life
from pbus.supervisor.channel import Channel, Switchboard
from pbus.supervisor.handle import Death, Handle
from pbus.supervisor.past import Past
from pbus.supervisor.reconcile import Action, Dump, Key, Kill, Place, Seen, Spawn, Term, Wanted
from pbus.supervisor.roles import AFTER_DRAIN, AFTER_END, RoleSpec
from pbus.supervisor.scoreboard import Scoreboard
from pbus.supervisor.spawn import Newborn, Nursery, spawn
from pbus.supervisor.upgrade import State
from pbus.telemetry import log as logs

A_TURN: Final = 16
"""Births in one turn of the loop, so that signals are heard between them."""

LONG_WAIT_S: Final = 3.0
"""A place that stays empty for longer is a problem, whoever else does its work."""

FROM_CHILD_BYTES: Final = 64 * 1024 * 1024
TO_CHILD_BYTES: Final = 4 * 1024 * 1024
_NO_SLOT_WAIT_S: Final = 1.0
_KEEPS_DYING: Final = 3

CONSUMER: Final = "consumer"
PROGRAM: Final = "program"

Hear = Callable[[Handle, dict[str, Any]], None]


class Children:
    """The nursery's register. One owner: the master, one thread."""

    def __init__(
        self, roles: Sequence[RoleSpec], policy: Backoff, scoreboard: Scoreboard, switchboard: Switchboard,
        hear: Hear, clock: Clock,
    ) -> None:
        """*hear* is called with each frame that a child sends."""
        self.scoreboard = scoreboard
        self.specs: dict[Key, RoleSpec] = {spec.key: spec for spec in roles}
        self._indexes = {spec.key: frozenset(range(spec.count)) for spec in roles}
        self._places: tuple[Place, ...] | None = None
        self.generations: dict[Key, int] = {}
        """Keys that have been renewed since the boot began, and in which generation."""
        self.kept: frozenset[Key] = frozenset()
        """Of these older children stay, because the new ones are not ready yet."""
        self._waiting: set[int] = set()
        self.changes = 0
        """Grows with everything that may change what ``reconcile`` decides."""
        self.stopping = False
        self._policy = policy
        self._switchboard = switchboard
        self._hear = hear
        self._clock = clock
        self._log = logs.get()
        self._handles: dict[int, Handle] = {}
        self._by_pid: dict[int, Handle] = {}
        self._by_key: dict[Key, dict[int, Handle]] = {key: {} for key in self.specs}
        self._born = 0
        self._not_before: dict[Place, float] = {}
        self._no_room_until = float("-inf")
        self._no_fork_until, self._no_fork_why = float("-inf"), ""
        self._restarts: dict[Place, int] = {}
        self.histories: dict[Key, History] = {}
        self.past = Past()
        self.born: Callable[[Handle], None] = lambda _: None
        """Called with each newborn; whoever counts them sets it."""

    # -- facts --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._handles.values()))

    def __len__(self) -> int:
        return len(self._handles)

    def hearing(self, kind: str) -> list[Handle]:
        """
        Children that are ready and that frames of *kind* are for.

        Who has handed its duties on, and who has not got them yet, are not, unless there is nobody else.
        """
        ready = [child for child in self if kind in child.spec.hears and child.ready_s is not None]
        acting = [child for child in ready if child.stays and not child.waits]
        return acting or ready

    def answering(self, kind: str) -> list[Handle]:
        """Children that can answer frames of *kind*, the best of them first: it has the duties."""
        ready = [child for child in self if kind in child.spec.hears and child.ready_s is not None]
        return sorted(ready, key=lambda child: (child.waits, not child.stays))

    def called(self, owner: Owner) -> Handle | None:
        """The child that holds claims as *owner*; None: it is gone."""
        child = self._handles.get(owner.n)
        return child if child is not None and (child.boot, child.slot.slot) == (owner.boot, owner.slot) else None

    def of(self, key: Key) -> list[Handle]:
        """Children of that role and path, those that leave too."""
        return list(self._by_key[key].values())

    @property
    def pids(self) -> Collection[int]:
        """Processes that we forked and have not reaped."""
        return self._by_pid.keys()

    @property
    def numbers(self) -> Collection[int]:
        """Their serial numbers."""
        return self._handles.keys()

    def indexes(self, key: Key) -> frozenset[int]:
        """Places that are wanted of that role and path."""
        return self._indexes[key]

    def resize(self, key: Key, indexes: Iterable[int]) -> None:
        """From now on these are the places that are wanted of that role and path."""
        self._indexes[key] = frozenset(indexes)
        self._places = None
        self.changes += 1

    def renew_all(self, specs: Iterable[RoleSpec], gone: Iterable[Key], generation: int) -> None:
        """
        A new generation of these roles is born beside the old one, which stays until ``replace_old``.

        *gone*: roles that will not be there any more.
        """
        for spec in specs:
            self.add(spec)
            self.generations[spec.key] = generation
        self.kept = frozenset(spec.key for spec in specs).union(gone)
        for key in self.kept:
            self.forgive(key)

    def replace_old(self) -> None:
        """From now on only the new generation is wanted."""
        for key in self.kept:
            if key not in self.generations:
                self.remove(key)
        self.kept = frozenset()
        self.changes += 1

    def take_back(self, specs: Iterable[RoleSpec], generations: Mapping[Key, int]) -> None:
        """Only the old generation is wanted, as it was before ``renew_all``: its *specs* and *generations*."""
        new, self.kept = self.kept, frozenset()
        old = {spec.key: spec for spec in specs}
        for key in new:
            if key in old:
                self.add(old[key])
            else:
                self.remove(key)
            self.forgive(key)
        self.generations = dict(generations)

    def add(self, spec: RoleSpec) -> None:
        """That is how children of its role and path are born from now on, and at first so many."""
        self.specs[spec.key] = spec
        self._by_key.setdefault(spec.key, {})
        self.resize(spec.key, range(spec.count))

    def swap(self, spec: RoleSpec) -> None:
        """That is how children of its role and path are born from now on; which places there are stays."""
        self.specs[spec.key] = spec
        self.changes += 1

    def remove(self, key: Key) -> None:
        """Nobody of that role and path is born any more; who lives leaves after its job."""
        self.resize(key, ())
        self.forgive(key)
        self.specs.pop(key, None)
        self._indexes.pop(key, None)

    def retune(self, policy: Backoff) -> None:
        """Another back-off for those who die young from now on."""
        self._policy = policy

    def restarts(self, place: Place) -> int:
        """How often a child ended unasked at *place*."""
        return self._restarts.get(place, 0)

    def restarts_of(self, key: Key) -> int:
        """The same of all places of that role and path."""
        return sum(count for place, count in self._restarts.items() if place[:2] == key)

    def wanted(self, generation: int, grace_s: float, stopping_since: float | None) -> Wanted:
        """What ought to be, in the terms of ``reconcile``."""
        if self._places is None:
            self._places = tuple((*key, index) for key, indexes in self._indexes.items() for index in sorted(indexes))
        return Wanted(
            places=self._places, generation=generation, generations=self.generations, kept=self.kept,
            not_before=self._not_before, fatal=backoff.given_up(self.histories), shy=self._shy(), grace_s=grace_s,
            stopping_since=stopping_since,
        )

    def _shy(self) -> frozenset[Key]:
        """Roles and topics that die young and of whom nobody has lived for a while."""
        return frozenset(
            key for key, history in self.histories.items() if history.in_a_row and not self.thrives(key)
        )

    def forgive(self, key: Key) -> bool:
        """Forget how that role and topic died: it is born again at once. True when it had been given up."""
        history = self.histories.pop(key, None)
        for place in [place for place in self._not_before if place[:2] == key]:
            del self._not_before[place]
        self.changes += 1
        return history is not None and bool(history.fatal)

    def unsettled(self, generation: int) -> list[str]:
        """Roles that are needed, have no child that is ready, and are not given up."""
        there = {child.spec.key for child in self if child.ready_s is not None and child.generation >= generation}
        needed = {spec.key for spec in self.specs.values() if spec.needed}
        return sorted(key[0] for key in needed - there - backoff.given_up(self.histories))

    def given_up(self) -> dict[Key, str]:
        """Roles and topics that are not born any more, and why."""
        return {key: history.fatal for key, history in self.histories.items() if history.fatal}

    def problems(self) -> dict[str, str]:
        """What is wrong with children, by a stable name."""
        found, left_s = {}, self._waits()
        for key, history in self.histories.items():
            name = " ".join(part for part in key if part)
            if history.fatal:
                found[f"fatal {name}"] = f"{name}: {history.fatal}; {_given_up(key)}"
            elif self._keeps_dying(key, history, left_s.get(key, 0.0)):
                then = f"next start in {left_s[key]:.0f} s" if left_s.get(key, 0.0) >= 1.0 else "tried again"
                often = f" {history.in_a_row} times in a row" if history.in_a_row > 1 else ""
                found[f"dying {name}"] = f"{name}: ended{often}: {history.last}; {then}"
        if self._clock.monotonic_s() < self._no_room_until + _NO_SLOT_WAIT_S:
            found["no room"] = f"no room for more than {len(self)} processes: lower concurrency.max, or the order"
        if self._clock.monotonic_s() < self._no_fork_until + _NO_SLOT_WAIT_S:
            found["not forked"] = (
                f"no more than {len(self)} processes can be started: {self._no_fork_why}; raise the limits of the bus "
                "('ulimit -n', 'ulimit -u'; systemd: LimitNOFILE, TasksMax), or lower concurrency.max"
            )
        for child in self:
            for what, text in child.problems.items():
                found[f"{child.name} {what}"] = text
        return found

    def _keeps_dying(self, key: Key, history: History, left_s: float) -> bool:
        """Nobody of that role and topic lives long, or a place of it stays empty for long."""
        if left_s and backoff.wait_s(max(1, history.in_a_row), self._policy) > LONG_WAIT_S:
            return True
        return history.in_a_row >= _KEEPS_DYING and not self.thrives(key)

    def _waits(self) -> dict[Key, float]:
        """Role and topic -> seconds until the next of its empty places may be lived in again."""
        now, lived = self._clock.monotonic_s(), {child.place for child in self}
        given_up = backoff.given_up(self.histories)
        waits: dict[Key, float] = {}
        for place, when in self._not_before.items():
            key = place[:2]
            if when > now and place not in lived and key not in given_up:
                waits[key] = min(when - now, waits.get(key, when - now))
        return waits

    def next_starts(self) -> dict[str, float]:
        """Path of a topic -> seconds until its next consumer is born, where one is waited for."""
        return {path: left_s for (role, path), left_s in self._waits().items() if role == CONSUMER}

    def told_paths(self, problems: Iterable[str]) -> frozenset[str]:
        """Topics that *problems* (names of ours) are about."""
        return frozenset(name.split(" ")[-1] for name in problems if name.startswith(("fatal ", "dying ")))

    def thrives(self, key: Key) -> bool:
        """Whether a child of that role and topic has outlived its own start."""
        latest = self._clock.monotonic_s() - backoff.QUICK_S
        return any(child.ready_s is not None and child.ready_s < latest for child in self._by_key[key].values())

    # -- acts ---------------------------------------------------------------------------------

    def perform(self, actions: Sequence[Action], nursery: Nursery, generation: int) -> bool:
        """Carry out what was decided; True when births were left for the next turn."""
        births = 0
        self.changes += bool(actions)
        for action in actions:
            match action:
                case Term(n):
                    self._replace(self._handles[n], nursery.boot)
                case Dump(n):
                    self._handles[n].dump()
                case Kill(n):
                    child = self._handles[n]
                    event = "child.grace_over" if child.overdue_since is None else "child.overdue"
                    self._log.warning(event, child=child.name, child_pid=child.pid)
                    child.killed = True
                    child.kill()
                case Spawn(place) if self._clock.monotonic_s() < self._no_fork_until:
                    self._not_before[place] = self._no_fork_until  # one is tried a second, not each of hundreds
                case Spawn(place):
                    births += 1
                    if births <= A_TURN:
                        self._bear(place, nursery, self.generations.get(place[:2], generation))
        return births > A_TURN

    def _replace(self, child: Handle, boot: str) -> None:
        """*child* is to drain; while the bus goes on what it has goes to its successors, and it may take its time."""
        goes_on = not self.stopping and child.boot == boot
        if goes_on and child.spec.hands_over and (heir := self._heir(child)) is not None:
            child.tell("handover", to=heir)
        child.drain(self._clock.monotonic_s(), patient=goes_on and child.spec.patient)

    def _heir(self, child: Handle) -> int | None:
        """Index of who takes its connections: who lives at its place now, or at another one of its role."""
        ready = sorted(
            other.index for other in self._by_key[child.spec.key].values()
            if other is not child and other.stays and other.ready_s is not None and other.generation >= child.generation
        )
        if not ready or child.ready_s is None:
            return None
        return child.index if child.index in ready else ready[child.index % len(ready)]

    def hurry(self) -> None:
        """The bus stops: nobody may take as long as it takes any more."""
        for child in self._handles.values():
            child.hurry()

    def give_turns(self) -> None:
        """Who has waited for older ones begins, once these are done with what it is for."""
        for n in list(self._waiting):
            child = self._handles.get(n)
            if child is None or not child.stays:
                self._waiting.discard(n)
            elif not self._has_to_wait(child.spec, child.generation, child.boot):
                self._waiting.discard(n)
                child.begin()

    def _has_to_wait(self, spec: RoleSpec, generation: int, boot: str) -> bool:
        """Whether older ones of this boot still do what a child of *spec* is for."""
        older = [
            other for other in self._by_key[spec.key].values() if other.generation < generation and other.boot == boot
        ]
        if spec.turn == AFTER_DRAIN:
            return any(other.stays for other in older)
        return bool(older) and spec.turn == AFTER_END

    def end_overdue(self, owner: Owner) -> bool:
        """
        The job of that process is out of time; False: it is gone.

        It may say what it does and end by itself, unless the bus stops: then it has had its time for that.
        """
        child = self.called(owner)
        if child is None:
            return False
        self.changes += 1
        if self.stopping:
            child.condemned = True
            child.kill()
        elif child.overdue_since is None:
            child.overdue(self._clock.monotonic_s())
        return True

    def leave(self, child: Handle, why: str) -> None:
        """
        *child* says that it ends by itself: its place is free at once.

        One that has done nothing and leaves again is no better than one that dies; then its end is judged as that.
        """
        now = self._clock.monotonic_s()
        lived_s = 0.0 if child.ready_s is None else now - child.ready_s
        if sum(child.slot.attempts) or lived_s >= backoff.QUICK_S:
            child.leave(why, now)
            self.changes += 1
        else:
            child.failure = child.failure or why

    def renew(self, child: Handle) -> None:
        """*child* is to leave after its job, and another is to be born at its place."""
        child.drain(self._clock.monotonic_s())
        self.changes += 1

    def seen(self) -> list[Seen]:
        """Everybody as far as deciding goes. Who leaves may finish its job: whether it has is seen here."""
        now = self._clock.monotonic_s()
        for child in self._handles.values():
            if child.draining_since is not None and (child.slot.in_job or (child.patient and child.slot.running)):
                child.busy_s = now
        return [child.seen for child in self._handles.values()]

    def tell_all(self, kind: str, **fields: Any) -> None:
        """Send a frame to every child."""
        for child in self:
            child.tell(kind, **fields)

    def signal_all(self, signum: signal.Signals) -> None:
        """Send a signal to every child (not to what they started)."""
        for child in self:
            process.kill(child.pid, signum, group=False)

    def _bear(self, place: Place, nursery: Nursery, generation: int) -> None:
        spec, index = self.specs[place[:2]], place[2]
        slot = self.scoreboard.take()
        if slot is None:
            self._not_before[place] = self._no_room_until = self._clock.monotonic_s() + _NO_SLOT_WAIT_S
            return
        self._born += 1
        column = self._free_column(nursery.histograms.columns) if spec.measures else -1
        if column >= 0:
            nursery.histograms.lend(column)
        waits = bool(spec.turn) and self._has_to_wait(spec, generation, nursery.boot)
        try:
            pid, sock = spawn(nursery, Newborn(spec, index, self._born, generation, slot, column, waits))
        except OSError as error:
            self.scoreboard.bury(slot, 0)
            self._not_before[place] = self._no_fork_until = self._clock.monotonic_s() + _NO_SLOT_WAIT_S
            self._no_fork_why = error.strerror or str(error)
            self._log.error("child.not_forked", role=spec.role, err=str(error))
            return
        channel = Channel(sock, send_bytes=TO_CHILD_BYTES, receive_bytes=FROM_CHILD_BYTES)
        child = Handle(
            spec=spec, index=index, n=self._born, boot=nursery.boot, generation=generation, slot=slot, pid=pid,
            channel=channel, born_s=self._clock.monotonic_s(), column=column, waits=waits,
        )
        self.take_in(child)
        self.born(child)
        self._log.info("child.born", child=child.name, child_pid=pid, n=child.n)

    def take_in(self, child: Handle) -> None:
        """*child* lives, and is one of ours."""
        if child.waits:
            self._waiting.add(child.n)
        self._handles[child.n] = self._by_pid[child.pid] = child
        self._by_key.setdefault(child.spec.key, {})[child.n] = child
        self._switchboard.connect(child.channel, lambda frame: self._hear(child, frame), lambda: None)

    # -- an upgrade ---------------------------------------------------------------------------

    @property
    def carried(self) -> dict[str, Any]:
        """What goes through an upgrade, beside the children themselves; see ``State``."""
        return {
            "born": self._born,
            "generations": [[*key, generation] for key, generation in self.generations.items()],
            "indexes": [[*key, sorted(indexes)] for key, indexes in self._indexes.items()],
            "restarts": [[*place, count] for place, count in self._restarts.items()],
            "not_before": [[*place, when] for place, when in self._not_before.items()],
            "histories": [[*key, history.carried] for key, history in self.histories.items()],
            "past": self.past.carried,
        }

    def resume(self, state: State) -> None:
        """Go on where *state* says; the children were taken in before."""
        self._born = state.born
        self.generations = {(role, path): generation for role, path, generation in state.generations}
        self._restarts = {(role, path, index): count for role, path, index, count in state.restarts}
        self._not_before = {(role, path, index): when for role, path, index, when in state.not_before}
        for role, path, indexes in state.indexes:
            if (role, path) in self.specs:
                self.resize((role, path), indexes)
        for role, path, fields in state.histories:
            if (role, path) in self.specs:  # one that is gone has no places, and nobody to judge
                self.histories[role, path] = History(self._policy, fields)
        self.past.resume(state.past)
        self.changes += 1

    def _free_column(self, columns: int) -> int:
        """The lowest that no living child counts in; -1: all are lent."""
        lent = {child.column for child in self._handles.values()}
        return next((column for column in range(columns) if column not in lent), -1)

    # -- deaths -------------------------------------------------------------------------------

    def reap(self) -> list[Death]:
        """Bury everybody who died; nobody stays a zombie, whoever forked it."""
        deaths = []
        while (ended := _next_dead()) is not None:
            child = self._by_pid.get(ended.si_pid)
            if child is not None and child.spec.own_group:
                # It is a zombie until waitpid, so the number of its group cannot belong to anybody else yet.
                process.kill(child.pid, signal.SIGKILL, group=True)
            os.waitpid(ended.si_pid, 0)
            if child is not None:
                status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                deaths.append(self._bury(child, status))
        return deaths

    def _bury(self, child: Handle, status: int) -> Death:
        for frame in child.channel.receive():  # its last words: why it could not start
            self._hear(child, frame)
        self._switchboard.hang_up(child.channel)
        del self._handles[child.n], self._by_pid[child.pid], self._by_key[child.spec.key][child.n]
        death = Death(child, self.scoreboard.bury(child.slot, status), status)
        self.changes += 1
        unasked = child.draining_since is None and (child.condemned or not child.killed)
        self.past.buried(death, unasked)
        if unasked:
            self._restarts[child.place] = self._restarts.get(child.place, 0) + (not child.trial)
        if unasked and not child.trial:
            self._learn(death)
        tell = self._log.warning if unasked and status != 0 else self._log.info
        tell("child.exited", child=child.name, child_pid=child.pid, n=child.n, status=status, how=death.how)
        return death

    def _learn(self, death: Death) -> None:
        """When, if ever, its place is lived in again."""
        child, now = death.handle, self._clock.monotonic_s()
        if child.condemned:
            return
        history = self.histories.setdefault(child.spec.key, History(self._policy))
        ready_s = None if child.ready_s is None else now - child.ready_s
        finished = death.row.done + death.row.failed
        failed_boot = bool(child.failure) and ready_s is None
        life = Life(
            ready_s=ready_s, finished=finished, failed_boot=failed_boot, killed=death.exit_status == -signal.SIGKILL,
            in_job=child.spec.role == CONSUMER and bool(death.row.current),
            gave_up=child.spec.role != PROGRAM and bool(child.failure), reason=death.how,
        )
        was_fatal = history.fatal
        self._not_before[child.place] = history.died(life, now, random.random())
        if history.fatal and not was_fatal:
            self._log.error("child.fatal", child=child.name, reason=history.fatal)


def _given_up(key: Key) -> str:
    """What became of it, and the command that tries again."""
    role, path = key
    if role == CONSUMER:
        return f"given up, its jobs wait: repair it, then 'pbus topic restart {path}'"
    command = f"pbus program restart {path}" if role == PROGRAM else "pbus restart"
    return f"given up: repair it, then '{command}'"


def _next_dead() -> os.waitid_result | None:
    """A dead child of ours, not yet waited for."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None
