"""Claims that change their owner while both live: a connection passes to another process."""

from __future__ import annotations

import pytest

from pbus.core.job import Delivery, Move
from pbus.errors import Conflict
from pbus.storage.driver import Held, Want
from tests.conformance.storage.world import ALICE, BOB, CAROL, NOBODYS, World, asked, gift

Claims = list[tuple[str, str, str]]


def these(*deliveries: Delivery) -> Claims:
    return [(one.queue, one.topic, one.id) for one in deliveries]


def test_reassigned_claims_are_held_settled_and_counted_as_the_heirs(world: World) -> None:
    world.append("a", "b", "c")
    a, b, c = world.claim(3)

    assert world.store.reassign(ALICE, BOB, these(a, b)) == [True, True]

    assert [one.id for one in world.store.held(BOB)] == [a.id, b.id]
    assert world.store.holders("gift", "credit", [a.id, b.id, c.id]) == [BOB, BOB, ALICE]
    assert world.numbers().running == 3
    assert not world.settle(a, Move.ACK)
    a.owner = b.owner = BOB
    assert world.settle(a, Move.ACK)
    assert world.settle(b, Move.RELEASE)
    assert world.where() == (1, 1, 0, 0)


def test_attempts_and_crashes_go_with_a_claim(world: World) -> None:
    world.append("a")
    world.settle(world.claim()[0], Move.RELEASE, counts=True, crash=True, redelivered=True)
    (again,) = world.claim()

    world.store.reassign(ALICE, BOB, these(again))

    assert world.store.held(BOB) == [Held("gift", "credit", again.id, 1, 1)]
    again.owner = BOB
    world.settle(again, Move.RELEASE)
    (third,) = world.claim()
    assert (third.attempt, third.crashes, third.redelivered) == (2, 1, True)


def test_a_key_stays_held_while_its_claim_changes_hands(world: World) -> None:
    world.push(asked("a", key="k"), asked("b", key="k"))
    (first,) = world.claim(2)

    world.store.reassign(ALICE, BOB, these(first))

    assert world.claim(2) == []
    first.owner = BOB
    world.settle(first, Move.ACK)
    assert world.bodies() == ["b"]


def test_one_call_over_topics_and_queues_answers_in_the_order_asked(world: World) -> None:
    world.declare(gift("credit", "mail"), gift("smtp", name="mail"))
    world.append("a", "b")
    world.append("m", queue="mail")
    (mail,) = world.claim(topic="smtp", queue="mail")
    (a,) = world.claim(topic="mail")
    (b,) = world.claim()

    asked_for = [*these(mail), ("gift", "credit", "1-0"), *these(a), ("mail", "smtp", "1-0"), *these(b)]

    assert world.store.reassign(ALICE, BOB, asked_for) == [True, False, True, False, True]
    assert sorted(one.id for one in world.store.held(BOB)) == sorted([mail.id, a.id, b.id])
    assert world.store.held(ALICE) == []


def test_repeated_call_answers_what_the_heir_has(world: World) -> None:
    world.append("a", "b")
    a, b = world.claim(2)
    world.store.reassign(ALICE, BOB, these(a))

    assert world.store.reassign(ALICE, BOB, these(a, b, a)) == [True, True, True]
    assert [one.id for one in world.store.held(BOB)] == [a.id, b.id]


def test_what_the_owner_does_not_hold_is_not_passed_on(world: World) -> None:
    world.append("a", "b", "c")
    (ended,) = world.claim()
    world.settle(ended, Move.ACK)
    (carols,) = world.claim(owner=CAROL)

    claims = [*these(ended, carols), *[("gift", "credit", one) for one in NOBODYS], ("nobody", "x", "1-0")]

    assert world.store.reassign(ALICE, BOB, claims) == [False] * len(claims)
    assert world.store.held(BOB) == []
    assert world.store.holders("gift", "credit", [carols.id]) == [CAROL]
    assert world.store.reassign(ALICE, BOB, []) == []


def test_thousands_pass_in_one_call(world: World) -> None:
    world.append(*["x"] * 4500)
    claimed = world.claim(4500)

    assert world.store.reassign(ALICE, BOB, these(*claimed)) == [True] * len(claimed)
    assert len(world.store.held(BOB)) == 4500


@pytest.mark.parametrize(("fenced", "owner", "heir"), [("b1", ALICE, CAROL), ("b1", CAROL, ALICE)])
def test_a_fenced_boot_neither_gives_nor_takes(world: World, fenced: str, owner: str, heir: str) -> None:
    world.append("a")
    (claim,) = world.claim(owner=owner)
    world.store.fence(fenced)

    with pytest.raises(Conflict):
        world.store.reassign(owner, heir, these(claim))

    assert world.store.holders("gift", "credit", [claim.id]) == [owner]


def test_exclusive_topic_is_the_heirs(world: World) -> None:
    world.append("a", "b")
    (first,) = world.claim(exclusive=True)

    world.store.reassign(ALICE, BOB, these(first))

    assert world.claim(exclusive=True) == []
    assert len(world.store.claim([Want(BOB, "gift", "credit", 1, True)])) == 1


def test_heir_dies_and_what_it_held_goes_back(world: World) -> None:
    world.append("a")
    (claim,) = world.claim()
    world.store.reassign(ALICE, BOB, these(claim))

    assert BOB in world.store.owners()
    assert world.give_back(BOB, world.store.held(BOB)) == [True]
    assert world.where() == (1, 0, 0, 0)
