"""Clocks: the machine's runs by itself, the fake one only by hand."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import Clock, FakeClock, SystemClock

seconds = st.floats(0, 1e6)


def test_system_clock_is_the_machines() -> None:
    clock = SystemClock()

    assert abs(clock.wall_s() - time.time()) < 5.0
    assert abs(clock.monotonic_s() - time.monotonic()) < 5.0


def test_system_clock_sleeps() -> None:
    clock = SystemClock()
    began = clock.monotonic_s()
    clock.sleep(0.002)

    assert clock.monotonic_s() - began >= 0.002


def test_fake_clock_stands_still() -> None:
    clock = FakeClock(wall_s=100.0)

    assert [clock.wall_s(), clock.wall_s()] == [100.0, 100.0]
    assert clock.monotonic_s() == clock.monotonic_s()


@given(st.lists(seconds))
def test_fake_clock_moves_both_times_by_what_is_slept(waits: list[float]) -> None:
    clock: Clock = FakeClock(wall_s=0.0)
    began = clock.monotonic_s()
    for wait in waits:
        clock.sleep(wait)

    assert clock.wall_s() == sum(waits)
    assert abs(clock.monotonic_s() - began - sum(waits)) < 1e-3


@given(st.floats(-1e6, 1e6))
def test_a_jump_moves_what_people_read_and_no_deadline(seconds: float) -> None:
    clock = FakeClock(wall_s=1e9)
    before = clock.monotonic_s()
    clock.jump(seconds)

    assert clock.wall_s() == 1e9 + seconds
    assert clock.monotonic_s() == before
