"""From the push to the handler's first line: under a steady load, and after the bus was idle."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from tests.bench.figures import Figure, Figures
from tests.bench.slices import Patience
from tests.support.bus import Bus, BusFactory
from tests.support.machine import Echo, Processor, fsyncs
from tests.support.redis_server import running
from tests.support.stamps import QUEUE, Pusher, Stamps, first_deliveries, python_topic
from tests.support.waiting import until

RATE = 500
SECONDS = 10.0
FIRST_GOAL = 10.0
FIRST_ROUNDS = 8
IDLE_S = 3.0


def _bus(bus_factory: BusFactory, folder: Path, url: str = "") -> tuple[Bus, Stamps]:
    stamps = Stamps(folder)
    tree: dict[str, object] = {"queue": {QUEUE: {"topic": {"stamp": python_topic("stamp")}}}}
    if url:
        tree["storage"] = {"main": {"url": url}}
    return bus_factory(tree, environment=stamps.environment), stamps


def test_latency_at_500_jobs_a_second(
    bus_factory: BusFactory, tmp_path: Path, figures: Figures, patience: Patience
) -> None:
    bus, stamps = _bus(bus_factory, tmp_path)
    patience.wait()
    processor = Processor()
    ages_s = _steady(bus, stamps)
    base_s = _base(Path(bus.settings.node.data_dir))
    cuts = statistics.quantiles(ages_s, n=100)
    for name, mine_s, theirs_s in (
        ("p50", cuts[49], base_s[49]), ("p99", cuts[98], base_s[98]),
    ):
        figures.add(Figure(
            name=f"latency at {RATE}/s, sqlite, {name}", unit="ms", pbus=mine_s * 1000, base=theirs_s * 1000,
            ratio=mine_s / theirs_s, most=True, others=processor.others(), beside={"base": "an echo and two fsyncs"},
        ))


def _steady(bus: Bus, stamps: Stamps) -> list[float]:
    """Push RATE jobs a second for SECONDS; the ages of all but those of the first second."""
    count = int(RATE * SECONDS)
    with Pusher(bus.port) as pusher:
        begin_s = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begin_s + number / RATE - time.monotonic()))
            pusher.push()
    until(lambda: len(stamps.ages_s()) == count, 10, lambda: f"all jobs run, {len(stamps.ages_s())} of {count} did")
    return stamps.ages_s()[RATE:]


def _base(folder: Path) -> list[float]:
    """Percentiles of an echo and two fsyncs at a tenth of the rate."""
    took_s = []
    with Echo() as echo, fsyncs(folder) as fsync:
        for _ in range(200):
            time.sleep(10 / RATE)
            begin_s = time.perf_counter()
            echo.trip()
            fsync()
            fsync()
            took_s.append(time.perf_counter() - begin_s)
    return statistics.quantiles(took_s, n=100)


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_first_delivery_after_idle(
    bus_factory: BusFactory, tmp_path: Path, figures: Figures, patience: Patience, store: str
) -> None:
    if store == "sqlite":
        _first(*_bus(bus_factory, tmp_path), figures, patience, store)
        return
    folder = tmp_path / "redis"
    folder.mkdir()
    with running(folder, appendonly="yes", appendfsync="always") as server:
        bus, stamps = _bus(bus_factory, tmp_path, server.url)
        _first(bus, stamps, figures, patience, "redis always")
        bus.clean_up()  # before its store goes


def _first(bus: Bus, stamps: Stamps, figures: Figures, patience: Patience, store: str) -> None:
    patience.wait()
    processor = Processor()
    first = first_deliveries(bus, stamps, rounds=FIRST_ROUNDS, idle_s=IDLE_S)
    figures.add(Figure(
        name=f"first delivery after {IDLE_S:g} s idle, {store}", unit="ms",
        pbus=statistics.median(first.delivery_s) * 1000, base=statistics.median(first.base_s) * 1000,
        ratio=first.ratio, low=min(first.ratios), high=max(first.ratios), goal=FIRST_GOAL, floor=2 * FIRST_GOAL,
        most=True, others=processor.others(), beside={"base": "an echo and two fsyncs"},
    ))
