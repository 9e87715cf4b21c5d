"""The demo's account: it must see what is lost or done twice."""

from __future__ import annotations

from pbus.cli.demo import account

PUSHED = {0: 100.0, 1: 100.0, 2: 100.0}
ALL = [(0, 100.010), (1, 100.020), (2, 100.030)]


def test_all_done_by_both_handlers() -> None:
    result = account(PUSHED, [ALL, ALL], dead=0)
    assert str(result) == "accepted=3 done=3 dead=0 lost=0 duplicates=0 p50_ms=20.0 p99_ms=30.0"


def test_job_that_one_handler_never_finished_is_lost() -> None:
    result = account(PUSHED, [ALL, ALL[:2]], dead=0)
    assert (result.done, result.lost) == (2, 1)


def test_job_in_the_dead_letters_is_dead_and_not_lost() -> None:
    result = account(PUSHED, [ALL, ALL[:2]], dead=1)
    assert (result.done, result.dead, result.lost) == (2, 1, 0)


def test_more_dead_letters_than_missing_jobs_do_not_hide_anything() -> None:
    assert account(PUSHED, [ALL, ALL], dead=5).dead == 0


def test_each_run_beyond_the_first_is_a_duplicate() -> None:
    assert account(PUSHED, [[*ALL, ALL[0], ALL[0]], [*ALL, ALL[1]]], dead=0).duplicates == 3


def test_what_nobody_pushed_here_is_not_counted() -> None:
    result = account(PUSHED, [[*ALL, (99, 1.0)], [*ALL, (99, 1.0), (99, 2.0)]], dead=0)
    assert (result.done, result.duplicates) == (3, 0)


def test_nothing_finished_is_all_lost() -> None:
    result = account(PUSHED, [[], []], dead=0)
    assert (result.lost, result.p50_ms, result.p99_ms) == (3, 0.0, 0.0)
