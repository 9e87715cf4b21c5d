"""
A step of load on a real bus, and what the autoscaler made of it: for tests that promise how it follows.

    with Load(bus, "work") as load:
        load.rate_per_s = 800

A thread pushes evenly; ``Watcher`` looks at the topic four times a second. What was decided is read from the log
afterwards, where each change is an event.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from tests.support.bus import Bus

_TURN_S = 0.01
_LOOK_S = 0.25


class Load:
    """Pushes ``rate_per_s`` jobs a second, evenly, from the beginning to the end of its context."""

    def __init__(self, bus: Bus, queue: str, rate_per_s: float = 0.0) -> None:
        self.rate_per_s = rate_per_s
        self.pushed = 0
        self._queue = queue
        self._client = redis.Redis(port=bus.port)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._push)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more are pushed. Idempotent."""
        self._over.set()
        self._thread.join()
        self._client.close()

    def _push(self) -> None:
        due, last_s = 0.0, time.monotonic()
        while not self._over.wait(_TURN_S):
            now_s = time.monotonic()
            due, last_s = due + (now_s - last_s) * self.rate_per_s, now_s
            count, due = int(due), due - int(due)
            if count:
                self._client.lpush(self._queue, *(f"job-{self.pushed + number}" for number in range(count)))
                self.pushed += count


@dataclass(frozen=True, slots=True)
class Look:
    """The topic at one moment (monotonic)."""

    at_s: float
    ready: int
    now: int
    row: dict[str, Any]


class Watcher:
    """Looks at a topic until its context ends."""

    def __init__(self, bus: Bus, queue: str, topic: str) -> None:
        self.looks: list[Look] = []
        self._bus, self._name = bus, (queue, topic)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            row = self._bus.topic(*self._name)
            self.looks.append(Look(time.monotonic(), row["ready"] or 0, row["concurrency"]["now"], row))

    def since(self, at_s: float) -> list[Look]:
        """Looks after that time."""
        return [look for look in self.looks if look.at_s > at_s]


def decisions(bus: Bus, topic: str) -> list[dict[str, Any]]:
    """Every change of the number of that topic, in order."""
    return [event for event in bus.events("topic.scaled") if event["topic"] == topic]


def turns(numbers: Sequence[int]) -> int:
    """Changes of direction."""
    steps = [after - before for before, after in itertools.pairwise(numbers) if after != before]
    return sum(one * two < 0 for one, two in itertools.pairwise(steps))
