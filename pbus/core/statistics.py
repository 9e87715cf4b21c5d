"""
What became of jobs over time: buckets of counts and histograms that add up, over any window and all nodes.

    level      kept       a bucket is written into all three at once, so nothing has to be condensed later
    1 min      24 h
    1 h        30 days
    1 day      400 days   (days and hours of UTC)

A percentile is read off the summed classes, never made of other percentiles, so it is as true over a month and five
nodes as over a minute of one: as exact as a class is wide (26 %, ten a decade).

Rule: pure. Which bounds the classes have is the caller's business; here they are numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

DAY_S: Final = 86_400

LEVELS: Final[Mapping[int, int]] = {60: DAY_S, 3600: 30 * DAY_S, DAY_S: 400 * DAY_S}
"""Seconds of a bucket -> seconds that it is kept."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """
    What was counted in ``span_s`` seconds from ``at_s`` (Unix time, a multiple of it).

    Attributes:
        topic: Empty: of the queue itself (``pushed``).
        node: Who counted it; empty: the store (``pushed``, ``expired``, ``cancelled``).
        done: Attempts that ended well. failed: that failed; retried: of those, tried again.
        dead: Deliveries that became dead letters. redelivered: attempts at what may have run before.
        bytes: Of the bodies of attempts.
        wait_us, run_us, cpu_us: Microseconds, summed: push to first attempt, in handlers, of processors.
        wait, run: Class -> how many.
    """

    queue: str
    topic: str
    node: str
    at_s: int
    span_s: int = 60
    pushed: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    redelivered: int = 0
    expired: int = 0
    cancelled: int = 0
    bytes: int = 0
    wait_us: int = 0
    run_us: int = 0
    cpu_us: int = 0
    wait: Mapping[int, int] = field(default_factory=dict)
    run: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Nothing happened."""
        return not (any(getattr(self, name) for name in COUNTS) or self.wait or self.run)


COUNTS: Final = tuple(one.name for one in fields(Bucket))[5:-2]
"""What simply adds up. Stored rows go by this order: new ones come last."""


def summed(first: Bucket, second: Bucket) -> Bucket:
    """Both in one, with the names and the time of *first*."""
    counts = {name: getattr(first, name) + getattr(second, name) for name in COUNTS}
    return replace(first, **counts, wait=_added(first.wait, second.wait), run=_added(first.run, second.run))


def level(since_s: float, until_s: float, step_s: int, now_s: float) -> int:
    """
    Seconds of the buckets to read for steps of *step_s*: the coarsest that a step is made of, or, where that is not
    kept so long, the finest that is.
    """
    kept = [span for span, keep in LEVELS.items() if since_s >= now_s - keep] or [max(LEVELS)]
    # A step of a day over an hour would answer a whole day for the hour: the window is the bound, too.
    fitting = [span for span in kept if step_s % span == 0 and span <= until_s - since_s]
    return max(fitting, default=min(kept))


def folded(buckets: Iterable[Bucket], since_s: int, step_s: int) -> list[Bucket]:
    """Sums over nodes and topics a step of *step_s* that begins at *since_s* plus a multiple of it, oldest first."""
    found: dict[int, Bucket] = {}
    for bucket in buckets:
        at_s = since_s + (bucket.at_s - since_s) // step_s * step_s
        before = found.get(at_s)
        if before is None:
            before = Bucket(bucket.queue, bucket.topic, "", at_s, step_s)
        found[at_s] = summed(before, bucket)
    return [found[at_s] for at_s in sorted(found)]


def total(buckets: Iterable[Bucket]) -> Bucket:
    """The sum of all of them."""
    found = Bucket("", "", "", 0, 0)
    for bucket in buckets:
        found = summed(found, bucket)
    return found


def quantile(classes: Mapping[int, int], part: float, bounds: Sequence[float]) -> float | None:
    """
    The upper bound of the class in which the *part* (0.5: the median) of what was counted lies.

    Returns:
        None: nothing was counted. Of the class above the last bound: the last bound.
    """
    count = sum(classes.values())
    if not count:
        return None
    places = sorted(classes)
    for place, reached in zip(places, itertools.accumulate(classes[place] for place in places), strict=True):
        if reached >= part * count:
            return bounds[min(place, len(bounds) - 1)]
    return bounds[-1]


def _added(first: Mapping[int, int], second: Mapping[int, int]) -> Mapping[int, int]:
    if not (first and second):
        return first or second
    return {place: first.get(place, 0) + second.get(place, 0) for place in first.keys() | second.keys()}
