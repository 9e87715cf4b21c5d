"""
All children of the master: they are born, told, and buried here.

Rule: the only file that forks, signals and reaps. What to do comes from ``reconcile``; this performs
it and keeps the facts that the next decision needs (handles, histories, when a place may be lived
in again).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.config.schema import Backoff
from pbus.core.names import Owner
from pbus.supervisor import backoff, process
from pbus.supervisor.backoff import History, Life
from pbus.supervisor.channel import Channel, Switchboard
from pbus.supervisor.handle import Death, Handle
from pbus.supervisor.reconcile import Action, Key, Kill, Place, Spawn, Term, Wanted
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard
from pbus.supervisor.spawn import Newborn, Nursery, spawn
from pbus.telemetry import log as logs

A_TURN: Final = 16
"""Births in one turn of the loop, so that signals are heard between them."""

LONG_WAIT_S: Final = 3.0
"""A place that stays empty for longer is a problem, whoever else does its work."""

_FROM_CHILD_BYTES: Final = 64 * 1024 * 1024
_TO_CHILD_BYTES: Final = 4 * 1024 * 1024
_NO_SLOT_WAIT_S: Final = 1.0
_KEEPS_DYING: Final = 3

Hear = Callable[[Handle, dict[str, Any]], None]


class Children:
    """The nursery's register. One owner: the master, one thread."""

    def __init__(
        self, roles: Sequence[RoleSpec], policy: Backoff, scoreboard: Scoreboard, switchboard: Switchboard,
        hear: Hear, clock: Clock,
    ) -> None:
        """*hear* is called with each frame that a child sends."""
        self.scoreboard = scoreboard
        self._specs = {(spec.role, spec.path, index): spec for spec in roles for index in range(spec.count)}
        self._policy = policy
        self._switchboard = switchboard
        self._hear = hear
        self._clock = clock
        self._log = logs.get()
        self._handles: dict[int, Handle] = {}
        self._by_pid: dict[int, Handle] = {}
        self._born = 0
        self._not_before: dict[Place, float] = {}
        self._lives: dict[Place, int] = {}
        self.histories: dict[Key, History] = {}

    # -- facts --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._handles.values()))

    def __len__(self) -> int:
        return len(self._handles)

    def hearing(self, kind: str) -> list[Handle]:
        """Children that are ready and that frames of *kind* are for."""
        return [child for child in self if kind in child.spec.hears and child.ready_s is not None]

    def restarts(self, place: Place) -> int:
        """How often a child was born again at *place*."""
        return max(0, self._lives.get(place, 0) - 1)

    def wanted(self, generation: int, grace_s: float, stopping_since: float | None) -> Wanted:
        """What ought to be, in the terms of ``reconcile``."""
        return Wanted(
            places=tuple(self._specs), generation=generation, not_before=self._not_before,
            fatal=backoff.given_up(self.histories), grace_s=grace_s, stopping_since=stopping_since,
        )

    def unsettled(self, generation: int) -> list[str]:
        """Roles that are needed, have no child that is ready, and are not given up."""
        there = {child.spec.key for child in self if child.ready_s is not None and child.generation == generation}
        needed = {spec.key for spec in self._specs.values() if spec.needed}
        return sorted(key[0] for key in needed - there - backoff.given_up(self.histories))

    def fatal_paths(self) -> frozenset[str]:
        """Topics whose consumers are given up."""
        return frozenset(path for _, path in backoff.given_up(self.histories) if path)

    def problems(self) -> dict[str, str]:
        """What is wrong with children, by a stable name."""
        found, left_s = {}, self._waits()
        for key, history in self.histories.items():
            name = " ".join(part for part in key if part)
            if history.fatal:
                waits = ", its jobs wait" if key[1] else ""
                found[f"fatal {name}"] = f"{name}: {history.fatal}; given up{waits}: repair it, then 'pbus restart'"
            elif self._keeps_dying(key, history, left_s.get(key, 0.0)):
                then = f"next start in {left_s[key]:.0f} s" if left_s.get(key, 0.0) >= 1.0 else "tried again"
                often = f" {history.in_a_row} times in a row" if history.in_a_row > 1 else ""
                found[f"dying {name}"] = f"{name}: ended{often}: {history.last}; {then}"
        for child in self:
            for what, text in child.problems.items():
                found[f"{child.name} {what}"] = text
        return found

    def _keeps_dying(self, key: Key, history: History, left_s: float) -> bool:
        """Nobody of that role and topic lives long, or a place of it stays empty for long."""
        if left_s and backoff.wait_s(max(1, history.in_a_row), self._policy) > LONG_WAIT_S:
            return True
        return history.in_a_row >= _KEEPS_DYING and not self._thrives(key)

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
        return {path: left_s for (_, path), left_s in self._waits().items() if path}

    def told_paths(self, problems: Iterable[str]) -> frozenset[str]:
        """Topics that *problems* (names of ours) are about."""
        return frozenset(name.split(" ")[-1] for name in problems if name.startswith(("fatal ", "dying ")))

    def _thrives(self, key: Key) -> bool:
        """Whether a child of that role and topic has outlived its own start."""
        latest = self._clock.monotonic_s() - backoff.QUICK_S
        return any(child.ready_s is not None and child.ready_s < latest for child in self if child.spec.key == key)

    # -- acts ---------------------------------------------------------------------------------

    def perform(self, actions: Sequence[Action], nursery: Nursery, generation: int) -> bool:
        """Carry out what was decided; True when births were left for the next turn."""
        births = 0
        for action in actions:
            match action:
                case Term(n):
                    self._handles[n].drain(self._clock.monotonic_s())
                case Kill(n):
                    self._log.warning("child.grace_over", child=self._handles[n].name, child_pid=self._handles[n].pid)
                    self._handles[n].killed = True
                    self._handles[n].kill()
                case Spawn(place):
                    births += 1
                    if births <= A_TURN:
                        self._bear(place, nursery, generation)
        return births > A_TURN

    def kill_owner(self, owner: Owner) -> bool:
        """End the process that holds claims as *owner* (the timeout of its job); False: it is gone."""
        child = self._handles.get(owner.n)
        if child is None or child.boot != owner.boot or child.slot.slot != owner.slot:
            return False
        child.condemned = True
        child.kill()
        return True

    def tell_all(self, kind: str, **fields: Any) -> None:
        """Send a frame to every child."""
        for child in self:
            child.tell(kind, **fields)

    def signal_all(self, signum: signal.Signals) -> None:
        """Send a signal to every child (not to what they started)."""
        for child in self:
            process.kill(child.pid, signum, group=False)

    def _bear(self, place: Place, nursery: Nursery, generation: int) -> None:
        spec, index = self._specs[place], place[2]
        slot = self.scoreboard.take()
        if slot is None:
            self._not_before[place] = self._clock.monotonic_s() + _NO_SLOT_WAIT_S
            return
        self._born += 1
        try:
            pid, sock = spawn(nursery, Newborn(spec, index, self._born, generation, slot))
        except OSError as error:
            self.scoreboard.bury(slot, 0)
            self._not_before[place] = self._clock.monotonic_s() + _NO_SLOT_WAIT_S
            self._log.error("child.not_forked", role=spec.role, err=str(error))
            return
        channel = Channel(sock, send_bytes=_TO_CHILD_BYTES, receive_bytes=_FROM_CHILD_BYTES)
        child = Handle(
            spec=spec, index=index, n=self._born, boot=nursery.boot, generation=generation, slot=slot, pid=pid,
            channel=channel, born_s=self._clock.monotonic_s(),
        )
        self._handles[child.n] = self._by_pid[pid] = child
        self._lives[place] = self._lives.get(place, 0) + 1
        self._switchboard.connect(channel, lambda frame: self._hear(child, frame), lambda: None)
        self._log.info("child.born", child=child.name, child_pid=pid, n=child.n)

    # -- deaths -------------------------------------------------------------------------------

    def reap(self) -> list[Death]:
        """Bury everybody who died; nobody stays a zombie."""
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
        del self._handles[child.n], self._by_pid[child.pid]
        death = Death(child, self.scoreboard.bury(child.slot, status), status)
        unasked = child.draining_since is None and not child.killed
        if unasked:
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
            in_job=child.spec.role == "consumer" and bool(death.row.current), reason=death.how,
        )
        was_fatal = history.fatal
        self._not_before[child.place] = history.died(life, now, random.random())
        if history.fatal and not was_fatal:
            self._log.error("child.fatal", child=child.name, reason=history.fatal)


def _next_dead() -> os.waitid_result | None:
    """A dead child of ours, not yet waited for."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None
