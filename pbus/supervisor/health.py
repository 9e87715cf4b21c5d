"""
What the kernel knows about the children: memory and processor time, by psutil, once a second.

Rule: a turn looks at a bounded number of processes, so hundreds of children do not cost the master
more than twenty do; who wants fresh figures of all (``pbus status``) asks for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

A_TURN = 8
"""Children looked at in one turn."""


@dataclass(slots=True)
class Sample:
    """
    One process as psutil saw it last.

    Attributes:
        rss_bytes: Resident memory.
        cpu_s: Processor time used so far, user and system.
    """

    rss_bytes: int = 0
    cpu_s: float = 0.0

    def look(self, pid: int) -> None:
        """Look at *pid* now; a process that is gone, or cannot be looked at now, keeps its last figures."""
        with contextlib.suppress(psutil.Error, OSError):  # psutil hands on what /proc cannot be opened for (EMFILE)
            seen = psutil.Process(pid)
            with seen.oneshot():
                self.rss_bytes = seen.memory_info().rss
                times = seen.cpu_times()
                self.cpu_s = times.user + times.system


class Sampled(Protocol):
    """Whoever has a pid and a sample."""

    @property
    def pid(self) -> int:
        """Process id."""

    @property
    def sample(self) -> Sample:
        """Its figures."""


class Round:
    """Goes round the children, a few a turn. One owner: the master."""

    def __init__(self) -> None:
        self._next = 0

    def turn(self, children: Sequence[Sampled]) -> None:
        """Look at the next few."""
        count = min(A_TURN, len(children))
        look_at_all(children[(self._next + place) % len(children)] for place in range(count))
        self._next = (self._next + count) % max(1, len(children))


def look_at_all(children: Iterable[Sampled]) -> None:
    """Look at each of them now."""
    for child in children:
        child.sample.look(child.pid)
