"""Alive and ready: what counts, what does not, and that asking never takes long."""

from __future__ import annotations

from typing import Any, cast

import gevent
import pytest

from pbus.clock import FakeClock
from pbus.dashboard.health import Stores, alive_problems
from pbus.errors import BootError, Unavailable
from pbus.storage.driver import Driver
from pbus.supervisor.scoreboard import Scoreboard, Slot

NOW_S = 1000.0


def child(board: Scoreboard, role: str, n: int, index: int = 0, **fields: Any) -> Slot:
    slot = board.take()
    assert slot is not None
    slot.update(**{"role": role, "n": n, "index": index, "state": "ready", "beat_s": NOW_S - 1, **fields})
    return slot


@pytest.fixture
def board() -> Scoreboard:
    board = Scoreboard(16, FakeClock())
    child(board, "ingest", 1)
    child(board, "delivery", 2)
    return board


def test_alive_when_every_child_is(board: Scoreboard) -> None:
    assert alive_problems(board.rows(), NOW_S, True) == []


def test_dead_child_without_a_successor_counts_once_respawning_should_be_over(board: Scoreboard) -> None:
    slot = child(board, "scheduler", 3)
    board.bury(slot, -9)
    assert alive_problems(board.rows(), NOW_S, True) == []
    assert alive_problems(board.rows(), NOW_S + 6, True) == ["scheduler 0 is dead (exit status -9)"]


def test_dead_child_with_a_successor_does_not_count(board: Scoreboard) -> None:
    board.bury(child(board, "scheduler", 3), -9)
    child(board, "scheduler", 4, state="boot", beat_s=NOW_S + 99)
    assert alive_problems(board.rows(), NOW_S + 10, True) == []


def test_child_that_left_in_good_order_does_not_count(board: Scoreboard) -> None:
    board.bury(child(board, "ingest", 3, index=1), 0)
    assert alive_problems(board.rows(), NOW_S + 10, True) == []


def test_crashing_consumer_does_not_make_the_bus_dead(board: Scoreboard) -> None:
    board.bury(child(board, "consumer", 3, own_group=True, path="gift/credit"), 1)
    assert alive_problems(board.rows(), NOW_S + 10, True) == []


def test_silent_child_is_named(board: Scoreboard) -> None:
    child(board, "scheduler", 3, beat_s=NOW_S - 31)
    assert alive_problems(board.rows(), NOW_S, True) == ["scheduler 0 gave no sign of life for 31 s"]


def test_orphans_are_not_alive(board: Scoreboard) -> None:
    assert alive_problems(board.rows(), NOW_S, False) == ["the master is gone"]


class FakeStore:
    """A store that answers as it is told to."""

    def __init__(self) -> None:
        self.opened = 0
        self.checked = 0
        self.broken: Exception | None = None
        self.answers = gevent.event.Event()
        self.answers.set()

    def open(self) -> None:
        self.opened += 1

    def check(self) -> None:
        self.checked += 1
        self.answers.wait()
        if self.broken is not None:
            raise self.broken


def asked(store: FakeStore, clock: FakeClock) -> Stores:
    return Stores({"main": cast(Driver, store)}, clock, wait_s=0.05)


def test_ready_while_the_store_takes_writes() -> None:
    store = FakeStore()
    assert asked(store, FakeClock()).problems() == []
    assert (store.opened, store.checked) == (1, 1)


def test_store_is_asked_at_most_once_a_second() -> None:
    store, clock = FakeStore(), FakeClock()
    stores = asked(store, clock)
    for _ in range(5):
        stores.problems()
    assert store.checked == 1
    clock.advance(1.0)
    stores.problems()
    assert store.checked == 2
    assert store.opened == 1


@pytest.mark.parametrize("error", [Unavailable("disk full"), BootError("disk full"), RuntimeError("disk full")])
def test_store_that_refuses_gives_its_reason_until_it_is_back(error: Exception) -> None:
    store, clock = FakeStore(), FakeClock()
    stores = asked(store, clock)
    store.broken = error
    (problem,) = stores.problems()
    assert problem.startswith("storage main: ")
    assert problem.endswith("disk full")
    store.broken = None
    clock.advance(1.0)
    assert stores.problems() == []


def test_store_that_does_not_answer_is_waited_for_briefly_and_asked_by_one_only() -> None:
    store, clock = FakeStore(), FakeClock()
    store.answers.clear()
    stores = asked(store, clock)
    for _ in range(3):
        assert stores.problems() == ["storage main: no answer within 0.05 s"]
        clock.advance(2.0)
    assert store.checked == 1
    store.answers.set()
    gevent.sleep(0)
    assert stores.problems() == []
