"""
How fast a number follows what is needed.

    up    at once when it is a quarter or more; a small correction waits until up_s after the last change;
          at most twice as many, or step_up more, a tick
    down  to what was needed at most within down_s; half of the way, every down_step_s

Between up and down is a band of about a twentieth: noise at a constant load changes nothing.

Rule: pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

ROUND_UP_FROM: Final = 0.25
"""A place is added for no smaller part of one: need already contains a spare."""
BAND: Final = 1.05
BIG_RISE: Final = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePolicy:
    """
    The cool-downs.

    Attributes:
        up_s: Between a change and a small rise, seconds.
        down_s: What was needed within this time is not taken away, seconds.
        down_step_s: Between two steps down, seconds.
        step_up: Places that may be added in one tick, however few there are.
    """

    up_s: float = 2.0
    down_s: float = 15.0
    down_step_s: float = 4.0
    step_up: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """
    Where a topic is.

    Attributes:
        wanted: Places.
        changed_s: Monotonic, of the last change.
        peaks: (monotonic seconds, need), each the largest since its time: falling, within down_s.
    """

    wanted: int = 0
    changed_s: float = -math.inf
    peaks: tuple[tuple[float, float], ...] = ()


def follow(pace: Pace, need: float, now_s: float, policy: PacePolicy) -> Pace:
    """
    The next number.

    Args:
        need: Places, a fraction.
        now_s: Monotonic seconds.
    """
    peaks = (*(peak for peak in pace.peaks if peak[1] > need and peak[0] > now_s - policy.down_s), (now_s, need))
    wanted = pace.wanted
    up, down = math.ceil(need - ROUND_UP_FROM), math.ceil(peaks[0][1] * BAND)
    if up > wanted:
        if up >= wanted * BIG_RISE or now_s >= pace.changed_s + policy.up_s:
            wanted = min(up, wanted + max(policy.step_up, wanted))
    elif down < wanted and now_s >= pace.changed_s + policy.down_step_s:
        wanted -= max(1, (wanted - down + 1) // 2)
    return replace(pace, wanted=wanted, changed_s=pace.changed_s if wanted == pace.wanted else now_s, peaks=peaks)
