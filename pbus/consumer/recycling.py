"""
When a process that runs user code has lived long enough: ``max_jobs``, ``max_age``, ``max_rss``.

Rule: asked between two jobs, so a job that has begun is always finished. Each process draws its own limits, up to
a tenth below what is configured: processes that were born together do not leave together.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Final, Protocol

JITTER: Final = 0.1
RSS_EVERY_S: Final = 0.001
"""Memory is read at most so often: no handler can grow by much in between, and reading takes 2 us."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Limits(Protocol):
    """What of a handler's settings is used here (config.schema.ConsumerProcess)."""

    @property
    def max_jobs(self) -> int:
        """0: none."""

    @property
    def max_rss_bytes(self) -> int:
        """0: none."""

    @property
    def max_age_s(self) -> float:
        """0: none."""


class Recycling:
    """
    The limits of one process.

    Args:
        limits: As configured.
        born_s: When its life began, monotonic seconds.
        draw: Uniform draws in [0, 1) for the jitter.
        rss: Reads the memory it occupies, bytes.
    """

    def __init__(
        self, limits: Limits, born_s: float, draw: Callable[[], float], rss: Callable[[], int] | None = None
    ) -> None:
        self._born_s = born_s
        self._rss = rss if rss is not None else rss_bytes
        self._max_rss_bytes = limits.max_rss_bytes
        self.jobs = max(1, round(limits.max_jobs * (1 - JITTER * draw()))) if limits.max_jobs else 0
        """After so many jobs it is replaced; 0: never."""
        self._ends_s = born_s + limits.max_age_s * (1 - JITTER * draw()) if limits.max_age_s else math.inf
        self.pause_s = RSS_EVERY_S if limits.max_rss_bytes else math.inf
        """Between two jobs it has to be asked again after so long, whatever the number of jobs."""

    def due(self, jobs: int, now_s: float) -> str:
        """Why the process has to be replaced, after *jobs* jobs; empty: not yet."""
        if self.jobs and jobs >= self.jobs:
            return f"max_jobs: {jobs} jobs"
        if now_s >= self._ends_s:
            return f"max_age: {now_s - self._born_s:.0f} s"
        if self._max_rss_bytes:
            rss = self._rss()
            if rss > self._max_rss_bytes:
                return f"max_rss: {rss / 1048576:.0f} MiB"
        return ""

    def left_s(self, now_s: float) -> float:
        """Seconds until its age alone ends it; infinite without a bound."""
        return max(0.0, self._ends_s - now_s)


def rss_bytes() -> int:
    """Memory that this process occupies; 0 when it cannot be read (no descriptor is left)."""
    try:
        fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(fd, 128).split()[1]) * _PAGE
    except OSError:
        return 0
    finally:
        os.close(fd)
