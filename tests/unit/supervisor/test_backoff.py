"""How long a place stays empty, and when a role is given up."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.config.schema import Backoff
from pbus.supervisor.backoff import IN_JOB_S, History, Life, wait_s

POLICY = Backoff(first_s=0.1, factor=2.0, max_s=60.0, fatal=10, window_s=300.0)


def life(
    ready_s: float | None = None, finished: int = 0, failed_boot: bool = False, killed: bool = False,
    in_job: bool = False, gave_up: bool = False,
) -> Life:
    return Life(
        ready_s=ready_s, finished=finished, failed_boot=failed_boot, killed=killed, in_job=in_job, gave_up=gave_up,
        reason="exit status 1",
    )


def test_wait_doubles_up_to_the_longest() -> None:
    assert [wait_s(number, POLICY) for number in (1, 2, 3, 4, 10, 11, 5000)] == [0.1, 0.2, 0.4, 0.8, 51.2, 60.0, 60.0]


@given(st.integers(1, 9), st.floats(0, 1, exclude_max=True))
def test_jitter_only_shortens_and_by_a_quarter_at_most(deaths: int, draw: float) -> None:
    history = History(POLICY)
    for _ in range(deaths):
        at = history.died(life(), 0.0, draw)
    assert 0.75 * wait_s(deaths, POLICY) <= at <= wait_s(deaths, POLICY)


def test_ten_fast_ends_within_the_window_are_fatal_and_nine_are_not() -> None:
    history = History(POLICY)
    for number in range(9):
        history.died(life(), number * 10.0, 0.0)
    assert history.fatal == ""
    history.died(life(), 90.0, 0.0)
    assert history.fatal == "ended 10 times within 300 s: exit status 1"


def test_fast_ends_spread_wider_than_the_window_are_not_fatal() -> None:
    history = History(POLICY)
    for number in range(100):
        history.died(life(), number * 34.0, 0.0)
    assert history.fatal == ""


def test_third_boot_that_failed_with_a_reason_is_fatal() -> None:
    history = History(POLICY)
    history.died(life(failed_boot=True), 0.0, 0.0)
    history.died(life(failed_boot=True), 1.0, 0.0)
    assert history.fatal == ""
    history.died(life(failed_boot=True), 2.0, 0.0)
    assert history.fatal.startswith("did not start 3 times")


@pytest.mark.parametrize("useful", [life(ready_s=1.0), life(ready_s=0.1, finished=1, killed=True)])
def test_long_life_and_one_that_was_cut_off_at_work_reset_the_wait(useful: Life) -> None:
    history = History(POLICY)
    for _ in range(5):
        history.died(life(), 0.0, 0.0)
    assert history.died(useful, 50.0, 0.0) == pytest.approx(50.1)
    assert history.in_a_row == 0
    assert history.died(life(), 60.0, 0.0) == pytest.approx(60.1)


def test_crash_loop_that_finishes_jobs_waits_longer_and_longer_but_is_not_given_up() -> None:
    history = History(POLICY)
    waits = [history.died(life(ready_s=0.2, finished=7), 0.0, 0.0) for _ in range(40)]
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert waits[-1] == 60.0
    assert history.fatal == ""


def test_jobs_that_kill_their_process_never_give_their_topic_up_nor_stop_it_for_long() -> None:
    history = History(POLICY)
    waits = [history.died(life(ready_s=0.1, in_job=True), 0.0, 0.0) for _ in range(100)]
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert max(waits) == IN_JOB_S
    assert history.fatal == ""


@pytest.mark.parametrize("ready_s", [0.1, 100.0])
def test_job_that_kills_its_process_costs_little_however_long_that_has_lived(ready_s: float) -> None:
    patient = History(dataclasses.replace(POLICY, first_s=8.0))
    assert patient.died(life(ready_s=ready_s, in_job=True), 0.0, 0.0) == IN_JOB_S
    assert patient.died(life(ready_s=ready_s), 0.0, 0.0) >= 8.0


@pytest.mark.parametrize(
    ("one", "short", "useless"),
    [
        (life(None), True, True), (life(None, 5), True, True), (life(0.99), True, True), (life(0.99, 1), True, False),
        (life(0.99, 1, killed=True), False, False), (life(0.99, killed=True), True, True), (life(1.0), False, False),
    ],
)
def test_lives_are_judged_by_length_use_and_end(one: Life, short: bool, useless: bool) -> None:
    assert (one.short, one.useless) == (short, useless)


def test_who_gives_up_after_a_while_with_nothing_done_was_of_no_use_either() -> None:
    history = History(POLICY)
    waits = []
    for number in range(10):
        now = number * 10.0
        waits.append(history.died(life(ready_s=3.0, gave_up=True), now, 0.0) - now)
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert history.fatal


@pytest.mark.parametrize("good", [
    life(ready_s=3.0, gave_up=True, finished=1), life(ready_s=61.0, gave_up=True), life(ready_s=3.0),
    life(ready_s=3.0, gave_up=True, in_job=True),
], ids=["has worked", "has lived", "ended without a word", "died of its job"])
def test_who_gives_up_after_it_was_of_use_is_no_crash_loop(good: Life) -> None:
    history = History(POLICY)
    for number in range(20):
        history.died(good, number * 10.0, 0.0)
    assert history.fatal == ""
    assert history.in_a_row == 0
