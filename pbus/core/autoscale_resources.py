"""
What topics share and can be short of: the connections of each backend, processor and memory of the node.

    backend     places of its topics (calls)      <= connections, and processes of php-fpm that are left to us
    processor   places (processes) x cores each   <= cores x CORES_USED - what others use, or what ours have already,
                                                     or CORES_OURS of all, whichever is most
    memory      places (processes) x rss each     <= free + what ours have - MEMORY_LEFT of all

Rule: pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from pbus.core.autoscale_terms import UNLIMITED, Kind, Limit, MachineSample, NodeSample, TopicRules, TopicSample

CORES_USED: Final = 0.95
CORES_OURS: Final = 0.5
"""Whatever else runs here: the kernel shares the processor, and who waits for it gives way to nobody by that."""
MEMORY_LEFT: Final = 0.1
GUESSED_RSS_BYTES: Final = 32 * 1024 * 1024
"""Of a process that was never measured."""
_SLOWLY: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """
    What one process of a topic takes, smoothed over some ten samples.

    Attributes:
        cores: While it runs a job; 0: not measured.
        rss_bytes: Memory; 0: not measured.
    """

    cores: float = 0.0
    rss_bytes: float = 0.0

    def learn(self, sample: TopicSample) -> Costs:
        """After one more sample."""
        if not sample.places:
            return self
        rss_bytes = sample.rss_bytes / sample.places
        busy = min(sample.done_per_s * (sample.service_s or 0.0), float(sample.places))
        cores = sample.cores / busy if busy >= 0.5 else self.cores
        return replace(self, cores=_towards(self.cores, cores), rss_bytes=_towards(self.rss_bytes, rss_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """
    Something that topics share.

    Attributes:
        limit: Which it is.
        name: Of a backend: its name; else "".
        budget: What there is of it for topics: places, cores, or bytes.
        costs: ``queue/topic`` -> what a place of that topic takes of it.
    """

    limit: Limit
    name: str = ""
    budget: float
    costs: Mapping[str, float]

    @property
    def words(self) -> str:
        """For people."""
        return f"backend {self.name}" if self.limit is Limit.BACKEND else f"{self.limit.value} of the node"


def resources(
    rules: Mapping[str, TopicRules], sample: NodeSample, costs: Mapping[str, Costs]
) -> tuple[Resource, ...]:
    """
    Everything that has an end.

    Args:
        rules: Of all topics.
        costs: ``queue/topic`` -> what a process of it takes, for all of *rules*.
    """
    calls: dict[str, dict[str, float]] = {}
    processes: list[str] = []
    for path, topic in rules.items():
        if topic.kind is Kind.PROCESSES:
            processes.append(path)
        elif topic.backend in sample.backends:
            calls.setdefault(topic.backend, {})[path] = 1.0
    backends = (
        Resource(limit=Limit.BACKEND, name=name, budget=float(sample.backends[name].limit), costs=of)
        for name, of in calls.items() if sample.backends[name].limit < UNLIMITED
    )
    return (*backends, *_machine(sample.machine, sample.topics, processes, costs))


def _machine(
    machine: MachineSample, topics: Mapping[str, TopicSample], processes: list[str], costs: Mapping[str, Costs]
) -> list[Resource]:
    found = []
    ours = [topics[path] for path in processes if path in topics]
    if machine.cores and processes:
        own = sum(sample.cores for sample in ours)
        free = machine.cores * CORES_USED - max(0.0, machine.cores_used - own)
        found.append(Resource(
            limit=Limit.PROCESSOR, budget=max(free, machine.cores * CORES_OURS, min(own, machine.cores * CORES_USED)),
            costs={path: costs[path].cores for path in processes},
        ))
    if machine.memory_bytes and processes:
        held = sum(sample.rss_bytes for sample in ours)
        found.append(Resource(
            limit=Limit.MEMORY, budget=max(0.0, machine.memory_free_bytes + held - machine.memory_bytes * MEMORY_LEFT),
            costs={path: costs[path].rss_bytes or GUESSED_RSS_BYTES for path in processes},
        ))
    return found


def _towards(known: float, measured: float) -> float:
    return known + (measured - known) * _SLOWLY if known else measured
