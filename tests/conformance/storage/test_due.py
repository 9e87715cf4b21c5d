"""Delayed deliveries: they become ready when they are due, in bounded steps, and never twice."""

from __future__ import annotations

from pbus.core.job import Move
from tests.conformance.storage.world import World, gift


def delay(world: World, *delays_s: float, topic: str = "credit") -> None:
    """Claim one delivery for each delay and retry it then."""
    for delivery, delay_s in zip(world.claim(len(delays_s), topic), delays_s, strict=True):
        assert world.settle(delivery, Move.RETRY, counts=True, delay_s=delay_s)


def test_nothing_delayed_is_nothing_due(world: World) -> None:
    promoted = world.store.promote_due()

    assert (promoted.moved, promoted.next_in_s) == ({}, None)


def test_next_is_the_time_until_the_earliest(world: World) -> None:
    world.append("a", "b", "c")
    delay(world, 100.0, 50.0, 200.0)

    next_in_s = world.store.promote_due().next_in_s

    assert next_in_s is not None
    assert 40.0 < next_in_s <= 50.0


def test_only_what_is_due_becomes_ready(world: World) -> None:
    world.append("a", "b", "c")
    delay(world, 0.0, 3600.0, 0.01)

    assert world.promoted(2).moved == {("gift", "credit"): 2}

    numbers = world.numbers()
    assert (numbers.ready, numbers.delayed) == (2, 1)
    assert world.bodies() == ["a", "c"]


def test_promote_of_some_queues_leaves_the_others_and_their_times(world: World) -> None:
    world.declare(gift("credit", "mail"), gift(name="order"), gift(name="other"))
    for queue in ("gift", "order", "other"):
        world.append("a", queue=queue)
    world.append("b", queue="other")
    for topic, queue, delay_s in (("mail", "gift", 0.0), ("credit", "gift", 50.0), ("credit", "order", 0.0),
                                  ("credit", "other", 10.0), ("credit", "other", 0.0)):
        assert world.settle(world.claim(1, topic, queue=queue)[0], Move.RETRY, delay_s=delay_s)

    promoted = world.store.promote_due(queues=["gift", "order", "nobody"])

    assert promoted.moved == {("gift", "mail"): 1, ("order", "credit"): 1}
    assert promoted.next_in_s is not None
    assert 40.0 < promoted.next_in_s <= 50.0
    assert world.store.promote_due(queues=[]).moved == {}
    assert world.store.promote_due().moved == {("other", "credit"): 1}


def test_due_deliveries_come_in_the_order_of_their_jobs(world: World) -> None:
    world.append("a", "b", "c")
    delay(world, 0.02, 0.01, 0.0)
    world.promoted(3)

    assert world.bodies() == ["a", "b", "c"]


def test_promote_moves_at_most_the_limit_of_each_topic(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append(*"abcde")
    delay(world, *[0.0] * 5)
    delay(world, *[0.0] * 5, topic="mail")

    first = world.store.promote_due(limit=2)
    second = world.store.promote_due(limit=2)
    third = world.store.promote_due(limit=2)

    assert first.moved == second.moved == {("gift", "credit"): 2, ("gift", "mail"): 2}
    assert first.next_in_s == 0.0
    assert third.moved == {("gift", "credit"): 1, ("gift", "mail"): 1}
    assert third.next_in_s is None
    assert world.bodies() == list("abcde")


def test_due_and_not_yet_moved_counts_as_ready(world: World) -> None:
    world.append("a")
    delay(world, 0.0)

    numbers = world.numbers()
    assert (numbers.ready, numbers.delayed) == (1, 0)
    assert numbers.oldest_wait_s >= 0.0


def test_promote_from_two_processes_moves_each_once(world: World) -> None:
    other = world.driver(gift())
    world.append(*"abcdef")
    delay(world, *[0.0] * 6)

    moved = [store.promote_due(limit=2).moved.get(("gift", "credit"), 0)
             for store in (world.store, other, world.store, other)]

    assert moved == [2, 2, 2, 0]
    assert world.bodies() == list("abcdef")


def test_delay_survives_a_restart(world: World) -> None:
    world.append("a")
    delay(world, 3600.0)
    world.reopen()

    numbers = world.numbers()
    assert (numbers.ready, numbers.delayed) == (0, 1)
    assert 3000.0 < (world.store.promote_due().next_in_s or 0.0) <= 3600.0
