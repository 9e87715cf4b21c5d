"""
What stories of jobs cost: a bus that keeps everything against one that keeps nothing, slice beside slice.

The one that is not measured stands still beside it (its processes idle).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pbus.bench.bus import Bus, CpuPerJob
from pbus.bench.figures import median_figure
from pbus.bench.load import QUEUE, push, python_topic
from pbus.bench.slices import Patience
from pbus.bench.stage import Stage
from tests.bench.conftest import Figures

GOAL = 0.85
FLOOR = 0.6
SLICE_S = 1.5
JOBS = 50_000
_FIRST = 20_000
GOAL_INDEX = 0.9
INDEXED = {"of_queue": {"index": ["$.uid", "$.order.id"]}}
BODY = '{"uid": 1__rand_int__, "order": {"id": 7__rand_int__}, "text": "' + 110 * "x" + '"}'
NOTHING = {"trace": {"max_bytes": "0B"}}
STORES = ("sqlite", "redis")


@pytest.fixture
def beside() -> Iterator[Stage]:
    """A second stage, for the bus that keeps nothing."""
    with Stage() as stage:
        yield stage


def _bus(stage: Stage, store: str, topics: object, **more: object) -> Bus:
    return stage.bus(topics, stage.store(store), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("pipeline", [1, 32])
@pytest.mark.parametrize("store", STORES)
def test_pushes_that_are_traced(
    stage: Stage, beside: Stage, figures: Figures, patience: Patience, store: str, pipeline: int
) -> None:
    pull = {"parked": {"pull": {}}}
    ours, theirs = _bus(stage, store, pull), _bus(beside, store, pull, **NOTHING)
    count = int(push(theirs.port, QUEUE, _FIRST, pipeline=pipeline) * SLICE_S)
    cpu, plain = CpuPerJob(ours, "ingest"), CpuPerJob(theirs, "ingest")
    pairs = patience.pairs(
        lambda: push(theirs.port, QUEUE, count, pipeline=pipeline),
        lambda: push(ours.port, QUEUE, count, pipeline=pipeline),
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
    for bus in (ours, theirs):
        bus.drained_s(JOBS // 10)
    cpu, plain = CpuPerJob(ours, "delivery"), CpuPerJob(theirs, "delivery")
    pairs = patience.pairs(
        lambda: JOBS / theirs.drained_s(JOBS), lambda: JOBS / ours.drained_s(JOBS)
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
        return push(bus.port, QUEUE, count, pipeline=pipeline, body=BODY)

    count = int(pushed(theirs, _FIRST) * SLICE_S)
    cpu, plain = CpuPerJob(ours, "ingest"), CpuPerJob(theirs, "ingest")
    pairs = patience.pairs(lambda: pushed(theirs, count), lambda: pushed(ours, count))
    jobs = patience.made * count
    figures.add(median_figure(
        f"indexed pushes, {store}, pipelines of {pipeline}", "/s", pairs, goal=GOAL_INDEX, floor=FLOOR,
        beside={**cpu.text(jobs), **{f"not indexed {name}": text for name, text in plain.text(jobs).items()}},
    ))
