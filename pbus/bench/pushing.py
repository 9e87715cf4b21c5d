"""
Pushes through pbus against bare LPUSH to a redis-server that writes nothing to disk, by the same
redis-benchmark: 50 connections, 200-byte bodies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pbus.bench.bus import UNBOUNDED, Bus, CpuPerJob, fsync_text
from pbus.bench.figures import Figure, median_figure
from pbus.bench.load import QUEUE, push, python_topic
from pbus.bench.rows import Run
from pbus.bench.servers import RedisServer

GOALS: Final = {1: 0.60, 32: 0.40}
"""Pushes of a pipeline -> share of the bare rate."""
FAN_OUT: Final = 5
FAN_OUT_GOAL: Final = 0.9
PULL: Final[dict[str, Any]] = {"pull": {}}
_FIRST: Final = 20_000
"""Pushes of the slice that tells how many the others take, at most."""


class _Pushes:
    """One side: slices by a rate that the first one told."""

    def __init__(self, run: Run, port: int, pipeline: int, queue: str = QUEUE) -> None:
        self._port = port
        self._pipeline = pipeline
        self._queue = queue
        first = min(_FIRST, run.count(_FIRST))
        self.count = run.count(self._rate(first))
        self.pushed = 0

    def _rate(self, count: int) -> float:
        return push(self._port, self._queue, count, pipeline=self._pipeline)

    def __call__(self) -> float:
        self.pushed += self.count
        return self._rate(self.count)


def single(run: Run) -> Iterator[Figure]:
    """A push a round trip."""
    yield _against_bare(run, run.stage.bus({"parked": PULL}, run.stage.store(run.store)), 1, GOALS[1])


def pipelines(run: Run) -> Iterator[Figure]:
    """32 of them a round trip."""
    yield _against_bare(run, run.stage.bus({"parked": PULL}, run.stage.store(run.store)), 32, GOALS[32])


def drained(run: Run) -> Iterator[Figure]:
    """Both while a consumer drains; what the goals are about has no consumer."""
    bus = run.stage.bus({"drained": python_topic("empty")}, run.stage.store(run.store))
    for pipeline in GOALS:
        yield _against_bare(run, bus, pipeline, None, ", drained")


def _against_bare(run: Run, bus: Bus, pipeline: int, goal: float | None, more: str = "") -> Figure:
    """The floor is half of the goal (an eighth of it, where more was asked than the goal is about)."""
    bare = run.stage.redis()
    theirs = _Pushes(run, bare.port, pipeline)
    ours = _Pushes(run, bus.port, pipeline)
    cpu, patience = CpuPerJob(bus, "ingest"), run.patience()

    def base() -> float:
        _empty(bare)
        return theirs()

    pairs = patience.pairs(base, ours)
    text = "no pipeline" if pipeline == 1 else f"pipelines of {pipeline}"
    return median_figure(
        f"pushes, {text}{more}, {run.store}", "/s", pairs, goal=goal,
        floor=GOALS[pipeline] / (2 if goal is not None else 8), beside={**cpu.text(ours.pushed), **fsync_text(bus)},
        id=f"pushes.{pipeline}{more and '.drained'}.{run.store}",
    )


def _empty(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


def fan_out(run: Run) -> Iterator[Figure]:
    """Two queues of one bus, pushed to in turn."""
    queues = {
        name: {**UNBOUNDED, "topic": {f"topic-{number}": PULL for number in range(count)}}
        for name, count in (("one", 1), ("five", FAN_OUT))
    }
    bus = run.stage.bus_of(queues, run.stage.store(run.store))
    for pipeline in GOALS:
        one, five = (_Pushes(run, bus.port, pipeline, name) for name in ("one", "five"))
        pairs = run.patience().pairs(one, five)
        text = "no pipeline" if pipeline == 1 else f"pipelines of {pipeline}"
        yield median_figure(
            f"fan-out to {FAN_OUT}, {text}, {run.store}", "/s", pairs, goal=FAN_OUT_GOAL, floor=FAN_OUT_GOAL / 2,
            beside=fsync_text(bus), id=f"fan-out.{pipeline}.{run.store}",
        )
