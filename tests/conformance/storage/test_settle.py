"""Settles: compare-and-set on the owner; where each move takes a delivery and what it counts."""

from __future__ import annotations

import dataclasses
import time

import pytest

from pbus.core.job import SETTLES, Delivery, Move, Push
from pbus.errors import Conflict
from tests.conformance.storage.world import ALICE, BOB, CAROL, World, gift, settlement
from tests.support.waiting import until


def one(world: World, body: str = "a") -> Delivery:
    """A claimed delivery."""
    world.append(body)
    return world.claim()[0]


def places(world: World) -> tuple[int, int, int, int]:
    """Ready, running, delayed, dead of ``gift/credit``."""
    numbers = world.numbers()
    return numbers.ready, numbers.running, numbers.delayed, numbers.dead


def test_ack_ends_a_delivery(world: World) -> None:
    assert world.settle(one(world), Move.ACK)

    assert places(world) == (0, 0, 0, 0)
    assert world.numbers().done_total == 1
    assert world.store.owners() == []
    assert world.bodies() == []


def test_a_claim_that_is_named_twice_in_one_call_ends_once(world: World) -> None:
    first, second = one(world, "a"), one(world, "b")

    acks = [settlement(each, Move.ACK) for each in (first, second, first)]

    assert world.store.settle(acks) == [True, True, False]
    assert world.numbers().done_total == 2


def test_an_ack_of_another_owners_claim_does_nothing_beside_others(world: World) -> None:
    first, second = one(world, "a"), one(world, "b")
    stolen = dataclasses.replace(settlement(second, Move.ACK), owner=BOB)

    assert world.store.settle([settlement(first, Move.ACK), stolen]) == [True, False]
    assert places(world) == (0, 1, 0, 0)
    assert world.numbers().done_total == 1


def test_ack_ends_it_for_its_topic_only(world: World) -> None:
    world.declare(gift("credit", "mail"))

    world.settle(one(world), Move.ACK)

    assert world.bodies(topic="mail") == ["a"]


def test_retry_waits_until_it_is_due(world: World) -> None:
    delivery = one(world)

    assert world.settle(delivery, Move.RETRY, counts=True, delay_s=3600.0, reason="failed", error="no")

    assert places(world) == (0, 0, 1, 0)
    assert world.store.promote_due().moved == {}
    assert world.bodies() == []


def test_retry_that_is_due_is_ready_and_the_next_attempt(world: World) -> None:
    delivery = one(world)
    world.settle(delivery, Move.RETRY, counts=True, redelivered=True, delay_s=0.02)

    world.promoted(1)
    (again,) = world.claim()

    assert (again.id, again.body, again.attempt, again.redelivered) == (delivery.id, b"a", 2, True)


def test_retry_keeps_metadata(world: World) -> None:
    world.store.append(ALICE, 1, [Push("gift", b"a", "00-trace", "text/plain")])
    world.settle(world.claim()[0], Move.RETRY)
    world.promoted(1)
    (again,) = world.claim()

    assert (again.traceparent, again.content_type) == ("00-trace", "text/plain")


def test_retry_without_a_delay_is_due_at_once(world: World) -> None:
    world.settle(one(world), Move.RETRY, delay_s=0.0)

    assert places(world) == (1, 0, 0, 0)
    world.promoted(1)
    assert world.bodies() == ["a"]


def test_first_counted_attempt_is_dated_once_and_by_the_store(world: World) -> None:
    seen = []
    delivery = one(world)
    for counts in (False, True, True):
        later = time.monotonic() + 0.005
        until(lambda: time.monotonic() > later, 1.0, "some ms pass")  # noqa: B023 - called at once
        world.settle(delivery, Move.RETRY, counts=counts)
        world.promoted(1)
        (delivery,) = world.claim()
        seen.append((delivery.attempt, delivery.first_ms))

    assert seen[0] == (1, 0)
    assert seen[1][0] == 2
    assert seen[1][1] > 1_600_000_000_000
    assert seen[2] == (3, seen[1][1])


