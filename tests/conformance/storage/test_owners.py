"""Dead owners, beats and fences: nothing stays with the dead, nothing is taken from the living."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.errors import Conflict
from tests.conformance.storage.world import ALICE, BOB, CAROL, World, gift, pushes


def test_give_back_makes_the_claims_of_a_dead_owner_ready_in_their_order(world: World) -> None:
    world.append("a", "b", "c")
    world.claim(2)

    assert world.give_back(ALICE, world.store.held(ALICE)) == [True, True]

    again = world.claim(5, owner=BOB)
    assert [(one.body, one.attempt, one.redelivered) for one in again] == [
        (b"a", 1, True), (b"b", 1, True), (b"c", 1, False),
    ]
    assert world.store.held(ALICE) == []


def test_give_back_works_for_a_fenced_boot(world: World) -> None:
    world.append("a")
    world.claim()
    world.store.fence("b1")
    held = world.store.held(ALICE)

    assert [claim.queue for claim in held] == ["gift"]
    assert world.give_back(ALICE, held) == [True]
    assert [one.body for one in world.claim(owner=CAROL)] == [b"a"]


def test_give_back_twice_takes_effect_once(world: World) -> None:
    world.append("a")
    world.claim()
    held = world.store.held(ALICE)

    assert [world.give_back(ALICE, held), world.give_back(ALICE, held)] == [[True], [False]]
    assert world.numbers().ready == 1


def test_give_back_touches_no_other_owner(world: World) -> None:
    world.append("a")
    world.claim()

    assert world.give_back(BOB, world.store.held(ALICE)) == [False]
    assert len(world.store.held(ALICE)) == 1


@pytest.mark.parametrize(("how", "attempt", "crashes"), [({}, 1, 0), ({"counts": True, "crash": True}, 2, 1)])
def test_give_back_counts_what_it_is_told(
    world: World, how: dict[str, bool], attempt: int, crashes: int
) -> None:
    world.append("a")
    world.claim()
    world.give_back(ALICE, world.store.held(ALICE), **how)
    (again,) = world.claim(owner=BOB)

    assert (again.attempt, again.crashes) == (attempt, crashes)


def test_give_back_may_bury(world: World) -> None:
    world.append("a")
    world.claim()

    world.give_back(ALICE, world.store.held(ALICE), move=Move.BURY, reason="killed its consumer", error="signal 9")

    assert [letter.reason for letter in world.store.dead_letters("gift", "credit")] == ["killed its consumer"]


def test_late_settle_of_an_owner_that_was_given_back_changes_nothing(world: World) -> None:
    world.append("a")
    (late,) = world.claim()
    world.give_back(ALICE, world.store.held(ALICE))

    assert not world.settle(late, Move.ACK)
    assert world.bodies() == ["a"]


def test_beats_count_up_for_each_boot(world: World) -> None:
    for _ in range(3):
        world.store.beat("n1", "b1")
    world.store.beat("n2", "b2")

    before = world.store.beats()
    world.store.beat("n1", "b1")

    assert before.keys() == {"b1", "b2"}
    assert world.store.beats() == before | {"b1": before["b1"] + 1}


def test_beats_survive_a_restart(world: World) -> None:
    world.store.beat("n1", "b1")
    before = world.store.beats()
    world.reopen()
    world.store.beat("n1", "b1")

    assert world.store.beats()["b1"] == before["b1"] + 1


def test_fenced_boot_beats_no_more(world: World) -> None:
    world.store.beat("n1", "b1")
    world.store.beat("n2", "b2")
    world.store.fence("b1")

    with pytest.raises(Conflict):
        world.store.beat("n1", "b1")
    assert world.store.beats().keys() == {"b2"}
    world.store.beat("n2", "b2")


def test_fence_twice_and_of_an_unknown_boot_are_fine(world: World) -> None:
    world.store.fence("never seen")
    world.store.fence("never seen")

    with pytest.raises(Conflict):
        world.store.beat("n1", "never seen")


def test_fence_binds_processes_that_start_later_and_other_drivers(world: World) -> None:
    world.store.fence("b1")
    other = world.driver(gift())

    with pytest.raises(Conflict):
        other.append("n1/b1/77.77", 1, pushes("a"))


def test_forget_removes_a_boot_that_holds_nothing(world: World) -> None:
    world.store.beat("n1", "b1")
    world.store.beat("n2", "b2")

    world.store.forget("b1")
    world.store.forget("b1")

    assert world.store.beats().keys() == {"b2"}


def test_forget_never_hides_open_claims(world: World) -> None:
    world.append("a")
    world.claim()
    world.store.fence("b1")

    world.store.forget("b1")

    assert world.store.owners() == [ALICE]
    assert world.give_back(ALICE, world.store.held(ALICE)) == [True]


def test_boots_are_told_apart_by_their_whole_name(world: World) -> None:
    world.append("a")
    world.store.fence("b")
    world.store.fence("1")

    assert len(world.claim()) == 1
