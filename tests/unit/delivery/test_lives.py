"""What the scoreboard says of a consumer, on a real scoreboard and real (tiny) processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.delivery.lives import Lives
from pbus.supervisor import process
from pbus.supervisor.scoreboard import Scoreboard, Slot

CONSUMER_N, DELIVERY_N = 9, 3


class Board:
    """A scoreboard with one consumer, whose process lives."""

    def __init__(self, living: subprocess.Popen[bytes]) -> None:
        self.clock = FakeClock()
        self.scoreboard = Scoreboard(4, self.clock)
        self.lives = Lives(self.scoreboard, self.clock)
        self.pid = living.pid
        birth = process.birth(living.pid)
        self.slot = self._take("consumer", CONSUMER_N, path="gift/credit", pid=living.pid, birth=birth)
        self.owner = f"n/b/{self.slot.slot}.{CONSUMER_N}"

    def _take(self, role: str, n: int, **fields: Any) -> Slot:
        slot = self.scoreboard.take()
        assert slot is not None
        slot.update(role=role, n=n, state="ready", **fields)
        return slot

    def delivery(self) -> Slot:
        return self._take("delivery", DELIVERY_N, pid=1)

    def look(self) -> Any:
        return self.lives.look(self.owner, self.pid)


@pytest.fixture
def board() -> Iterator[Board]:
    with subprocess.Popen(["sleep", "60"]) as living:
        yield Board(living)
        living.kill()


def test_a_living_consumer_is_alive_with_its_job_and_its_age(board: Board) -> None:
    board.slot.begin("1-0")
    board.clock.advance(2.5)
    life = board.look()
    assert (life.alive, life.current, life.current_s, life.exit_status) == (True, "1-0", 2.5, None)


def test_a_jump_of_the_wall_clock_makes_no_job_older(board: Board) -> None:
    board.slot.begin("1-0")
    board.clock.jump(86_400)
    board.clock.advance(2.5)
    assert board.look().current_s == 2.5
    assert [age_s for _, age_s in board.lives.orphans()] == []
    board.scoreboard.bury(board.delivery(), -9)
    assert [age_s for _, age_s in board.lives.orphans()] == [2.5]


def test_a_buried_consumer_leaves_its_job_and_its_status(board: Board) -> None:
    board.slot.begin("1-0")
    board.scoreboard.bury(board.slot, -9)
    life = board.look()
    assert (life.alive, life.current, life.exit_status) == (False, "1-0", -9)


def test_a_process_that_is_gone_is_dead_before_the_master_says_so(board: Board) -> None:
    board.slot.begin("1-0")
    board.slot.update(birth=1)
    life = board.look()
    assert (life.alive, life.current, life.exit_status) == (False, "1-0", None)


def test_a_slot_that_was_given_away_says_nothing_about_the_dead(board: Board) -> None:
    board.slot.update(n=CONSUMER_N + 1)
    board.slot.begin("7-0")
    board.pid = 2**22 + 1
    life = board.look()
    assert (life.alive, life.current) == (False, None)


def test_a_consumer_at_work_without_its_delivery_child_is_an_orphan(board: Board) -> None:
    delivery = board.delivery()
    board.slot.update(link=DELIVERY_N)
    board.slot.begin("1-0")
    board.clock.advance(3)
    assert board.lives.orphans() == []
    board.scoreboard.bury(delivery, -9)
    ((row, age_s),) = board.lives.orphans()
    assert (row.n, row.path, age_s) == (CONSUMER_N, "gift/credit", 3.0)


def test_an_idle_consumer_is_no_orphan(board: Board) -> None:
    board.scoreboard.bury(board.delivery(), -9)
    board.slot.update(link=DELIVERY_N)
    assert board.lives.orphans() == []
