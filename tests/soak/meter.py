"""
Memory, descriptors and threads of every process of a bus over time, and whether they grow.

Growth is the slope of a straight line through the samples (least squares) times the time that they span: what a
process would have gained if it gained steadily. A single high sample moves it little, a leak moves it fully. How
far it may be off by chance (three standard errors) shrinks as the run gets longer.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from pbus.errors import PbusError
from tests.support.bus import Bus

KIB = 1024
MIB = 1024 * KIB
FEWEST = 8
"""Samples below this say nothing."""


@dataclass(slots=True)
class Track:
    """One process: when it was looked at (monotonic seconds), and what it had."""

    name: str
    pid: int
    at_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def since(self, begin_s: float) -> Track:
        """The part of it from *begin_s* on."""
        first = next((place for place, at_s in enumerate(self.at_s) if at_s >= begin_s), len(self.at_s))
        return Track(
            self.name, self.pid, self.at_s[first:], self.rss_bytes[first:], self.descriptors[first:],
            self.threads[first:],
        )

    @property
    def span_s(self) -> float:
        return self.at_s[-1] - self.at_s[0] if self.at_s else 0.0

    def growth(self, values: Sequence[float]) -> float:
        """What *values* (one of the lists) gained over the span, by the slope."""
        if len(values) < FEWEST:
            return 0.0
        return statistics.linear_regression(self.at_s, values).slope * self.span_s

    def certain_growth(self, values: Sequence[float]) -> float:
        """The least that it can be, but for chance."""
        if len(values) < FEWEST:
            return 0.0
        slope, at_zero = statistics.linear_regression(self.at_s, values)
        off = [value - (at_zero + slope * at_s) for at_s, value in zip(self.at_s, values, strict=True)]
        squares = sum(each * each for each in off) / (len(off) - 2)
        error = math.sqrt(squares / (statistics.pvariance(self.at_s) * len(off)))
        return (slope - 3 * error) * self.span_s

    def row(self) -> str:
        """For the table: first and last values, and growth."""
        rss_mib = [rss / MIB for rss in self.rss_bytes]
        return (
            f"{self.name:<22} {self.pid:>7} {self.span_s:>7.0f} "
            f"{rss_mib[0]:>7.1f} {rss_mib[-1]:>7.1f} {self.growth(rss_mib):>+7.2f} "
            f"{self.descriptors[0]:>4} {self.descriptors[-1]:>4} {self.growth(self.descriptors):>+6.1f} "
            f"{self.threads[0]:>3} {self.threads[-1]:>4} {max(self.threads):>4}"
        )


HEAD = (
    f"{'process':<22} {'pid':>7} {'seconds':>7} {'rss MiB':>7} {'last':>7} {'growth':>7} {'fds':>4} {'last':>4} "
    f"{'growth':>6} {'thr':>3} {'last':>4} {'most':>4}"
)


class Meter(threading.Thread):
    """Looks at every process that *bus* lists, again and again, until ``stop``."""

    def __init__(self, bus: Bus, every_s: float) -> None:
        super().__init__(daemon=True)
        self._bus = bus
        self._every_s = every_s
        self._told_to_stop = threading.Event()
        self._tracks: dict[int, Track] = {}

    def run(self) -> None:
        while not self._told_to_stop.wait(self._every_s):
            with contextlib.suppress(PbusError, OSError):
                self.look()

    def look(self) -> int:
        """One sample of each; how many processes there are."""
        rows = self._bus.status()["processes"]
        for row in rows:
            name = " ".join(str(part) for part in (row["role"], row["path"], row["index"]) if part != "")
            with contextlib.suppress(psutil.Error):
                self._sample(name, psutil.Process(row["pid"]))
        return len(rows)

    def _sample(self, name: str, process: psutil.Process) -> None:
        with process.oneshot():
            rss, descriptors, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
        track = self._tracks.setdefault(process.pid, Track(name, process.pid))
        track.at_s.append(time.monotonic())
        track.rss_bytes.append(rss)
        track.descriptors.append(descriptors)
        track.threads.append(threads)

    def stop(self) -> None:
        self._told_to_stop.set()
        self.join()

    def tracks(self, begin_s: float = 0.0) -> list[Track]:
        """What was seen from *begin_s* on, by name; processes with too few samples are left out."""
        parts = (track.since(begin_s) for track in self._tracks.values())
        return sorted((part for part in parts if len(part.at_s) >= FEWEST), key=lambda part: (part.name, part.pid))
