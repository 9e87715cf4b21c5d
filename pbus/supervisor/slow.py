"""
From which run time on an attempt of a topic is told as a slow one: what all children of the node have counted, looked
at now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pbus.clock import Clock
from pbus.core.trace import slow_us
from pbus.supervisor.histograms import Totals
from pbus.telemetry.metrics import BOUNDS

LOOK_S: Final = 30.0

Path = tuple[str, str]


class Slow:
    """
    One per child.

    Args:
        read: ``Histograms.read``.
        clock: When it is looked again.
    """

    def __init__(self, read: Callable[[], Mapping[Path, Totals]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._look_s = 0.0
        self._known: dict[Path, int] = {}

    def limits_us(self) -> Mapping[Path, int]:
        """(queue, topic) -> microseconds; topics of which nothing is known are left out."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            found = {path: slow_us(totals.run, BOUNDS) for path, totals in self._read().items()}
            self._known = {path: limit for path, limit in found.items() if limit}
        return self._known
