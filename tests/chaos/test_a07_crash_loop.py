"""
A07: a consumer that exits at once, beside a healthy topic.

It is born exactly ten times, later and later, then given up; its jobs wait. The healthy topic hardly notices: its
rate while the other one dies, in alternation with its rate while that one is given up.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import redis

from tests.support.bus import Bus, BusFactory
from tests.support.waiting import until

SPAWNS = 10
SLICE_S = 1.5
LOOPS = 2
SHARE = 0.8
JOBS = 20_000
HANDLERS = """
import os, time
def work(job):
    until = time.thread_time() + 0.001
    while time.thread_time() < until:
        pass
def setup_of_the_dying():
    os._exit(3)
"""
DYING = "from jobs import *\nsetup = setup_of_the_dying\n"
CONFIG = """
[supervise]
backoff = {{ first = "100ms", max = "250ms" }}
[queue.good.topic.t]
python = {{ call = "jobs:work", path = "{site}" }}
concurrency = 2
[queue.bad.topic.t]
python = {{ call = "dying:work", path = "{site}" }}
"""


def test_consumer_that_exits_at_once_is_given_up_and_its_neighbour_goes_on(
    bus_factory: BusFactory, tmp_path: Path
) -> None:
    (tmp_path / "jobs.py").write_text(HANDLERS)
    (tmp_path / "dying.py").write_text(DYING)
    bus = bus_factory(CONFIG.format(site=tmp_path), start=False)
    bus.start(("running", "degraded"))
    client = redis.Redis(port=bus.port)
    client.lpush("bad", "waits")
    for _ in range(JOBS // 1000):
        client.lpush("good", *["x"] * 1000)
    until(lambda: _state(bus) == "fatal", 20, "the dying topic is given up")
    assert _births(bus) == SPAWNS
    calm, dying = [_rate(bus, SLICE_S)], []
    for loop in range(2, LOOPS + 2):
        assert bus.cli("topic", "restart", "bad/t").returncode == 0
        begun_s, before = time.monotonic(), _done(bus)
        until(lambda born=loop * SPAWNS: _births(bus) >= born and _state(bus) == "fatal", 20, "it is given up again")
        dying.append((_done(bus) - before) / (time.monotonic() - begun_s))
        assert _births(bus) == loop * SPAWNS
        calm.append(_rate(bus, SLICE_S))
    pairs = [rate / ((calm[place] + calm[place + 1]) / 2) for place, rate in enumerate(dying)]
    print(f"healthy: {[round(rate) for rate in calm]} jobs/s, beside the crash loop {[round(rate) for rate in dying]}: "
          f"{statistics.median(pairs):.0%}")
    assert statistics.median(pairs) >= SHARE
    topic = bus.topic("bad", "t")
    assert (topic["ready"], topic["consumers"]) == (1, [])
    assert "'pbus topic restart bad/t'" in "".join(bus.status()["problems"])
    assert bus.topic("good", "t")["ready"] > 0, "the healthy topic ran out of jobs: nothing was measured"


def _state(bus: Bus) -> str:
    return str(bus.topic("bad", "t")["state"])


def _births(bus: Bus) -> int:
    return sum(event["child"].startswith("consumer bad/t") for event in bus.events("child.born"))


def _done(bus: Bus) -> int:
    return int(bus.topic("good", "t")["done_total"])


def _rate(bus: Bus, seconds: float) -> float:
    begun_s, before = time.monotonic(), _done(bus)
    time.sleep(seconds)
    return (_done(bus) - before) / (time.monotonic() - begun_s)
