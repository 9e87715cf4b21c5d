"""What a bus costs that has nothing to do."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pbus.bench.load import python_topic
from pbus.bench.figures import Figure
from pbus.bench.slices import Patience
from tests.bench.conftest import Figures
from tests.support.bus import Bus, BusFactory
from tests.support.idle_topics import Cost, cost_of_idling, idle_topics
from tests.support.machine import Processor
from tests.support.php_fpm import PhpFpm
from tests.support.waiting import until

TOPICS = 200
SECONDS = 20.0
GOAL = 1.0
"""Percent of a core."""


def test_idle_bus_with_200_topics(
    bus_factory: BusFactory, tmp_path: Path, figures: Figures, patience: Patience
) -> None:
    folder = tmp_path / "fpm"
    folder.mkdir()
    fpm = PhpFpm(folder)
    try:
        fpm.start()
        bus = bus_factory(idle_topics(TOPICS, fpm))
        _measure(bus, f"idle, {TOPICS} topics without processes", figures, patience, goal=GOAL)
    finally:
        fpm.close()


@pytest.mark.timeout(600)
def test_idle_bus_with_200_python_consumers(bus_factory: BusFactory, figures: Figures, patience: Patience) -> None:
    queues = {f"queue-{number}": {"topic": {"py": python_topic("empty")}} for number in range(TOPICS)}
    bus = bus_factory({"queue": queues}, states=("running", "degraded"))
    until(lambda: _ready(bus) == TOPICS, 180.0, lambda: f"all consumers are ready, {_ready(bus)} are")
    _measure(bus, f"idle, {TOPICS} Python consumers", figures, patience, goal=None)


def _ready(bus: Bus) -> int:
    return sum(row["role"] == "consumer" and row["state"] == "ready" for row in bus.status()["processes"])


def _measure(bus: Bus, name: str, figures: Figures, patience: Patience, goal: float | None) -> None:
    patience.wait()
    processor = Processor()
    cost = cost_of_idling(bus, SECONDS)
    beside = {**_largest(cost), "memory": f"{_pss_bytes(bus) / 2**20:.0f} MiB"}
    figures.add(Figure(
        name=name, unit="% of a core", pbus=cost.share * 100, goal=goal, floor=None if goal is None else 2 * goal,
        most=True, others=processor.others(), beside=beside,
    ))


def _largest(cost: Cost) -> dict[str, str]:
    largest = sorted(cost.by_process.items(), key=lambda pair: -pair[1])[:4]
    return {title: f"{share * 100:.2f}" for title, share in largest}


def _pss_bytes(bus: Bus) -> int:
    """Memory of all processes; a page that several share counts once."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in bus.processes())
