"""
A queue with places, run by the autoscaler: what would have been, with other settings.

    arrivals --> ready --> places (start_s to start, 1..max) --> backend: processes, in turn --> done
                   |          ^
                   +--sample--+ decide, once a tick

The same pure function as in the processes decides, over recorded samples (``Recorded``) or over made ones (``Load``).
A job keeps its place until it is done, so a place that is to go goes when it is idle.

Rule: pure. Time is simulated, chance is a function that is passed in.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pbus.core.autoscale import State, decide
from pbus.core.autoscale_pace import PacePolicy
from pbus.core.autoscale_terms import BackendSample, Decision, NodeSample, TopicRules, TopicSample

_PATH: Final = "queue/topic"
Draw = Callable[[], float]
"""A number drawn evenly from [0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    A stretch of work.

    Attributes:
        for_s: How long it lasts.
        per_s: Jobs a second.
        service_s: What one takes of a process that works on nothing else.
        spread: How the service time varies: 0.0 not at all, 1.0 exponentially.
        is_even: Jobs come evenly; False: as chance has it (Poisson).
    """

    for_s: float
    per_s: float
    service_s: float
    spread: float = 0.0
    is_even: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """
    What runs the jobs.

    Attributes:
        start_s: Until a new place can take jobs.
        overhead_s: A place is taken for longer than the handler runs: the way there and back.
        processes: Of the backend, all together; 0: as many as there are places.
        listen_queue: Its status page shows what waits for a process (TCP sockets only).
    """

    start_s: float = 0.0
    overhead_s: float = 0.0
    processes: int = 0
    listen_queue: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """
    One tick of a run.

    Attributes:
        at_s: Since its begin.
        sample: What was seen.
        decision: What followed.
    """

    at_s: float
    sample: TopicSample
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What came of a run.

    Attributes:
        moments: Each tick.
        waits_s: Of each job that began, from ready to begun; sorted.
        done: Jobs.
        place_s: Seconds of places, of those that were idle, too.
        interrupted: Jobs whose place was taken away under them; 0, or the simulation is wrong.
    """

    moments: Sequence[Moment]
    waits_s: Sequence[float]
    done: int
    place_s: float
    interrupted: int

    def wait_s(self, percent: float) -> float:
        """That percentile of the waits; 0.0 when nothing began."""
        if not self.waits_s:
            return 0.0
        return self.waits_s[min(len(self.waits_s) - 1, math.ceil(percent / 100 * len(self.waits_s)) - 1)]

    @property
    def place_hours(self) -> float:
        """What it cost."""
        return self.place_s / 3600

    @property
    def wanted(self) -> list[int]:
        """The number of each tick."""
        return [moment.decision.wanted for moment in self.moments]


def recorded(samples: Iterable[TopicSample], interval_s: float = 1.0) -> Iterator[Load]:
    """
    The work that recorded samples tell of; where no attempt ended the service time is the last one known.

    Args:
        interval_s: Between two samples.
    """
    service_s = 0.0
    for sample in samples:
        service_s = sample.service_s or service_s
        yield Load(for_s=interval_s, per_s=sample.arrivals_per_s, service_s=service_s)


def arrivals(loads: Iterable[Load], draw: Draw) -> Iterator[tuple[float, float]]:
    """(When, seconds since the begin; service time) of each job, in order."""
    begin_s = 0.0
    for load in loads:
        at_s, end_s = begin_s, begin_s + load.for_s
        while load.per_s > 0:
            at_s += (1.0 if load.is_even else _exponential(draw)) / load.per_s
            if at_s > end_s + 1e-9:
                break
            yield at_s, load.service_s * (1.0 - load.spread + load.spread * _exponential(draw))
        begin_s = end_s


def _exponential(draw: Draw) -> float:
    return -math.log(1.0 - draw())


@dataclass(slots=True)
class _Floor:
    """The places of a run and their jobs. One owner: ``simulate``."""

    farm: Farm
    places: int
    ready: deque[tuple[float, float]] = field(default_factory=deque)
    ends: list[tuple[float, float]] = field(default_factory=list)        # (place free, service time), a heap
    starts: deque[float] = field(default_factory=deque)
    free_s: list[float] = field(default_factory=list)                    # of each process of the backend, a heap
    surplus: int = 0
    waits_s: list[float] = field(default_factory=list)
    came: int = 0
    done: int = 0
    done_s: float = 0.0

    def arrive(self, at_s: float, service_s: float) -> None:
        """A job is ready."""
        self.run_until(at_s)
        self.came += 1
        self.ready.append((at_s, service_s))
        self._begin(at_s)

    def run_until(self, now_s: float) -> None:
        """Everything that ends or starts up to then, in order."""
        while True:
            end_s = self.ends[0][0] if self.ends else math.inf
            start_s = self.starts[0] if self.starts else math.inf
            if min(end_s, start_s) > now_s:
                return
            if start_s <= end_s:
                self.starts.popleft()
                self.places += 1
                self._begin(start_s)
            else:
                _, service_s = heapq.heappop(self.ends)
                self.done += 1
                self.done_s += service_s
                self._leave()
                self._begin(end_s)

    def scale(self, wanted: int, now_s: float) -> None:
        """Start what is missing; what is too many goes as soon as it is idle."""
        missing = wanted - self.places - len(self.starts)
        for _ in range(missing):
            self.starts.append(now_s + self.farm.start_s)
        while self.starts and missing < 0:
            self.starts.pop()
            missing += 1
        self.surplus = max(0, -missing)
        while self._leave():
            pass
        self.run_until(now_s)

    def _leave(self) -> bool:
        """One idle place goes, if one is to go."""
        if not self.surplus or self.places <= len(self.ends):
            return False
        self.places -= 1
        self.surplus -= 1
        return True

    def _begin(self, now_s: float) -> None:
        while self.ready and len(self.ends) < self.places:
            at_s, service_s = self.ready.popleft()
            self.waits_s.append(now_s - at_s)
            seen_s = self._turn(now_s, service_s)
            heapq.heappush(self.ends, (now_s + seen_s + self.farm.overhead_s, seen_s))

    def _turn(self, now_s: float, service_s: float) -> float:
        """Service time as pbus sees it: with the wait for a process of the backend."""
        if not self.farm.processes:
            return service_s
        while len(self.free_s) < self.farm.processes:
            self.free_s.append(0.0)
        end_s = max(now_s, heapq.heappop(self.free_s)) + service_s
        heapq.heappush(self.free_s, end_s)
        return end_s - now_s

    def sample(self, now_s: float, interval_s: float) -> TopicSample:
        """What would be measured now; the counters begin again."""
        sample = TopicSample(
            arrivals_per_s=self.came / interval_s, done_per_s=self.done / interval_s, ready=len(self.ready),
            running=len(self.ends), oldest_wait_s=now_s - self.ready[0][0] if self.ready else 0.0,
            service_s=self.done_s / self.done if self.done else None, places=self.places, starting=len(self.starts),
        )
        self.came = self.done = 0
        self.done_s = 0.0
        return sample


def simulate(
    jobs: Iterable[tuple[float, float]], rules: TopicRules, for_s: float, *, farm: Farm | None = None,
    policy: PacePolicy | None = None, tick_s: float = 1.0,
) -> Outcome:
    """
    Run one topic, from rest, on an otherwise empty node.

    Args:
        jobs: (When, service time), in order: ``arrivals``.
        rules: The setting to try; a fixed number is least = most.
        for_s: How long.
        farm: What runs the jobs.
        tick_s: Between two decisions.
    """
    farm = farm or Farm()
    floor, state, moments = _Floor(farm, rules.least), State(), []
    coming = iter(jobs)
    job = next(coming, None)
    done, place_s = 0, 0.0
    for tick in range(1, int(for_s / tick_s) + 1):
        now_s = tick * tick_s
        while job is not None and job[0] <= now_s:
            floor.arrive(*job)
            job = next(coming, None)
        floor.run_until(now_s)
        sample = floor.sample(now_s, tick_s)
        node = NodeSample(at_s=now_s, interval_s=tick_s, topics={_PATH: sample}, backends=_backends(rules, farm, floor))
        state, plan = decide(state, {_PATH: rules}, node, policy or PacePolicy())
        moments.append(Moment(now_s, sample, plan.topics[_PATH]))
        done += round(sample.done_per_s * tick_s)
        place_s += (sample.places + sample.starting) * tick_s
        floor.scale(plan.topics[_PATH].wanted, now_s)
    begun = len(floor.waits_s)
    return Outcome(moments=moments, waits_s=sorted(floor.waits_s), done=done, place_s=place_s,
                   interrupted=begun - done - len(floor.ends))


def _backends(rules: TopicRules, farm: Farm, floor: _Floor) -> dict[str, BackendSample]:
    if not rules.backend or not farm.listen_queue:
        return {}
    return {rules.backend: BackendSample(listen_queue=max(0, len(floor.ends) - farm.processes))}
