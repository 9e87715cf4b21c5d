"""Numbers: where everything is, and totals that survive."""

from __future__ import annotations

from pbus.core.job import Move
from pbus.storage.driver import TopicNumbers
from tests.conformance.storage.world import World, gift
from tests.support.waiting import until


def test_numbers_of_an_empty_topic_are_zero(world: World) -> None:
    assert world.store.numbers() == {("gift", "credit"): TopicNumbers()}


def test_numbers_of_some_queues_are_those_of_all(world: World) -> None:
    world.declare(gift("credit", "mail"), gift(name="order"))
    world.append(*"abc")
    some = world.store.numbers(["gift"])
    assert sorted(some) == [("gift", "credit"), ("gift", "mail")]
    assert some["gift", "mail"].ready == 3
    assert world.store.numbers(["nobody's"]) == {}
    assert world.store.numbers([]) == {}


def test_numbers_cover_every_topic(world: World) -> None:
    world.declare(gift("credit", "mail"), gift(name="order"))

    assert world.store.numbers().keys() == {("gift", "credit"), ("gift", "mail"), ("order", "credit")}


def test_numbers_say_where_each_delivery_is(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append(*"abcdefg")
    claimed = world.claim(6)
    world.settle(claimed[0], Move.ACK)
    world.settle(claimed[1], Move.RETRY, counts=True, delay_s=3600.0)
    world.settle(claimed[2], Move.RETRY, counts=True, crash=True, delay_s=0.0)
    world.settle(claimed[3], Move.BURY, counts=True, reason="failed")
    world.settle(claimed[4], Move.RELEASE, redelivered=True)

    numbers = world.numbers()
    assert (numbers.ready, numbers.running, numbers.delayed, numbers.dead) == (3, 1, 1, 1)
    assert (numbers.done_total, numbers.failed_total, numbers.dead_total) == (1, 3, 1)
    other = world.numbers("mail")
    assert (other.ready, other.running, other.done_total) == (7, 0, 0)


def test_what_does_not_count_is_no_failure(world: World) -> None:
    world.append("a")
    world.settle(world.claim()[0], Move.RETRY, reason="busy")

    assert world.numbers().failed_total == 0


def test_redelivered_total_counts_claims_handed_out_with_that_flag(world: World) -> None:
    world.append("a", "b", "c")
    claimed = world.claim(3)
    world.settle(claimed[0], Move.RELEASE, redelivered=True)
    world.settle(claimed[1], Move.RELEASE, redelivered=False)
    world.settle(claimed[2], Move.RETRY, redelivered=True)
    world.promoted(1)
    world.claim(3)

    assert world.numbers().redelivered_total == 2


def test_oldest_wait_is_the_age_of_the_oldest_ready_job(world: World) -> None:
    world.append("a", "b")
    assert until(lambda: world.numbers().oldest_wait_s, 5.0, "it waits") < 5.0
    world.claim(2)

    assert world.numbers().oldest_wait_s == 0.0


def test_oldest_wait_looks_at_what_came_back_too(world: World) -> None:
    world.append("a")
    until(lambda: world.numbers().oldest_wait_s > 0.05, 5.0, "it grows old")
    (old,) = world.claim()
    world.append("b")
    world.settle(old, Move.RELEASE)

    assert world.numbers().oldest_wait_s > 0.05


def test_totals_survive_a_restart(world: World) -> None:
    world.append("a", "b")
    done, dead = world.claim(2)
    world.settle(done, Move.ACK)
    world.settle(dead, Move.BURY, counts=True, reason="failed")
    world.reopen()

    numbers = world.numbers()
    assert (numbers.done_total, numbers.failed_total, numbers.dead_total, numbers.dead) == (1, 1, 1, 1)


def test_backlog_falls_as_the_slowest_topic_claims_and_retries_do_not_count(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b", "c")
    seen = [world.store.backlog("gift")]
    claimed = world.claim(3, "credit")
    seen.append(world.store.backlog("gift"))
    world.claim(2, "mail")
    seen.append(world.store.backlog("gift"))
    world.claim(1, "mail")
    world.settle(claimed[0], Move.RELEASE)
    seen.append(world.store.backlog("gift"))

    assert seen == [3, 3, 1, 0]


def test_check_of_a_healthy_store_is_quiet(world: World) -> None:
    world.store.check()
    world.store.checkpoint()
    world.append("a")
    world.store.checkpoint()

    assert world.bodies() == ["a"]


def test_close_twice_is_fine_and_open_goes_on(world: World) -> None:
    world.append("a")
    world.store.close()
    world.store.close()
    world.store.open()
    world.store.open()

    assert world.bodies() == ["a"]
