"""Claims: oldest first, to one owner, exclusive where asked for."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.errors import Conflict, Unavailable
from pbus.storage.driver import CLAIM_BYTES, Held, Want
from tests.conformance.storage.world import ALICE, BOB, CAROL, World, asked, gift


def test_claim_of_an_empty_topic_answers_nothing(world: World) -> None:
    assert world.claim(10) == []


def test_claim_tells_all_about_a_first_attempt(world: World) -> None:
    (pushed,) = world.append("a")

    (delivery,) = world.claim()

    assert (delivery.id, delivery.queue, delivery.topic, delivery.body) == (pushed.id, "gift", "credit", b"a")
    assert (delivery.attempt, delivery.crashes, delivery.redelivered, delivery.first_ms) == (1, 0, False, 0)
    assert delivery.owner == ALICE


def test_claim_gives_at_most_the_count_and_goes_on_where_it_stopped(world: World) -> None:
    world.append("a", "b", "c")

    assert [world.bodies(2), world.bodies(2), world.bodies(2)] == [["a", "b"], ["c"], []]


def test_claim_of_nothing_claims_nothing(world: World) -> None:
    world.append("a")

    assert world.store.claim([]) == []
    assert world.claim(0) == []
    assert world.numbers().ready == 1


def test_a_delivery_has_one_owner_at_a_time(world: World) -> None:
    other = world.driver(gift())
    world.append("a", "b")

    first = world.claim(1)
    second = other.claim([Want(BOB, "gift", "credit", 5)])

    assert [one.body for one in first + second] == [b"a", b"b"]
    assert [one.owner for one in first + second] == [ALICE, BOB]


def test_topics_claim_apart_from_each_other(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b")
    world.claim(2, "credit")

    assert world.bodies(topic="mail") == ["a", "b"]


def test_several_wants_of_one_call_share_a_topic_oldest_first(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b", "c")

    claimed = world.store.claim(
        [Want(ALICE, "gift", "credit", 2), Want(ALICE, "gift", "mail", 1), Want(BOB, "gift", "credit", 2)]
    )

    assert sorted((one.owner, one.topic, one.body) for one in claimed) == [
        (ALICE, "credit", b"a"), (ALICE, "credit", b"b"), (ALICE, "mail", b"a"), (BOB, "credit", b"c"),
    ]


def test_claim_over_several_queues(world: World) -> None:
    world.declare(gift(), gift(name="order"))
    world.append("a")
    world.append("b", queue="order")

    claimed = world.store.claim([Want(ALICE, "gift", "credit", 5), Want(ALICE, "order", "credit", 5)])

    assert sorted((one.queue, one.body) for one in claimed) == [("gift", b"a"), ("order", b"b")]


def test_what_came_back_is_claimed_before_the_log_oldest_first(world: World) -> None:
    world.append("a", "b", "c", "d")
    claimed = world.claim(3)
    for delivery in reversed(claimed):
        world.settle(delivery, Move.RELEASE)

    assert world.bodies(2) == ["a", "b"]
    assert world.bodies(2) == ["c", "d"]


def test_a_retry_that_is_due_is_claimed_before_the_log(world: World) -> None:
    world.append("a", "b")
    world.settle(world.claim()[0], Move.RETRY, counts=True)
    world.promoted(1)

    assert world.bodies(5) == ["a", "b"]


def test_one_at_a_time_is_first_in_first_out(world: World) -> None:
    world.append(*"abcde")
    order = []
    while claimed := world.claim(1):
        order += [one.body.decode() for one in claimed]
        assert world.settle(claimed[0], Move.ACK)

    assert order == list("abcde")


def test_exclusive_waits_until_no_other_owner_holds_a_claim(world: World) -> None:
    world.append("a", "b", "c")
    (held,) = world.claim(1, owner=ALICE, exclusive=True)

    assert world.claim(1, owner=BOB, exclusive=True) == []
    world.settle(held, Move.ACK)
    assert [one.body for one in world.claim(1, owner=BOB, exclusive=True)] == [b"b"]
    assert world.claim(1, owner=ALICE, exclusive=True) == []


def test_exclusive_owner_may_take_more_while_it_holds_some(world: World) -> None:
    world.append("a", "b", "c")

    assert [one.body for one in world.claim(2, exclusive=True)] == [b"a", b"b"]
    assert [one.body for one in world.claim(2, exclusive=True)] == [b"c"]


def test_exclusive_is_judged_within_one_call_too(world: World) -> None:
    world.append("a", "b")

    claimed = world.store.claim([Want(ALICE, "gift", "credit", 1, True), Want(BOB, "gift", "credit", 1, True)])

    assert [(one.owner, one.body) for one in claimed] == [(ALICE, b"a")]


def test_exclusive_judges_each_topic_alone(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a")
    world.claim(1, "credit", owner=ALICE, exclusive=True)

    assert len(world.claim(1, "mail", owner=BOB, exclusive=True)) == 1


@pytest.mark.parametrize("move", [Move.RETRY, Move.BURY, Move.RELEASE])
def test_exclusive_is_free_again_after_every_kind_of_end(world: World, move: Move) -> None:
    world.append("a", "b")
    world.settle(world.claim(1, exclusive=True)[0], move, delay_s=60.0 if move is Move.RETRY else 0.0)

    assert len(world.claim(1, owner=BOB, exclusive=True)) == 1


def test_exclusive_is_free_again_when_a_dead_owner_was_given_back(world: World) -> None:
    world.append("a")
    world.claim(1, exclusive=True)
    world.give_back(ALICE, world.store.held(ALICE))

    assert [one.redelivered for one in world.claim(1, owner=BOB, exclusive=True)] == [True]


def test_large_bodies_fill_a_claim_before_its_count_and_none_is_skipped(world: World) -> None:
    bodies = [letter * (CLAIM_BYTES // 4) for letter in "abcdefghij"]
    for body in bodies:
        world.append(body)
    first = world.claim(10)
    assert 4 <= len(first) <= 5
    for one in first:
        world.settle(one, Move.RELEASE)
    again = world.claim(10)
    assert [one.id for one in again] == [one.id for one in first]
    got = [one.body.decode() for one in again]
    while more := world.claim(10):
        got += [one.body.decode() for one in more]
    assert got == bodies


def test_claim_of_a_topic_that_nobody_declared_is_refused(world: World) -> None:
    with pytest.raises(Unavailable):
        world.claim(topic="nobody")


def test_fenced_boot_claims_nothing(world: World) -> None:
    world.append("a")
    world.store.fence("b1")

    with pytest.raises(Conflict):
        world.claim()
    with pytest.raises(Conflict):
        world.store.claim([Want(CAROL, "gift", "credit", 1), Want(ALICE, "gift", "credit", 1)])

    assert world.store.held(CAROL) == []
    assert world.numbers().ready == 1


def test_held_lists_the_open_claims_of_an_owner_oldest_first(world: World) -> None:
    world.declare(gift("credit", "mail"))
    ids = [one.id for one in world.append("a", "b", "c")]
    world.claim(1, "credit", owner=BOB)
    mine = world.claim(2, "credit")
    world.claim(1, "mail")
    world.settle(mine[0], Move.ACK)

    assert world.store.held(ALICE) == [Held("gift", "mail", ids[0], 0, 0), Held("gift", "credit", ids[2], 0, 0)]
    assert world.store.held("n1/b1/9.9") == []


@pytest.mark.parametrize("key", ["k", "user:", "a:b:::\u20ac"])
def test_held_tells_the_key_of_a_claim(world: World, key: str) -> None:
    world.push(asked("a", key=key))
    world.claim()

    assert [one.key for one in world.store.held(ALICE)] == [key]


def test_held_tells_what_counted_before_this_claim(world: World) -> None:
    world.append("a")
    world.settle(world.claim()[0], Move.RETRY, counts=True, crash=True)
    world.promoted(1)
    world.claim()

    assert [(held.attempts, held.crashes) for held in world.store.held(ALICE)] == [(1, 1)]


def test_owners_are_those_with_open_claims(world: World) -> None:
    world.append("a", "b", "c")
    assert world.store.owners() == []
    world.claim(1)
    (ended,) = world.claim(1, owner=BOB)
    world.claim(1, owner=CAROL)
    world.settle(ended, Move.ACK)

    assert sorted(world.store.owners()) == [ALICE, CAROL]


def test_claims_survive_a_restart(world: World) -> None:
    world.append("a")
    (delivery,) = world.claim()

    world.reopen()

    assert world.store.owners() == [ALICE]
    assert world.bodies() == []
    assert world.settle(delivery, Move.ACK)
