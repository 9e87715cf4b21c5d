"""Trends: what is said of the last minute, and what nobody can say."""

from __future__ import annotations

import math

import pytest

from pbus.core.trend import Point, Trend

BOUNDS = (0.1, 1.0, 10.0)


def trend(*points: tuple[float, int, int, int, int], run: tuple[tuple[int, ...], ...] = ()) -> Trend:
    made = Trend()
    for place, point in enumerate(points):
        made.add(Point(*point, run[place] if run else ()))
    return made


@pytest.mark.parametrize(("done", "failed", "percent"), [
    (90, 10, 10.0), (0, 10, 100.0), (9, 0, 0.0), (0, 0, 0.0), (5, 4, None), (10, 0, 0.0),
])
def test_failed_percent_is_of_the_last_minute_and_of_enough_attempts(
    done: int, failed: int, percent: float | None
) -> None:
    seen = trend((0, 0, 0, 999, 0), (61, 0, 1000, 999, 0), (100, 0, 1000 + done, 999 + failed, 0))

    assert seen.failed_percent() == percent


@pytest.mark.parametrize(("points", "gone_in_s"), [
    ([(0, 0, 0, 0, 0)], 0.0),
    ([(0, 500, 0, 0, 0)], None),
    ([(0, 500, 0, 0, 0), (20, 500, 0, 0, 0)], math.inf),                # nobody works at it
    ([(0, 500, 0, 0, 0), (20, 900, 10, 0, 0)], math.inf),
    ([(0, 2000, 0, 0, 0), (20, 1900, 30, 0, 0)], 380.0),
    ([(0, 50, 0, 0, 0), (20, 50, 2000, 0, 0)], 0.0),                    # what waits is half a second of work
])
def test_backlog_is_gone_when_it_falls_as_it_did(
    points: list[tuple[float, int, int, int, int]], gone_in_s: float | None
) -> None:
    assert trend(*points).gone_in_s(600.0) == gone_in_s


def test_growth_of_dead_letters_is_of_ten_minutes() -> None:
    seen = trend(*((second, 0, 0, 0, second // 10) for second in range(1201)))

    assert seen.died() == 60
    assert trend((0, 0, 0, 0, 7)).died() == 0


def test_topic_that_was_made_again_begins_anew() -> None:
    seen = trend((0, 9, 100, 100, 100), (20, 9, 0, 3, 1))

    assert (seen.failed_percent(), seen.died(), seen.gone_in_s(60.0)) == (0.0, 0, None)


@pytest.mark.parametrize(("now", "p90"), [
    ((5, 0, 0, 0), None), ((0, 0, 0, 0), 0.0), ((90, 8, 1, 1), 0.1), ((80, 10, 10, 0), 1.0), ((0, 0, 0, 10), 10.0),
])
def test_latency_is_that_of_nine_of_ten_attempts(now: tuple[int, ...], p90: float | None) -> None:
    seen = trend((0, 0, 0, 0, 0), (9, 0, 0, 0, 0), run=((), now))

    assert seen.latency_s(0.9, BOUNDS) == p90
    assert trend((0, 0, 0, 0, 0)).latency_s(0.9, BOUNDS) == 0.0


def test_latency_is_that_of_all_nodes() -> None:
    seen = trend((0, 0, 0, 0, 0), (9, 0, 0, 0, 0), run=((), (90, 0, 0, 0)))

    assert seen.latency_s(0.9, BOUNDS, {3: 11}) == 10.0
    assert seen.latency_s(0.9, BOUNDS, {3: 9}) == BOUNDS[0]
    assert trend((0, 0, 0, 0, 0)).latency_s(0.9, BOUNDS, {1: 30}) == 1.0        # none here
