"""
How many places (consumer processes, or calls at once) every topic of this node should have now.

    sample --> demand      what the work needs: Little's law, the backlog over catch_up
           --> gradient    no more where more is only slower, or where the backend says that it is busy
           --> pace        up soon, down late, a band between: no swinging
           --> bounds      min and max, a person's order for a time
           --> shares      backends, processor and memory, fairly when one is short
           --> capacity, and the reason in words

``decide`` is called once a tick (a second) with the state that it returned the last time. Nothing is kept elsewhere:
without a sample the last plan holds, and recorded samples give the same plan again (``autoscale_simulation``).

Rule: pure. It asks for places only. Who loses one finishes its job first: ``Decision.surplus``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pbus.core import autoscale_demand as demand
from pbus.core import autoscale_gradient as gradients
from pbus.core import autoscale_pace as paces
from pbus.core.autoscale_capacity import capacity, usage
from pbus.core.autoscale_demand import Need, Work
from pbus.core.autoscale_gradient import Gradient
from pbus.core.autoscale_pace import Pace, PacePolicy
from pbus.core.autoscale_resources import Costs, Resource, resources
from pbus.core.autoscale_shares import Claim, shares
from pbus.core.autoscale_terms import (
    Capacity, Decision, Kind, Limit, NodeSample, Override, Plan, TopicRules, TopicSample, duration,
)

_PACE: Final = PacePolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """
    What is remembered of a topic between two ticks.

    Attributes:
        work: Its work, smoothed.
        gradient: Its latency and load.
        pace: Its number, and what was needed lately.
        costs: What one of its processes takes.
        decision: The last one; None: never decided.
    """

    work: Work = field(default_factory=Work)
    gradient: Gradient = field(default_factory=Gradient)
    pace: Pace = field(default_factory=Pace)
    costs: Costs = field(default_factory=Costs)
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class State:
    """
    What is remembered between two ticks. The first one is ``State()``.

    Attributes:
        topics: ``queue/topic`` -> state; only of topics that had rules in the last tick.
    """

    topics: Mapping[str, TopicState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A topic half way through a tick. ``wanted`` shrinks from limit to limit; ``limited_by`` is the last that cut."""

    path: str
    rules: TopicRules
    sample: TopicSample
    held: Pace
    state: TopicState
    need: Need
    least: int
    most: int
    wanted: int
    limited_by: Limit
    why: str
    by: str = ""
    """Where its bounds are those of a person: how that is said."""


def decide(
    state: State, rules: Mapping[str, TopicRules], sample: NodeSample, policy: PacePolicy = _PACE
) -> tuple[State, Plan]:
    """
    The plan of one tick.

    Args:
        state: The one that the last call returned.
        rules: ``queue/topic`` -> what is configured. A topic that is new here starts at its least.
        sample: What was measured since; its ``at_s`` never goes back.
        policy: The cool-downs.

    Returns:
        The state for the next call, and a decision for every topic of *rules*: within its bounds (of the order, where
        one is in force), and in sum within the node, unless the leasts alone are more than that.
    """
    resting: dict[str, TopicState] = {}
    drafts: dict[str, _Draft] = {}
    queued = _queued(rules, sample)
    for path, topic in rules.items():
        known = state.topics.get(path) or TopicState()
        if _rests(known, topic, sample, path):
            resting[path] = known
        else:
            drafts[path] = _draft(path, known, topic, sample, queued.get(topic.backend, 0.0), policy)
    held = {path: known.pace.wanted for path, known in resting.items()}
    costs = {path: known.costs for path, known in (*resting.items(), *((p, d.state) for p, d in drafts.items()))}
    short = resources(rules, sample, costs)
    drafts = _share(drafts, short, held)
    wanted = {**held, **{path: draft.wanted for path, draft in drafts.items()}}
    used = usage(short, wanted)
    topics = dict(resting)
    for path, draft in drafts.items():
        topics[path] = _settle(draft, sample.at_s, capacity(
            path, draft.wanted, draft.most, draft.state.work, draft.rules, draft.state.gradient, used,
        ))
    return State(topics), Plan({path: known.decision for path, known in topics.items() if known.decision})


