"""What the scheduler calls an error that is back, over what the stores keep of groups."""

from __future__ import annotations

from pbus.config.schema import PullHandler, Queue, Topic
from pbus.scheduler.returned import Returned
from tests.conformance.storage.world import World

QUEUES = {"gift": Queue(system="live", topic={"credit": Topic(pull=PullHandler())})}


def back(returned: Returned, world: World, now_s: float) -> list[str]:
    return [reading.subject for reading in returned.look(world.store.numbers(), now_s)]


def test_error_is_back_when_all_its_letters_were_settled_and_there_are_new_ones(world: World) -> None:
    returned = Returned(world.store, QUEUES)
    assert back(returned, world, 0) == []
    old = world.buried("a", "b", fingerprint="f1", error="no such user 7")
    assert back(returned, world, 10) == []                      # it is new
    world.store.accept("gift", "credit", old[:1])
    world.buried("c", fingerprint="f1", error="no such user 8")
    assert back(returned, world, 20) == []                      # it was never settled
    world.store.accept("gift", "credit", [one.id for one in world.store.dead_letters("gift", "credit")])
    assert back(returned, world, 30) == []
    world.buried("d", fingerprint="f2", error="other")
    assert back(returned, world, 40) == []

    again = world.buried("e", fingerprint="f1", error="no such user 9")
    assert back(returned, world, 50) == ["gift/credit f1"]
    assert returned.sample("gift/credit f1") == "no such user 9"
    assert back(returned, world, 51) == ["gift/credit f1"]

    successor = Returned(world.store, QUEUES)
    successor.goes_on(["gift/credit f1"])
    assert back(successor, world, 0) == ["gift/credit f1"]
    world.store.accept("gift", "credit", again)
    assert (back(successor, world, 10), back(returned, world, 60)) == ([], [])

    once = world.buried("f", fingerprint="f3", error="other")
    assert back(returned, world, 70) == []
    world.store.accept("gift", "credit", once)
    world.buried("g", fingerprint="f3", error="other")
    assert back(returned, world, 80) == ["gift/credit f3"]      # though nobody looked in between
