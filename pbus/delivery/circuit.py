"""
The circuit of an address: left alone after failures that reached nobody, probed until it answers.

    closed --failures within window--> open --its time--> probing --reached--> closed
                                        ^                    |
                                        +---not reached------+   waits 0.5, 1, 2, 2 .. s

Rule: pure, time is passed in. While it is not closed no job is spent on the address.
"""

from __future__ import annotations

import enum
from collections import deque

from pbus.config import schema


class CircuitState(enum.StrEnum):
    """What is done with the address now."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Circuit:
    """
    One owner: its address.

    Attributes:
        state: See the drawing above.
        is_open: It is not closed (a plain attribute: it is looked at for every call).
        wait_s: From the last failed probe, or the opening, to the next probe.
        probe_at_s: When that is, monotonic.
    """

    __slots__ = ("_failed_at", "_settings", "is_open", "probe_at_s", "state", "wait_s")

    def __init__(self, settings: schema.Circuit) -> None:
        self._settings = settings
        self._failed_at: deque[float] = deque(maxlen=settings.failures)
        self.state = CircuitState.CLOSED
        self.is_open = False
        self.wait_s = settings.probe_first_s
        self.probe_at_s = 0.0

    def failed(self, now_s: float) -> bool:
        """Nothing was reached at *now_s*; True when that opens the circuit."""
        self._failed_at.append(now_s)
        full = len(self._failed_at) == self._settings.failures
        if self.is_open or not full or now_s - self._failed_at[0] > self._settings.window_s:
            return False
        return self.open(now_s)

    def open(self, now_s: float) -> bool:
        """Somebody knows that nothing is reached there; True unless it was open already."""
        if self.is_open:
            return False
        self.is_open = True
        self.state = CircuitState.OPEN
        self.wait_s = self._settings.probe_first_s
        self.probe_at_s = now_s + self.wait_s
        return True

    def probe(self) -> None:
        """A probe is under way."""
        if self.is_open:
            self.state = CircuitState.PROBING

    def probe_failed(self, now_s: float) -> None:
        """The next probe waits twice as long, up to the most."""
        if not self.is_open:
            return
        self.state = CircuitState.OPEN
        self.wait_s = min(self.wait_s * 2, max(self._settings.probe_max_s, self._settings.probe_first_s))
        self.probe_at_s = now_s + self.wait_s

    def close(self) -> bool:
        """The address answered; True when that closes the circuit."""
        was_open = self.is_open
        self.is_open = False
        self.state = CircuitState.CLOSED
        self._failed_at.clear()
        return was_open
