"""
Claims and settles while millions of jobs wait, against few.

Two buses with an empty Python handler each: before every slice its topic is paused and the short backlog is filled up
again, then the same number of jobs is counted from the first that was done on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final

import psutil

from pbus.bench.bus import LONGEST_S, Bus, CpuPerJob
from pbus.bench.figures import Figure, median_figure
from pbus.bench.load import QUEUE, push, python_topic
from pbus.bench.machine import CLOCK, until
from pbus.bench.private import BenchError, Missing
from pbus.bench.rows import Run

TOPIC: Final = "py"
SHORT: Final = 1_000
GOAL: Final = 0.9
CONSUMERS: Final = 2
DISK_BYTES: Final = 450
MEMORY_BYTES: Final = 400
"""What a waiting job of 200 bytes takes of a disk, and of the memory of a redis-server; rather too much."""
_MARGIN: Final = 2
"""A slice is so many times as long as what is measured, at most: a pause is not noticed at once."""
_POLL_S: Final = 0.004
_FILL_AT_ONCE: Final = 1_000_000
_PIPELINE: Final = 128
_TRIED: Final = 20_000


def backlog(run: Run) -> Iterator[Figure]:
    """One figure."""
    waiting = run.options.backlog
    _check_room(run, waiting)
    topics = {TOPIC: python_topic("empty", CONSUMERS)}
    long, short = (_Side(run.stage.bus(topics, run.stage.store(run.store)), left) for left in (waiting, SHORT))
    jobs = run.count(short.try_out())
    for side in (short, long):
        side.hold()
        side.fill(jobs)
    short_cpu, long_cpu = CpuPerJob(short.bus, "delivery"), CpuPerJob(long.bus, "delivery")
    pairs = run.patience().pairs(lambda: short.rate(jobs), lambda: long.rate(jobs))
    beside = {
        "delivery cpu": f"{long_cpu.us('delivery', long.ran):.1f} against {short_cpu.us('delivery', short.ran):.1f} us",
    }
    yield median_figure(
        f"claims and settles, {waiting:,} waiting against {SHORT:,}, {run.store}", "jobs/s", pairs, goal=GOAL,
        floor=GOAL / 2, beside=beside, id=f"backlog.{run.store}",
    )


def _check_room(run: Run, waiting: int) -> None:
    """
    Raises:
        Missing: the machine has not the room for so many.
    """
    if run.store == "sqlite":
        what, need, free = "disk", waiting * DISK_BYTES, shutil.disk_usage(run.stage.folder).free
    else:
        what, need, free = "memory", waiting * MEMORY_BYTES, psutil.virtual_memory().available
    if free < need * 1.2:
        raise Missing(
            f"{waiting:,} jobs need {need / 2**30:.1f} GiB of {what}, {free / 2**30:.1f} GiB are free "
            f"(fewer: --backlog N{'; another disk: --dir DIR' if what == 'disk' else ''})"
        )


class _Side:
    """
    One bus. Its topic is paused between slices.

    Attributes:
        ran: Jobs that were run since the first slice.
    """

    def __init__(self, bus: Bus, left: int) -> None:
        """*left*: jobs that still wait when a slice is over, at least."""
        self.bus = bus
        self.ran = 0
        self._left = left

    def try_out(self) -> float:
        """Jobs a second, roughly."""
        return _TRIED / self.bus.drained_s(_TRIED)

    def hold(self) -> None:
        """Nothing is claimed from now on, and nothing runs any more."""
        self.bus.driver.pause(QUEUE, TOPIC, True)
        before = -1
        while before != (before := self.bus.done()):
            CLOCK.sleep(0.25)

    def fill(self, jobs: int) -> None:
        """There are enough for a slice of *jobs*, for what is run until the pause is noticed, and for those left."""
        missing = _MARGIN * jobs + self._left - self.bus.backlog()
        while missing > 0:
            push(self.bus.port, QUEUE, min(_FILL_AT_ONCE, missing), pipeline=_PIPELINE)
            missing -= _FILL_AT_ONCE

    def rate(self, jobs: int) -> float:
        """Claimed and settled jobs a second, from the first one on."""
        self.fill(jobs)
        before = self.bus.done()
        self.bus.driver.pause(QUEUE, TOPIC, False)
        try:
            self._await(before + 1)
            first, begin_s = self.bus.done(), CLOCK.monotonic_s()
            self._await(first + jobs)
            return (self.bus.done() - first) / (CLOCK.monotonic_s() - begin_s)
        finally:
            self.hold()
            self.ran += self.bus.done() - before

    def _await(self, done: int) -> None:
        if not until(lambda: self.bus.done() >= done or not self.bus.backlog(), LONGEST_S, _POLL_S):
            raise BenchError(f"{self.bus.backlog():,} jobs wait, and too few were done in {LONGEST_S:g} s")