def taken_over(places: Mapping[str, int], now_s: float) -> State:
    """
    The state to begin with where somebody else decided before: each topic keeps its number until it was measured.

    Args:
        places: ``queue/topic`` -> places.
        now_s: Monotonic.
    """
    return State({
        path: TopicState(pace=Pace(wanted=wanted, changed_s=now_s, peaks=((now_s, float(wanted)),)))
        for path, wanted in places.items()
    })


def bounds(rules: TopicRules, override: Override | None, wall_s: float) -> tuple[int, int]:
    """Least and most of a topic now, with the order of a person where one is in force."""
    least, most = rules.least, rules.most
    if override is None or not override.holds(wall_s):
        return least, max(least, most)
    if override.least is not None:
        least, most = override.least, max(most, override.least)
    if override.most is not None:
        most = override.most
        least = min(least, most) if override.least is None else least
    return least, max(least, most)


def _rests(known: TopicState, rules: TopicRules, sample: NodeSample, path: str) -> bool:
    """Nothing moves, so the last decision (and its capacity) is this one, too: most of a thousand topics."""
    decision, measured = known.decision, sample.topics.get(path)
    if decision is None or decision.is_change or decision.surplus or path in sample.overrides:
        return False
    if measured is None:
        return bounds(rules, None, sample.wall_s) == (decision.wanted, decision.wanted)
    return (decision.wanted == rules.least and measured.is_quiet and measured.places <= rules.least
            and decision.need < 0.01 and not known.gradient.is_limited)


def _draft(
    path: str, known: TopicState, rules: TopicRules, node: NodeSample, queued: float, policy: PacePolicy
) -> _Draft:
    """What the topic itself asks for."""
    order = node.overrides.get(path)
    least, most = bounds(rules, order, node.wall_s)
    by = " by order" if order is not None and order.holds(node.wall_s) else ""
    sample = node.topics.get(path)
    if sample is None:
        wanted = min(max(known.pace.wanted, least), most)
        need = Need(places=float(known.pace.wanted), words="not measured: what it has holds")
        return _Draft(path=path, rules=rules, sample=TopicSample(places=wanted), held=known.pace, state=known,
                      need=need, least=least, most=most, wanted=wanted, limited_by=Limit.NONE, why=need.words, by=by)
    work = demand.learn(known.work, sample, node.interval_s)
    need = demand.need(work, sample, rules, known.pace.wanted)
    gradient = gradients.learn(known.gradient, sample, node.at_s, interval_s=node.interval_s, need=need.places,
                               queued=queued)
    pace = paces.follow(known.pace, need.places, node.at_s, policy)
    state = replace(known, work=work, gradient=gradient, pace=pace, costs=known.costs.learn(sample))
    return _bound(_Draft(path=path, rules=rules, sample=sample, held=known.pace, state=state, need=need,
                         least=least, most=most, wanted=pace.wanted, limited_by=Limit.NONE, why=need.words,
                         by=by))


def _queued(rules: Mapping[str, TopicRules], node: NodeSample) -> dict[str, float]:
    """Backend -> the part of the calls there that only waits for a process; those with an empty queue are left out."""
    waiting = {name: backend.listen_queue for name, backend in node.backends.items() if backend.listen_queue}
    if not waiting:
        return {}
    calls = dict.fromkeys(waiting, 0)
    for path, sample in node.topics.items():
        name = rules[path].backend if path in rules else ""
        if name in calls:
            calls[name] += sample.running
    return {name: min(waiting[name] / count, 0.9) for name, count in calls.items() if count}


