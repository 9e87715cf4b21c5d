"""A row of curves measures a real bus; the shortest one, on the shortest slices."""

from __future__ import annotations

from pbus.bench.growth_jobs import BODIES
from pbus.bench.rows import Options, Run, measure
from pbus.bench.stage import Stage
from tests.support.programs import requires


def test_bodies_of_any_size_are_pushed_delivered_and_drawn() -> None:
    requires("redis-server")
    requires("redis-benchmark")
    made: list[int] = []
    with Stage() as stage:
        run = Run(store="sqlite", stage=stage, options=Options(rounds=1, slice_s=0.2), tell=made.append)
        (figure,) = measure("growth-bodies", run)
    assert figure.command == "pbus bench growth-bodies --store sqlite"
    assert made == [1, 2, 3, 4, 5]
    names = [curve.id.removeprefix("growth-bodies.") for curve in run.curves]
    assert list(dict.fromkeys(names)) == ["pushes", "pushed", "share", "jobs", "done", "cpu"]
    for curve in run.curves:
        assert curve.x.values == BODIES
        assert all(value > 0 for line in curve.lines for value in line.values)
    assert {line.name for curve in run.curves for line in curve.lines} == {"SQLite", "bare LPUSH"}