def test_bury_makes_a_dead_letter_with_its_reason(world: World) -> None:
    delivery = one(world)
    world.settle(delivery, Move.RETRY, counts=True, crash=True)
    world.promoted(1)
    (delivery,) = world.claim()

    assert world.settle(delivery, Move.BURY, counts=True, reason="failed", error="Fatal error: é\n\x00 in credit.php")

    (letter,) = world.store.dead_letters("gift", "credit")
    assert (letter.queue, letter.topic, letter.id) == ("gift", "credit", delivery.id)
    assert (letter.attempts, letter.crashes, letter.reason) == (2, 1, "failed")
    assert letter.error == "Fatal error: é\n\x00 in credit.php"
    assert letter.at_ms > 1_600_000_000_000
    assert places(world) == (0, 0, 0, 1)
    assert world.bodies() == []


def test_dead_letters_are_newest_first_and_limited(world: World) -> None:
    world.append(*"abcd")
    ids = []
    for delivery in world.claim(4):
        world.settle(delivery, Move.BURY, reason="failed", error=delivery.body.decode())
        ids.append(delivery.id)

    assert [letter.id for letter in world.store.dead_letters("gift", "credit")] == ids[::-1]
    assert [letter.error for letter in world.store.dead_letters("gift", "credit", limit=2)] == ["d", "c"]


