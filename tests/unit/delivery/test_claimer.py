"""The claimer's turn, without greenlets: each ``turn`` is one look at what is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from pbus.clock import FakeClock
from pbus.core.brake import Brake, BrakePolicy, Ended, Mode, Result
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Rules
from pbus.delivery.claimer import ASK_AGAIN_S, COMPARE_S, LOOK_AGAIN_S, SEEN_KEPT, Claimer, Seen, _cut
from pbus.delivery.store_health import StoreHealth
from pbus.errors import Unavailable
from pbus.storage.driver import CLAIM_BYTES, Held, Want
from tests.support.memory_store import AWAY, MemoryStore, delivery

OWNER = "n/b/1.1"
PATH = ("gift", "credit")


class OneLane:
    """A lane with *room*; keeps what it was given."""

    state, reason, busy, concurrency, exclusive = "running", "", 0, 1, False

    def __init__(self, queue: str = "gift", topic: str = "credit", room: int = 10) -> None:
        self.queue, self.topic, self.room = queue, topic, room
        self.given: list[Delivery] = []
        self.asked = 0

    def wants(self) -> list[Want]:
        self.asked += 1
        want = Want(OWNER, self.queue, self.topic, self.room, exclusive=self.exclusive)
        return [want] if self.room else []

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

    def __init__(self, *lanes: OneLane, hold: bool = False) -> None:
        self.brake = Brake(BrakePolicy(min_jobs=1, probe_first_s=1.0))
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.desk = NothingPending()
        self.problems: dict[str, str] = {}
        self.fenced = 0
        self.health = StoreHealth("main", self.problems.__setitem__)
        self.claimer = Claimer(
            self.store, list(lanes), owner=OWNER, desk=self.desk, prepare=lambda: self.store.declare([]),
            health=self.health, fenced=self._fence, log=structlog.get_logger(), clock=self.clock,
            brakes={PATH: self.brake}, rules={PATH: Rules(hold=hold)},
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


# -- what may have run ------------------------------------------------------------------------------


@pytest.mark.parametrize(("hold", "move", "reason"), [(False, Move.RELEASE, ""), (True, Move.BURY, "unknown")])
def test_what_was_handed_out_here_and_forgotten_by_the_store_may_have_run(hold: bool, move: Move, reason: str) -> None:
    lane = OneLane()
    room = Room(lane, hold=hold)
    room.store.put("1-0")
    room.turn()
    lane.given, lane.room = [], 0  # it was settled, and the store came back as it had been before
    room.claimer.compare(OWNER)
    room.turn()
    (settlement,) = room.store.settlements
    assert (settlement.move, settlement.redelivered, settlement.reason) == (move, True, reason)


@pytest.mark.parametrize("hold", [False, True])
def test_what_nobody_here_has_ever_had_goes_back_as_it_was(hold: bool) -> None:
    room = Room(OneLane(), hold=hold)
    room.store.put("1-0")
    room.store.fail_after = AWAY
    with pytest.raises(Unavailable):
        room.turn()
    room.turn()
    (settlement,) = room.store.settlements
    assert (settlement.move, settlement.redelivered) == (Move.RELEASE, False)


def test_seen_knows_the_last_claims_by_attempt_and_forgets_old_ones() -> None:
    seen = Seen()
    for number in range(3 * SEEN_KEPT):
        seen.add(delivery(f"{number}-0"))
    assert Held("gift", "credit", f"{2 * SEEN_KEPT}-0", 0, 0) in seen
    assert Held("gift", "credit", f"{2 * SEEN_KEPT}-0", 1, 0) not in seen
    assert Held("gift", "mail", f"{2 * SEEN_KEPT}-0", 0, 0) not in seen
    assert Held("gift", "credit", "0-0", 0, 0) not in seen


# -- the brake ---------------------------------------------------------------------------------------


def braked(*ids: str) -> tuple[Room, OneLane]:
    """A topic that has just been braked, with those jobs ready."""
    lane = OneLane(room=64)
    room = Room(lane)
    room.brake.ended(Ended("0-0", Result.FAILED, "g", "boom"), room.clock.monotonic_s())
    room.store.put(*ids)
    return room, lane


def test_a_braked_topic_gets_one_probe_when_it_is_due() -> None:
    room, lane = braked("1-0", "2-0")
    assert room.turn() == []
    assert room.claimer._due_s() == room.clock.monotonic_s() + 1.0
    room.clock.advance(1.0)
    assert room.turn() == ["claim"]
    assert [each.id for each in lane.given] == ["1-0"]
    room.clock.advance(1.0)
    assert room.turn() == []


def test_a_due_probe_of_a_lane_without_room_is_waited_for_not_asked_for_without_end() -> None:
    room, lane = braked("1-0")
    lane.room = 0  # its backend is down, or nobody is attached
    room.clock.advance(1.5)
    assert room.turn() == []
    assert room.claimer._due_s() > room.clock.monotonic_s()
    lane.room = 1
    room.claimer.wake()
    assert room.turn() == ["claim"]


def test_what_was_being_claimed_when_the_brake_tripped_is_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = OneLane(room=64)
    room = Room(lane)
    room.store.put(*(f"{number}-0" for number in range(1, 9)))
    claim, now_s = room.store.claim, room.clock.monotonic_s()

    def claim_meanwhile(wants: Sequence[Want]) -> list[Delivery]:
        room.brake.ended(Ended("0-0", Result.FAILED, "g", "boom"), now_s)
        return claim(wants)

    monkeypatch.setattr(room.store, "claim", claim_meanwhile)
    room.turn()
    assert len(lane.given) == 8
    for each in lane.given[:-1]:
        room.brake.ended(Ended(each.id, Result.FAILED, "g", "boom"), now_s)
    room.clock.advance(1.0)
    assert room.brake.room(room.clock.monotonic_s(), 64) == 1


def test_a_recovering_topic_is_claimed_for_as_far_as_its_brake_allows() -> None:
    room, lane = braked(*(f"{number}-0" for number in range(1, 30)))
    lane.concurrency = 4
    room.clock.advance(1.0)
    sizes = []
    while room.brake.mode is not Mode.FREE:
        before = len(lane.given)
        room.turn()
        group = lane.given[before:]
        sizes.append(len(group))
        for each in group:
            room.brake.ended(Ended(each.id, Result.WORKED), room.clock.monotonic_s())
    assert sizes == [1, 1, 2, 4]
    room.turn()
    assert len(lane.given) == 29


@pytest.mark.parametrize(
    ("counts", "room", "expected"),
    [([64, 64], 2, [1, 1]), ([64, 64, 64], 4, [2, 1, 1]), ([64, 64], 1, [1]), ([1, 64], 8, [1, 7]), ([2], 9, [2])],
)
def test_the_room_that_a_brake_gives_is_shared_among_consumers(
    counts: list[int], room: int, expected: list[int]
) -> None:
    wants = [Want(f"n/b/{number}.1", "gift", "credit", count) for number, count in enumerate(counts)]
    assert [want.count for want in _cut(wants, room)] == expected


def test_other_topics_of_the_queue_do_not_feel_a_brake() -> None:
    other = OneLane(topic="mail")
    room = Room(OneLane(), other)
    room.brake.ended(Ended("0-0", Result.FAILED, "g", "boom"), room.clock.monotonic_s())
    room.store.put("1-0")
    room.store.put("1-0", topic="mail")
    room.turn()
    assert len(other.given) == 1


# -- exclusive claims --------------------------------------------------------------------------------


def exclusive() -> tuple[Room, OneLane]:
    """A topic of concurrency 1 of which another owner holds a claim, and two ready jobs."""
    lane = OneLane()
    lane.exclusive = True
    room = Room(lane)
    room.store.put("1-0", "2-0", "3-0")
    room.store.claim([Want("n/b/9.9", "gift", "credit", 1)])
    return room, lane


def test_a_refused_exclusive_claim_is_repeated_soon_after_the_bell() -> None:
    room, lane = exclusive()
    room.turn()
    assert lane.given == []
    room.store.settle([Settlement(owner="n/b/9.9", queue="gift", topic="credit", id="1-0", move=Move.ACK)])
    assert room.claimer._due_s() == pytest.approx(room.clock.monotonic_s() + ASK_AGAIN_S)
    room.clock.advance(ASK_AGAIN_S)
    assert room.turn() == ["claim"]
    assert [each.id for each in lane.given] == ["2-0", "3-0"]


def test_the_pauses_double_until_the_look_of_every_five_seconds_takes_over() -> None:
    room, _ = exclusive()
    room.turn()
    asked = []
    for _ in range(1_900):
        room.clock.advance(0.01)
        if room.turn():
            asked.append(room.clock.monotonic_s() - 1_000.0)
    assert asked == pytest.approx([0.1, 0.3, 0.7, 1.5, 3.1, 5.0, 10.0, 15.0], abs=0.05)


def test_an_idle_exclusive_topic_is_asked_for_only_every_five_seconds() -> None:
    lane = OneLane()
    lane.exclusive = True
    room = Room(lane)
    for _ in range(1_000):
        room.clock.advance(0.01)
        room.turn()
    lane.asked = 0
    for _ in range(1_990):
        room.clock.advance(0.01)
        room.turn()
    assert lane.asked == 4


def test_a_repeated_claim_that_finds_a_lane_without_room_is_not_asked_for_without_end() -> None:
    room, lane = exclusive()
    room.turn()
    lane.room = 0  # its backend is down, or its only consumer is being replaced
    room.clock.advance(ASK_AGAIN_S)
    assert room.turn() == []
    assert room.claimer._due_s() > room.clock.monotonic_s()
    room.store.settle([Settlement(owner="n/b/9.9", queue="gift", topic="credit", id="1-0", move=Move.ACK)])
    lane.room = 10
    room.claimer.wake()
    assert room.turn() == ["claim"]
    assert [each.id for each in lane.given] == ["2-0", "3-0"]
