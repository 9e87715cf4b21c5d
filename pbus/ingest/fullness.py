"""
Why a queue is full, in numbers that are at most about a second old.

    QUEUEFULL gift holds 1000000 of 1000000 jobs, oldest waits 312 s, credit fails 98 %: not stored, try again in 5 s

Rule: a refusal never asks the store: a flood of them is when it has other things to do. What is not
known is left out.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Final

from pbus.clock import Clock
from pbus.storage.driver import Appended, QueueNumbers, QueueSpec, TopicNumbers

ASKED_S: Final = 30.0
"""Numbers are read so long after the last refusal; failures are counted over as much."""
_WORTH_SAYING: Final = 0.05

Topics = Mapping[tuple[str, str], TopicNumbers]


class Fullness:
    """The queues of one store that refuse. One owner: its ``Store``."""

    def __init__(self, queues: Mapping[str, QueueSpec], clock: Clock) -> None:
        self._queues = queues
        self._clock = clock
        self._refused_s: dict[str, float] = {}
        self._full: dict[str, str] = {}
        self._held: dict[str, QueueNumbers] = {}
        self._parts: dict[str, str] = {}
        self._samples: collections.deque[tuple[float, Topics]] = collections.deque()

    @property
    def wanted(self) -> bool:
        """Somebody was refused lately, so fresh numbers are worth a call."""
        return bool(self._refused_s)

    def problems(self) -> dict[str, str]:
        """A problem for each queue, named ``queue.NAME.full``; empty for those that refuse nobody any more."""
        return {f"queue.{name}.full": text if name in self._refused_s else "" for name, text in self._full.items()}

    def text(self, queue: str, answer: Appended, bodies: int) -> str:
        """What the producer of *bodies* jobs is told, whose command was refused with *answer*."""
        self._refused_s[queue] = self._clock.monotonic_s()
        spec = self._queues[queue]
        bound = f"max_backlog_bytes ({spec.max_backlog_bytes})"
        if answer.refused != "bytes":
            bound = f"max_backlog ({spec.max_backlog} jobs)"
        whose = f"'pbus queue show {queue}' tells whose jobs wait"
        self._full[queue] = f"queue {queue} is full: pushes beyond {bound} are refused; {whose}"
        if answer.refused == "bytes":
            known, most = self._held.get(queue), spec.max_backlog_bytes
            holds = f"holds {known.backlog_bytes} of {most} bytes" if known else f"takes at most {most} bytes"
        else:
            holds = f"holds {answer.backlog} of {spec.max_backlog} jobs"
        own = f", this command brings {bodies}" if bodies > 1 else ""
        parts = self._parts.get(queue, "")
        return f"QUEUEFULL {queue} {holds}{own}{parts}: not stored, try again in 5 s"

    def heard(self, topics: Topics, queues: Mapping[str, QueueNumbers]) -> None:
        """Fresh numbers of the store."""
        now_s = self._clock.monotonic_s()
        self._refused_s = {name: at_s for name, at_s in self._refused_s.items() if now_s - at_s < ASKED_S}
        self._samples.append((now_s, topics))
        while now_s - self._samples[0][0] > ASKED_S:
            self._samples.popleft()
        self._held = {name: queues[name] for name in self._refused_s if name in queues}
        self._parts = {name: self._about(name, topics) for name in self._refused_s}
        if not self._refused_s:
            self._samples.clear()

    def _about(self, queue: str, topics: Topics) -> str:
        own = {topic: numbers for (name, topic), numbers in topics.items() if name == queue}
        oldest_s = max((numbers.oldest_wait_s for numbers in own.values()), default=0.0)
        parts = [f"oldest waits {oldest_s:.0f} s"] if oldest_s >= 1 else []
        parts += [f"{topic} is paused" for topic, numbers in own.items() if numbers.paused_ms]
        shares = {topic: self._failing(queue, topic, numbers) for topic, numbers in own.items()}
        worst = max(shares, key=lambda topic: shares[topic], default="")
        if worst and shares[worst] >= _WORTH_SAYING:
            parts.append(f"{worst} fails {100 * shares[worst]:.0f} %")
        return "".join(f", {part}" for part in parts)

    def _failing(self, queue: str, topic: str, now: TopicNumbers) -> float:
        """Share of the attempts that failed since the oldest sample; 0.0 when none ended."""
        before = self._samples[0][1].get((queue, topic), now)
        failed = now.failed_total - before.failed_total
        ended = failed + now.done_total - before.done_total
        return failed / ended if ended > 0 else 0.0
