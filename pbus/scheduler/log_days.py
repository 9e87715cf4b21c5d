"""A log file a day: the scheduler is the one process of the node that renames and removes."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Final

from pbus.clock import Clock
from pbus.telemetry.rotate import rotate

LOOK_S: Final = 30.0


class LogDays:
    """Rotates when the UTC day has changed; ``renamed`` tells everybody to reopen."""

    def __init__(self, log_dir: str, days: int, clock: Clock, renamed: Callable[[], None]) -> None:
        self._log_dir = log_dir
        self._days = days
        self._clock = clock
        self._renamed = renamed
        self._done: datetime.date | None = None

    def turn(self) -> float:
        """Rotate if this day was not looked at yet; seconds until the next look."""
        today = datetime.datetime.fromtimestamp(self._clock.wall_s(), datetime.UTC).date()
        if today != self._done:
            if rotate(self._log_dir, self._days, today):
                self._renamed()
            self._done = today
        return LOOK_S
