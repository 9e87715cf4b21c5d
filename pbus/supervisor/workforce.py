"""
The consumers and programs of this node as a whole: how many there are, what they take, what becomes of them.

    plan ------> Scaling   places of each topic
    once a second: who leaves has finished its job?  what does everybody take?  --machine--> scheduler

Rule: assembles; the parts decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.supervisor.children import CONSUMER, Children
from pbus.supervisor.handle import Handle
from pbus.supervisor.health import Round
from pbus.supervisor.machine import Machine
from pbus.supervisor.scaling import Scaling

MACHINE: Final = "machine"


class Workforce:
    """One owner: the master."""

    def __init__(self, children: Children, clock: Clock) -> None:
        self._children = children
        self._clock = clock
        self._round = Round()
        self._machine = Machine()
        self.scaling = Scaling(children, clock)

    def plan(self, topics: Mapping[str, Mapping[str, Any]]) -> None:
        """The scheduler has decided."""
        if not self._children.stopping:
            self.scaling.plan(topics)

    def introduce(self, child: Handle) -> None:
        """*child* has become ready."""
        self.scaling.introduce(child)

    def changed(self, child: Handle, files: Sequence[str]) -> None:
        """The code of *child* is another one on disk."""

    def tick(self) -> None:
        """Once a second."""
        now = self._clock.monotonic_s()
        children = list(self._children)
        self._round.turn(children, now)
        self._children.look_at_leavers()
        if not self._children.stopping:
            self.scaling.tick()
            self._tell_machine(children, now)

    def settle(self) -> None:
        """Every turn."""
        self.scaling.settle()

    def _tell_machine(self, children: Sequence[Handle], now: float) -> None:
        planners = self._children.hearing(MACHINE)
        if planners:
            machine, topics = self._machine.look(now), _of_topics(children)
            for planner in planners:
                planner.tell(MACHINE, **machine, topics=topics)


def _of_topics(children: Sequence[Handle]) -> dict[str, dict[str, Any]]:
    """What the processes of each topic take, and how many there are: ready ones, and ones that start."""
    found: dict[str, dict[str, Any]] = {}
    for child in children:
        if child.spec.role != CONSUMER:
            continue
        row = found.setdefault(child.spec.path, {"places": 0, "starting": 0, "cores": 0.0, "rss_bytes": 0})
        if child.stays:
            row["starting" if child.ready_s is None else "places"] += 1
        row["cores"] += child.sample.cores
        row["rss_bytes"] += child.sample.rss_bytes
    return found
