"""What many consumers of one topic cost the master: it reaps, counts, weighs and plans for all of them."""

from __future__ import annotations

import threading
import time

import psutil
import pytest
import redis

from pbus.bench.load import python_topic
from pbus.bench.figures import Figure
from pbus.bench.slices import Patience
from tests.bench.conftest import Figures
from tests.support.bus import Bus, BusFactory
from tests.support.machine import Processor, cpu_s
from tests.support.waiting import until

CONSUMERS = 200
SECONDS = 20.0
GOAL = 2.0
"""Percent of a core."""
BURST, PAUSE_S = 100, 0.1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "at work"])
def test_master_of_200_consumers(bus_factory: BusFactory, figures: Figures, patience: Patience, busy: bool) -> None:
    bus = bus_factory({"queue": {"many": {"topic": {"py": python_topic("empty", CONSUMERS)}}}}, start=False)
    bus.start(timeout_s=120)
    until(lambda: _ready(bus) == CONSUMERS, 180.0, lambda: f"all consumers are ready, {_ready(bus)} are")
    patience.wait()
    over, zombies = threading.Event(), set[int]()
    pusher = threading.Thread(target=_push, args=(bus.port, over), daemon=True)
    if busy:
        pusher.start()
    assert bus.process is not None
    processor, begun_s, before_s = Processor(), time.monotonic(), cpu_s([bus.process.pid])
    while time.monotonic() < begun_s + SECONDS:
        time.sleep(1.0)
        zombies |= _zombies(bus)
    share = (cpu_s([bus.process.pid]) - before_s) / (time.monotonic() - begun_s)
    over.set()
    figures.add(Figure(
        name=f"master of {CONSUMERS} consumers, {'at work' if busy else 'idle'}", unit="% of a core", pbus=share * 100,
        goal=GOAL, floor=GOAL, most=True, others=processor.others(),
        beside={"zombies": str(len(zombies)), "jobs": str(bus.topic("many", "py")["done_total"])},
    ))
    assert not zombies


def _ready(bus: Bus) -> int:
    return sum(row["role"] == "consumer" and row["state"] == "ready" for row in bus.status()["processes"])


def _push(port: int, over: threading.Event) -> None:
    client = redis.Redis(port=port)
    while not over.wait(PAUSE_S):
        client.lpush("many", *["x"] * BURST)


def _zombies(bus: Bus) -> set[int]:
    assert bus.process is not None
    children = psutil.Process(bus.process.pid).children(recursive=True)
    return {child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE}
