"""
How long a push takes to its handler: jobs whose body is their own time, and a handler that notes their age.

The topic's handler is ``python_topic("stamp")`` of ``pbus.bench.load``; its bus needs ``environment`` to be set.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pbus.bench.load import Pusher
from tests.support.bus import Bus
from tests.support.machine import Echo, fsyncs
from tests.support.waiting import until

QUEUE = "stamped"


class Stamps:
    """The file in which the handler notes the ages of jobs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stamps"
        self.path.touch()

    @property
    def environment(self) -> dict[str, str]:
        """What the bus must have in its environment."""
        return {"STAMPS_FILE": str(self.path)}

    def ages_s(self) -> list[float]:
        """Seconds from push to handler, of every job so far."""
        return [int(line) / 1e9 for line in self.path.read_text().split()]


@dataclass(frozen=True, slots=True)
class First:
    """
    First deliveries after idle and what they are compared with, in rounds of the same moments, seconds.

    Attributes:
        delivery_s: From the push to the handler's first line.
        base_s: A loopback echo and two fsyncs in the bus' data_dir, by a process that was idle as long.
    """

    delivery_s: list[float]
    base_s: list[float]

    @property
    def ratios(self) -> list[float]:
        return [mine / base for mine, base in zip(self.delivery_s, self.base_s, strict=True)]

    @property
    def ratio(self) -> float:
        """Median over median: a busy moment of the machine hits single rounds of either."""
        return statistics.median(self.delivery_s) / statistics.median(self.base_s)

    def __str__(self) -> str:
        return (
            f"first delivery after idle: {statistics.median(self.delivery_s) * 1000:.2f} ms, echo and two fsyncs: "
            f"{statistics.median(self.base_s) * 1000:.2f} ms, ratio {self.ratio:.1f} of {len(self.base_s)} rounds "
            f"({', '.join(f'{ratio:.1f}' for ratio in self.ratios)})"
        )


def first_deliveries(bus: Bus, stamps: Stamps, rounds: int, idle_s: float) -> First:
    """Let the bus idle, measure the base, let it idle again, push one job; and again."""
    data_dir = Path(bus.settings.node.data_dir)
    delivery_s: list[float] = []
    base_s: list[float] = []
    with Echo() as echo, fsyncs(data_dir) as fsync, Pusher(bus.port, QUEUE) as pusher:
        pusher.push()  # nothing is paid for the first time in a measured round: connections, imports
        echo.trip()
        fsync()
        until(lambda: len(stamps.ages_s()) == 1, 10, "the first job runs")
        for done in range(1, rounds + 1):
            time.sleep(idle_s / 2)
            base_s.append(_timed(lambda: (echo.trip(), fsync(), fsync())))
            time.sleep(idle_s / 2)
            pusher.push()
            until(lambda wanted=done: len(stamps.ages_s()) > wanted, 10, "the job runs")  # type: ignore[misc]
            delivery_s.append(stamps.ages_s()[-1])
    return First(delivery_s, base_s)


def _timed(act: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    act()
    return time.perf_counter() - begin_s
