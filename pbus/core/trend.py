"""
How a topic has developed over the last minute and the last ten: what some alarms are about. Pure.

Rule: what is not known yet is None. Totals that became smaller are those of a new topic of that name: it begins anew.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pbus.core.statistics import quantile

WINDOW_S: Final = 60.0
DEAD_WINDOW_S: Final = 600.0
LEAST_S: Final = 15.0
"""Before that nobody can say where it goes."""
LEAST_ATTEMPTS: Final = 10
_DEAD_STEP_S: Final = 10.0
_NONE: Final[Mapping[int, int]] = {}
_SMALL: Final = 0.1
"""A backlog that is worth less than this part of the limit, at the rate at which jobs are done, is no matter."""


@dataclass(frozen=True, slots=True)
class Point:
    """A topic at one moment (monotonic seconds); *run*: attempts that ended, by class of how long they took."""

    at_s: float
    ready: int
    done: int
    failed: int
    dead: int
    run: Sequence[int] = ()


@dataclass(slots=True)
class Trend:
    """One owner: who looks at the topic, once a second or less often."""

    _points: deque[Point] = field(default_factory=deque)
    _deaths: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, point: Point) -> None:
        """How it is now."""
        last = self._points[-1] if self._points else None
        if last is not None and (point.done < last.done or point.failed < last.failed or point.dead < last.dead):
            self._points.clear()
            self._deaths.clear()
        self._points.append(point)
        while self._points[0].at_s < point.at_s - WINDOW_S:
            self._points.popleft()
        if not self._deaths or point.at_s - self._deaths[-1][0] >= _DEAD_STEP_S:
            self._deaths.append((point.at_s, point.dead))
        while self._deaths[0][0] < point.at_s - DEAD_WINDOW_S:
            self._deaths.popleft()

    def failed_percent(self) -> float | None:
        """Of the attempts of the last minute; of few only that none failed."""
        first, last = self._points[0], self._points[-1]
        failed = last.failed - first.failed
        attempts = last.done - first.done + failed
        if attempts < LEAST_ATTEMPTS:
            return None if failed else 0.0
        return 100.0 * failed / attempts

    def gone_in_s(self, limit_s: float) -> float | None:
        """Seconds until nothing waits, if it goes on like that; infinity: never. 0: what waits is no matter."""
        first, last = self._points[0], self._points[-1]
        over_s = last.at_s - first.at_s
        if not last.ready:
            return 0.0
        if over_s < LEAST_S:
            return None
        done_per_s = (last.done - first.done) / over_s
        if done_per_s and last.ready / done_per_s < limit_s * _SMALL:
            return 0.0
        falls_per_s = (first.ready - last.ready) / over_s
        return last.ready / falls_per_s if falls_per_s > 0 else math.inf

    def died(self) -> int:
        """Jobs that became dead letters within the last ten minutes."""
        return self._points[-1].dead - self._deaths[0][1]

    def latency_s(self, part: float, bounds: Sequence[float], others: Mapping[int, int] = _NONE) -> float | None:
        """
        What that *part* of the attempts of the last minute took at most; of few nobody can say.

        *others*: attempts on other nodes in a minute, by class.
        """
        first, last = self._points[0], self._points[-1]
        before = first.run or (0,) * len(last.run)
        classes = dict(others)
        for place, (now, then) in enumerate(zip(last.run, before, strict=True)):
            if now > then:
                classes[place] = classes.get(place, 0) + now - then
        count = sum(classes.values())
        if count < LEAST_ATTEMPTS:
            return None if count else 0.0
        return quantile(classes, part, bounds)
