"""How many deliveries a call lane claims ahead, so that its slots never wait for a claim."""

from __future__ import annotations

import math
from typing import Final

PREFETCH_S: Final = 0.04
PREFETCH_JOBS: Final = 1000
PREFETCH_BYTES: Final = 8 * 1024 * 1024
WINDOW_S: Final = 0.05


class Prefetch:
    """
    How many jobs are about PREFETCH_S of work, by what was finished last. Pure: time is passed in.

    Looked at every WINDOW_S, and earlier where jobs turn out to be fast, so that the first
    claims of a backlog grow quickly.

    Attributes:
        jobs: So many may wait here for a slot.
    """

    def __init__(self) -> None:
        self._since_s = 0.0
        self._finished = 0
        self._bytes = 0
        self.jobs = 0

    def count(self, now_s: float, size: int) -> None:
        """A job of *size* bytes was finished."""
        self._finished += 1
        self._bytes += size
        elapsed_s = now_s - self._since_s
        if elapsed_s < WINDOW_S and (self._finished < 2 * self.jobs + 16 or elapsed_s <= 0.0):
            return
        jobs = math.ceil(self._finished / elapsed_s * PREFETCH_S) if elapsed_s < 1.0 else 0
        mean_bytes = max(1, self._bytes // self._finished)
        self.jobs = min(jobs, PREFETCH_JOBS, PREFETCH_BYTES // mean_bytes)
        self._since_s, self._finished, self._bytes = now_s, 0, 0
