"""
Where more at once only means slower: the backend is the bottleneck.

    free --slower than the base, at a higher load--> limited --the limit is above all that is needed--> free
                                                      |    ^
                                                      +----+ trial: fewer for a while; did that make it faster?

What a backend can use is its throughput times the service time of a job that waits for nobody (the base): the
product of bandwidth and delay (Kleinrock 1979, and BBR, Cardwell et al. 2016). The limit is that, and SLACK more so
that no process of it waits for us. It falls in one step and grows by a tenth a sample.

A slower job looks like a full backend. So each large fall is a trial, and a limit that still holds is tried again now
and then with fewer: when fewer at once are not faster, that time is the new base, and the limit grows.

Rule: pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from pbus.core.autoscale_terms import UNLIMITED, TopicSample

SLOWER: Final = 1.3
"""So much slower than the base at more load: a limit is set."""
LOADED: Final = 1.25
"""More load than the base's by this factor, or it says nothing about load."""
TOLERANCE: Final = 1.1
"""So much slower is not a full backend yet."""
SLACK: Final = 0.1
"""Part of the limit, one place at least."""
LEAST_MOVE: Final = 0.7
"""Places; a limit that is nearly right stays."""
TRIAL_S: Final = 3.0
TRIAL_MAX_S: Final = 30.0
TRIAL_SKIPS_S: Final = 1.0
"""Attempts that end in the first second of a trial began before it."""
TRIAL_JOBS: Final = 30
TRIAL_PART: Final = 0.6
WRONG_FIRST_S: Final = 10.0
"""A trial that showed nothing is not repeated before; twice as long after each further one."""
WRONG_MAX_S: Final = 60.0
PROBE_FIRST_S: Final = 30.0
PROBE_MAX_S: Final = 300.0
ELASTIC: Final = 0.3
"""Latency follows the number at once with this exponent at least (1: a full backend, 0: no connection)."""
BUSY_SHRINKS: Final = 0.7
BUSY_WAIT_S: Final = 5.0
BUSY_WAIT_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """
    Fewer places for a while.

    Attributes:
        since_s, until_s: Monotonic.
        before_s, before: Service time and busy places before it.
        right, wrong: The limit afterwards: when fewer were faster, and when they were not.
        is_probe: Nothing had called for it.
        jobs, jobs_s: Attempts that ended in it, and the sum of their service times.
    """

    since_s: float
    until_s: float
    before_s: float
    before: float
    right: float
    wrong: float
    is_probe: bool
    jobs: float = 0.0
    jobs_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient:
    """
    What is known about latency and load of a topic.

    Attributes:
        base_s: Service time of a job that waits for nobody; 0: not known.
        base_load: Busy places up to which it held.
        service_s, throughput: Smoothed over a few samples; attempts a second.
        limit: Places; UNLIMITED: free.
        tried: The limit that a trial has shown, and what it has grown by since.
        trial: The one under way.
        rests_until_s: No growth before: a backend said that it was busy.
        probe_at_s, probe_wait_s: When a limit that holds is tried with fewer, and the wait before that.
        is_busy: It was last lowered because of what the backend said, not of latency.
        trusts_until_s, trusts_s: No fall because of latency before: the last trials were wrong. And for how long.
    """

    base_s: float = 0.0
    base_load: float = 0.0
    service_s: float = 0.0
    throughput: float = 0.0
    limit: float = UNLIMITED
    tried: float = 0.0
    trial: Trial | None = None
    rests_until_s: float = 0.0
    probe_at_s: float = 0.0
    probe_wait_s: float = PROBE_FIRST_S
    is_busy: bool = False
    trusts_until_s: float = 0.0
    trusts_s: float = 0.0

    @property
    def is_limited(self) -> bool:
        """There is a limit."""
        return self.limit < UNLIMITED

    @property
    def places(self) -> int:
        """The limit in whole places, one at least."""
        return max(1, round(self.limit))


