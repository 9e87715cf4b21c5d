"""The state table: where a delivery can be, that only its moves lead there, and who may make them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.job import ENDS, SETTLES, TABLE, By, Delivery, Move, Push, PushOptions, Settlement, State, successor

FINAL = {State.DONE, State.CANCELLED, State.EXPIRED}
"""Ends that nothing leads out of."""

ALLOWED = [
    (State.READY, Move.CLAIM, State.RUNNING, By.CLAIMER),
    (State.RUNNING, Move.ACK, State.DONE, By.OWNER),
    (State.RUNNING, Move.RETRY, State.DELAYED, By.OWNER),
    (State.RUNNING, Move.BURY, State.DEAD, By.OWNER),
    (State.RUNNING, Move.RELEASE, State.READY, By.OWNER),
    (State.DELAYED, Move.DUE, State.READY, By.STORE),
    (State.READY, Move.EXPIRE, State.EXPIRED, By.STORE),
    (State.DELAYED, Move.EXPIRE, State.EXPIRED, By.STORE),
    (State.READY, Move.CANCEL, State.CANCELLED, By.PERSON),
    (State.DELAYED, Move.CANCEL, State.CANCELLED, By.PERSON),
    (State.DEAD, Move.REVIVE, State.READY, By.PERSON),
    (State.DEAD, Move.ACCEPT, State.DONE, By.PERSON),
    (State.READY, Move.FORGIVE, State.READY, By.BRAKE),
    (State.DELAYED, Move.FORGIVE, State.DELAYED, By.BRAKE),
    (State.DEAD, Move.FORGIVE, State.READY, By.BRAKE),
]


@pytest.mark.parametrize(("state", "move", "after", "by"), ALLOWED)
def test_every_allowed_move(state: State, move: Move, after: State, by: By) -> None:
    assert successor(state, move) is after
    assert TABLE[state, move].by is by


def test_everything_else_is_not_allowed() -> None:
    allowed = {(state, move) for state in State for move in Move if successor(state, move) is not None}

    assert allowed == TABLE.keys() == {(state, move) for state, move, _, _ in ALLOWED}


def test_what_runs_is_moved_by_its_owner_alone() -> None:
    assert {move for state, move in TABLE if state is State.RUNNING} == SETTLES
    assert {rule.by for (state, _), rule in TABLE.items() if state is State.RUNNING} == {By.OWNER}


def test_owners_move_nothing_but_what_runs() -> None:
    assert {state for (state, _), rule in TABLE.items() if rule.by is By.OWNER} == {State.RUNNING}


def test_each_kind_of_move_has_one_who_may() -> None:
    for move in Move:
        assert len({rule.by for (_, known), rule in TABLE.items() if known is move}) == 1, move


def test_people_end_or_revive_and_never_begin() -> None:
    ways = {(move, rule.to) for (_, move), rule in TABLE.items() if rule.by is By.PERSON}

    assert ways == {
        (Move.CANCEL, State.CANCELLED), (Move.REVIVE, State.READY), (Move.ACCEPT, State.DONE),
    }


def test_only_a_claim_makes_a_delivery_run() -> None:
    assert [key for key, rule in TABLE.items() if rule.to is State.RUNNING] == [(State.READY, Move.CLAIM)]


def test_ends_are_those_places_where_nothing_waits_to_happen_by_itself() -> None:
    assert FINAL | {State.DEAD} == ENDS
    out_of_dead = {rule.by for (state, _), rule in TABLE.items() if state is State.DEAD}
    assert out_of_dead == {By.PERSON, By.BRAKE}


def test_no_way_leads_out_of_done_cancelled_or_expired() -> None:
    assert not FINAL & {state for state, _ in TABLE}
    assert all(successor(state, move) is None for state in FINAL for move in Move)


def reachable(start: State) -> set[State]:
    """Every place that a delivery which is in *start* can come to, itself included."""
    found, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for (known, _), rule in TABLE.items():
            if known is state and rule.to not in found:
                found.add(rule.to)
                todo.append(rule.to)
    return found


def test_every_place_is_reached_from_a_push() -> None:
    assert reachable(State.READY) == set(State)


def test_a_delayed_push_reaches_every_place_too() -> None:
    assert reachable(State.DELAYED) == set(State)


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
def test_every_other_place_leads_to_an_end(state: State) -> None:
    assert reachable(state) >= FINAL


@given(st.sampled_from([State.READY, State.DELAYED]), st.lists(st.sampled_from(list(Move))))
def test_any_moves_leave_a_delivery_in_one_known_place_and_ended_ones_alone(start: State, moves: list[Move]) -> None:
    state = start
    for move in moves:
        after = successor(state, move)
        if after is None:
            continue
        assert state not in FINAL
        state = after

    assert state in State


def test_a_settled_delivery_cannot_be_settled_again() -> None:
    for first in SETTLES:
        after = successor(State.RUNNING, first)
        assert after is not None
        assert all(successor(after, second) is None for second in SETTLES)


def test_a_forgiven_delivery_does_not_move_unless_it_was_dead() -> None:
    assert {state: successor(state, Move.FORGIVE) for state in State} == {
        State.READY: State.READY, State.DELAYED: State.DELAYED, State.DEAD: State.READY,
        State.RUNNING: None, State.DONE: None, State.CANCELLED: None, State.EXPIRED: None,
    }


def test_words_are_those_that_people_read() -> None:
    assert [str(state) for state in State] == ["ready", "running", "delayed", "dead", "done", "cancelled", "expired"]
    assert {str(move) for move in SETTLES} == {"ack", "retry", "bury", "release"}


def test_a_plain_push_asks_for_nothing() -> None:
    push = Push("gift", b"x")

    assert (push.options, push.span) == (None, 1)
    assert dataclasses.asdict(PushOptions()) == {
        "delay_ms": 0, "dedupe": "", "ttl_ms": 0, "key": "", "only": "", "replay_of": "", "dedupe_s": 0.0,
    }


def test_a_settlement_says_no_more_than_it_is_told() -> None:
    bare = Settlement(owner="o", queue="q", topic="t", id="1-0", move=Move.ACK)
    delivery = Delivery("1-0", "q", "t", b"", 1, 0, False, "", "", 0, "o")

    assert (bare.counts, bare.crash, bare.redelivered, bare.key_rest_s, bare.fingerprint) == (False,) * 3 + (0.0, "")
    assert (delivery.key, delivery.forgiven) == ("", 0)
