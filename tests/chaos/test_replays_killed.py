"""
Replays under kill -9: of the scheduler that runs one, of the whole bus while it is paused, of the node that runs it.

Each dead letter gets one copy, whoever goes on. What was running in the moment of a kill may be run again, as any job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbus.core.names import Owner
from tests.support import seeds
from tests.support.bus import Bus, BusFactory
from tests.support.graves import Reborn, bury, opened, replay
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

LETTERS = 180
CALLS = 4
KILLS = 2
TAKEN_S = 10.0
ASKED = ("replay", "start", "--from", "dead", "--topic", "gift/credit", "--rate", "120/s", "--name", "r1")


@pytest.fixture
def handler() -> Iterator[Reborn]:
    reborn = Reborn()
    with contextlib.closing(reborn.stub):
        yield reborn


@pytest.fixture(params=["sqlite", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    if request.param == "sqlite":
        yield {}
        return
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    server.start()
    yield {"storage": {"main": {"url": server.url}}}
    server.close()


def node(bus_factory: BusFactory, handler: Reborn, storage: dict[str, Any], name: str = "bus", **how: Any) -> Bus:
    queues = {"queue": {"gift": {"topic": {"credit": handler.topic, "late": {"pull": {}}}}}}
    return bus_factory({"node": {"name": name}} | storage | queues, name=name, **how)


def each_has_one_copy(bus: Bus, handler: Reborn, ids: list[str], repeated: int) -> None:
    """None was forgotten, none replayed twice; at most so many runs were repeated by kills of who had them called."""
    until(lambda: handler.ran == len(ids), 20, lambda: f"{handler.ran} of {len(ids)} have run\n{bus.tail()}")
    until(lambda: bus.topic("gift", "credit")["running"] == 0, 10, "nothing runs any more")
    assert handler.copies.keys() == set(ids)
    assert {len(copies) for copies in handler.copies.values()} == {1}, "no job has two copies"
    assert sum(copies.total() for copies in handler.copies.values()) <= len(ids) + repeated
    with opened(bus.settings) as driver:
        numbers = driver.numbers()
    credit, late = numbers["gift", "credit"], numbers["gift", "late"]
    assert (credit.dead, credit.ready, credit.done_total) == (0, 0, 2 * len(ids)), "handled letters, and done copies"
    assert late.ready == len(ids), "what is for credit is no job of late"


def test_schedulers_and_a_bus_that_are_killed_replay_nothing_twice_and_forget_nothing(
    bus_factory: BusFactory, handler: Reborn, storage: dict[str, Any]
) -> None:
    bus = node(bus_factory, handler, storage, start=False)
    ids = bury(bus.settings, LETTERS)
    bus.start()
    assert bus.cli(*ASKED, check=True).stderr.startswith(f"gift/credit: {LETTERS}\nreplay r1: {LETTERS} jobs at 120/s")
    for kill in range(1, KILLS + 1):
        least = kill * LETTERS // 6
        until(lambda: handler.ran >= least, 20, f"{least} have run")  # noqa: B023 - at once
        bus.kill("scheduler")
    bus.cli("replay", "pause", "r1", check=True)
    bus.kill_everything()
    before = handler.ran
    bus.start()
    assert replay(bus.settings, "r1").state == "paused"
    assert handler.ran <= before + CALLS * 30, "what was pushed goes on, the rest waits"
    assert bus.topic("gift", "credit")["dead"] > LETTERS // 6
    bus.cli("replay", "resume", "r1", check=True)
    until(lambda: replay(bus.settings, "r1").state == "done", 20, lambda: f"it is done\n{bus.tail()}")

    each_has_one_copy(bus, handler, ids, repeated=CALLS)
    assert replay(bus.settings, "r1").replayed == LETTERS
    text = bus.cli("job", "trace", ids[0], "gift", check=True).stdout
    (copy,) = handler.copies[ids[0]]
    assert f"credit: run again as {copy} by replay r1" in text
    assert f"credit: made by replay r1 of {ids[0]}" in bus.cli("job", "trace", copy, "gift", check=True).stdout


@pytest.mark.parametrize("storage", ["redis"], indirect=True)
def test_the_other_node_goes_on_with_the_replay_of_a_killed_one(
    bus_factory: BusFactory, handler: Reborn, storage: dict[str, Any]
) -> None:
    nodes = {name: node(bus_factory, handler, storage, name, start=False) for name in ("one", "two")}
    ids = bury(nodes["one"].settings, LETTERS)
    for bus in nodes.values():
        bus.launch()
    for bus in nodes.values():
        bus.wait()
    nodes["one"].cli(*ASKED, check=True)
    until(lambda: handler.ran >= LETTERS // 4, 20, "a quarter has run")
    first = Owner.parse(replay(nodes["one"].settings, "r1").owner).node
    killed, other = nodes.pop(first), nodes.popitem()[1]
    killed.kill_everything()
    killed_s = time.monotonic()
    assert replay(other.settings, "r1").state == "running", "it was killed in the middle"
    until(lambda: other.events("replay.taken"), TAKEN_S, lambda: f"the other one goes on\n{other.tail()}")
    took_s = time.monotonic() - killed_s
    print(f"{seeds.VARIABLE}={seeds.fix()} lost_after 1.5 s: the other one goes on after {took_s:.2f} s")
    until(lambda: replay(other.settings, "r1").state == "done", 20, lambda: f"it is done\n{other.tail()}")

    each_has_one_copy(other, handler, ids, repeated=CALLS)
    assert replay(other.settings, "r1").replayed == LETTERS
    taken = [event for event in other.events("replay.taken") if event["before"].startswith(f"{first}/")]
    assert len(taken) == 1
