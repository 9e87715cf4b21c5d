"""The state table: where a delivery can be, and that only its moves lead there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.job import SETTLES, TABLE, Move, State, successor

ENDS = {State.DONE, State.CANCELLED, State.EXPIRED}
PLACES = {State.READY, State.RUNNING, State.DELAYED, State.DEAD}


@pytest.mark.parametrize(
    ("state", "move", "after"),
    [
        (State.READY, Move.CLAIM, State.RUNNING),
        (State.RUNNING, Move.ACK, State.DONE),
        (State.RUNNING, Move.RETRY, State.DELAYED),
        (State.RUNNING, Move.BURY, State.DEAD),
        (State.RUNNING, Move.RELEASE, State.READY),
        (State.DELAYED, Move.DUE, State.READY),
        (State.DEAD, Move.REVIVE, State.READY),
    ],
)
def test_every_allowed_move(state: State, move: Move, after: State) -> None:
    assert successor(state, move) is after


def test_everything_else_is_not_allowed() -> None:
    allowed = {(state, move) for state in State for move in Move if successor(state, move) is not None}

    assert allowed == TABLE.keys()
    assert len(allowed) == 7


def test_settles_are_the_moves_out_of_running() -> None:
    assert {move for state, move in TABLE if state is State.RUNNING} == SETTLES


def test_every_place_but_an_end_can_be_left() -> None:
    assert {state for state, _ in TABLE} == PLACES
    assert not ENDS & {state for state, _ in TABLE}


@given(st.lists(st.sampled_from(list(Move))))
def test_any_moves_leave_a_delivery_in_one_known_place(moves: list[Move]) -> None:
    state = State.READY
    for move in moves:
        after = successor(state, move)
        if after is not None:
            state = after

    assert state in PLACES | {State.DONE}


def test_a_settled_delivery_cannot_be_settled_again() -> None:
    for first in SETTLES:
        after = successor(State.RUNNING, first)
        assert after is not None
        assert all(successor(after, second) is None for second in SETTLES)


def test_words_are_those_that_people_read() -> None:
    assert [str(state) for state in State] == ["ready", "running", "delayed", "dead", "done", "cancelled", "expired"]
