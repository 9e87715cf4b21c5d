"""
The only file that reads time.

Deadlines and intervals use ``monotonic_s``; what people read and what is stored uses ``wall_s``
(stored times are the store's own where the store has a clock). Everything that waits or judges an
age takes a Clock, so tests move time by hand.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a process gets its time from."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def wall_s(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump."""

    def sleep(self, seconds: float) -> None:
        """Give up the processor for *seconds* (cooperatively where gevent is patched in)."""


class SystemClock:
    """The machine's clock."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class FakeClock:
    """A clock that stands still until it is moved; ``sleep`` moves it."""

    def __init__(self, wall_s: float = 1_800_000_000.0) -> None:
        self._wall_s = wall_s
        self._monotonic_s = 1_000.0

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def wall_s(self) -> float:
        return self._wall_s

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by *seconds*."""
        self._monotonic_s += seconds
        self._wall_s += seconds

    def jump(self, seconds: float) -> None:
        """Move the wall clock only, as NTP or a person would."""
        self._wall_s += seconds
