"""A bus with one Python topic whose handler does what the body of the job says, and what it noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import Bus, BusFactory
from tests.support.waiting import until

HANDLERS = Path(__file__).parent / "handlers"


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the handler's notes."""

    id: str
    attempt: int
    pid: int
    redelivered: bool
    word: str
    text: str


class Shop:
    """A bus with one Python topic, and what its handler noted."""

    def __init__(self, bus: Bus, runs_file: Path) -> None:
        self.bus = bus
        self.runs_file = runs_file
        self._redis = redis.Redis(port=bus.port)

    def push(self, *bodies: str) -> None:
        self.push_to("gift", *bodies)

    def push_to(self, queue: str, *bodies: str) -> None:
        """Push to another queue than ours."""
        self._redis.lpush(queue, *bodies)

    def runs(self, word: str = "begin") -> list[Run]:
        text = self.runs_file.read_text() if self.runs_file.exists() else ""
        found = []
        for line in text.splitlines():
            job_id, attempt, pid, redelivered, kind, body = line.split(" ", 5)
            if kind == word:
                found.append(Run(job_id, int(attempt), int(pid), redelivered == "1", kind, body))
        return found

    def bodies(self, word: str = "end") -> list[str]:
        return [run.text for run in self.runs(word)]

    def numbers(self) -> dict[str, Any]:
        return self.bus.topic("gift", "credit")

    def settled(self, timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait until nothing is ready, running or delayed; the numbers then."""
        def over() -> dict[str, Any] | None:
            row = self.numbers()
            return row if not (row["ready"] or row["running"] or row["delayed"]) else None

        return until(over, timeout_s, lambda: f"everything is settled: {self.numbers()}\n{self.bus.tail()}") or {}

    def close(self) -> None:
        self._redis.close()


OpenShop = Callable[..., Shop]


@pytest.fixture
def shop(bus_factory: BusFactory, tmp_path: Path) -> Iterator[OpenShop]:
    """``shop(call=.., consumers=.., path=.., python=.., deliveries=.., store=.., backoff=.., queues=.., **topic)``."""
    shops: list[Shop] = []

    def make(
        *, call: str = "consumer_jobs:act", consumers: int = 1, path: Path = HANDLERS, deliveries: int = 1,
        store: str = "", backoff: dict[str, Any] | None = None, python: dict[str, Any] | None = None,
        queues: dict[str, Any] | None = None, listen: list[str] | None = None,
        states: tuple[str, ...] = ("running",), **topic: Any,
    ) -> Shop:
        runs = tmp_path / "runs"
        settings = {
            "python": {"call": call, "path": str(path), **(python or {})}, "concurrency": consumers,
            "retry": {"first": "50ms", "jitter": 0.0}, **topic,
        }
        tree: dict[str, Any] = {
            "queue": {"gift": {"topic": {"credit": settings}}, **(queues or {})}, "delivery": {"processes": deliveries},
        }
        if listen:
            tree["ingest"] = {"listen": listen}
        if backoff:
            tree["supervise"] = {"backoff": backoff}
        if store:
            tree["storage"] = {"main": {"url": store}}
        bus = bus_factory(tree, environment={"RUNS_FILE": str(runs)}, states=states)
        shops.append(Shop(bus, runs))
        return shops[-1]

    yield make
    for each in shops:
        each.close()
