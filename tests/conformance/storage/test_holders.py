"""Who holds what: the owner of single deliveries, and all open claims of a topic."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.errors import Unavailable
from pbus.storage.driver import Running, Want
from tests.conformance.storage.world import ALICE, BOB, CAROL, NOBODYS, World, gift


def test_holders_names_the_owner_of_each_open_claim_in_the_order_asked(world: World) -> None:
    a, b, c, d = [one.id for one in world.append("a", "b", "c", "d")]
    world.claim(1)
    world.claim(1, owner=BOB)
    world.driver(gift()).claim([Want(CAROL, "gift", "credit", 1)])

    assert world.store.holders("gift", "credit", [c, d, a, b, a]) == [CAROL, "", ALICE, BOB, ALICE]


@pytest.mark.parametrize("move", [Move.ACK, Move.RETRY, Move.BURY, Move.RELEASE])
def test_nobody_holds_what_was_settled(world: World, move: Move) -> None:
    ids = [one.id for one in world.append("a", "b")]
    settled, _ = world.claim(2)
    world.settle(settled, move)

    assert world.store.holders("gift", "credit", ids) == ["", ALICE]


def test_holders_of_other_topics_do_not_count(world: World) -> None:
    world.declare(gift("credit", "mail"))
    a, b = [one.id for one in world.append("a", "b")]
    world.claim(2, "mail")
    world.claim(1)

    assert world.store.holders("gift", "credit", [a, b]) == [ALICE, ""]
    assert world.store.holders("gift", "mail", [a, b]) == [ALICE, ALICE]
    assert world.store.running("gift", "credit") == [Running(a, ALICE, 0)]


def test_nobody_holds_ids_that_nobody_pushed(world: World) -> None:
    world.append("a")
    world.claim()

    assert world.store.holders("gift", "credit", NOBODYS) == [""] * len(NOBODYS)
    assert world.store.holders("gift", "credit", []) == []


def test_holders_of_thousands_are_told(world: World) -> None:
    ids = [one.id for one in world.append(*["x"] * 2500)]
    world.claim(1200)
    world.claim(1200, owner=BOB)

    assert world.store.holders("gift", "credit", ids) == [ALICE] * 1200 + [BOB] * 1200 + [""] * 100


def test_claims_of_a_fenced_boot_are_still_its_own(world: World) -> None:
    ids = [one.id for one in world.append("a")]
    world.claim()
    world.store.fence("b1")

    assert world.store.holders("gift", "credit", ids) == [ALICE]
    assert world.store.running("gift", "credit") == [Running(ids[0], ALICE, 0)]


def test_what_holders_says_is_enough_to_give_it_back(world: World) -> None:
    """An ack at another process than the one that claimed, also of a boot that was fenced meanwhile."""
    (pushed,) = world.append("a")
    world.claim()
    world.store.fence("b1")
    (owner,) = world.store.holders("gift", "credit", [pushed.id])
    held = world.store.held(owner)

    assert world.give_back(owner, held, move=Move.ACK) == [True]
    assert world.numbers().done_total == 1


def test_running_lists_open_claims_of_all_owners_oldest_job_first(world: World) -> None:
    a, b, c, _ = [one.id for one in world.append("a", "b", "c", "d")]
    world.claim(1, owner=BOB)
    world.claim(1, owner=CAROL)
    (retried,) = world.claim(1)
    world.settle(retried, Move.RELEASE, counts=True)
    world.claim(1)

    assert world.store.running("gift", "credit") == [Running(a, BOB, 0), Running(b, CAROL, 0), Running(c, ALICE, 1)]


def test_running_of_a_topic_at_rest_is_empty(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a")
    world.settle(world.claim(1, "mail")[0], Move.ACK)
    world.claim(1, "mail")

    assert world.store.running("gift", "credit") == world.store.running("gift", "mail") == []


@pytest.mark.parametrize(("limit", "told"), [(2, 2), (0, 0), (-1, 0), (99, 3)])
def test_running_tells_at_most_its_limit(world: World, limit: int, told: int) -> None:
    ids = [one.id for one in world.append("a", "b", "c")]
    world.claim(1, owner=BOB)
    world.claim(2)

    assert [one.id for one in world.store.running("gift", "credit", limit)] == ids[:told]


@pytest.mark.parametrize("path", [("gift", "nobody"), ("nobody", "credit")])
def test_holders_and_running_of_what_nobody_declared_are_unavailable(world: World, path: tuple[str, str]) -> None:
    with pytest.raises(Unavailable):
        world.store.holders(*path, ["1-0"])
    with pytest.raises(Unavailable):
        world.store.running(*path)


def test_topic_that_was_dropped_and_made_again_has_only_its_new_claims(world: World) -> None:
    (old,) = world.append("old")
    world.claim()
    other = world.driver(gift())
    world.store.drop_topic("gift", "credit")
    world.declare(gift())
    (new,) = world.append("new")
    world.claim(owner=BOB)

    assert other.holders("gift", "credit", [old.id, new.id]) == ["", BOB]
    assert other.running("gift", "credit") == [Running(new.id, BOB, 0)]
