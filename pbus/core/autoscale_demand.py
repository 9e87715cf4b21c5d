"""
How many places the work of a topic needs.

    busy    = arrivals/s x service time                            Little's law (Little 1961)
    steady  = busy + SPARE x sqrt(busy)                            square-root staffing (Halfin and Whitt 1981)
    burst   = busy + backlog / time left x service time            what waits is gone within catch_up
    need    = the larger one

The time left is catch_up less the time since the topic fell behind, so an error of the estimates is made good.

Arrivals are smoothed; a second surprise in the same direction is a new level and believed at once, so that a step
is followed after two samples and one batch push does not start a crowd. The service time weighs by jobs.

Rule: pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from pbus.core.autoscale_terms import TopicRules, TopicSample, amount, duration

SPARE: Final = 0.5
SMOOTH_S: Final = 5.0
"""Time constant of the arrivals."""
SURPRISE_SIGMAS: Final = 3.0
SURPRISE_PART: Final = 0.2
"""A surprise is outside of what chance does to a Poisson stream, and of this part of the level."""
JOBS_REMEMBERED: Final = 50
"""The service time follows a sample of many more jobs at once, one of many fewer slowly."""
OVERHEAD_MAX: Final = 2.0
HASTE_MAX: Final = 3.0
"""When little or none of catch_up is left, the backlog is to go so many times faster than at first, no more."""

UNCLAIMED_S: Final = 3.0
"""Jobs that wait for so long beside idle places are not made faster by more places."""

NEGLIGIBLE: Final = 0.01
"""So few busy places are none: smoothed arrivals never reach 0."""

NOTICED_S: Final = 2.0
"""catch_up begins so long after the topic fell behind: that is what noticing a step and starting places takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """
    What a topic's work is like, smoothed.

    Attributes:
        arrivals_per_s: Deliveries that become ready.
        surprise: Direction of the last sample, when that was a surprise: 1, -1, else 0.
        service_s: Mean time of an attempt; None: none has ended yet.
        overhead: A place is taken for so many times the service time; 1.0 .. OVERHEAD_MAX. Measured while all
            places are busy: the way to the handler and back, which the handler's own time does not contain.
        places, ready: At the end of the last interval: places that could run jobs, deliveries that waited.
        behind_s: For so long more has waited than there are places, and for longer than a job takes.
        unclaimed_s: For so long jobs have waited while half of the places had none: they wait for their keys.
    """

    arrivals_per_s: float = 0.0
    surprise: int = 0
    service_s: float | None = None
    overhead: float = 1.0
    places: int = 0
    ready: int = 0
    behind_s: float = 0.0
    unclaimed_s: float = 0.0

    @property
    def occupied_s(self) -> float | None:
        """How long one job takes a place away."""
        return None if self.service_s is None else self.service_s * self.overhead


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """
    What the work needs.

    Attributes:
        places: A fraction; rounding is up to the pace.
        words: How that comes about.
    """

    places: float
    words: str


def learn(work: Work, sample: TopicSample, interval_s: float) -> Work:
    """
    The work after one more sample.

    Args:
        interval_s: What the sample's rates are measured over, > 0.
    """
    arrivals, surprise = _arrivals(work, sample.arrivals_per_s, interval_s)
    service_s = _service_s(work.service_s, sample, interval_s)
    return replace(
        work, arrivals_per_s=arrivals, surprise=surprise, service_s=service_s,
        overhead=_overhead(work, sample, interval_s), places=sample.places, ready=sample.ready,
        behind_s=work.behind_s + interval_s if _is_behind(sample, service_s) else 0.0,
        unclaimed_s=work.unclaimed_s + interval_s if sample.ready and sample.running < 0.5 * sample.places else 0.0,
    )


def _is_behind(sample: TopicSample, service_s: float | None) -> bool:
    return sample.is_open and sample.ready > sample.places and sample.oldest_wait_s > (service_s or 0.0)


def _arrivals(work: Work, measured: float, interval_s: float) -> tuple[float, int]:
    level = work.arrivals_per_s
    off = measured - level
    chance = SURPRISE_SIGMAS * math.sqrt(max(level, 1.0 / interval_s) / interval_s)
    surprise = 0 if abs(off) <= max(chance, SURPRISE_PART * level) else (1 if off > 0 else -1)
    if surprise and surprise == work.surprise:
        return measured, surprise
    return level + off * (1 - math.exp(-interval_s / SMOOTH_S)), surprise


def _service_s(known_s: float | None, sample: TopicSample, interval_s: float) -> float | None:
    if sample.service_s is None or sample.done_per_s <= 0:
        return known_s
    if known_s is None:
        return sample.service_s
    jobs = sample.done_per_s * interval_s
    return known_s + (sample.service_s - known_s) * jobs / (jobs + JOBS_REMEMBERED)


def _overhead(work: Work, sample: TopicSample, interval_s: float) -> float:
    """Told by the throughput, of an interval in which no place came or went and none can have been idle."""
    jobs = sample.done_per_s * interval_s
    if not sample.service_s or jobs <= 0 or work.places != sample.places or work.ready < jobs:
        return work.overhead
    measured = sample.places / sample.done_per_s / sample.service_s
    return work.overhead + (min(max(measured, 1.0), OVERHEAD_MAX) - work.overhead) * 0.3


def need(work: Work, sample: TopicSample, rules: TopicRules, wanted: int) -> Need:
    """
    What the work of a topic needs now.

    More never comes of a smaller backlog, and never more than there are jobs for.

    Args:
        wanted: What it was to have until now: the base for a topic of which no attempt has ended yet.
    """
    if not sample.is_open:
        return Need(places=0.0, words="no jobs are handed out now")
    if sample.ready and not wanted and not sample.places:
        return Need(places=1.0, words=f"{sample.ready:,} waiting, and nobody is there")
    if work.occupied_s is None:
        return _unknown(sample, wanted)
    occupied_s = work.occupied_s
    rate = rules.rate_per_s or math.inf
    busy = min(work.arrivals_per_s, rate) * occupied_s
    spare = SPARE * math.sqrt(busy)
    left_s = max(rules.catch_up_s - max(0.0, work.behind_s - NOTICED_S), rules.catch_up_s / HASTE_MAX, 0.001)
    is_stuck = work.unclaimed_s >= UNCLAIMED_S
    catching = 0.0 if is_stuck else min(sample.ready / left_s, rate) * occupied_s
    burst = min(busy + catching, rate * occupied_s, max(busy, float(sample.ready + sample.running)))
    if busy + burst < NEGLIGIBLE and not (sample.ready or sample.running):
        return Need(places=0.0, words="nothing to do")
    words = f"{amount(work.arrivals_per_s)} jobs/s of {duration(occupied_s)} keep {amount(busy)} busy"
    if burst > busy + spare:
        return Need(places=burst, words=f"{words}; {sample.ready:,} waiting are to be gone within "
                                        f"{duration(left_s)}: {amount(burst - busy)} more")
    keys = f"; {sample.ready:,} waiting are not for idle places: they wait for their keys" if is_stuck else ""
    return Need(places=busy + spare, words=f"{words}, {amount(spare)} to spare{keys}")


def _unknown(sample: TopicSample, wanted: int) -> Need:
    """Nothing has ended: as long as all are busy and jobs wait, twice as many."""
    if sample.ready and sample.running >= sample.places > 0 and not sample.starting:
        return Need(places=float(min(2 * sample.places, sample.ready + sample.running)),
                    words=f"no attempt has ended yet, {sample.ready:,} wait: twice as many")
    return Need(places=float(wanted if sample.ready or sample.running else 0), words="no attempt has ended yet")
