"""Times of orders as people write them."""

from __future__ import annotations

import datetime

import click
import pytest

from pbus.cli.scale import moments
from pbus.cli.scaling_view import capacity_words, scaling_lines

NOW = datetime.datetime(2027, 12, 31, 18, 0, tzinfo=datetime.UTC).astimezone()


def wall(text: str) -> float:
    return datetime.datetime.fromisoformat(text).astimezone().timestamp()


def test_a_time_with_a_day_is_that_time_here() -> None:
    found = moments("2028-01-01 19:50", "2028-01-01 22:30", "", NOW)
    assert found == (wall("2028-01-01 19:50"), wall("2028-01-01 22:30"))


def test_a_time_without_a_day_is_the_next_one_after_the_begin() -> None:
    assert moments("2028-01-01 19:50", "22:30", "", NOW) == (wall("2028-01-01 19:50"), wall("2028-01-01 22:30"))
    assert moments("2028-01-01 22:00", "02:00", "", NOW) == (wall("2028-01-01 22:00"), wall("2028-01-02 02:00"))


def test_a_begin_without_a_day_is_the_next_one_after_now() -> None:
    soon = (NOW + datetime.timedelta(minutes=5)).strftime("%H:%M")
    past = (NOW - datetime.timedelta(minutes=5)).strftime("%H:%M")
    assert moments(soon, "", "", NOW)[0] == (NOW + datetime.timedelta(minutes=5)).timestamp()
    assert moments(past, "", "", NOW)[0] == (NOW + datetime.timedelta(days=1, minutes=-5)).timestamp()


def test_a_while_is_counted_from_the_begin() -> None:
    assert moments("", "", "1h", NOW) == (None, NOW.timestamp() + 3600)
    begin = wall("2028-01-01 19:50")
    assert moments("2028-01-01 19:50", "", "90m", NOW) == (begin, begin + 5400)


def test_nothing_said_is_now_and_until_it_is_reset() -> None:
    assert moments("", "", "", NOW) == (None, None)


@pytest.mark.parametrize(("times", "option"), [
    (("tomorrow", "", ""), "--from"), (("", "25:00", ""), "--to"), (("", "2027-13-01 10:00", ""), "--to"),
    (("", "", "an hour"), "--for"), (("", "", "0s"), "--for"),
])
def test_what_is_no_time_is_refused_by_its_option(times: tuple[str, str, str], option: str) -> None:
    with pytest.raises(click.BadParameter) as error:
        moments(*times, NOW)
    assert error.value.param_hint == option


def test_capacity_and_reason_are_said_to_people() -> None:
    row = {
        "concurrency": {"now": 4}, "scaling": {"reason": "up from 2 to 4: 100 jobs/s"}, "orders": ["4 at once"],
        "capacity": {"now_per_s": 80.0, "max_per_s": 2600.0, "limited_by": "backend live-php 48/48"},
    }
    assert [(name, text) for name, (text, _) in scaling_lines(row)] == [
        ("scaled", "4 now; up from 2 to 4: 100 jobs/s"),
        ("capacity", "can do 2,600/s at max, limited by backend live-php 48/48"),
        ("order", "4 at once"),
    ]


def test_what_is_not_planned_is_not_said() -> None:
    assert capacity_words({"now_per_s": None, "max_per_s": None, "limited_by": None}) == ""
    assert scaling_lines({"concurrency": None, "scaling": None, "capacity": None}) == []