def learn(
    gradient: Gradient, sample: TopicSample, now_s: float, *, interval_s: float, need: float, queued: float
) -> Gradient:
    """
    The gradient after one more sample.

    Args:
        now_s: Monotonic.
        interval_s: What the sample's rates are measured over.
        need: Places that the work would take.
        queued: Part of the calls at this topic's backend that only waits in its listen queue, 0.0 .. 1.0.
    """
    if sample.busy_per_s > 0:
        return _refused(gradient, sample, now_s)
    if not sample.service_s or sample.done_per_s <= 0:
        return _idle(gradient, need)
    gradient = _smooth(gradient, sample, interval_s)
    if gradient.trial is not None:
        return _try(gradient, gradient.trial, sample, now_s, interval_s)
    busy = sample.done_per_s * sample.service_s
    is_full = sample.ready > 0 or busy >= 0.8 * sample.places
    if gradient.is_limited:
        return _follow(gradient, now_s, need, busy, queued if is_full else 0.0, is_full)
    if is_full and (queued > 0 or (_is_slower(gradient, busy) and now_s >= gradient.trusts_until_s)):
        return _fall(gradient, _useful(gradient, busy, queued), busy, now_s)
    return _rebase(gradient, busy)


def _smooth(gradient: Gradient, sample: TopicSample, interval_s: float) -> Gradient:
    service_s, done = sample.service_s or 0.0, sample.done_per_s
    jobs = done * interval_s
    if not gradient.service_s:
        return replace(gradient, service_s=service_s, throughput=done, base_s=service_s, base_load=done * service_s)
    return replace(
        gradient,
        service_s=gradient.service_s + (service_s - gradient.service_s) * jobs / (jobs + 20.0),
        throughput=gradient.throughput + (done - gradient.throughput) * (1 - math.exp(-interval_s / 2.0)),
    )


def _is_slower(gradient: Gradient, busy: float) -> bool:
    return busy >= 2.0 and busy > gradient.base_load * LOADED and gradient.service_s > gradient.base_s * SLOWER


def _useful(gradient: Gradient, busy: float, queued: float) -> float:
    """Places that the backend can use, and the slack."""
    useful = min(gradient.throughput * gradient.base_s * TOLERANCE, busy * (1.0 - queued) if queued else math.inf)
    return useful + _slack(useful)


def _slack(places: float) -> float:
    return max(1.0, places * SLACK)


def _rebase(gradient: Gradient, busy: float) -> Gradient:
    """While it is free the base follows what is measured up to its load; a higher load without a rise lifts that."""
    if gradient.service_s <= gradient.base_s * 1.05:
        load = max(gradient.base_load, busy)
    elif busy <= max(gradient.base_load, 1.0) * TOLERANCE:  # one at a time waits for none of ours
        load = gradient.base_load
    else:
        return gradient
    return replace(gradient, base_s=gradient.base_s + (gradient.service_s - gradient.base_s) * 0.2, base_load=load)


# -- limited --------------------------------------------------------------------------------------------


def _fall(gradient: Gradient, useful: float, busy: float, now_s: float) -> Gradient:
    """The limit is set, or falls far: a trial shows whether that is right."""
    fewer = min(useful, busy * TRIAL_PART)
    return _start(gradient, fewer, busy, now_s, right=useful, wrong=gradient.limit, is_probe=False)


def _start(
    gradient: Gradient, fewer: float, busy: float, now_s: float, *, right: float, wrong: float, is_probe: bool
) -> Gradient:
    return replace(gradient, limit=max(1.0, fewer), is_busy=False, trial=Trial(
        since_s=now_s, until_s=now_s + TRIAL_S, before_s=gradient.service_s, before=busy,
        right=right, wrong=wrong, is_probe=is_probe,
    ))


def _try(gradient: Gradient, trial: Trial, sample: TopicSample, now_s: float, interval_s: float) -> Gradient:
    if now_s - interval_s >= trial.since_s + TRIAL_SKIPS_S - 0.5 * interval_s:
        jobs = sample.done_per_s * interval_s
        trial = replace(trial, jobs=trial.jobs + jobs, jobs_s=trial.jobs_s + jobs * (sample.service_s or 0.0))
    enough = trial.jobs >= TRIAL_JOBS or now_s >= trial.since_s + TRIAL_MAX_S
    if now_s < trial.until_s or not enough:
        return replace(gradient, trial=trial)
    if not trial.jobs:
        return replace(gradient, trial=None, limit=trial.right, tried=trial.right)
    return _judge(gradient, trial, trial.jobs_s / trial.jobs, now_s)


