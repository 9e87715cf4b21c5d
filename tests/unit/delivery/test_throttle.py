"""Rates: even, exact in the long run, and nothing lost to those who look late."""

from __future__ import annotations

import gevent
import gevent.event
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import FakeClock, SystemClock
from pbus.delivery.throttle import EVEN_S, Bucket, Throttle, throttle_of


def starts(rate_per_s: float, seconds: float, step_s: float, slow_s: float = 0.0) -> list[float]:
    """When jobs begin if there is always one, looked for every *step_s*; a claim takes *slow_s*."""
    bucket, now_s, found = Bucket(rate_per_s), 0.0, []
    while now_s < seconds:
        count = bucket.room(now_s)
        if count:
            now_s += slow_s
            bucket.spend(count, now_s)
            found += [now_s] * count
        now_s += max(step_s, bucket.wait_s(now_s))
    return found


@pytest.mark.parametrize("rate_per_s", [0.5, 3.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("slow_s", [0.0, 0.004])
def test_rate_is_exact_in_the_long_run_and_even_in_the_short(rate_per_s, slow_s):
    seconds = max(10.0, 20.0 / rate_per_s)
    found = starts(rate_per_s, seconds, 0.0005, slow_s)
    assert rate_per_s * seconds * 0.97 - 1 <= len(found) <= rate_per_s * seconds + 2
    at_once = max(2.0, rate_per_s * EVEN_S + 1)
    for first, last in zip(found, found[int(at_once):], strict=False):
        assert last > first, "a burst"


def test_job_a_second_after_an_idle_hour_is_one_job_not_a_burst():
    bucket = Bucket(1.0)
    bucket.spend(bucket.room(0.0), 0.0)
    assert bucket.room(3600.0) == 1
    bucket.spend(1, 3600.0)
    assert bucket.room(3600.4) == 0
    assert bucket.wait_s(3600.0) <= 1.0


@given(st.floats(0.1, 5000.0), st.lists(st.floats(0.0, 2.0), min_size=1, max_size=200))
def test_no_second_has_more_than_the_rate(rate_per_s, pauses):
    bucket, now_s, found = Bucket(rate_per_s), 0.0, []
    for pause_s in pauses:
        now_s += pause_s
        count = bucket.room(now_s)
        bucket.spend(count, now_s)
        found += [now_s] * count
    for number, first in enumerate(found):
        within = sum(first <= each < first + 1.0 for each in found[number:])
        assert within <= rate_per_s + max(2.0, rate_per_s * EVEN_S + 1)


def test_throttle_wakes_once_when_there_is_room_again():
    clock, woken = FakeClock(), []
    throttle = Throttle(1000.0, lambda: woken.append(clock.monotonic_s()), clock)
    assert throttle.room() == 0  # handed out ten at a time
    assert throttle.room() == 0
    gevent.sleep(0.02)
    assert len(woken) == 1
    clock.advance(0.01)
    assert throttle.room() >= 10
    throttle.close()


def test_throttle_that_is_closed_wakes_nobody():
    woken: list[int] = []
    throttle = Throttle(1000.0, lambda: woken.append(1), FakeClock())
    throttle.room()
    throttle.close()
    gevent.sleep(0.02)
    assert woken == []


def test_children_get_their_part_of_a_rate_and_no_rate_is_no_throttle():
    part = throttle_of(90.0, 1 / 3, lambda: None, FakeClock())
    assert part is not None
    assert part.rate_per_s == pytest.approx(30.0)
    assert throttle_of(0.0, 1.0, lambda: None, FakeClock()) is None


def test_another_rate_holds_from_now_on():
    bucket, now_s, found = Bucket(10.0), 0.0, []
    while now_s < 20.0:
        if not found or now_s < 10.0 <= now_s + 0.01:
            bucket.change(100.0 if now_s > 5.0 else 10.0, now_s)
        count = bucket.room(now_s)
        bucket.spend(count, now_s)
        found += [now_s] * count
        now_s += 0.01
    assert 95 <= sum(each < 10.0 for each in found) <= 105
    assert 950 <= sum(each >= 10.0 for each in found) <= 1050


def test_who_waits_for_room_is_woken_when_the_new_rate_has_it():
    woken = gevent.event.Event()
    throttle = Throttle(0.01, woken.set, SystemClock())
    throttle.spend(1)
    assert throttle.room() == 0
    throttle.change(1000.0)
    assert woken.wait(5.0)
    assert throttle.rate_per_s == 1000.0
    throttle.close()
