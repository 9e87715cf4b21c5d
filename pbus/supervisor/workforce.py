"""
The consumers and programs of this node as a whole: how many there are, what they take, what becomes of them.

    plan ---------------> Scaling     places of each topic
    changed, restart ---> Rollouts    new code, a canary first
    deaths -------------> Leftovers   what user code left behind
    once a second: who has grown beyond every bound?  what does everybody take? --machine--> scheduler

Rule: assembles; the parts decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.supervisor.children import CONSUMER, Children
from pbus.supervisor.handle import Death, Handle
from pbus.supervisor.health import Round
from pbus.supervisor.leftovers import Leftovers
from pbus.supervisor.machine import Machine
from pbus.supervisor.rollouts import Rollouts
from pbus.supervisor.scaling import Scaling
from pbus.supervisor.topics import badness, standing, worst
from pbus.telemetry import log as logs

MACHINE: Final = "machine"
_MARGIN_BYTES: Final = 32 << 20
_LEFT_ALONE: Final = ("open", "probing")
_CALLERS: Final = 20
_NEW_S: Final = 10.0
"""A scheduler begins where the last one has left off, within its first seconds; then it knows what it has planned."""


class Workforce:
    """One owner: the master."""

    def __init__(self, children: Children, clock: Clock) -> None:
        self._children = children
        self._clock = clock
        self._round = Round()
        self._machine = Machine()
        self._leftovers = Leftovers()
        self._log = logs.get()
        self.scaling = Scaling(children, clock)
        self.rollouts = Rollouts(children, self.scaling, clock)
        self.scaling.extra = self.rollouts.extra
        children.born = self.rollouts.born

    def plan(self, topics: Mapping[str, Mapping[str, Any]]) -> None:
        """The scheduler has decided."""
        if not self._children.stopping:
            self.scaling.plan(topics)

    def introduce(self, child: Handle) -> None:
        """*child* has become ready."""
        self.scaling.introduce(child)

    def changed(self, child: Handle, files: Sequence[str]) -> None:
        """The code of *child* is another one on disk."""
        if not self._children.stopping:
            self.rollouts.changed(child, files)

    def buried(self, deaths: Sequence[Death]) -> None:
        """Some have died."""
        for death in deaths:
            self.rollouts.died(death)
        if any(death.handle.spec.own_group for death in deaths):
            self.sweep()

    def sweep(self) -> bool:
        """Kill what the dead have left behind; True while there was any."""
        return self._leftovers.look(self._children.pids, self._children.numbers)

    def tick(self) -> None:
        """Once a second."""
        now = self._clock.monotonic_s()
        children = list(self._children)
        self._round.turn(children, now)
        self._end_the_oversized(children)
        self.sweep()
        if not self._children.stopping:
            self.scaling.tick()
            self.rollouts.look_for_watchers()
            self._tell_machine(children, now)

    def settle(self) -> None:
        """Every turn."""
        if not self._children.stopping:
            self.rollouts.settle()
        self.scaling.settle()

    def _end_the_oversized(self, children: Sequence[Handle]) -> None:
        """A net below ``max_rss``, by which consumers replace themselves between two jobs."""
        for child in children:
            grown = child.sample.rss_bytes - (child.sample.own_bytes if child.weighs_family else 0)
            bound = hard_limit(child.spec.max_rss_bytes)
            if bound and grown > bound and not child.killed:
                child.too_big = f"it had grown to {size(grown)}, far above max_rss = {size(child.spec.max_rss_bytes)}"
                self._log.warning(
                    "consumer.too_big", child=child.name, child_pid=child.pid, rss_bytes=grown, bound_bytes=bound,
                    job=child.slot.read().current,
                )
                child.kill()

    def _tell_machine(self, children: Sequence[Handle], now: float) -> None:
        planners = self._children.hearing(MACHINE)
        if planners:
            machine, topics = self._machine.look(now), _of_topics(children)
            for planner in planners:
                is_new = planner.ready_s is None or now - planner.ready_s < _NEW_S
                said = _with_wanted(topics, self.scaling.decided) if is_new else topics
                planner.tell(MACHINE, **machine, topics=said, **self._standing_still(children))

    def _standing_still(self, children: Sequence[Handle]) -> dict[str, Any]:
        """
        What alarms are about.

        ``stopped``: path -> state and reason; ``circuits``: backend -> why it is left alone, unless shadows alone
        call it; ``callers``: backend -> some of its topics; ``codes``: path -> how often its code has changed.
        """
        lanes: dict[str, list[tuple[bool, Mapping[str, Any]]]] = {}
        for child in children:
            for (queue, topic), lane in child.lanes.items():
                lanes.setdefault(f"{queue}/{topic}", []).append((child.stays, lane))
        circuits, callers = circuits_of(children)
        specs = self._children.specs
        stopped = {path: worst(standing(each, (CONSUMER, path) in specs)) for path, each in lanes.items()}
        stopped |= {path: ("fatal", why) for (role, path), why in self._children.given_up().items() if role == CONSUMER}
        return {
            "stopped": {path: list(each) for path, each in stopped.items() if badness(each[0]) > badness("draining")},
            "circuits": circuits, "callers": callers,
            "codes": {path: code for (_, path), code in self.rollouts.codes.items()},
        }


def circuits_of(children: Iterable[Handle]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """
    The backends that are left alone by those who stay (who drains calls nobody any more, and would say so for ever),
    and some of the topics that call each.
    """
    circuits: dict[str, str] = {}
    callers: dict[str, list[str]] = {}
    for child in children:
        for (backend, address), row in child.backends.items() if child.stays else ():
            if row["state"] in _LEFT_ALONE and not row.get("shadows"):
                name = backend or address             # one that a topic names itself is its own
                circuits[name] = f"{address}: {row.get('reason') or row['state']}"
                callers[name] = sorted({*callers.get(name, ()), *row.get("topics", ())})[:_CALLERS]
    return circuits, callers


def hard_limit(max_rss_bytes: int) -> int:
    """Above this a process is killed, job or not; 0: never."""
    return max(max_rss_bytes * 3 // 2, max_rss_bytes + _MARGIN_BYTES) if max_rss_bytes else 0


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / (1 << 20):.0f} MiB"


def _with_wanted(topics: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """*topics* with what the last plan says of each, and those of the plan that have no processes with that alone."""
    found = {path: dict(row) for path, row in topics.items()}
    for path, number in wanted.items():
        found.setdefault(path, {})["wanted"] = number
    return found


def _of_topics(children: Sequence[Handle]) -> dict[str, dict[str, Any]]:
    """What the processes of each topic take, and how many there are: ready ones, and ones that start."""
    found: dict[str, dict[str, Any]] = {}
    for child in children:
        if child.spec.role != CONSUMER:
            continue
        row = found.setdefault(child.spec.path, {})
        if "places" not in row:
            row.update(places=0, starting=0, cores=0.0, rss_bytes=0)
        if child.stays:
            row["starting" if child.ready_s is None else "places"] += 1
        row["cores"] += child.sample.cores
        row["rss_bytes"] += child.sample.rss_bytes
    return found