def _judge(gradient: Gradient, trial: Trial, service_s: float, now_s: float) -> Gradient:
    """Fewer ran at once. Faster: the limit is right. As slow as before: that is simply how long a job takes."""
    fewer = min(gradient.limit, trial.before)
    is_elastic = math.log(trial.before_s / service_s) >= ELASTIC * math.log(max(trial.before / fewer, 1.1))
    wait_s = min(gradient.probe_wait_s * 2, PROBE_MAX_S) if is_elastic else PROBE_FIRST_S
    gradient = replace(gradient, trial=None, probe_wait_s=wait_s, probe_at_s=now_s + wait_s)
    if not is_elastic:
        trusts_s = min(max(gradient.trusts_s * 2, WRONG_FIRST_S), WRONG_MAX_S)
        return replace(gradient, base_s=service_s, base_load=fewer, service_s=service_s, limit=trial.wrong,
                       tried=trial.wrong, trusts_s=trusts_s, trusts_until_s=now_s + trusts_s)
    return replace(gradient, base_s=min(gradient.base_s, service_s), limit=trial.right, tried=trial.right, trusts_s=0.0)


def _follow(gradient: Gradient, now_s: float, need: float, busy: float, queued: float, is_full: bool) -> Gradient:
    """
    The limit follows what the backend can use: up a little each time, down a little too.

    A good deal less than a trial has shown is another trial, or something else that slows the backend down would
    lower the limit, that the throughput, and that the limit.
    """
    limit = gradient.limit
    useful = _useful(gradient, busy, queued) if is_full else limit + _slack(limit)
    shown = max(limit, gradient.tried)
    if useful < shown * 0.8 and shown - useful > 1.0:
        return _fall(gradient, useful, busy, now_s)
    if now_s >= gradient.rests_until_s:
        moved = max(1.0, min(useful, limit + _slack(limit)))
        limit = moved if abs(moved - limit) >= LEAST_MOVE else limit
    tried = max(gradient.tried, limit)
    return _probe(_release(replace(gradient, limit=limit, tried=tried), need), busy, now_s, need, is_full)


def _release(gradient: Gradient, need: float) -> Gradient:
    """A limit of more than is needed by far is none."""
    if gradient.limit > 2 * need + 2:
        return replace(gradient, limit=UNLIMITED, tried=0.0, probe_wait_s=PROBE_FIRST_S, is_busy=False)
    return gradient


def _probe(gradient: Gradient, busy: float, now_s: float, need: float, is_full: bool) -> Gradient:
    if not gradient.is_limited or gradient.is_busy or now_s < gradient.probe_at_s:
        return gradient
    if need <= gradient.limit or not is_full:
        return gradient
    limit = gradient.limit
    return _start(gradient, limit * TRIAL_PART, busy, now_s, right=limit, wrong=limit, is_probe=True)


def _idle(gradient: Gradient, need: float) -> Gradient:
    """No attempt ended: nothing is learned, but a limit that is not needed goes."""
    if gradient.is_limited and need == 0:
        return replace(gradient, limit=UNLIMITED, tried=0.0, trial=None, is_busy=False)
    return gradient


def _refused(gradient: Gradient, sample: TopicSample, now_s: float) -> Gradient:
    """Its backend has no room: seven tenths, once in BUSY_WAIT_S, and no growth for as long as it asks for."""
    wait_s = min(max(sample.retry_after_s, BUSY_WAIT_S), BUSY_WAIT_MAX_S)
    rests_s = max(gradient.rests_until_s, now_s + wait_s)
    if now_s < gradient.rests_until_s and gradient.is_busy:
        return replace(gradient, rests_until_s=rests_s) if sample.retry_after_s else gradient
    limit = max(1.0, min(gradient.limit, float(max(sample.places, 1))) * BUSY_SHRINKS)
    return replace(gradient, limit=limit, tried=limit, trial=None, rests_until_s=rests_s, is_busy=True)
