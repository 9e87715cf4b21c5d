"""
``rate`` of a topic or a backend: jobs begin evenly, never in bursts.

    lane.wants() --> throttle.room() --> no more than that are claimed --> throttle.spend(claimed)

What may not begin yet stays ready in the store: nothing is held here, and no attempt is used up.
The rate is the node's; each delivery child that has part in the work gets its part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import gevent

from pbus.clock import Clock

EVEN_S: Final = 0.02
"""So much of the rate may come at once, where that is more than one job."""
_CARRY: Final = 0.5
"""Part of a job that is carried over when somebody looks a little late."""


class Bucket:
    """
    Tokens of one rate. Pure: time is passed in.

    Args:
        rate_per_s: Above 0.
    """

    __slots__ = ("_capacity", "_quantum", "_rate_per_s", "_since_s", "_tokens")

    def __init__(self, rate_per_s: float) -> None:
        self._tokens = 1.0
        self._since_s: float | None = None
        self._set(rate_per_s)

    def _set(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._capacity = max(1.0 + _CARRY, rate_per_s * EVEN_S)
        self._quantum = max(1.0, rate_per_s * EVEN_S / 2)

    def change(self, rate_per_s: float, now_s: float) -> None:
        """It is another rate from *now_s* on."""
        self._fill(now_s)
        self._set(rate_per_s)

    def room(self, now_s: float) -> int:
        """Jobs that may begin at *now_s*. Fast rates are handed out some at a time, so that a claim pays."""
        self._fill(now_s)
        self._tokens = min(self._tokens, self._capacity)
        return int(self._tokens) if self._tokens >= self._quantum else 0

    def spend(self, count: int, now_s: float) -> None:
        """*count* jobs begin. What came in since ``room`` (a claim takes its time) is not cut off."""
        self._fill(now_s)
        self._tokens -= count

    def wait_s(self, now_s: float) -> float:
        """From *now_s* until ``room`` is above 0."""
        self._fill(now_s)
        return max(0.0, (self._quantum - self._tokens) / self._rate_per_s)

    def _fill(self, now_s: float) -> None:
        if self._since_s is not None:
            self._tokens += (now_s - self._since_s) * self._rate_per_s
        self._since_s = now_s


class Throttle:
    """
    A rate, and whoever has to be woken when there is room again. One owner: a lane or a backend.

    Args:
        rate_per_s: Above 0.
        wake: Called when more may begin, if ``room`` has said 0.
        clock: The clock to use.
    """

    def __init__(self, rate_per_s: float, wake: Callable[[], None], clock: Clock) -> None:
        self.rate_per_s = rate_per_s
        self._bucket = Bucket(rate_per_s)
        self._wake = wake
        self._clock = clock
        self._timer: Any = None

    def room(self) -> int:
        """Jobs that may begin now; 0 is followed by a ``wake``."""
        now_s = self._clock.monotonic_s()
        count = self._bucket.room(now_s)
        if not count and self._timer is None:
            self._timer = gevent.spawn_later(self._bucket.wait_s(now_s), self._ring)
        return count

    def spend(self, count: int) -> None:
        """*count* jobs begin."""
        self._bucket.spend(count, self._clock.monotonic_s())

    def change(self, rate_per_s: float) -> None:
        """It is another rate from now on; who waits for room waits as long as that takes."""
        if rate_per_s == self.rate_per_s:
            return
        self.rate_per_s = rate_per_s
        now_s = self._clock.monotonic_s()
        self._bucket.change(rate_per_s, now_s)
        if self._timer is not None:
            self._timer.kill(block=False)
            self._timer = gevent.spawn_later(self._bucket.wait_s(now_s), self._ring)

    def close(self) -> None:
        """Wake nobody any more; idempotent."""
        if self._timer is not None:
            self._timer.kill(block=False)
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._wake()


def throttle_of(rate_per_s: float, share: float, wake: Callable[[], None], clock: Clock) -> Throttle | None:
    """The throttle of a child that does *share* (0..1] of a node's work; None where there is no rate."""
    return Throttle(rate_per_s * share, wake, clock) if rate_per_s > 0.0 else None
