"""
Tells the scheduler of retries that are due before it would look for them by itself.

Rule: at most one frame in GAP_S, however many jobs fail. One look shows the scheduler every delay
that was written before it, so nothing is told while an earlier look is still to come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pbus.clock import Clock

LOOKS_EVERY_S: Final = 1.0
"""The scheduler looks at least so often; see ``scheduler.due``."""
GAP_S: Final = 0.02


class SoonDue:
    """
    One per storage of a child that writes retries.

    Args:
        tell: Called with the seconds in which the scheduler should look.
        clock: Where the time comes from.
    """

    def __init__(self, tell: Callable[[float], None], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._look_s = 0.0

    def delayed(self, delay_s: float) -> None:
        """A retry was written that is due in *delay_s* from now."""
        if delay_s >= LOOKS_EVERY_S:
            return
        now_s = self._clock.monotonic_s()
        due_s = now_s + delay_s
        if now_s < self._look_s <= due_s + GAP_S:
            return  # that look is still to come: it shows this delay, too
        self._look_s = max(due_s, now_s + GAP_S)
        self._tell(self._look_s - now_s)
