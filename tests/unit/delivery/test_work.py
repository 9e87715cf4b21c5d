"""What a delivery child measures: attempts and their times, and one frame a second with what has something to say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import FakeClock
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.finished import Finished
from pbus.delivery.work import AGAIN_S, ALL_S, BATCH, Standing, Tally, Work
from pbus.supervisor.histograms import Histograms, row_of_nobody
from tests.support.call_desk import delivery

NOBODY = row_of_nobody("gift", "credit")
IDLE = Standing(is_open=True, places=2, running=0)
LANES = [("gift/credit", IDLE)]


def ended(work: Work, verdict: Verdict, run_s: float = 0.0, delay_s: float | None = None) -> None:
    work.ended(delivery(), Outcome(verdict=verdict, run_s=run_s, delay_s=delay_s))


def test_attempts_are_counted_with_their_times() -> None:
    work = Work(0)
    for run_s in (0.1, 0.2, 0.3):
        ended(work, Verdict.DONE, run_s)
    ended(work, Verdict.FAILED, 0.4)

    frame = work.frame(LANES, {}, 10.0)

    assert frame is not None
    row = frame["topics"]["gift/credit"]
    assert (row["done"], row["timed"], row["run_s"]) == (4, 4, pytest.approx(1.0))
    assert (row["is_open"], row["places"]) == (True, 2)
    assert frame["child"] == 0


@pytest.mark.parametrize("count", [2, BATCH])
def test_attempts_that_ended_well_together_count_as_each_of_them_would(count: int) -> None:
    jobs = [delivery(number, body=b"x" * number, redelivered=number % 3 == 0) for number in range(1, count + 1)]
    finished = Finished(jobs, [0.01 * number for number in range(count)], "pid 7", FakeClock().wall_s())
    told = []
    for together in (True, False):
        board = Histograms([("gift", "credit")], 1)
        work = Work(0, lambda queue, topic, board=board: board.row(0, queue, topic), FakeClock())  # type: ignore[misc]
        if together:
            work.done(finished)
        else:
            for each, outcome in finished.each():
                work.ended(each, outcome)
        told.append((work.frame(LANES, {}, 10.0), board.read()["gift", "credit"]))
    assert told[0] == told[1]
    assert told[0][1].done == count


def test_a_crash_is_an_attempt_that_took_nobody_knows_how_long() -> None:
    work = Work(0)
    ended(work, Verdict.CRASHED)
    ended(work, Verdict.DONE, 0.5)

    frame = work.frame(LANES, {}, 10.0)

    assert frame is not None
    row = frame["topics"]["gift/credit"]
    assert (row["done"], row["timed"], row["run_s"]) == (2, 1, 0.5)


def test_busy_answers_are_no_attempts_and_the_longest_wait_counts() -> None:
    work = Work(0)
    ended(work, Verdict.BUSY, 0.01, 3.0)
    ended(work, Verdict.BUSY, 0.01, None)

    frame = work.frame(LANES, {}, 10.0)

    assert frame is not None
    row = frame["topics"]["gift/credit"]
    assert (row["done"], row["busy"], row["retry_after_s"]) == (0, 2, 3.0)


@pytest.mark.parametrize("verdict", [Verdict.RELEASED, Verdict.DOWN, Verdict.UNSURE, Verdict.NOT_REGISTERED])
def test_what_says_nothing_about_the_handler_is_left_out(verdict: Verdict) -> None:
    work = Work(0)
    work.frame(LANES, {}, 10.0)
    ended(work, verdict, 1.0)
    assert work.frame(LANES, {}, 11.0) is None


def test_nothing_new_is_no_frame_and_is_said_again_now_and_then() -> None:
    work = Work(1)
    assert work.frame(LANES, {"php": {"connections": 4}}, 10.0) is not None
    assert work.frame(LANES, {"php": {"connections": 4}}, 11.0) is None
    changed = work.frame([("gift/credit", Standing(True, 3, 0))], {"php": {"connections": 5}}, 12.0)
    assert changed is not None
    assert changed["backends"] == {"php": {"connections": 5}}
    assert list(changed["topics"]) == ["gift/credit"]
    assert work.frame(LANES, {}, 10.0 + AGAIN_S) is not None


def test_a_lane_that_works_is_told_every_second() -> None:
    work, busy = Work(0), [("gift/credit", Standing(True, 2, 1))]
    work.frame(busy, {}, 10.0)
    assert work.frame(busy, {}, 11.0) is not None


def test_of_many_lanes_those_are_looked_at_that_may_have_changed() -> None:
    work = Work(0)
    work.begin(10.0)
    assert work.wants("gift/credit"), "all, at first"
    work.frame([("gift/credit", Standing(True, 2, 1))], {}, 10.0)
    work.begin(11.0)
    assert work.wants("gift/credit"), "it had something in hand"
    work.frame(LANES, {}, 11.0)
    work.begin(12.0)
    assert not work.wants("gift/credit")
    work.look_at("gift/credit")
    assert work.wants("gift/credit")
    work.frame(LANES, {}, 12.0)
    work.begin(10.0 + ALL_S)
    assert work.wants("gift/credit"), "all, now and then"


def test_the_frame_says_over_what_time_it_counted() -> None:
    work = Work(0)
    work.frame(LANES, {}, 10.0)
    work.frame(LANES, {}, 11.0)
    ended(work, Verdict.DONE, 0.1)
    frame = work.frame(LANES, {}, 13.5)
    assert frame is not None
    assert frame["interval_s"] == 2.5


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200))
def test_a_quantile_is_a_quarter_too_high_at_most(times: list[float]) -> None:
    tally = Tally(NOBODY)
    tally.ended += [("", run_s, 0.0, 0) for run_s in times]
    tally.count()
    exact = sorted(times)[-(-len(times) * 95 // 100) - 1]
    assert exact <= tally.quantile_s(0.95) * (1 + 1e-9)
    assert tally.quantile_s(0.95) <= exact * 1.29


def test_no_attempt_has_no_quantile() -> None:
    assert Tally(NOBODY).quantile_s(0.95) == 0.0


def test_attempts_are_counted_in_the_row_of_their_topic() -> None:
    board, clock = Histograms([("gift", "credit")], 1), FakeClock()
    work = Work(0, lambda queue, topic: board.row(0, queue, topic), clock)
    clock.advance(0.5)  # since the job came
    ended(work, Verdict.DONE, 0.2)
    ended(work, Verdict.FAILED, 3.0)
    work.ended(delivery(attempt=2, redelivered=True), Outcome(verdict=Verdict.DONE, run_s=0.1))
    ended(work, Verdict.CRASHED)
    ended(work, Verdict.RELEASED)

    assert board.read()["gift", "credit"].done == 0  # not yet: many at once
    work.frame(LANES, {}, 10.0)

    counted = board.read()["gift", "credit"]
    assert (counted.done, counted.redelivered, counted.bytes) == (2, 1, 8)
    assert (sum(counted.run), counted.run_s) == (3, pytest.approx(3.3))
    assert sum(counted.wait) == 3  # of first attempts only


def test_a_batch_is_counted_when_it_is_full() -> None:
    board = Histograms([("gift", "credit")], 1)
    work = Work(0, lambda queue, topic: board.row(0, queue, topic))
    ended(work, Verdict.FAILED, 0.2)
    for _ in range(BATCH):
        ended(work, Verdict.DONE, 0.2)
    assert board.read()["gift", "credit"].done == BATCH - 1
    work.count()
    assert board.read()["gift", "credit"].done == BATCH
