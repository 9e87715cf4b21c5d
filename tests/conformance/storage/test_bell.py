"""Bells: lossy by design, but a push to a sleeping listener is heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pbus.core.job import Move
from pbus.storage.driver import Bell
from tests.conformance.storage.world import ALICE, World, asked, gift, pass_ms, settlement


@pytest.fixture
def bell(world: World) -> Iterator[Bell]:
    """An ear of another process that has been quiet for a while: it has heard all there was."""
    ear = world.driver(gift(), gift(name="order")).bell("delivery.0", ["gift", "order"])
    quiet(ear)
    yield ear
    ear.close()


def quiet(ear: Bell) -> None:
    """Listen until there is nothing left to hear."""
    deadline = time.monotonic() + 5.0
    while ear.wait(0.05) != frozenset():
        assert time.monotonic() < deadline, "it rings without end"


def heard(ear: Bell, act: Callable[[], object]) -> frozenset[str] | None:
    """What a sleeping listener is told when *act* happens meanwhile."""
    answers: list[frozenset[str] | None] = []
    listener = threading.Thread(target=lambda: answers.append(ear.wait(10.0)))
    listener.start()
    act()
    listener.join(15.0)
    assert not listener.is_alive()
    return answers[0]


def test_wait_ends_with_its_timeout(bell: Bell) -> None:
    began = time.monotonic()

    assert bell.wait(0.1) == frozenset()
    assert 0.05 < time.monotonic() - began < 5.0


def test_push_rings_and_names_the_queue(world: World, bell: Bell) -> None:
    began = time.monotonic()

    assert heard(bell, lambda: world.append("a")) == {"gift"}
    assert time.monotonic() - began < 5.0


def test_push_before_the_wait_is_heard(world: World, bell: Bell) -> None:
    world.append("a")

    assert bell.wait(5.0) == {"gift"}
    assert bell.wait(0.05) == frozenset()


def test_due_retries_ring(world: World, bell: Bell) -> None:
    world.append("a")
    world.settle(world.claim()[0], Move.RETRY)
    quiet(bell)

    assert heard(bell, lambda: world.promoted(1)) == {"gift"}


def test_release_and_give_back_ring(world: World, bell: Bell) -> None:
    world.append("a")
    (delivery,) = world.claim()
    quiet(bell)
    assert heard(bell, lambda: world.settle(delivery, Move.RELEASE)) == {"gift"}
    world.claim()
    quiet(bell)

    assert heard(bell, lambda: world.give_back(ALICE, world.store.held(ALICE))) == {"gift"}


def test_queue_that_nobody_listens_for_does_not_ring(world: World) -> None:
    world.declare(gift(), gift(name="order"))
    ear = world.store.bell("ingest.0", ["order"])
    quiet(ear)
    world.append("a")

    assert ear.wait(0.1) == frozenset()
    world.append("b", queue="order")
    assert ear.wait(5.0) == {"order"}
    ear.close()


def test_every_listener_is_rung(world: World, bell: Bell) -> None:
    second = world.driver(gift()).bell("delivery.1", ["gift"])
    quiet(second)

    assert heard(bell, lambda: world.append("a")) == {"gift"}
    assert second.wait(5.0) == {"gift"}
    second.close()


def test_rings_over_and_over(world: World, bell: Bell) -> None:
    for number in range(20):
        assert heard(bell, lambda: world.append(str(number))) == {"gift"}  # noqa: B023 - called at once


def test_closed_listener_disturbs_nobody(world: World, bell: Bell) -> None:
    bell.close()
    bell.close()
    world.append("a")

    fresh = world.store.bell("delivery.0", ["gift"])
    quiet(fresh)
    assert heard(fresh, lambda: world.append("b")) == {"gift"}
    fresh.close()


def test_close_wakes_nobody_up_for_ever(world: World) -> None:
    ear = world.store.bell("delivery.0", ["gift"])
    quiet(ear)
    ear.close()

    assert ear.wait(0.05) in (frozenset(), None)


def test_claim_that_passes_thousands_of_expired_ones_rings_where_there_may_be_more(world: World, bell: Bell) -> None:
    many = 2_500
    world.push(*[asked(str(number), ttl_ms=1_000) for number in range(many)], asked("lives"))
    claimed = []
    while len(claimed) <= many and (more := world.claim(many)):
        claimed += more
    assert all(world.store.settle([settlement(delivery, Move.RELEASE) for delivery in claimed]))
    pass_ms(1_000)
    quiet(bell)

    got = world.bodies(10)
    while not got:
        assert bell.wait(1.0) == {"gift"}
        got = world.bodies(10)
    assert got == ["lives"]
