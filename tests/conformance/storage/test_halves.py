"""Halves of comparisons: the second one gets the first one, whoever brings it, and what nobody meets goes."""

from __future__ import annotations

import pytest

from pbus.errors import StorageError, Unavailable
from pbus.storage import redis_halves, sqlite_halves
from pbus.storage.halves import HALF_BYTES, Met, Waiting
from tests.conformance.storage.world import World, gift, pass_ms


def test_the_second_half_gets_the_first_and_leaves_nothing(world: World) -> None:
    other = world.driver(gift()) if world.name == "redis" else world.store
    first = world.store.meet("gift", "credit", [Waiting("1-0", True, "of the shadow ü"), Waiting("2-0", False, "b")])
    second = other.meet("gift", "credit", [Waiting("1-0", False, "of the topic"), Waiting("3-0", False, "c")])
    third = world.store.meet("gift", "credit", [Waiting("1-0", True, "again")])

    assert (list(first.others), list(second.others)) == ([None, None], ["of the shadow ü", None])
    assert (list(third.others), third.dropped) == ([None], 0)


def test_both_halves_in_one_call_meet(world: World) -> None:
    met = world.store.meet("gift", "credit", [Waiting("1-0", True, "a"), Waiting("1-0", False, "b")])

    assert list(met.others) == [None, "a"]


def test_halves_of_other_shadows_do_not_meet(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.store.meet("gift", "credit", [Waiting("1-0", True, "a")])

    assert list(world.store.meet("gift", "mail", [Waiting("1-0", False, "b")]).others) == [None]


def test_one_side_that_comes_again_replaces_what_it_said(world: World) -> None:
    world.store.meet("gift", "credit", [Waiting("1-0", True, "a")])
    world.store.meet("gift", "credit", [Waiting("1-0", True, "b")])

    assert list(world.store.meet("gift", "credit", [Waiting("1-0", False, "c")]).others) == ["b"]


def test_halves_that_are_too_many_go_the_oldest_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_halves, "MOST", 3)
    monkeypatch.setattr(sqlite_halves, "MOST", 3)
    dropped = 0
    for number in range(5):
        dropped += world.store.meet("gift", "credit", [Waiting(f"{number}-0", True, str(number))]).dropped
        pass_ms(2)

    left = world.store.meet("gift", "credit", [Waiting(f"{number}-0", False, "x") for number in range(1, 5)]).others
    assert (dropped, list(left)) == (2, [None, "2", "3", "4"])


def test_halves_that_waited_too_long_are_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_halves, "KEEP_S", 0.05)
    monkeypatch.setattr(sqlite_halves, "KEEP_S", 0.05)
    world.store.meet("gift", "credit", [Waiting("1-0", True, "a")])
    pass_ms(60)

    met = world.store.meet("gift", "credit", [Waiting("1-0", False, "b")])
    assert list(met.others) == [None]
    assert met.dropped == (1 if world.name == "sqlite" else met.dropped)


def test_a_half_that_is_too_long_is_refused_whole(world: World) -> None:
    with pytest.raises(StorageError):
        world.store.meet("gift", "credit", [Waiting("1-0", True, "a"), Waiting("2-0", True, "x" * (HALF_BYTES + 1))])

    assert world.store.meet("gift", "credit", [Waiting("1-0", False, "b")]) == Met([None], 0)


def test_nobody_meets_in_a_topic_that_was_dropped(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.store.meet("gift", "mail", [Waiting("1-0", True, "a")])
    world.store.drop_topic("gift", "mail")

    with pytest.raises(Unavailable):
        world.store.meet("gift", "mail", [Waiting("1-0", False, "b")])
    world.driver(gift("credit", "mail")) if world.name == "redis" else world.declare(gift("credit", "mail"))
    assert list(world.store.meet("gift", "mail", [Waiting("1-0", False, "b")]).others) == [None]
