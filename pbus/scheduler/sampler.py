"""
What the autoscaler is told: one NodeSample a second of all topics, put together from three sources.

    store       numbers() at each full second (``Looks``, a duty of the roster): ready, running, oldest wait, arrivals
    delivery    frames ``work``, at each full second too: attempts that ended and what they took, open or not, places
    master      frames ``machine``: processes, cores, memory

Arrivals are what ready and running grew by, and what ended meanwhile: so retries that came due count when they do,
and a push that is delayed counts when its time has come.

With several nodes on a storage each takes an equal part of what waits and arrives there: 1 / nodes that are alive.
Where one cannot do its part, the backlog grows for all of them, and the others do more.

Rule: sums and differences only. What is not known of a topic is left out, and it keeps what it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.core.autoscale_terms import (
    BackendSample, Kind, MachineSample, NodeSample, Override, TopicRules, TopicSample,
)
from pbus.storage.driver import TopicNumbers

STALE_S: Final = 10.0
"""Numbers that are older say nothing: the store is away."""

SMOOTH: Final = 0.2
"""Part of a new measurement of the processor: five seconds, as the machine has other things to do now and then."""

TICK_S: Final = 1.0
"""A topic at rest is looked at more seldom; what came since then came just now, or it would not have rested."""

Path = tuple[str, str]
"""(queue, topic)."""

Sender = tuple[str, int]
"""(role, index) of a child."""


@dataclass(slots=True)
class _Seen:
    """A topic as the store had it. ``arrived`` and ``over_s``: since the last sample."""

    numbers: TopicNumbers
    at_s: float
    nodes: int = 1
    arrived: float = 0.0
    ended: int = 0
    over_s: float = 0.0


@dataclass(slots=True)
class _Work:
    """What delivery children said of a topic since the last sample; ``standings``: the last of each child."""

    standings: dict[Sender, tuple[bool, int, int]] = field(default_factory=dict)
    done: int = 0
    timed: int = 0
    run_s: float = 0.0
    p95_s: float = 0.0
    busy: int = 0
    retry_after_s: float = 0.0
    is_news: bool = True
    """Another place, or open where it was not: the sample has to say so."""
    is_measured: bool = False
    """Somebody sees its attempts, so the store need not be asked."""
    refused: int = 0
    """Busy answers since the last look at the store: attempts that ended, and that no total of the store counts."""

    @property
    def running(self) -> int:
        return sum(running for _, _, running in self.standings.values())

    @property
    def is_said(self) -> bool:
        return bool(self.done or self.busy or self.running)

    def clear(self) -> None:
        """The sample has it."""
        self.is_news = False
        self.done = self.timed = self.busy = 0
        self.run_s = self.p95_s = self.retry_after_s = 0.0


class Sampler:
    """One owner: the planner. Frames and looks come from other greenlets of the same thread."""

    def __init__(self, rules: Mapping[str, TopicRules]) -> None:
        """*rules*: of the topics that are sampled."""
        self._rules = rules
        self._seen: dict[str, _Seen] = {}
        self._work: dict[str, _Work] = {path: _Work() for path in rules}
        self._work_s: dict[Sender, float] = {}
        self._backends: dict[str, dict[Sender, Mapping[str, int]]] = {}
        self._machine = MachineSample()
        self._processes: Mapping[str, Mapping[str, Any]] = {}
        self._samples: dict[str, TopicSample] = {}
        self._at_s = -math.inf
        self._is_machine_known = False

    # -- what others tell -----------------------------------------------------------------------

    def looked(self, numbers: Mapping[Path, TopicNumbers], at_s: float, nodes: int = 1) -> None:
        """*numbers* of a store, of *nodes* living nodes, at that monotonic time."""
        for (queue, topic), now in numbers.items():
            path = f"{queue}/{topic}"
            if path not in self._rules:
                continue
            seen, work = self._seen.get(path), self._work[path]
            if seen is None:
                self._seen[path] = _Seen(now, at_s, nodes)
            else:
                ended = _ended(now) - _ended(seen.numbers)
                came = now.ready + now.running - seen.numbers.ready - seen.numbers.running + ended + work.refused
                seen.arrived += max(0, came)
                seen.ended += max(0, ended)
                was_at_rest = not (seen.numbers.ready or seen.numbers.running)
                seen.over_s += min(at_s - seen.at_s, TICK_S) if was_at_rest else at_s - seen.at_s
                seen.numbers, seen.at_s, seen.nodes = now, at_s, nodes
            work.refused = 0

    def worked(self, frame: Mapping[str, Any]) -> None:
        """A frame ``work``: of a delivery child, or of an ingest child about what programs pop there."""
        sender = str(frame.get("role", "delivery")), int(frame["child"])
        self._work_s[sender] = self._work_s.get(sender, 0.0) + float(frame.get("interval_s", 1.0))
        for path, said in frame["topics"].items():
            work = self._work.get(path)
            if work is None:
                continue
            if "places" in said:
                work.standings[sender] = bool(said["is_open"]), int(said["places"]), int(said["running"])
                work.is_news = True
            if "done" in said:
                _add(work, said)
        for name, fields in frame["backends"].items():
            self._backends.setdefault(name, {})[sender] = fields

    def machine(self, frame: Mapping[str, Any]) -> None:
        """A frame ``machine`` of the master."""
        self._is_machine_known = True
        self._processes = frame["topics"]
        used = float(frame["cores_used"])
        if self._machine.cores:
            used = self._machine.cores_used + (used - self._machine.cores_used) * SMOOTH
        self._machine = MachineSample(
            cores=float(frame["cores"]), cores_used=used,
            memory_bytes=int(frame["memory_bytes"]), memory_free_bytes=int(frame["memory_free_bytes"]),
        )

    # -- what is asked --------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """The master has told what there is, and every topic was looked at."""
        return self._is_machine_known and len(self._seen) == len(self._rules)

    @property
    def places(self) -> dict[str, int]:
        """``queue/topic`` -> places that the master keeps for it, as far as it says."""
        return {path: int(row["wanted"]) for path, row in self._processes.items() if "wanted" in row}

    def awake(self) -> set[str]:
        """Topics where something waits, runs or happened lately: those worth a look every second."""
        return {path for path in self._rules if self._is_awake(path)}

    def _is_awake(self, path: str) -> bool:
        """Nobody but the store would know of a job where no process is there to take it."""
        known, seen, work = self._samples.get(path), self._seen.get(path), self._work[path]
        if known is None or seen is None or not known.is_quiet or not known.places or work.is_said or work.is_news:
            return True
        return bool(seen.arrived or seen.numbers.ready or seen.numbers.running)

    def sample(
        self, now_s: float, wall_s: float, wanted: Mapping[str, int], overrides: Mapping[str, Override]
    ) -> NodeSample:
        """
        Everything since the last call.

        Args:
            now_s, wall_s: Monotonic, Unix time.
            wanted: ``queue/topic`` -> places it was to have, for those of which nobody told yet.
            overrides: Orders in force.
        """
        interval_s = now_s - self._at_s if self._at_s > -math.inf else 1.0
        self._at_s = now_s
        work_s = max(self._work_s.values(), default=1.0)
        self._work_s.clear()
        for path in self.awake():
            seen, rules = self._seen.get(path), self._rules[path]
            if seen is None or now_s - seen.at_s > STALE_S:
                self._samples.pop(path, None)
            else:
                self._samples[path] = self._topic(path, rules, seen, work_s, wanted.get(path, rules.least))
        return NodeSample(
            at_s=now_s, wall_s=wall_s, interval_s=interval_s, topics=dict(self._samples), backends=self._all_backends(),
            machine=self._machine, overrides=overrides,
        )

    def _topic(self, path: str, rules: TopicRules, seen: _Seen, work_s: float, wanted: int) -> TopicSample:
        numbers, work, processes = seen.numbers, self._work[path], self._processes.get(path)
        is_open = not numbers.paused_ms and (not work.standings or any(each[0] for each in work.standings.values()))
        if work.standings:
            places = sum(each[1] for each in work.standings.values())
        else:
            places = int(processes.get("places", 0)) if processes and rules.kind is Kind.PROCESSES else wanted
        known = self._samples.get(path)
        done, service_s = self._attempts(seen, work, work_s)
        sample = TopicSample(
            arrivals_per_s=self._arrivals_per_s(seen, known),
            done_per_s=done, ready=math.ceil(numbers.ready / seen.nodes),
            running=numbers.running if seen.nodes == 1 else work.running, oldest_wait_s=numbers.oldest_wait_s,
            service_s=service_s, service_p95_s=work.p95_s or None, places=places,
            starting=int(processes.get("starting", 0)) if processes else 0,
            cores=float(processes.get("cores", 0.0)) if processes else 0.0,
            rss_bytes=int(processes.get("rss_bytes", 0)) if processes else 0,
            busy_per_s=work.busy / work_s, retry_after_s=work.retry_after_s, is_open=is_open,
        )
        seen.arrived, seen.ended, seen.over_s = 0.0, 0, 0.0
        work.clear()
        return sample

    @staticmethod
    def _arrivals_per_s(seen: _Seen, known: TopicSample | None) -> float:
        """A look that did not come in time says nothing: what was true before is."""
        if not seen.over_s:
            return known.arrivals_per_s if known is not None else 0.0
        return seen.arrived / seen.over_s / seen.nodes

    def _attempts(self, seen: _Seen, work: _Work, work_s: float) -> tuple[float, float | None]:
        """
        Attempts that ended a second, and their mean time.

        Where no delivery child sees them (programs that pop their jobs themselves) the store tells how many there
        were, and Little's law how long they took.
        """
        if work.standings or work.is_measured:
            return work.done / work_s, work.run_s / work.timed if work.timed else None
        if not (seen.ended and seen.over_s):
            return 0.0, None
        per_s = seen.ended / seen.over_s / seen.nodes
        running = max(1, seen.numbers.running) / seen.nodes
        return per_s, running / per_s

    def _all_backends(self) -> dict[str, BackendSample]:
        """As the child knows it that knows most."""
        return {
            name: BackendSample(**{
                key: max(int(fields.get(key, 0)) for fields in told.values())
                for key in ("connections", "processes", "listen_queue")
            })
            for name, told in self._backends.items()
        }


def _add(work: _Work, said: Mapping[str, Any]) -> None:
    """Attempts that ended. Who counts those of programs knows no more than how many, and what they took."""
    done, busy = int(said["done"]), int(said.get("busy", 0))
    work.is_measured = True
    work.done += done
    work.timed += int(said.get("timed", done))
    work.run_s += float(said.get("run_s", said.get("run_s_sum", 0.0)))
    work.p95_s = max(work.p95_s, float(said.get("p95_s", 0.0)))
    work.busy += busy
    work.refused += busy
    work.retry_after_s = max(work.retry_after_s, float(said.get("retry_after_s", 0.0)))


def _ended(numbers: TopicNumbers) -> int:
    """Attempts that ended, and what expired unseen: a place was wanted for each."""
    return numbers.done_total + numbers.failed_total + numbers.expired_total
