"""The claimer's turn, without greenlets: each ``turn`` is one look at what is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from pbus.clock import FakeClock
from pbus.core.job import Delivery, Move
from pbus.delivery.claimer import COMPARE_S, LOOK_AGAIN_S, Claimer
from pbus.delivery.store_health import StoreHealth
from pbus.errors import Unavailable
from pbus.storage.driver import CLAIM_BYTES, Want
from tests.support.memory_store import AWAY, MemoryStore

OWNER = "n/b/1.1"


class OneLane:
    """A lane with *room*; keeps what it was given."""

    state, reason, busy, concurrency = "running", "", 0, 1

    def __init__(self, queue: str = "gift", topic: str = "credit", room: int = 10) -> None:
        self.queue, self.topic, self.room = queue, topic, room
        self.given: list[Delivery] = []
        self.asked = 0

    def wants(self) -> list[Want]:
        self.asked += 1
        return [Want(OWNER, self.queue, self.topic, self.room)] if self.room else []

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        self.given += deliveries
        self.room -= len(deliveries)

    def known(self, owner: str) -> set[str]:
        return {each.id for each in self.given if each.owner == owner}

    def drain(self) -> None: ...

    def kill(self) -> None: ...


class NothingPending:
    def __init__(self) -> None:
        self.unwritten: set[tuple[str, str, str]] = set()
        self.is_unsure = False

    def pending(self, owner: str) -> set[tuple[str, str, str]]:
        return self.unwritten


class Room:
    """A claimer over a store in memory, with everything a test wants to look at."""

    def __init__(self, *lanes: OneLane) -> None:
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.desk = NothingPending()
        self.problems: dict[str, str] = {}
        self.fenced = 0
        self.health = StoreHealth("main", self.problems.__setitem__)
        self.claimer = Claimer(
            self.store, list(lanes), owner=OWNER, desk=self.desk, prepare=lambda: self.store.declare([]),
            health=self.health, fenced=self._fence, log=structlog.get_logger(), clock=self.clock,
        )

    def _fence(self) -> None:
        self.fenced += 1

    def turn(self) -> list[str]:
        """One turn; answers the store calls it made."""
        self.store.calls.clear()
        self.claimer.turn()
        return list(self.store.calls)


def test_what_is_claimed_reaches_its_lane() -> None:
    credit, mail = OneLane(), OneLane(topic="mail")
    room = Room(credit, mail)
    room.store.put("1-0", "2-0")
    room.store.put("1-0", topic="mail")
    assert room.turn() == ["claim"]
    assert [each.id for each in credit.given] == ["1-0", "2-0"]
    assert [each.id for each in mail.given] == ["1-0"]


def test_an_idle_topic_is_asked_for_only_every_five_seconds() -> None:
    lane = OneLane()
    room = Room(lane)
    room.turn()
    assert room.turn() == []
    assert lane.asked == 1
    room.clock.advance(LOOK_AGAIN_S)
    assert room.turn() == ["claim"]


def test_a_bell_makes_only_its_queue_hungry() -> None:
    gift, order = OneLane("gift"), OneLane("order")
    room = Room(gift, order)
    room.turn()
    room.claimer.came_back("order")
    room.store.put("1-0", queue="order")
    room.turn()
    assert (gift.asked, order.asked) == (1, 2)
    assert len(order.given) == 1


def test_a_deaf_bell_makes_every_queue_hungry() -> None:
    gift, order = OneLane("gift"), OneLane("order")
    room = Room(gift, order)
    room.turn()
    room.claimer._heard(None)
    room.turn()
    assert (gift.asked, order.asked) == (2, 2)


def test_a_full_claim_is_followed_by_another_one_without_a_bell() -> None:
    lane = OneLane(room=2)
    room = Room(lane)
    room.store.put("1-0", "2-0", "3-0")
    room.turn()
    lane.room = 2
    assert room.turn() == ["claim"]
    assert [each.id for each in lane.given] == ["1-0", "2-0", "3-0"]


def test_a_bell_that_rings_during_the_claim_is_not_lost() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.during_call = lambda: room.claimer.came_back("gift")
    room.turn()
    assert room.turn() == ["claim"]


def test_a_lane_without_room_stays_hungry() -> None:
    lane = OneLane(room=0)
    room = Room(lane)
    room.store.put("1-0")
    assert room.turn() == []
    lane.room = 1
    assert room.turn() == ["claim"]


def test_a_claim_whose_reply_was_lost_goes_back_and_is_claimed_again() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.put("1-0", "2-0")
    room.store.fail_after = AWAY
    with pytest.raises(Unavailable):
        room.turn()
    room.turn()
    assert room.store.ended == [("1-0", Move.RELEASE), ("2-0", Move.RELEASE)]
    assert [each.id for each in lane.given] == ["1-0", "2-0"]


def test_the_comparison_leaves_alone_what_a_lane_or_the_desk_has() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.put("1-0", "2-0", "3-0")
    room.turn()
    lane.given = lane.given[:1]
    room.desk.unwritten = {("gift", "credit", "2-0")}
    room.clock.advance(COMPARE_S)
    room.turn()
    assert room.store.ended == [("3-0", Move.RELEASE)]


def test_what_a_store_forgot_to_be_settled_goes_back_as_soon_as_the_bell_hears_again() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.put("1-0")
    room.turn()
    lane.given, lane.room = [], 0  # it was settled, and the store came back as it had been before
    room.claimer._heard(None)
    room.turn()
    assert room.store.ended == [("1-0", Move.RELEASE)]


def test_the_same_id_of_another_topic_is_another_claim() -> None:
    credit, mail = OneLane(), OneLane(topic="mail")
    room = Room(credit, mail)
    room.store.put("1-0")
    room.store.put("1-0", topic="mail")
    room.turn()
    mail.given, mail.room = [], 0
    room.claimer.compare(OWNER)
    room.turn()
    assert [(each.topic, each.id) for each in room.store.settlements] == [("mail", "1-0")]


def test_a_store_that_was_away_is_declared_again_before_anything_is_claimed() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.put("1-0")
    room.store.fail = AWAY
    with pytest.raises(Unavailable) as caught:
        room.turn()
    room.claimer._failed(caught.value)
    assert room.problems == {"storage main": "storage main is away: connection refused"}
    with pytest.raises(Unavailable):
        room.turn()
    room.store.fail = None
    assert [call for call in room.turn() if call in ("declare", "claim")] == ["declare", "claim"]
    assert room.problems == {"storage main": ""}
    assert len(lane.given) == 1


def test_a_problem_is_lifted_when_nobody_fails_any_more() -> None:
    room = Room(OneLane())
    room.health.away("desk", AWAY)
    room.turn()
    assert room.problems["storage main"]
    room.health.back("desk")
    assert room.problems["storage main"] == ""


def test_a_stopped_claimer_claims_nothing() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.put("1-0")
    room.claimer.stop()
    assert room.turn() == []


def test_owners_are_ours_and_those_the_lanes_claim_for() -> None:
    lane: Any = OneLane()
    lane.owners = ["n/b/7.3"]
    assert Room(lane).claimer.owners() == {OWNER, "n/b/7.3"}


def test_a_want_that_is_full_of_bytes_leaves_its_lane_hungry() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.put("1-0", "2-0", body=bytes(CLAIM_BYTES // 2))
    room.turn()
    assert len(lane.given) == 2
    assert room.turn() == ["claim"]


def test_nothing_is_claimed_while_nobody_knows_whether_a_settle_was_executed() -> None:
    lane = OneLane()
    room = Room(lane)
    room.store.put("1-0")
    room.desk.is_unsure = True
    assert room.turn() == []
    room.desk.is_unsure = False
    assert room.turn() == ["claim"]
