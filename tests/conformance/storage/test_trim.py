"""Trimming: what nobody needs goes, by age and by bytes; what anybody needs stays readable."""

from __future__ import annotations

import pytest

from pbus.core.job import Move, Push
from pbus.storage.driver import QueueSpec
from tests.conformance.storage.world import ALICE, BOB, World, gift, pushes, settlement
from tests.support.waiting import until

BRIEF = {"retention_s": 0.0, "retention_bytes": 0}


def trimmed(world: World) -> int:
    """Trim until nothing is left to drop; a store may count the age of an entry in whole milliseconds."""
    dropped = 0
    while count := world.store.trim():
        dropped += count
    return dropped


def kept(world: World, name: str = "probe", queue: str = "gift") -> list[str]:
    """What the log still holds, seen by a new topic from history."""
    world.declare(QueueSpec(queue, gift(name, start="history").topics, 3600.0, 1 << 28))
    return world.bodies(10_000, name, queue=queue)


def done(world: World, count: int, topic: str = "credit") -> None:
    for delivery in world.claim(count, topic):
        assert world.settle(delivery, Move.ACK)


def test_settled_jobs_are_kept_for_the_retention(world: World) -> None:
    world.append("a", "b")
    done(world, 2)

    assert trimmed(world) == 0
    assert kept(world) == ["a", "b"]


def test_settled_jobs_go_when_the_retention_is_over(world: World) -> None:
    world.declare(gift(retention_s=0.05))
    world.append("a", "b")
    done(world, 2)
    total = 0

    def gone() -> bool:
        nonlocal total
        total += trimmed(world)
        return total == 2

    until(gone, 5.0, "both are dropped")
    assert kept(world) == []


def test_jobs_that_a_topic_has_not_claimed_stay(world: World) -> None:
    world.declare(gift("credit", "mail", **BRIEF))
    world.append("a", "b", "c")
    done(world, 3)
    done(world, 1, "mail")
    trimmed(world)

    assert world.bodies(topic="mail") == ["b", "c"]


def test_retention_ends_by_bytes_too_oldest_first(world: World) -> None:
    world.declare(gift(retention_bytes=2500))
    world.append(*[f"{n}" * 1000 for n in range(6)])
    done(world, 6)
    trimmed(world)

    assert [body[0] for body in kept(world)] == ["4", "5"]


def test_bytes_of_what_is_not_settled_do_not_count(world: World) -> None:
    world.declare(gift(retention_bytes=2500))
    world.append(*[f"{n}" * 1000 for n in range(8)])
    done(world, 2)
    trimmed(world)

    assert [body[0] for body in kept(world)] == list("01234567")


def test_running_delivery_can_be_retried_after_its_job_was_trimmed(world: World) -> None:
    world.declare(gift(**BRIEF))
    world.store.append(ALICE, 1, [Push("gift", b"a", "00-trace", "text/plain"), *pushes("b")])
    slow, quick = world.claim(2)
    world.settle(quick, Move.ACK)
    until(lambda: trimmed(world) or kept(world, "probe") == [], 5.0, "the log is empty")

    assert world.settle(slow, Move.RELEASE)
    (again,) = world.claim()
    assert (again.id, again.body, again.traceparent, again.content_type) == (slow.id, b"a", "00-trace", "text/plain")


@pytest.mark.parametrize("move", [Move.RELEASE, Move.RETRY])
def test_delivery_that_came_back_keeps_its_body_through_trimming(world: World, move: Move) -> None:
    world.declare(gift("credit", "mail", **BRIEF))
    world.append("a", "b")
    done(world, 2, "mail")
    for delivery in world.claim(2):
        world.settle(delivery, move, delay_s=0.0)
    trimmed(world)
    if move is Move.RETRY:
        world.promoted(2)
    trimmed(world)

    (a, b) = world.claim(5)
    assert (a.body, b.body) == (b"a", b"b")
    assert world.settle(a, Move.RELEASE)
    assert world.settle(b, Move.ACK)
    assert world.bodies() == ["a"]


def test_dead_letter_survives_trimming(world: World) -> None:
    world.declare(gift(**BRIEF))
    world.append("a", "b")
    for delivery in world.claim(2):
        world.settle(delivery, Move.BURY, reason="failed", error="no")
    trimmed(world)

    assert [letter.error for letter in world.store.dead_letters("gift", "credit")] == ["no", "no"]
    assert world.numbers().dead == 2


def test_delivery_is_claimed_retried_and_done_through_many_trims(world: World) -> None:
    world.declare(gift("credit", "mail", **BRIEF))
    world.append("a")
    done(world, 1, "mail")
    for attempt in range(1, 6):
        trimmed(world)
        (delivery,) = world.claim()
        assert (delivery.body, delivery.attempt) == (b"a", attempt)
        trimmed(world)
        world.settle(delivery, Move.RETRY, counts=True)
        trimmed(world)
        world.promoted(1)
    (delivery,) = world.claim()

    assert world.settle(delivery, Move.ACK)
    assert trimmed(world) >= 0
    assert world.numbers().done_total == 1


def test_trim_changes_no_number(world: World) -> None:
    world.declare(gift("credit", "mail", **BRIEF))
    world.append(*"abcdef")
    claimed = world.claim(4)
    world.settle(claimed[0], Move.ACK)
    world.settle(claimed[1], Move.RETRY, delay_s=3600.0)
    world.settle(claimed[2], Move.BURY)
    done(world, 3, "mail")

    def where() -> list[tuple[int, int, int, int, int]]:
        return [(n.ready, n.running, n.delayed, n.dead, n.done_total) for n in world.store.numbers().values()]

    before, backlog = where(), world.store.backlog("gift")
    trimmed(world)

    assert (where(), world.store.backlog("gift")) == (before, backlog)


def test_trim_is_bounded_and_goes_on(world: World) -> None:
    world.declare(gift(**BRIEF))
    count = 25_000
    for start in range(0, count, 1000):
        world.append(*[str(number) for number in range(start, start + 1000)])
    while claimed := world.claim(1000):
        world.store.settle([settlement(delivery, Move.ACK) for delivery in claimed])

    steps = []
    until(lambda: steps.append(world.store.trim()) or sum(steps) == count, 20.0, "all are dropped")

    assert max(steps) <= 12_000
    assert world.store.trim() == 0
    assert kept(world) == []


def test_trim_from_two_processes_drops_each_entry_once(world: World) -> None:
    other = world.driver(gift(**BRIEF))
    world.append(*"abcdef")
    done(world, 6)

    total = 0

    def gone() -> bool:
        nonlocal total
        total += other.trim() + world.store.trim()
        return total >= 6

    until(gone, 5.0, "all are dropped")
    assert (other.trim(), world.store.trim(), total) == (0, 0, 6)


def test_push_after_a_trim_is_delivered(world: World) -> None:
    world.declare(gift(**BRIEF))
    world.append("a")
    done(world, 1)
    until(lambda: trimmed(world), 5.0, "it is dropped")
    world.reopen()
    (pushed,) = world.append("b")

    (delivery,) = world.claim(5, owner=BOB)
    assert (delivery.id, delivery.body) == (pushed.id, b"b")
    assert pushed.backlog == 1
