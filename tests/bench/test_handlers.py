"""
Jobs from a backlog to their handlers, from the start of consumption until nothing is left, against
the same work in a loop without a bus.
"""

from __future__ import annotations

import statistics

import pytest

from tests.bench.bare import Bare
from tests.bench.figures import Figure, Figures, median_figure
from tests.bench.slices import Patience
from tests.bench.stage import CpuPerJob, Stage
from tests.support.stamps import python_topic

PHP_JOBS = 20_000
PHP_GOAL = 0.58
PYTHON_JOBS = 50_000
PYTHON_GOAL = 25_000.0
EMPTY_JOBS = 100_000
CONSUMERS = 2
STORES = ("sqlite", "redis")


@pytest.mark.parametrize("connections", [4, 8])
@pytest.mark.parametrize("store", STORES)
def test_jobs_to_an_empty_php_fpm_script(
    stage: Stage, figures: Figures, patience: Patience, store: str, connections: int
) -> None:
    fpm = stage.fpm(connections)
    script = fpm.script("empty.php", "header('Code: 200');")
    handler = {"fastcgi": {"address": fpm.address, "script": script}, "concurrency": connections}
    bus = stage.bus({"php": handler}, _store(stage, store))
    with Bare("fastcgi_loop", [fpm.path, script, str(connections)]) as bare:
        stage.drained_s(bus, PHP_JOBS // 10)
        cpu, bare_cpu_s = CpuPerJob(bus, "delivery", "ingest", "scheduler"), bare.cpu_s()
        pairs = patience.pairs(lambda: bare.rate(PHP_JOBS), lambda: PHP_JOBS / stage.drained_s(bus, PHP_JOBS))
        jobs = patience.made * PHP_JOBS
        beside = {**cpu.text(jobs), "bare cpu": f"{(bare.cpu_s() - bare_cpu_s) / jobs * 1e6:.1f} us"}
    name = f"php-fpm, {store}, {connections} connections"
    figures.add(median_figure(name, "jobs/s", pairs, goal=PHP_GOAL, floor=PHP_GOAL / 2, beside=beside))


@pytest.mark.parametrize("function", ["incr", "incr_raw"])
@pytest.mark.parametrize("store", STORES)
def test_jobs_to_a_python_handler_with_one_incr(
    stage: Stage, figures: Figures, patience: Patience, store: str, function: str
) -> None:
    environment = {"REDIS_SOCKET": stage.redis("counter").path}
    bus = stage.bus({"py": python_topic(function, CONSUMERS)}, _store(stage, store), environment)
    with Bare("bare_handler", [function], CONSUMERS, environment) as bare:
        stage.drained_s(bus, PYTHON_JOBS // 10)
        cpu = CpuPerJob(bus, "delivery", "consumer")
        pairs = patience.pairs(lambda: bare.rate(PYTHON_JOBS), lambda: PYTHON_JOBS / stage.drained_s(bus, PYTHON_JOBS))
        beside = cpu.text(patience.made * PYTHON_JOBS)
    client = {"incr": "redis-py", "incr_raw": "a bare socket"}[function]
    beside["goal"] = f"{PYTHON_GOAL:,.0f} jobs/s"
    figure = median_figure(f"python, {store}, one INCR by {client}", "jobs/s", pairs, beside=beside)
    figures.add(figure)
    if function == "incr_raw":
        assert figure.pbus >= PYTHON_GOAL / 4, f"{figure.pbus:,.0f} jobs/s, {PYTHON_GOAL:,.0f} is the goal"


@pytest.mark.parametrize("store", STORES)
def test_jobs_to_an_empty_python_handler(stage: Stage, figures: Figures, patience: Patience, store: str) -> None:
    bus = stage.bus({"py": python_topic("empty", CONSUMERS)}, _store(stage, store))
    stage.drained_s(bus, EMPTY_JOBS // 10)
    cpu = CpuPerJob(bus, "delivery", "consumer")
    values = patience.values(lambda: EMPTY_JOBS / stage.drained_s(bus, EMPTY_JOBS))
    beside = cpu.text(patience.made * EMPTY_JOBS)
    figures.add(Figure(
        name=f"python, {store}, empty handler", unit="jobs/s", pbus=statistics.median(rate for rate, _ in values),
        floor=PYTHON_GOAL / 4, others=max(others for _, others in values), beside=beside,
    ))


def _store(stage: Stage, store: str) -> object:
    return None if store == "sqlite" else stage.redis("store", appendonly="yes", appendfsync="everysec")