def test_dead_letters_of_topics_are_apart(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.settle(one(world), Move.BURY, reason="failed")

    assert world.store.dead_letters("gift", "mail") == []


def test_release_keeps_the_attempt(world: World) -> None:
    world.settle(one(world), Move.RELEASE)

    (again,) = world.claim()
    assert (again.attempt, again.crashes, again.redelivered, again.first_ms) == (1, 0, False, 0)


def test_redelivered_once_said_stays(world: World) -> None:
    delivery = one(world)
    world.settle(delivery, Move.RELEASE, redelivered=True)
    (delivery,) = world.claim()
    assert delivery.redelivered
    world.settle(delivery, Move.RELEASE, redelivered=False)

    assert world.claim()[0].redelivered


@pytest.mark.parametrize("move", [Move.RETRY, Move.RELEASE])
def test_crashes_and_attempts_are_counted_apart(world: World, move: Move) -> None:
    delivery = one(world)
    counted = []
    for counts, crash in ((False, True), (True, False), (True, True), (False, False)):
        world.settle(delivery, move, counts=counts, crash=crash)
        if move is Move.RETRY:
            world.promoted(1)
        (delivery,) = world.claim()
        counted.append((delivery.attempt, delivery.crashes))

    assert counted == [(1, 1), (2, 1), (3, 2), (3, 2)]


@pytest.mark.parametrize("move", sorted(SETTLES))
def test_settle_twice_takes_effect_once(world: World, move: Move) -> None:
    delivery = one(world)
    assert world.settle(delivery, move, delay_s=3600.0, counts=True)
    before = world.store.numbers()

    answers = [world.settle(delivery, other, counts=True) for other in sorted(SETTLES)]

    assert answers == [False] * len(SETTLES)
    assert {path: (n.ready, n.running, n.delayed, n.dead, n.done_total, n.failed_total)
            for path, n in world.store.numbers().items()} == {
        path: (n.ready, n.running, n.delayed, n.dead, n.done_total, n.failed_total) for path, n in before.items()}


@pytest.mark.parametrize("move", sorted(SETTLES))
def test_late_settle_of_a_former_owner_changes_nothing(world: World, move: Move) -> None:
    late = one(world)
    world.settle(late, Move.RELEASE)
    (current,) = world.claim(owner=BOB)

    assert not world.settle(late, move, counts=True)

    assert [held.id for held in world.store.held(BOB)] == [current.id]
    assert world.settle(current, Move.ACK)


def test_settle_of_a_ready_delivery_changes_nothing(world: World) -> None:
    (pushed,) = world.append("a")
    delivery = Delivery(pushed.id, "gift", "credit", b"a", 1, 0, False, "", "", 0, ALICE)

    assert not world.settle(delivery, Move.ACK)
    assert world.bodies() == ["a"]


@pytest.mark.parametrize("job_id", ["1-0", "99999999999999-0", "1700000000000-99999999999999999999", "0-1"])
def test_settle_of_an_id_that_nobody_pushed_changes_nothing(world: World, job_id: str) -> None:
    running = one(world)
    stranger = Delivery(job_id, "gift", "credit", b"", 1, 0, False, "", "", 0, ALICE)

    assert not world.settle(stranger, Move.ACK)
    assert world.settle(running, Move.ACK)


def test_settle_of_many_answers_each_in_order(world: World) -> None:
    world.declare(gift("credit", "mail"), gift(name="order"))
    world.append("a", "b", "c", "d")
    world.append("x", queue="order")
    a, b, c, d = world.claim(4)
    mail = world.claim(1, "mail")[0]
    x = world.claim(1, queue="order", owner=BOB)[0]

    answers = world.store.settle([
        settlement(a, Move.ACK), settlement(x, Move.ACK), settlement(a, Move.ACK), settlement(b, Move.BURY),
        settlement(mail, Move.RELEASE), settlement(c, Move.RETRY, delay_s=60.0), settlement(d, Move.ACK),
        settlement(d, Move.BURY),
    ])

    assert answers == [True, True, False, True, True, True, True, False]
    assert places(world) == (0, 0, 1, 1)
    assert world.numbers().done_total == 2
    assert world.numbers("mail").ready == 4
    assert world.numbers(queue="order").done_total == 1


def test_acks_of_one_call_take_effect_each_for_itself(world: World) -> None:
    world.append("a", "b", "c", "d")
    first, second, third, fourth = world.claim(4)
    world.settle(second, Move.ACK)
    not_mine = dataclasses.replace(fourth, owner=BOB)

    acks = [settlement(one, Move.ACK) for one in (first, second, third, third, not_mine)]

    assert world.store.settle(acks) == [True, False, True, False, False]
    assert places(world) == (0, 1, 0, 0)
    assert world.numbers().done_total == 3


def test_two_ends_of_a_claim_in_one_call_take_effect_once(world: World) -> None:
    first, second = one(world), one(world)

    answers = world.store.settle([
        settlement(first, Move.BURY), settlement(second, Move.ACK), settlement(first, Move.ACK),
    ])

    assert answers[1]
    assert answers[0] is not answers[2]
    assert places(world) == (0, 0, 0, int(answers[0]))
    assert world.numbers().done_total == 1 + answers[2]


def test_acks_of_one_call_count_for_their_owners_and_topics(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b")
    claimed = [*world.claim(1, owner=ALICE), *world.claim(1, owner=BOB), *world.claim(2, topic="mail")]

    assert world.store.settle([settlement(one, Move.ACK) for one in claimed]) == [True] * 4

    assert world.store.owners() == []
    assert (world.numbers().done_total, world.numbers(topic="mail").done_total) == (2, 2)


def test_settle_of_nothing_answers_nothing(world: World) -> None:
    assert world.store.settle([]) == []
    assert world.store.give_back(ALICE, []) == []


def test_settle_by_another_process_of_the_node(world: World) -> None:
    delivery = one(world)
    other = world.driver(gift())

    assert other.settle([settlement(delivery, Move.ACK)]) == [True]
    assert not world.settle(delivery, Move.ACK)


def test_fenced_boot_settles_nothing(world: World) -> None:
    world.append("a", "b")
    (lost,) = world.claim(1)
    (fine,) = world.claim(1, owner=CAROL)
    world.store.fence("b1")

    with pytest.raises(Conflict):
        world.settle(lost, Move.ACK)
    with pytest.raises(Conflict):
        world.store.settle([settlement(fine, Move.ACK), settlement(lost, Move.BURY)])

    assert [world.store.held(ALICE)[0].id, world.store.held(CAROL)[0].id] == [lost.id, fine.id]
    assert world.settle(fine, Move.ACK)


