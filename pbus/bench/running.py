"""
Jobs from a backlog to their handlers, from the start of consumption until nothing is left, against
the same work in a loop without a bus.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pbus.bench.bare import Bare
from pbus.bench.bus import Bus, CpuPerJob
from pbus.bench.figures import Figure, median_figure, value_figure
from pbus.bench.load import python_topic
from pbus.bench.rows import Run
from pbus.bench.slices import Pair

PHP_GOAL: Final = 0.75
PHP_CPU_GOAL: Final = 1.6
PHP_CONNECTIONS: Final = (4, 8)
CONSUMERS: Final = 2
CLIENTS: Final = {"incr": "redis-py", "incr_raw": "a bare socket"}
EMPTY_FLOOR: Final = 6_000.0
SLICES: Final = 1.5
"""A slice of jobs is so much longer than one of pushes: it has a first and a last batch."""
_FIRST: Final = 5_000
_ROLES: Final = ("delivery", "consumer", "ingest", "scheduler")


def _jobs(run: Run, bus: Bus) -> int:
    """How many a slice takes; the first ones, which open connections, are not measured."""
    first = run.count(_FIRST)
    bus.drained_s(min(first, _FIRST) // 5 + 1)
    return run.count(SLICES * first / bus.drained_s(first))


def php(run: Run) -> Iterator[Figure]:
    """Two figures for each number of connections: the rate, and the processor time of a job."""
    for connections in PHP_CONNECTIONS:
        yield from _php(run, connections)


def _php(run: Run, connections: int) -> Iterator[Figure]:
    fpm = run.stage.fpm(connections)
    script = fpm.script("empty.php", "header('Code: 200');")
    handler = {"fastcgi": {"address": fpm.address, "script": script}, "concurrency": connections}
    bus = run.stage.bus({"php": handler}, run.stage.store(run.store))
    with Bare("fastcgi_loop", [fpm.path, script, str(connections)]) as bare:
        jobs = _jobs(run, bus)
        theirs_us, ours_us = list[float](), list[float]()

        def base() -> float:
            before_s = bare.cpu_s()
            rate = bare.rate(jobs)
            theirs_us.append((bare.cpu_s() - before_s) / jobs * 1e6)
            return rate

        def pbus() -> float:
            cpu = CpuPerJob(bus, "delivery")
            took_s = bus.drained_s(jobs)
            ours_us.append(cpu.us("delivery", jobs))
            return jobs / took_s

        others = CpuPerJob(bus, "ingest", "scheduler")
        pairs = run.patience().pairs(base, pbus)
        beside = others.text(jobs * len(ours_us))
        pairs_us = [Pair(theirs, ours, 0.0) for theirs, ours in zip(theirs_us, ours_us, strict=True)]
    bus.close()
    name, key = f"php-fpm, {connections} connections, {run.store}", f"php.{connections}.{run.store}"
    yield median_figure(name, "jobs/s", pairs, goal=PHP_GOAL, floor=PHP_GOAL / 4, beside=beside, id=key)
    yield median_figure(
        f"{name}, processor time", "us", pairs_us, goal=PHP_CPU_GOAL, floor=8 * PHP_CPU_GOAL, most=True,
        beside={"of": "the delivery child, against the whole of the loop"}, id=f"{key}.cpu",
    )


def python(run: Run) -> Iterator[Figure]:
    """One INCR, by each client."""
    for function, client in CLIENTS.items():
        environment = {"REDIS_SOCKET": run.stage.redis().path}
        bus = run.stage.bus({"py": python_topic(function, CONSUMERS)}, run.stage.store(run.store), environment)
        with Bare("bare_handler", [function], CONSUMERS, environment) as bare:
            name = f"python, one INCR by {client}, {run.store}"
            yield _beside(run, bus, bare, name, f"python.{function}.{run.store}")
        bus.close()


def _beside(run: Run, bus: Bus, bare: Bare, name: str, id: str) -> Figure:
    jobs, patience = _jobs(run, bus), run.patience()
    cpu = CpuPerJob(bus, "delivery", "consumer")
    pairs = patience.pairs(lambda: bare.rate(jobs), lambda: jobs / bus.drained_s(jobs))
    return median_figure(name, "jobs/s", pairs, beside=cpu.text(patience.made * jobs), id=id)


def empty(run: Run) -> Iterator[Figure]:
    """Nothing but the bus."""
    bus = run.stage.bus({"py": python_topic("empty", CONSUMERS)}, run.stage.store(run.store))
    jobs, patience = _jobs(run, bus), run.patience()
    cpu = CpuPerJob(bus, *_ROLES)
    values = patience.values(lambda: jobs / bus.drained_s(jobs))
    yield value_figure(
        f"python, empty handler, {run.store}", "jobs/s", values, floor=EMPTY_FLOOR,
        beside=cpu.text(patience.made * jobs), id=f"empty.{run.store}",
    )
