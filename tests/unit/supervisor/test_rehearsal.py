"""What a throw-away process answers comes back whole, and whatever it does, the master goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.errors import ConfigError, Problem
from pbus.supervisor import rehearsal
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.rehearsal import DEADLINE_S, Failed, Rehearsals


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def switchboard() -> Iterator[Switchboard]:
    board = Switchboard()
    yield board
    board.close()


@pytest.fixture
def rehearsals(switchboard: Switchboard, clock: FakeClock) -> Iterator[Rehearsals]:
    each = Rehearsals(switchboard, clock)
    yield each
    each.give_up()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def answer(rehearsals: Rehearsals, switchboard: Switchboard, act: Callable[[], Any]) -> Any:
    answers: list[Any] = []
    rehearsals.begin(act, answers.append)
    deadline = time.monotonic() + 10
    while not answers and time.monotonic() < deadline:
        switchboard.turn(0.1)
    assert len(answers) == 1
    return answers[0]


def test_what_it_found_comes_back_however_large(rehearsals: Rehearsals, switchboard: Switchboard) -> None:
    found = answer(rehearsals, switchboard, lambda: {"pid": os.getpid(), "much": b"x" * 3_000_000})
    assert len(found["much"]) == 3_000_000
    assert found["pid"] != os.getpid()


def test_every_problem_comes_back_with_its_exit_status(rehearsals: Rehearsals, switchboard: Switchboard) -> None:
    def act() -> None:
        raise ConfigError([Problem("a.toml", "queue", "is wrong"), Problem("b.toml", "", "cannot be read")])

    found = answer(rehearsals, switchboard, act)
    assert isinstance(found, Failed)
    assert (str(found), found.exit_status) == ("a.toml: queue: is wrong\nb.toml: cannot be read", 78)


@pytest.mark.parametrize(("act", "text"), [
    (lambda: 1 / 0, "internal error: ZeroDivisionError"), (lambda: os._exit(3), "died"),
    (lambda: os.kill(os.getpid(), 9), "died"), (lambda: (lambda: 0), "internal error"),
])
def test_one_that_breaks_is_a_failed_check(
    rehearsals: Rehearsals, switchboard: Switchboard, act: Callable[[], Any], text: str
) -> None:
    found = answer(rehearsals, switchboard, act)
    assert isinstance(found, Failed)
    assert text in str(found)


def test_one_that_takes_too_long_is_killed(rehearsals: Rehearsals, clock: FakeClock) -> None:
    answers: list[Any] = []
    rehearsals.begin(lambda: time.sleep(60), answers.append)
    rehearsals.settle()
    assert answers == []
    clock.advance(DEADLINE_S)
    rehearsals.settle()
    assert "longer than" in str(answers[0])
    assert os.WTERMSIG(os.waitpid(-1, 0)[1]) == 9


def test_an_answer_without_end_is_cut_off(
    rehearsals: Rehearsals, switchboard: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "MOST_BYTES", 100_000)
    found = answer(rehearsals, switchboard, lambda: b"x" * 1_000_000)
    assert isinstance(found, Failed)


def test_nobody_is_told_of_one_that_was_given_up(rehearsals: Rehearsals, switchboard: Switchboard) -> None:
    answers: list[Any] = []
    rehearsals.begin(lambda: 1, answers.append)
    rehearsals.give_up()
    switchboard.turn(0.0)
    assert answers == []
    assert rehearsals.next_s == float("inf")
