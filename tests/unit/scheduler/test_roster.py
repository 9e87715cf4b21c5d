"""The roster: duties in turn, back-off, fencing, no spinning."""

from __future__ import annotations

import threading
import time

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import FakeClock
from pbus.errors import BootError, Conflict, Unavailable
from pbus.scheduler.roster import (
    BROKEN_DUTY_S, LONGEST_BACKOFF_S, SHORTEST_WAIT_S, Roster, Store, backoff_s, together_s,
)
from tests.unit.scheduler.store import QUEUES, SchedulerStore

AWAY = Unavailable("connection refused")


class Chore:
    """A duty that does what it is told."""

    def __init__(self, name: str, wait_s: float = 5.0) -> None:
        self.name = name
        self.wait_s = wait_s
        self.turns = 0
        self.interruptions = 0
        self.fail: Exception | None = None

    def turn(self) -> float:
        self.turns += 1
        if self.fail is not None:
            raise self.fail
        return self.wait_s

    def interrupted(self) -> None:
        self.interruptions += 1


class Scene:
    """A roster of two chores on a store in memory."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.driver = SchedulerStore()
        self.store = Store("main", self.driver, QUEUES)  # type: ignore[arg-type] # see there
        self.often, self.seldom = Chore("often", 1.0), Chore("seldom", 60.0)
        self.problems: dict[str, str] = {}
        self.fenced = 0
        self.roster = Roster(
            self.store, [self.often, self.seldom], self.clock, structlog.get_logger(),
            self._problem, self._on_fenced, draw=lambda: 1.0,
        )

    def _problem(self, name: str, text: str) -> None:
        self.problems[name] = text

    def _on_fenced(self) -> None:
        self.fenced += 1

    def run(self, seconds: float) -> int:
        """Turns taken while the clock moved on by *seconds*, sleeping as the roster says."""
        turns, end = 0, self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end:
            self.clock.advance(self.roster.turn())
            turns += 1
        return turns


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_duties_are_done_when_they_are_due(scene: Scene) -> None:
    scene.run(60.5)
    assert (scene.often.turns, scene.seldom.turns) == (61, 2)


def test_store_is_opened_and_declared_once(scene: Scene) -> None:
    scene.run(10)
    assert scene.driver.calls == ["open", "declare"]


def test_store_that_is_away_is_asked_with_growing_patience(scene: Scene) -> None:
    scene.driver.fail = AWAY
    waits = [scene.roster.turn() for _ in range(6)]
    assert waits == [0.1, 0.2, 0.4, 0.8, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S]
    assert scene.problems["storage.main"] == "storage main is away: connection refused"
    assert scene.often.turns == 0


def test_store_that_is_back_is_declared_again_and_the_problem_is_lifted(scene: Scene) -> None:
    scene.run(1)
    scene.often.fail = AWAY
    scene.run(5)
    assert scene.problems["storage.main"]
    scene.often.fail, scene.driver.calls = None, []
    scene.run(2)
    assert scene.driver.calls == ["declare"]
    assert scene.problems["storage.main"] == ""


def test_every_duty_hears_that_the_store_was_away(scene: Scene) -> None:
    scene.often.fail = AWAY
    scene.roster.turn()
    assert (scene.often.interruptions, scene.seldom.interruptions) == (1, 1)


def test_store_that_can_never_work_is_a_problem_not_an_end(scene: Scene) -> None:
    scene.driver.fail = BootError("maxmemory-policy is allkeys-lru")
    scene.run(3)
    assert "allkeys-lru" in scene.problems["storage.main"]
    scene.driver.fail = None
    scene.run(3)
    assert scene.often.turns > 0


def test_fenced_boot_does_nothing_more_and_says_so_once(scene: Scene) -> None:
    scene.often.fail = Conflict("fenced")
    scene.run(30)
    assert (scene.fenced, scene.often.turns, scene.seldom.turns, scene.roster.over) == (1, 1, 0, True)


def test_bug_in_one_duty_leaves_the_others_alone(scene: Scene) -> None:
    scene.seldom.fail = KeyError("oops")
    scene.run(BROKEN_DUTY_S + 1)
    assert (scene.often.turns, scene.seldom.turns) == (11, 2)
    assert "KeyError" in scene.problems["scheduler.seldom.main"]
    scene.seldom.fail = None
    scene.run(BROKEN_DUTY_S)
    assert scene.problems["scheduler.seldom.main"] == ""


def test_duty_that_wants_to_go_on_at_once_does_not_spin(scene: Scene) -> None:
    scene.often.wait_s = 0.0
    assert scene.run(1.0) <= 1.0 / SHORTEST_WAIT_S + 1


def test_fenced_roster_does_not_spin(scene: Scene) -> None:
    scene.often.fail = Conflict("fenced")
    assert scene.run(60) <= 61


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_never_nothing_and_never_long(failures: int, draw: float) -> None:
    assert 0.05 <= backoff_s(failures, draw) <= LONGEST_BACKOFF_S


def test_hastened_duty_has_its_turn_then_and_the_others_do_not(scene: Scene) -> None:
    scene.roster.turn()
    scene.roster.hasten("seldom", 0.25)
    scene.roster.hasten("seldom", 0.5)
    assert scene.roster.turn() == pytest.approx(0.25)
    scene.clock.advance(0.25)
    scene.roster.turn()
    assert (scene.often.turns, scene.seldom.turns) == (1, 2)
    assert scene.roster.turn() == pytest.approx(0.75)


def test_duty_that_is_hastened_during_its_own_turn_has_another(scene: Scene) -> None:
    """What it was hastened for may have been written after it had looked."""
    during = scene.seldom.turn
    scene.seldom.turn = lambda: (scene.roster.hasten("seldom", 0.0), during())[1]  # type: ignore[method-assign]
    scene.roster.turn()
    scene.seldom.turn = during  # type: ignore[method-assign]
    scene.clock.advance(SHORTEST_WAIT_S)
    scene.roster.turn()
    assert scene.seldom.turns == 2


def test_hastening_ends_the_wait_between_turns(scene: Scene) -> None:
    threading.Timer(0.05, lambda: scene.roster.hasten("often", 0.0)).start()
    begun = time.monotonic()
    scene.roster.rest(30.0)
    assert time.monotonic() - begun < 10.0


def test_turns_that_are_not_urgent_fall_together_and_never_come_late() -> None:
    assert [together_s(10.26 + wait_s, wait_s) for wait_s in (0.5, 1.0, 5.0)] == [10.5, 11.0, 15.0]
    assert together_s(10.26 + 0.4, 0.4) == 10.26 + 0.4


def test_turn_on_the_grid_is_not_taken_twice() -> None:
    assert together_s(10.0 + 1.0 - 1e-9, 1.0 - 1e-9) == 11.0
