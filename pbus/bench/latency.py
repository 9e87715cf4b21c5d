"""
From the push to the handler's first line: under a steady load, and after the bus was idle.

What a machine can do at all is a loopback echo and two fsyncs, of the same moments and where the bus has its data.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pbus.bench.bus import Bus
from pbus.bench.figures import Figure
from pbus.bench.load import Pusher, python_topic
from pbus.bench.machine import CLOCK, Echo, Fsync, Processor, fsyncs, until
from pbus.bench.private import BenchError
from pbus.bench.rows import Run
from pbus.bench.slices import Pair

RATE: Final = 500
P50_MS: Final = 1.0
P99_MS: Final = 5.0
P99_RATIO: Final = 10.0
FIRST_RATIO: Final = 10.0
SLICES: Final = 2.0
"""A round of the steady load is so much longer than a slice."""
IDLE_S: Final = 3.0
_BASE: Final = {"base": "an echo and two fsyncs"}
_BASE_EVERY: Final = 5
_LATE_S: Final = 10.0


class Stamps:
    """The file in which the handler notes the ages of jobs."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "stamps"
        self._path.touch()

    @property
    def environment(self) -> Mapping[str, str]:
        """What the bus must have in its environment."""
        return {"STAMPS_FILE": str(self._path)}

    def ages_s(self) -> list[float]:
        """Seconds from push to handler, of every job so far."""
        return [int(line) / 1e9 for line in self._path.read_text("ascii").split()]

    def wait(self, count: int) -> list[float]:
        """The ages, when there are so many."""
        if not until(lambda: len(self.ages_s()) >= count, _LATE_S, 0.005):
            raise BenchError(f"{len(self.ages_s())} of {count} jobs have run after {_LATE_S:g} s")
        return self.ages_s()


def _bus(run: Run) -> tuple[Bus, Stamps]:
    stamps = Stamps(run.stage.subfolder("stamps"))
    return run.stage.bus({"stamp": python_topic("stamp")}, run.stage.store(run.store), stamps.environment), stamps


# -- a steady load --------------------------------------------------------------------------------


def steady(run: Run) -> Iterator[Figure]:
    """Three figures: both quantiles, and the far one against the base."""
    bus, stamps = _bus(run)
    with Echo() as echo, fsyncs(bus.data_dir) as fsync, Pusher(bus.port) as pusher:
        for _ in range(RATE // 5):  # connections, imports
            pusher.push()
            stamps.wait(1)
        count, known = int(RATE * max(0.5, SLICES * run.options.slice_s)), RATE // 5
        rounds, processor = list[tuple[float, float, float, float]](), Processor()
        for done in range(run.options.rounds):
            base = _quantiles([_base_s(echo, fsync) for _ in _paced(count // _BASE_EVERY)])
            for _ in _paced(count):
                pusher.push()
            ages = stamps.wait(known + count)[known:]
            known += count
            rounds.append((*_quantiles(ages), *base))
            run.tell(done + 1)
        others = processor.others()
    p50_ms, p99_ms, _, _ = ([value * 1000 for value in values] for values in zip(*rounds, strict=True))
    name, key = f"latency at {RATE} jobs/s", f"latency.{run.store}"
    for quantile, values, goal in (("p50", p50_ms, P50_MS), ("p99", p99_ms, P99_MS)):
        yield Figure(
            name=f"{name}, {quantile}, {run.store}", unit="ms", pbus=statistics.median(values), low=min(values),
            high=max(values), goal=goal, floor=10 * goal, most=True, others=others, id=f"{key}.{quantile}",
        )
    pairs = [Pair(base_s, ours_s, others) for _, ours_s, _, base_s in rounds]
    yield _against_base(f"{name}, p99, against the base, {run.store}", f"{key}.ratio", pairs, P99_RATIO, 3 * P99_RATIO)


def _paced(count: int) -> Iterator[int]:
    """RATE turns a second."""
    begin_s = CLOCK.monotonic_s()
    for number in range(count):
        CLOCK.sleep(max(0.0, begin_s + number / RATE - CLOCK.monotonic_s()))
        yield number


def _quantiles(values_s: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(values_s, n=100)
    return cuts[49], cuts[98]


def _against_base(name: str, id: str, pairs: list[Pair], goal: float, floor: float) -> Figure:
    """Medians of both sides, seconds, as ms; their ratio: a busy moment hits single rounds of either."""
    ratios = [pair.pbus / pair.base for pair in pairs]
    ours, base = statistics.median(pair.pbus for pair in pairs), statistics.median(pair.base for pair in pairs)
    return Figure(
        name=name, unit="ms", pbus=ours * 1000, base=base * 1000, ratio=ours / base, low=min(ratios), high=max(ratios),
        goal=goal, floor=floor, most=True, others=pairs[0].others, beside=_BASE, id=id,
    )


# -- after idle -----------------------------------------------------------------------------------


def first(run: Run) -> Iterator[Figure]:
    """In each round: idle, the base, idle, one job."""
    bus, stamps = _bus(run)
    idle_s = min(IDLE_S, 2 * run.options.slice_s)
    pairs: list[Pair] = []
    with Echo() as echo, fsyncs(bus.data_dir) as fsync, Pusher(bus.port) as pusher:
        pusher.push()  # nothing is paid for the first time in a measured round: connections, imports
        echo.trip()
        fsync()
        stamps.wait(1)
        processor = Processor()
        for done in range(1, run.options.rounds + 4):
            CLOCK.sleep(idle_s / 2)
            base_s = _base_s(echo, fsync)
            CLOCK.sleep(idle_s / 2)
            pusher.push()
            pairs.append(Pair(base_s, stamps.wait(done + 1)[-1], processor.others()))
            run.tell(done)
    yield _against_base(
        f"first delivery after {idle_s:g} s idle, {run.store}", f"first.{run.store}", pairs, FIRST_RATIO,
        2 * FIRST_RATIO,
    )


def _base_s(echo: Echo, fsync: Fsync) -> float:
    begin_s = time.perf_counter()
    echo.trip()
    fsync()
    fsync()
    return time.perf_counter() - begin_s
