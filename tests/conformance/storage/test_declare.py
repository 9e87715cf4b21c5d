"""Queues and topics: made when missing, never removed, told where a new topic starts."""

from __future__ import annotations

from pbus.core.job import Move
from tests.conformance.storage.world import ALICE, World, gift


def test_declare_twice_changes_nothing(world: World) -> None:
    world.append("a", "b")
    world.claim(1)
    before = world.store.numbers()

    world.declare(gift())

    assert world.store.numbers().keys() == before.keys()
    assert (world.numbers().ready, world.numbers().running) == (1, 1)
    assert world.bodies() == ["b"]


def test_new_topic_from_now_sees_only_later_jobs(world: World) -> None:
    world.append("old")
    world.declare(gift("credit", "mail", start="now"))
    world.append("new")

    assert world.bodies(topic="mail") == ["new"]
    assert world.bodies(topic="credit") == ["old", "new"]


def test_new_topic_from_history_sees_what_the_log_still_holds(world: World) -> None:
    world.append("old")
    world.claim(1)
    world.declare(gift("credit", "late", start="history"))
    world.append("new")

    assert world.numbers("late").ready == 2
    assert world.store.backlog("gift") == 2
    assert world.bodies(topic="late") == ["old", "new"]


def test_topic_from_history_counts_right_after_a_trim(world: World) -> None:
    world.declare(gift(retention_s=0.0))
    world.append("gone", "gone too")
    for delivery in world.claim(2):
        world.settle(delivery, Move.ACK)
    while world.store.trim():
        pass
    world.append("kept")

    world.declare(gift("credit", "late", start="history"))

    kept = world.numbers("late").ready
    assert world.bodies(topic="late")[-1] == "kept"
    assert kept == world.numbers("late").running  # what was counted ready is what could be claimed


def test_start_of_a_known_topic_is_not_looked_at_again(world: World) -> None:
    world.append("a")
    world.bodies()

    world.declare(gift("credit", start="history"))

    assert world.bodies() == []


def test_topic_that_is_no_longer_declared_keeps_what_it_has(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a")

    world.driver(gift("credit"))

    assert world.numbers("mail").ready == 1
    assert world.bodies(topic="mail") == ["a"]


def test_everything_is_there_after_a_restart(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b", "c")
    (running,) = world.claim(1)
    before = world.store.numbers()

    world.reopen()
    world.declare(gift("credit", "mail"))

    after = world.store.numbers()
    assert {path: (n.ready, n.running) for path, n in after.items()} == {
        path: (n.ready, n.running) for path, n in before.items()
    }
    assert [held.id for held in world.store.held(ALICE)] == [running.id]
    assert world.settle(running, Move.ACK)


def test_queues_are_apart(world: World) -> None:
    world.declare(gift(), gift(name="order"))
    world.append("a")
    world.append("b", queue="order")

    assert world.bodies() == ["a"]
    assert world.bodies(queue="order") == ["b"]
