"""Beats, the observer, and what follows when a node is declared dead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.job import Move
from pbus.core.names import Owner
from pbus.core.outcome import Rules
from pbus.errors import Conflict
from pbus.scheduler.boots import Boots
from pbus.scheduler.nodes import FORGET_AFTER_S, Nodes, Observer
from tests.unit.scheduler.store import OWN, Bench, SchedulerStore, prepared

THEIRS = Owner("bus-2", "theirs", 1, 4)
HEARTBEAT_S, LOST_AFTER_S = 5.0, 15.0


class Scene(Bench):
    """One store, our duty, and a node beside us that beats when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = SchedulerStore()
        self.forgotten: list[str] = []
        self.boots = Boots(["main"], self.forgotten.append)
        self.rules: dict[tuple[str, str], Rules] = {}
        self.duty = Nodes(
            prepared(self.driver), OWN, HEARTBEAT_S, LOST_AFTER_S, self.boots, self.rules, self.clock, self.log
        )

    def run(self, seconds: float, they_beat: bool = False) -> None:
        end = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end:
            if they_beat:
                self.driver.beat("bus-2", "theirs")
            self.clock.advance(self.duty.turn())


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_own_counter_moves_each_heartbeat(scene: Scene) -> None:
    scene.run(60)
    assert scene.driver.counters["own"] == 12


def test_node_that_beats_is_left_alone_however_long_its_jobs_run(scene: Scene) -> None:
    scene.driver.claimed_by(THEIRS, "1000-1")
    scene.run(3_600, they_beat=True)
    assert (scene.driver.fenced, scene.driver.given_back) == ([], [])


def test_node_that_stands_still_is_fenced_first_and_its_claims_go_back(scene: Scene) -> None:
    scene.driver.claimed_by(THEIRS, "1000-1", "1000-2")
    scene.run(20, they_beat=True)
    scene.driver.calls.clear()
    scene.run(25)
    assert scene.driver.fenced == ["theirs"]
    assert [(one.id, one.move, one.counts, one.redelivered) for _, one in scene.driver.given_back] == [
        ("1000-1", Move.RELEASE, False, True), ("1000-2", Move.RELEASE, False, True),
    ]
    assert scene.driver.calls.index("fence") < scene.driver.calls.index("give_back")


def test_node_is_declared_dead_not_before_lost_after_and_within_a_heartbeat_of_it(scene: Scene) -> None:
    scene.run(20, they_beat=True)  # their counter was last seen to move 5 s ago
    scene.run(LOST_AFTER_S - HEARTBEAT_S - 0.1)
    assert scene.driver.fenced == []
    scene.run(HEARTBEAT_S)
    assert scene.driver.fenced == ["theirs"]


def test_silence_while_the_store_was_away_says_nothing(scene: Scene) -> None:
    scene.run(20, they_beat=True)
    scene.run(10)
    scene.duty.interrupted()
    scene.run(15)
    assert scene.driver.fenced == []


def test_own_long_sleep_does_not_kill_the_others(scene: Scene) -> None:
    scene.run(20, they_beat=True)
    scene.clock.advance(600)
    scene.run(5)
    scene.run(60, they_beat=True)
    assert scene.driver.fenced == []


def test_boot_that_never_beat_is_given_the_same_time(scene: Scene) -> None:
    scene.driver.claimed_by(THEIRS, "1000-1")
    scene.run(LOST_AFTER_S)
    assert scene.driver.fenced == []
    scene.run(HEARTBEAT_S)
    assert scene.driver.fenced == ["theirs"]
    assert len(scene.driver.given_back) == 1


def test_boots_of_this_run_directory_are_known_by_their_locks(scene: Scene) -> None:
    scene.boots.told(over=["theirs"], living=["draining"])
    scene.driver.counters |= {"theirs": 1, "draining": 1}
    scene.run(120)
    assert scene.driver.fenced == []


def test_fenced_boot_is_remembered_for_those_who_thaw_then_forgotten(scene: Scene) -> None:
    scene.driver.beat("bus-2", "theirs")
    scene.run(FORGET_AFTER_S)
    assert (scene.driver.fenced, scene.driver.forgotten) == (["theirs"], [])
    scene.run(60)
    assert scene.driver.forgotten == ["theirs"]


def test_claims_that_turn_up_after_the_fence_go_back_too(scene: Scene) -> None:
    scene.driver.beat("bus-2", "theirs")
    scene.run(30)
    scene.driver.claimed_by(THEIRS, "1000-1")
    scene.run(5)
    assert len(scene.driver.given_back) == 1


def test_own_fence_ends_the_duty(scene: Scene) -> None:
    scene.driver.fail = Conflict("fenced")
    with pytest.raises(Conflict):
        scene.duty.turn()


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 100.0)), max_size=60))
def test_observer_never_declares_dead_what_moved_within_lost_after(steps: list[tuple[bool, float]]) -> None:
    observer = Observer(LOST_AFTER_S, HEARTBEAT_S)
    now, counter, moved_at = 0.0, 0, 0.0
    for moved, passed in steps:
        now += passed
        if moved:
            counter, moved_at = counter + 1, now
        dead = observer.look({"theirs": counter}, now)
        if now - moved_at < LOST_AFTER_S:
            assert dead == []


def test_observer_forgets_boots_that_are_gone() -> None:
    observer = Observer(LOST_AFTER_S, HEARTBEAT_S)
    observer.look({"theirs": 1}, 0.0)
    for now in range(5, 60, 5):
        assert observer.look({}, float(now)) == []
    assert observer.look({"theirs": 1}, 60.0) == []


def test_where_nothing_may_run_twice_the_claims_of_a_lost_node_are_unknown(scene: Scene) -> None:
    scene.rules["gift", "credit"] = Rules(hold=True)
    scene.driver.claimed_by(THEIRS, "1000-1")
    scene.run(40)
    assert [(one.id, one.move, one.reason) for _, one in scene.driver.given_back] == [("1000-1", Move.BURY, "unknown")]


def test_nodes_that_live_are_counted_for_whoever_shares_the_work(scene: Scene) -> None:
    scene.run(HEARTBEAT_S)
    assert scene.duty.living() == 1
    scene.run(3 * HEARTBEAT_S, they_beat=True)
    assert scene.duty.living() == 2
    scene.run(3 * HEARTBEAT_S)
    assert scene.duty.living() == 1, "it gives no sign of life"


def test_a_boot_that_only_holds_claims_is_nobody_to_share_with() -> None:
    observer = Observer(LOST_AFTER_S, most_s=HEARTBEAT_S)
    observer.look({"beats": 1, "holds": None}, 0.0)
    assert observer.moving(2 * HEARTBEAT_S) == 1
