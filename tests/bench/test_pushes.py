"""
Pushes through pbus against bare LPUSH to a redis-server that writes nothing to disk, by the same
redis-benchmark: 50 connections, 200-byte bodies.
"""

from __future__ import annotations

import pytest

from tests.bench.figures import Figures, median_figure
from tests.bench.slices import Patience
from tests.bench.stage import QUEUE, CpuPerJob, Stage, fsync_text
from tests.support.bus import Bus
from tests.support.producers import benchmark
from tests.support.stamps import python_topic

SLICE_S = 1.5
_FIRST = 20_000
"""Pushes of the slice that tells how many the others take."""
GOALS = {1: 0.50, 32: 0.36}
PULL = {"parked": {"pull": {}}}


class _Pushes:
    """One side: slices of about SLICE_S by a rate that the first one told."""

    def __init__(self, port: int, pipeline: int) -> None:
        self._port = port
        self._pipeline = pipeline
        self.count = int(self._rate(_FIRST) * SLICE_S)
        self.pushed = 0

    def _rate(self, count: int) -> float:
        return benchmark(self._port, QUEUE, count, pipeline=self._pipeline)

    def __call__(self) -> float:
        self.pushed += self.count
        return self._rate(self.count)


@pytest.mark.parametrize("pipeline", GOALS)
@pytest.mark.parametrize("store", ["sqlite", "everysec", "always"])
def test_pushes(stage: Stage, figures: Figures, patience: Patience, store: str, pipeline: int) -> None:
    server = None if store == "sqlite" else stage.redis("store", appendonly="yes", appendfsync=store)
    bus = stage.bus(PULL, server)
    name = f"pushes, {store if server is None else f'redis {store}'}, pipelines of {pipeline}"
    _compare(stage, figures, patience, bus, name, pipeline, GOALS[pipeline] if server is None else None)


@pytest.mark.parametrize("pipeline", GOALS)
def test_pushes_while_a_consumer_drains(stage: Stage, figures: Figures, patience: Patience, pipeline: int) -> None:
    bus = stage.bus({"drained": python_topic("empty")})
    name = f"pushes, sqlite, pipelines of {pipeline}, drained"
    _compare(stage, figures, patience, bus, name, pipeline, None)


def _compare(
    stage: Stage, figures: Figures, patience: Patience, bus: Bus, name: str, pipeline: int, goal: float | None
) -> None:
    """Measure, and fail below half of the goal (a quarter, where more was asked than the goal is about)."""
    bare = stage.redis("bare")
    theirs = _Pushes(bare.port, pipeline)
    ours = _Pushes(bus.port, pipeline)
    cpu = CpuPerJob(bus, "ingest")

    def base() -> float:
        with bare.client() as client:
            client.flushall()
        return theirs()

    pairs = patience.pairs(base, ours)
    beside = {**fsync_text(bus), **cpu.text(ours.pushed)}
    floor = goal / 2 if goal is not None else GOALS[pipeline] / 4
    figures.add(median_figure(name, "/s", pairs, goal=goal, floor=floor, beside=beside))
