"""
A08: signals at the worst moments: TERM twice, TERM and HUP while it starts, a storm of HUPs, 200 children that die at
once. Nothing hangs, nothing is left, no zombie.

The full figure (100 starts, 200 children) is nightly; CI sees a few of each.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.bus import Bus, BusFactory
from tests.support.nightly import figure
from tests.support.seeds import generator
from tests.support.waiting import until

STARTS = figure(4, nightly=100)
CHILDREN = figure(40, nightly=200)
FIRST_S = 0.05
GRACE_S = 3.0
STOP_S = GRACE_S + 2.0
CONFIG = """
[queue.gift.topic.credit]
python = {{ call = "jobs:credit", path = "{site}" }}
concurrency = {consumers}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "jobs.py").write_text("def credit(job):\n    pass\n")
    return CONFIG.format(site=tmp_path, consumers=2)


@pytest.mark.timeout(900)
def test_term_and_hup_in_the_first_moments_of_a_start_end_it(bus_factory: BusFactory, config: str) -> None:
    bus, draw = bus_factory(config, start=False), generator("a08")
    for start in range(STARTS):
        seen = len(bus.events("master.starting"))
        bus.launch()
        assert bus.process is not None
        if start % 2:  # else they come while Python itself starts, which nobody can catch
            until(lambda seen=seen: len(bus.events("master.starting")) > seen, 20, "pbus itself has started")
        signums = [signal.SIGTERM, *draw.choices([signal.SIGTERM, signal.SIGHUP], k=2)]
        draw.shuffle(signums)
        moments_s = sorted(draw.uniform(0.0, FIRST_S) for _ in signums)
        begun_s = time.monotonic()
        for moment_s, signum in zip(moments_s, signums, strict=True):
            time.sleep(max(0.0, begun_s + moment_s - time.monotonic()))
            if bus.process.poll() is None:
                os.kill(bus.process.pid, signum)
        assert bus.process.wait(STOP_S) in (0, -signal.SIGTERM, -signal.SIGHUP)
        until(lambda: not bus.processes(), 5, lambda: f"nothing is left, {bus.processes()} is\n{bus.tail()}")


def test_second_term_hurries_a_stop(bus_factory: BusFactory, config: str) -> None:
    bus = bus_factory(config)
    assert bus.process is not None
    for _ in range(2):
        os.kill(bus.process.pid, signal.SIGTERM)
    assert bus.process.wait(STOP_S) == 0
    assert not bus.processes()


def test_fifty_hups_in_a_second_end_nothing(bus_factory: BusFactory, config: str) -> None:
    bus = bus_factory(config)
    assert bus.process is not None
    before = bus.pids("consumer")
    for _ in range(50):
        os.kill(bus.process.pid, signal.SIGHUP)
        time.sleep(0.02)
    until(lambda: len(bus.events("reload.done")) == len(bus.events("reload.started")), 20, "all reloads are over")
    assert len(bus.events("reload.started")) < 10, "each takes all that came before it along"
    assert bus.status()["state"] == "running"
    assert bus.pids("consumer") == before
    for role in ("ingest", "delivery", "scheduler"):
        until(lambda role=role: len(bus.pids(role)) == 1, 10, f"nobody is left of old generations of {role}")
    assert bus.stop() == 0


@pytest.mark.timeout(300)
def test_many_children_killed_together_are_all_reaped_and_replaced(bus_factory: BusFactory, config: str) -> None:
    bus = bus_factory(config.replace("concurrency = 2", f"concurrency = {CHILDREN}"), start=False)
    bus.start(timeout_s=120)
    until(lambda: len(_lived(bus)) == CHILDREN, 120, "all consumers have lived for a while")
    before = _lived(bus)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(bus.pids("consumer")) == CHILDREN and not set(bus.pids("consumer")) & set(before), 60, "replaced")
    until(lambda: not _zombies(bus), 5, lambda: f"no zombies, but {_zombies(bus)}")
    assert bus.stop(timeout_s=60) == 0
    assert not bus.processes()


def _lived(bus: Bus) -> list[int]:
    return [
        row["pid"] for row in bus.status()["processes"]
        if row["role"] == "consumer" and row["state"] == "ready" and row["uptime_s"] > 3.0
    ]


def _zombies(bus: Bus) -> list[int]:
    assert bus.process is not None
    children = psutil.Process(bus.process.pid).children(recursive=True)
    return [child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE]