def _bound(draft: _Draft) -> _Draft:
    """Its own limits: min, max, the gradient, the rate."""
    gradient = draft.state.gradient
    if gradient.is_limited and draft.wanted > gradient.places:
        draft = replace(draft, wanted=gradient.places, limited_by=Limit.BUSY if gradient.is_busy else Limit.LATENCY,
                        why=f"{draft.why}; {_latency(gradient)}")
    if draft.wanted < draft.least:
        why = f"{draft.why}; min is {draft.least}{draft.by}"
        return replace(draft, wanted=draft.least, limited_by=Limit.NONE, why=why)
    if draft.wanted > draft.most:
        why = f"{draft.why}; max is {draft.most}{draft.by}"
        return replace(draft, wanted=draft.most, limited_by=Limit.MAX, why=why)
    return draft


def _latency(gradient: Gradient) -> str:
    if gradient.is_busy:
        return f"its backend is busy: {gradient.places} for now"
    if gradient.trial is not None and gradient.trial.is_probe:
        return f"a few seconds with {gradient.places}, to see whether more only wait for each other"
    return (f"more are only slower ({duration(gradient.service_s)} against {duration(gradient.base_s)} alone): "
            f"{gradient.places} are all that its backend can use")


# -- what is shared -------------------------------------------------------------------------------------


def _share(drafts: dict[str, _Draft], short: Iterable[Resource], held: Mapping[str, int]) -> dict[str, _Draft]:
    """What is left of each thing goes round by weight; one that nobody is short of changes nothing."""
    drafts = dict(drafts)
    for resource in short:
        taken = sum(held[path] * cost for path, cost in resource.costs.items() if path in held)
        users = {path: cost for path, cost in resource.costs.items() if path in drafts}
        given = shares((_claim(drafts[path], cost) for path, cost in users.items()), resource.budget - taken)
        for path, places in given.items():
            draft = drafts[path]
            if places < draft.wanted:
                why = f"{draft.why}; {resource.words} gives it {places} of {draft.wanted}"
                drafts[path] = replace(draft, wanted=places, limited_by=resource.limit, why=why)
    return drafts


def _claim(draft: _Draft, cost: float) -> Claim:
    rules = draft.rules
    return Claim(path=draft.path, least=draft.least, wanted=draft.wanted, cost=cost, weight=rules.weight,
                 system=rules.system, system_weight=rules.system_weight)


def _settle(draft: _Draft, now_s: float, what_it_can: Capacity) -> TopicState:
    """The decision, and the state with the number that came of it."""
    known = draft.state
    was = known.decision.wanted if known.decision else draft.held.wanted
    surplus = max(0, draft.sample.places + draft.sample.starting - draft.wanted)
    decision = Decision(
        wanted=draft.wanted, was=was, surplus=surplus, need=draft.need.places, limited_by=_limit(draft),
        reason=_reason(draft, was, surplus), arrivals_per_s=known.work.arrivals_per_s,
        service_s=known.work.occupied_s, capacity=what_it_can,
    )
    changed_s = draft.held.changed_s if draft.wanted == draft.held.wanted else now_s
    return replace(known, pace=replace(known.pace, wanted=draft.wanted, changed_s=changed_s), decision=decision)


def _limit(draft: _Draft) -> Limit:
    rules, work = draft.rules, draft.state.work
    if draft.limited_by is Limit.NONE and rules.rate_per_s and work.arrivals_per_s > rules.rate_per_s:
        return Limit.RATE
    return draft.limited_by


def _reason(draft: _Draft, was: int, surplus: int) -> str:
    words = draft.why
    if draft.limited_by is Limit.NONE and draft.wanted > max(draft.least, math.ceil(draft.need.places)):
        words = f"{words}; kept for a while after it was needed"
    if surplus:
        what = "consumer processes stop" if draft.rules.kind is Kind.PROCESSES else "calls end"
        words = f"{words}; {surplus} {what} when idle, none in the middle of a job"
    verb = "stays" if draft.wanted == was else ("up" if draft.wanted > was else "down")
    return f"{verb} at {draft.wanted}: {words}" if verb == "stays" else f"{verb} from {was} to {draft.wanted}: {words}"
