"""
What the kernel knows about the children: memory and processor time, once a second.

Rule: a turn looks at a bounded number of processes, so thousands of children do not cost the master more than
hundreds do; who wants fresh figures of all (``pbus status``) asks for them. One look is one small file, 8 us; psutil,
which also makes sure that a process is still the same one, needs 33 (of our own children we know that).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pbus.supervisor import process

A_TURN = 256
"""Children looked at in one turn."""

FRESH_S = 0.5
"""Figures that are no older need no second look."""


@dataclass(slots=True)
class Sample:
    """
    One process as it was seen last.

    Attributes:
        rss_bytes: Resident memory.
        own_bytes: Without that of its family.
        cpu_s: Processor time used so far, user and system.
        cores: Processor that it used between the last two looks.
        at_s: When that was (monotonic); 0: never.
    """

    rss_bytes: int = 0
    own_bytes: int = 0
    cpu_s: float = 0.0
    cores: float = 0.0
    at_s: float = 0.0

    def look(self, pid: int, now_s: float, family: bool = False) -> None:
        """Look at *pid* now, and at its *family*; what is gone, or cannot be looked at, keeps its last figures."""
        seen = process.usage_of_family(pid) if family else process.usage(pid)
        if seen is None:
            return
        passed_s = now_s - self.at_s
        if self.at_s and passed_s > 0:
            self.cores = max(0.0, seen.cpu_s - self.cpu_s) / passed_s
        self.rss_bytes, self.own_bytes, self.cpu_s, self.at_s = seen.rss_bytes, seen.own_bytes, seen.cpu_s, now_s


class Sampled(Protocol):
    """Whoever has a pid and a sample."""

    @property
    def pid(self) -> int:
        """Process id."""

    @property
    def sample(self) -> Sample:
        """Its figures."""

    @property
    def weighs_family(self) -> bool:
        """What it starts counts as its own."""


class Round:
    """Goes round the children, at most ``A_TURN`` of them a turn. One owner: the master."""

    def __init__(self) -> None:
        self._next = 0

    def turn(self, children: Sequence[Sampled], now_s: float) -> None:
        """Look at the next few."""
        count = min(A_TURN, len(children))
        for place in range(count):
            look(children[(self._next + place) % len(children)], now_s)
        self._next = (self._next + count) % max(1, len(children))


def look(child: Sampled, now_s: float) -> None:
    """Look at it now."""
    child.sample.look(child.pid, now_s, child.weighs_family)


def look_at_all(children: Iterable[Sampled], now_s: float) -> None:
    """Look at each of them that was not looked at a moment ago."""
    for child in children:
        if now_s - child.sample.at_s > FRESH_S:
            look(child, now_s)
