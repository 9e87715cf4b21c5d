"""
The planner: once a second, what was sampled becomes a plan, and the master is told what has changed.

    sampler --NodeSample--> core.autoscale.decide --Decision a topic--> frame ``plan``, event topic.scaled
    orders ---------------^                    |
                                               +--> recorder

It begins a quarter of a second after the full second, when the looks and the frames of that second are in. A tick in
which nothing moves costs nothing: topics at rest keep their decision.

Rule: whatever it knows may be lost with this process. The next one begins with the places that the master keeps, so
nothing jumps; without any, the last plan holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from pbus.clock import Clock
from pbus.core import autoscale
from pbus.core.autoscale_terms import Decision, NodeSample, Plan, TopicRules
from pbus.scheduler.orders import Orders
from pbus.scheduler.sampler import Sampler

AT_S: Final = 0.25
"""After the full second."""
PATIENCE_S: Final = 3.0
"""How long is waited for the first word of the master and of the stores, before a plan is made without."""
WORDS_S: Final = 5.0
"""Where only the words or the speed have changed, the master hears of it so often."""
ALL_S: Final = 30.0
EVENTS_PER_S: Final = 10

Tell = Callable[..., None]
"""``Child.tell``."""


class Record(Protocol):
    """Where samples are kept (``recorder.Recorder``)."""

    def write(self, sample: NodeSample, plan: Plan) -> None:
        """Keep them. Never raises."""


class Planner:
    """One owner: the greenlet that calls ``tick``."""

    def __init__(
        self, rules: Mapping[str, TopicRules], sampler: Sampler, orders: Orders, record: Record, tell: Tell,
        clock: Clock, log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._rules = rules
        self._sampler = sampler
        self._orders = orders
        self._record = record
        self._tell = tell
        self._clock = clock
        self._log = log
        self._began_s = clock.monotonic_s()
        self._state: autoscale.State | None = None
        self._plan = Plan({})
        self._told: dict[str, tuple[float, Decision]] = {}
        self._all_at_s = 0.0
        self._is_at_rest = False
        self._omitted = 0

    @property
    def next_s(self) -> float:
        """Seconds until the next tick is due."""
        return 1.0 - (self._clock.monotonic_s() - AT_S) % 1.0

    def tick(self) -> None:
        """Decide once, and tell."""
        now_s, wall_s = self._clock.monotonic_s(), self._clock.wall_s()
        if not self._rules or not self._is_begun(now_s):
            return
        assert self._state is not None
        overrides = self._orders.in_force(wall_s)
        if self._is_at_rest and not overrides and not self._sampler.awake() and now_s < self._all_at_s:
            return
        wanted = {path: topic.pace.wanted for path, topic in self._state.topics.items()}
        sample = self._sampler.sample(now_s, wall_s, wanted, overrides)
        before = self._state
        self._state, self._plan = autoscale.decide(before, self._rules, sample)
        self._is_at_rest = not overrides and all(
            before.topics.get(path) is state for path, state in self._state.topics.items()
        )
        self._tell_master(now_s)
        self._tell_log(sample)
        self._record.write(sample, self._plan)

    def _is_begun(self, now_s: float) -> bool:
        """Begin where another scheduler has left off."""
        if self._state is None and (self._sampler.is_ready or now_s - self._began_s >= PATIENCE_S):
            self._state = autoscale.taken_over(
                {path: places for path, places in self._sampler.places.items() if path in self._rules}, now_s
            )
        return self._state is not None

    def _tell_master(self, now_s: float) -> None:
        """Another number, or another limit, at once; other words now and then; everything every ALL_S."""
        if now_s >= self._all_at_s:
            self._all_at_s = now_s + ALL_S
            self._told.clear()
        news = {}
        for path, decision in self._plan.topics.items():
            told_s, told = self._told.get(path, (0.0, None))
            if told is decision:
                continue
            if told is None or decision.wanted != told.wanted or decision.limited_by is not told.limited_by or (
                    now_s - told_s >= WORDS_S):
                self._told[path] = now_s, decision
                news[path] = decision.fields()
        if news:
            self._tell("plan", topics=news)

    def _tell_log(self, sample: NodeSample) -> None:
        """Each change with what it was decided by; of many at once the first ones, and how many there were."""
        changes = self._plan.changes
        for number, (path, decision) in enumerate(changes.items()):
            if number >= EVENTS_PER_S:
                self._omitted += len(changes) - number
                return
            queue, _, topic = path.partition("/")
            more: dict[str, Any] = {"omitted": self._omitted} if self._omitted else {}
            self._omitted = 0
            self._log.info("topic.scaled", queue=queue, topic=topic, **said(decision), **inputs(sample, path), **more)


def said(decision: Decision) -> dict[str, Any]:
    """A decision as the log has it."""
    return {
        "was": decision.was, "wanted": decision.wanted, "reason": decision.reason,
        "limited_by": decision.limited_by.value, "need": round(decision.need, 2),
        "arrivals_per_s": round(decision.arrivals_per_s, 2), "service_s": _rounded(decision.service_s),
        "capacity": decision.capacity.words,
    }


def inputs(sample: NodeSample, path: str) -> dict[str, Any]:
    """What was measured of that topic, as the log has it."""
    seen = sample.topics.get(path)
    if seen is None:
        return {}
    return {
        "ready": seen.ready, "running": seen.running, "oldest_wait_s": round(seen.oldest_wait_s, 3),
        "done_per_s": round(seen.done_per_s, 2), "measured_service_s": _rounded(seen.service_s),
        "service_p95_s": _rounded(seen.service_p95_s), "places": seen.places, "starting": seen.starting,
        "busy_per_s": round(seen.busy_per_s, 2), "cores": round(seen.cores, 3), "rss_bytes": seen.rss_bytes,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
