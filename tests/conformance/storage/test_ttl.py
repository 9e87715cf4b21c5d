"""Jobs that expire: judged by the store when they would be begun, counted, never handed out."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.storage.driver import Want
from tests.conformance.storage.world import ALICE, World, accounted, asked, gift, pass_ms

LONG_MS = 3_600_000


def test_expired_job_is_never_handed_out(world: World) -> None:
    world.push(asked("a", ttl_ms=1), asked("b", ttl_ms=LONG_MS), asked("c"))
    pass_ms(3)

    assert world.bodies() == ["b", "c"]
    numbers = world.numbers()
    assert (numbers.ready, numbers.running, numbers.expired_total) == (0, 2, 1)


def test_driver_remembers_which_ones_have_expired_in_its_calls(world: World) -> None:
    other = world.driver(gift())
    pushed = world.push(asked("a", ttl_ms=1), asked("b"), asked("c", ttl_ms=1, delay_ms=5), asked("d", ttl_ms=60))
    pass_ms(8)
    taken = world.claim(10)
    world.store.promote_due()
    pass_ms(60)
    world.settle(taken[1], Move.RELEASE)
    world.claim()

    expired = list(getattr(world.store, "expired"))  # noqa: B009 - a driver may have none
    assert expired == [("gift", "credit", pushed[place].id) for place in (0, 2, 3)]
    assert not getattr(other, "expired")  # noqa: B009


def test_driver_remembers_once_what_has_expired(world: World) -> None:
    world.push(asked("a", ttl_ms=1), asked("b"), asked("c"))
    pass_ms(3)
    assert len(world.store.claim([Want(ALICE, "gift", "credit", 1), Want(ALICE, "gift", "credit", 1)])) == 2
    assert len(getattr(world.store, "expired")) == 1  # noqa: B009


def test_expired_jobs_do_not_use_up_the_count_of_a_claim(world: World) -> None:
    world.push(*[asked("old", ttl_ms=1) for _ in range(20)], asked("a"), asked("b"))
    pass_ms(3)

    assert world.bodies(2) == ["a", "b"]


def test_expired_job_is_expired_in_each_topic_alone(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.ask("a", ttl_ms=100)
    assert world.bodies() == ["a"]
    pass_ms(110)

    assert world.bodies(topic="mail") == []
    assert (world.numbers().expired_total, world.numbers("mail").expired_total) == (0, 1)


def test_running_job_is_not_ended_by_its_ttl(world: World) -> None:
    world.ask("a", ttl_ms=30)
    (delivery,) = world.claim()
    pass_ms(35)
    world.store.promote_due()

    assert world.settle(delivery, Move.ACK)
    assert (world.numbers().done_total, world.numbers().expired_total) == (1, 0)


@pytest.mark.parametrize("move", [Move.RELEASE, Move.RETRY])
def test_job_that_came_back_too_late_is_not_begun_again(world: World, move: Move) -> None:
    world.ask("a", ttl_ms=30)
    (delivery,) = world.claim()
    pass_ms(35)
    world.settle(delivery, move, counts=True)
    world.store.promote_due()

    assert world.bodies() == []
    assert world.where() == (0, 0, 0, 0)
    assert world.numbers().expired_total == 1
    assert accounted(world.numbers()) == 1


def test_delayed_job_whose_ttl_is_over_expires_when_it_is_due(world: World) -> None:
    world.push(asked("a", ttl_ms=1, delay_ms=20), asked("b", delay_ms=20))
    pass_ms(25)

    moved = world.store.promote_due().moved

    assert moved == {("gift", "credit"): 1}
    assert world.where() == (1, 0, 0, 0)
    assert world.numbers().expired_total == 1
    assert world.bodies() == ["b"]


def test_ttl_counts_from_the_push_not_from_the_due_time(world: World) -> None:
    world.ask("a", ttl_ms=40, delay_ms=20)
    pass_ms(45)
    world.store.promote_due()

    assert world.bodies() == []
    assert world.numbers().expired_total == 1


def test_expired_jobs_are_taken_from_the_backlog(world: World) -> None:
    world.push(asked("a", ttl_ms=1), asked("b"))
    pass_ms(3)
    world.bodies()

    assert world.store.backlog("gift") == 0
    assert world.store.queue_numbers()["gift"].backlog_bytes == 0


def test_expired_job_is_no_dead_letter(world: World) -> None:
    world.ask("a", ttl_ms=1)
    pass_ms(3)
    world.bodies()

    assert world.store.dead_letters("gift", "credit") == []
    assert world.numbers().dead_total == 0


def test_paused_topic_expires_its_jobs_when_it_is_resumed(world: World) -> None:
    world.ask("a", ttl_ms=20)
    world.store.pause("gift", "credit", True)
    assert world.bodies() == []
    pass_ms(25)
    world.store.pause("gift", "credit", False)

    assert world.bodies() == []
    assert world.numbers().expired_total == 1
    assert accounted(world.numbers()) == 1


def test_body_of_an_expired_job_is_not_kept(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    pushed = world.ask("a", ttl_ms=1, delay_ms=20)
    pass_ms(25)
    world.store.promote_due()
    pass_ms(2)
    while world.store.trim():
        pass

    assert world.store.job("gift", pushed.id) is None


def test_record_of_a_job_tells_when_it_expires(world: World) -> None:
    pushed = world.ask("a", ttl_ms=5000)
    record = world.store.job("gift", pushed.id)

    assert record is not None
    assert record.expires_ms == int(pushed.id.split("-")[0]) + 5000
