"""
What stories of jobs cost: a bus that keeps everything against one that keeps nothing, slice beside slice.

The one that is not measured stands still beside it (its processes idle).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.figures import Figures, median_figure
from tests.bench.slices import Patience
from tests.bench.stage import QUEUE, CpuPerJob, Stage
from tests.bench.test_pushes import SLICE_S
from tests.support.bus import Bus, BusFactory
from tests.support.producers import benchmark
from tests.support.stamps import python_topic

GOAL = 0.85
FLOOR = 0.6
JOBS = 50_000
_FIRST = 20_000
GOAL_INDEX = 0.9
INDEXED = {"of_queue": {"index": ["$.uid", "$.order.id"]}}
BODY = '{"uid": 1__rand_int__, "order": {"id": 7__rand_int__}, "text": "' + 110 * "x" + '"}'
NOTHING = {"trace": {"max_bytes": "0B"}}
STORES = ("sqlite", "redis")


@pytest.fixture
def beside(tmp_path: Path, bus_factory: BusFactory) -> Iterator[Stage]:
    """A second stage, for the bus that keeps nothing."""
    folder = tmp_path / "nothing"
    folder.mkdir()
    with Stage(folder, bus_factory, "nothing-kept") as stage:
        yield stage


def _bus(stage: Stage, store: str, topics: object, **more: object) -> Bus:
    server = None if store == "sqlite" else stage.redis("store", appendonly="yes", appendfsync="everysec")
    return stage.bus(topics, server, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("pipeline", [1, 32])
@pytest.mark.parametrize("store", STORES)
def test_pushes_that_are_traced(
    stage: Stage, beside: Stage, figures: Figures, patience: Patience, store: str, pipeline: int
) -> None:
    pull = {"parked": {"pull": {}}}
    ours, theirs = _bus(stage, store, pull), _bus(beside, store, pull, **NOTHING)
    count = int(benchmark(theirs.port, QUEUE, _FIRST, pipeline=pipeline) * SLICE_S)
    cpu, plain = CpuPerJob(ours, "ingest"), CpuPerJob(theirs, "ingest")
    pairs = patience.pairs(
        lambda: benchmark(theirs.port, QUEUE, count, pipeline=pipeline),
        lambda: benchmark(ours.port, QUEUE, count, pipeline=pipeline),
    )
    jobs = patience.made * count
    figures.add(median_figure(
        f"traced pushes, {store}, pipelines of {pipeline}", "/s", pairs, goal=GOAL, floor=FLOOR,
        beside={**cpu.text(jobs), **{f"untraced {name}": text for name, text in plain.text(jobs).items()}},
    ))


@pytest.mark.parametrize("store", STORES)
def test_jobs_that_are_traced(
    stage: Stage, beside: Stage, figures: Figures, patience: Patience, store: str
) -> None:
    topics = {"py": python_topic("empty", 2)}
    ours, theirs = _bus(stage, store, topics), _bus(beside, store, topics, **NOTHING)
    for each, bus in ((stage, ours), (beside, theirs)):
        each.drained_s(bus, JOBS // 10)
    cpu, plain = CpuPerJob(ours, "delivery"), CpuPerJob(theirs, "delivery")
    pairs = patience.pairs(
        lambda: JOBS / beside.drained_s(theirs, JOBS), lambda: JOBS / stage.drained_s(ours, JOBS)
    )
    jobs = patience.made * JOBS
    figures.add(median_figure(
        f"traced jobs, {store}, empty python handler", "jobs/s", pairs, goal=GOAL, floor=FLOOR,
        beside={**cpu.text(jobs), **{f"untraced {name}": text for name, text in plain.text(jobs).items()}},
    ))


@pytest.mark.parametrize("pipeline", [1, 32])
@pytest.mark.parametrize("store", STORES)
def test_pushes_of_a_queue_with_two_indexed_values(
    stage: Stage, beside: Stage, figures: Figures, patience: Patience, store: str, pipeline: int
) -> None:
    pull = {"parked": {"pull": {}}}
    ours, theirs = _bus(stage, store, pull, **INDEXED), _bus(beside, store, pull)

    def pushed(bus: Bus, count: int) -> float:
        return benchmark(bus.port, QUEUE, count, pipeline=pipeline, body=BODY)

    count = int(pushed(theirs, _FIRST) * SLICE_S)
    cpu, plain = CpuPerJob(ours, "ingest"), CpuPerJob(theirs, "ingest")
    pairs = patience.pairs(lambda: pushed(theirs, count), lambda: pushed(ours, count))
    jobs = patience.made * count
    figures.add(median_figure(
        f"indexed pushes, {store}, pipelines of {pipeline}", "/s", pairs, goal=GOAL_INDEX, floor=FLOOR,
        beside={**cpu.text(jobs), **{f"not indexed {name}": text for name, text in plain.text(jobs).items()}},
    ))
