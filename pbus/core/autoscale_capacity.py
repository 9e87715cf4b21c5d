"""
What a topic could do with all that it can get: "can do 2,600/s at max, limited by backend live-php 48/48".

Rule: pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pbus.core.autoscale_demand import Work
from pbus.core.autoscale_gradient import Gradient
from pbus.core.autoscale_resources import Resource
from pbus.core.autoscale_terms import Capacity, Limit, TopicRules, amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """
    How full something shared is.

    Attributes:
        resource: What.
        used: By all topics, in its unit.
    """

    resource: Resource
    used: float


def usage(short: Iterable[Resource], wanted: Mapping[str, int]) -> tuple[Usage, ...]:
    """How full each thing is when every topic has what is *wanted* of it."""
    return tuple(
        Usage(resource=resource, used=sum(wanted[path] * cost for path, cost in resource.costs.items()))
        for resource in short
    )


def capacity(
    path: str, wanted: int, most: int, work: Work, rules: TopicRules, gradient: Gradient, shared: Iterable[Usage]
) -> Capacity:
    """
    What *path* can do now, and at most while the others keep what they have.

    Args:
        wanted: Places that it has now.
        most: Its bound now, places.
        shared: Everything that is shared, and how full it is.
    """
    places, limited_by = most, f"its max of {most:,}"
    if gradient.is_limited and gradient.places < places:
        places = gradient.places
        limited_by = f"its backend, which is busy with {places}" if gradient.is_busy else \
            f"its backend, which is only slower with more than {places}"
    for each in shared:
        cost = each.resource.costs.get(path, 0.0)
        others = each.used - wanted * cost
        room = (each.resource.budget - others) / cost if cost > 0 else math.inf
        reach = math.floor(max(0.0, min(room + 1e-9, float(places))))
        if reach < places:
            places, limited_by = reach, _end(each.resource, others + max(reach, wanted) * cost)
    return _of(max(places, wanted), limited_by, work, rules, wanted)


def _end(resource: Resource, used: float) -> str:
    if resource.limit is not Limit.BACKEND:
        return resource.words
    return f"{resource.words} {used:,.0f}/{resource.budget:,.0f}"


def _of(places: int, limited_by: str, work: Work, rules: TopicRules, now: int) -> Capacity:
    if not work.occupied_s:
        return Capacity(now_per_s=None, max_per_s=None, limited_by=limited_by)
    rate = rules.rate_per_s or math.inf
    most = places / work.occupied_s
    if most > rate:
        most, limited_by = rate, f"its rate of {amount(rate)}/s"
    return Capacity(now_per_s=min(now / work.occupied_s, rate), max_per_s=most, limited_by=limited_by)
