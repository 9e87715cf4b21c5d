"""
What the autoscaler is told, and what it answers.

    TopicRules (configuration) --+
    Override (a person's order) -+--> autoscale.decide --> Plan: a Decision a topic
    NodeSample (once a second) --+

Rule: values only, frozen. Times are seconds, memory is bytes, processor is cores; ``at_s`` is monotonic, ``wall_s``
is Unix time. One place is what runs one job at a time: a consumer process, or one call to a backend.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

UNLIMITED: Final = 1_000_000_000


class Kind(enum.Enum):
    """What a place of a topic is."""

    CALLS = "calls"             # FastCGI, HTTP: costs a connection to its backend
    PROCESSES = "processes"     # Python, command: costs memory and processor of this node


class Limit(enum.Enum):
    """What keeps a topic from having more places than it has."""

    NONE = "none"               # it has what it needs
    MAX = "max"                 # its own concurrency.max, or the order of a person
    LATENCY = "latency"         # more at once would only be slower
    BUSY = "busy"               # its backend says 429 or 503, or its listen queue is not empty
    BACKEND = "backend"         # connections of the backend, shared with other topics
    PROCESSOR = "processor"     # cores of this node
    MEMORY = "memory"           # memory of this node
    RATE = "rate"               # its own ``rate``: more places would not be used


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRules:
    """
    What the configuration says of a topic.

    Attributes:
        least, most: ``concurrency`` min and max, places.
        catch_up_s: ``catch_up``: a backlog should be gone within this time.
        kind: What its places are.
        backend: Of calls: the name of the backend; "" has no limit that is shared.
        weight, system, system_weight: Its share when something is short: first among systems, then within one.
        rate_per_s: ``rate``, deliveries a second; 0: none.
    """

    least: int = 1
    most: int = 1
    catch_up_s: float = 10.0
    kind: Kind = Kind.PROCESSES
    backend: str = ""
    weight: int = 1
    system: str = ""
    system_weight: int = 1
    rate_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """
    The order of a person for a time (``pbus topic scale``); bounds that are None stay those of the configuration.

    Attributes:
        least, most: Places. A least above the configured most raises that, a most below the least lowers that.
        from_wall_s, until_wall_s: Unix time, from (inclusive) and until (exclusive).
    """

    least: int | None = None
    most: int | None = None
    from_wall_s: float = 0.0
    until_wall_s: float = float("inf")

    def holds(self, wall_s: float) -> bool:
        """It is in force at that time."""
        return self.from_wall_s <= wall_s < self.until_wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSample:
    """
    What was measured of a topic on this node; rates and times over the interval that just ended.

    Attributes:
        arrivals_per_s: Deliveries that became ready: pushed, or a retry that came due. Source: store.
        done_per_s: Attempts that ended, however they ended. Source: scoreboard, delivery children.
        ready, running: Deliveries now. Source: store. With several nodes: this node's part of them.
        oldest_wait_s: Age of the oldest ready one. Source: store.
        service_s: Mean time of the attempts that ended; None: none did. Source: delivery children.
        service_p95_s: Their 95th percentile, for people; None as above.
        places: Processes that are attached, or calls that may be made at once: what can run jobs now.
        starting: Processes that were started and are not attached yet.
        cores, rss_bytes: Processor and memory of all its processes. Source: psutil in the master; calls: 0.
        busy_per_s: Answers 429 and 503. Source: delivery children.
        retry_after_s: The longest that they asked to wait; 0: they did not.
        is_open: Jobs are handed out; False while it is paused, braked, or its backend is down.
    """

    arrivals_per_s: float = 0.0
    done_per_s: float = 0.0
    ready: int = 0
    running: int = 0
    oldest_wait_s: float = 0.0
    service_s: float | None = None
    service_p95_s: float | None = None
    places: int = 0
    starting: int = 0
    cores: float = 0.0
    rss_bytes: int = 0
    busy_per_s: float = 0.0
    retry_after_s: float = 0.0
    is_open: bool = True

    @property
    def is_quiet(self) -> bool:
        """Nothing came, waits or ran."""
        return not (self.arrivals_per_s or self.ready or self.running or self.done_per_s or self.busy_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSample:
    """
    A backend as this node sees it, all its addresses together.

    Attributes:
        connections: ``max_connections`` times addresses; 0: none configured.
        processes: What its pools have for us: measured ``pm.max_children`` less ``reserve``; 0: not known.
        listen_queue: Connections that wait for a process, of all pools. Source: php-fpm's status page.
    """

    connections: int = 0
    processes: int = 0
    listen_queue: int = 0

    @property
    def limit(self) -> int:
        """Calls at once that make sense; UNLIMITED when nobody knows."""
        return min(self.connections or UNLIMITED, self.processes or UNLIMITED)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSample:
    """
    This machine (or its cgroup). Source: psutil in the master.

    Attributes:
        cores: Cores that may be used; 0: not known, processor is no limit.
        cores_used: By everything that runs here.
        memory_bytes: All of it; 0: not known, memory is no limit.
        memory_free_bytes: Available without swapping.
    """

    cores: float = 0.0
    cores_used: float = 0.0
    memory_bytes: int = 0
    memory_free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSample:
    """
    Everything measured in one tick.

    Attributes:
        at_s: Monotonic.
        wall_s: Unix time, for overrides only.
        interval_s: What the rates are measured over.
        topics: ``queue/topic`` -> sample. A topic that is missing was not measured: it keeps what it has.
        backends: By name.
        machine: The node itself.
        overrides: ``queue/topic`` -> order.
    """

    at_s: float
    wall_s: float = 0.0
    interval_s: float = 1.0
    topics: Mapping[str, TopicSample]
    backends: Mapping[str, BackendSample] = field(default_factory=dict)
    machine: MachineSample = MachineSample()
    overrides: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """
    What a topic could do.

    Attributes:
        now_per_s: With the places it has; None: no attempt was measured yet.
        max_per_s: With all that it could get while the others keep what they have; None as above.
        limited_by: What ends it there, as a phrase: ``backend live-php 48/48``.
    """

    now_per_s: float | None
    max_per_s: float | None
    limited_by: str

    @property
    def words(self) -> str:
        """For people."""
        if self.max_per_s is None:
            return f"not measured yet, limited by {self.limited_by}"
        return f"can do {amount(self.max_per_s)}/s at max, limited by {self.limited_by}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What one topic should have.

    Attributes:
        wanted: Places; within its bounds, always.
        was: What was wanted a tick ago.
        surplus: So many of its places are to go: each as soon as it is idle, none while it runs a job.
        need: Places by the measurements alone, before every bound, limit and cool-down.
        limited_by: What keeps it from having more.
        reason: In words, with the inputs.
        arrivals_per_s, service_s: The smoothed inputs; service_s None: not measured yet.
        capacity: What it could do.
    """

    wanted: int
    was: int
    surplus: int
    need: float
    limited_by: Limit
    reason: str
    arrivals_per_s: float
    service_s: float | None
    capacity: Capacity

    @property
    def is_change(self) -> bool:
        """It is worth an event."""
        return self.wanted != self.was

    def fields(self) -> dict[str, Any]:
        """For a frame or an event."""
        return {**asdict(self), "limited_by": self.limited_by.value}


@dataclass(frozen=True, slots=True)
class Plan:
    """
    All decisions of a tick.

    Attributes:
        topics: ``queue/topic`` -> decision, for every topic that has rules.
    """

    topics: Mapping[str, Decision]

    @property
    def changes(self) -> dict[str, Decision]:
        """Those that are another number than a tick ago."""
        return {path: decision for path, decision in self.topics.items() if decision.is_change}


def amount(number: float) -> str:
    """A number for people: ``2,600``, ``12.5``, ``0.2``."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """A time for people: ``20 ms``, ``1.5 s``."""
    return f"{amount(seconds * 1000)} ms" if seconds < 1 else f"{amount(seconds)} s"
