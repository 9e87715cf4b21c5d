"""
Who gets how much when there is not enough for all: fair shares by weight, in whole places.

    something short --> business systems, by system_weight --> topics, by weight

Everybody keeps its least. The rest goes place by place to the system, and in it to the topic, that has least of it
for its weight and wants more (weighted max-min fairness, Bertsekas and Gallager 1992): who wants less than its share
leaves the rest to the others.

Rule: pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    What one topic would like of something.

    Attributes:
        path: ``queue/topic``.
        least, wanted: Places; what it has in any case, and what it would like.
        cost: What a place takes of the thing that is short, in its unit; 0: nothing.
        weight, system, system_weight: See TopicRules.
    """

    path: str
    least: int
    wanted: int
    cost: float = 1.0
    weight: int = 1
    system: str = ""
    system_weight: int = 1


class _System:
    """One business system and its topics. Lives for one call of ``shares``."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.used = 0.0
        self.topics: list[tuple[float, str, Claim]] = []  # a heap


def shares(claims: Iterable[Claim], budget: float) -> dict[str, int]:
    """
    Places for each topic.

    Args:
        budget: What there is of it, in the unit of ``cost``.

    Returns:
        Path -> places, least <= places <= max(least, wanted). The sum of the costs is at most *budget*, unless the
        leasts alone are more.
    """
    claims = sorted(claims, key=lambda claim: claim.path)
    if sum(max(claim.wanted, claim.least) * claim.cost for claim in claims) <= budget:
        return {claim.path: max(claim.wanted, claim.least) for claim in claims}
    given = {claim.path: max(claim.wanted, claim.least) if claim.cost <= 0 else claim.least for claim in claims}
    _fill(_systems(claims), given, budget - sum(given[claim.path] * claim.cost for claim in claims))
    return given


def _systems(claims: Iterable[Claim]) -> dict[str, _System]:
    systems: dict[str, _System] = {}
    for claim in claims:
        system = systems.setdefault(claim.system, _System(max(1, claim.system_weight)))
        used = claim.least * claim.cost
        system.used += used
        if claim.cost > 0 and claim.least < claim.wanted:
            heapq.heappush(system.topics, (used / max(1, claim.weight), claim.path, claim))
    return systems


def _fill(systems: dict[str, _System], given: dict[str, int], left: float) -> None:
    """Place by place, until nobody wants one that still fits."""
    turns = [(system.used / system.weight, name) for name, system in systems.items() if system.topics]
    heapq.heapify(turns)
    while turns:
        _, name = heapq.heappop(turns)
        system = systems[name]
        _, path, claim = heapq.heappop(system.topics)
        if claim.cost <= left + 1e-9:
            left -= claim.cost
            given[path] += 1
            system.used += claim.cost
            if given[path] < claim.wanted:
                heapq.heappush(system.topics, (given[path] * claim.cost / max(1, claim.weight), path, claim))
        if system.topics:
            heapq.heappush(turns, (system.used / system.weight, name))
