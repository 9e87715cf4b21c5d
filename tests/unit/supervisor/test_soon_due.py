"""Telling the scheduler of short delays: soon enough, and seldom."""

from __future__ import annotations

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.soon_due import GAP_S, SoonDue


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def told() -> list[float]:
    return []


@pytest.fixture
def soon(clock: FakeClock, told: list[float]) -> SoonDue:
    return SoonDue(told.append, clock)


def test_short_delay_is_told(soon: SoonDue, told: list[float]) -> None:
    soon.delayed(0.3)
    assert told == [pytest.approx(0.3)]


def test_delay_that_will_be_seen_in_time_is_not_told(soon: SoonDue, told: list[float]) -> None:
    soon.delayed(1.0)
    soon.delayed(600.0)
    assert told == []


def test_later_delay_waits_for_the_look_that_was_told(soon: SoonDue, told: list[float], clock: FakeClock) -> None:
    soon.delayed(0.3)
    soon.delayed(0.5)
    clock.advance(0.2)
    soon.delayed(0.1)
    assert len(told) == 1
    soon.delayed(0.05)
    assert told[1:] == [pytest.approx(0.05)]


def test_thousand_failures_a_second_are_few_frames(soon: SoonDue, told: list[float], clock: FakeClock) -> None:
    for _ in range(1000):
        soon.delayed(0.0)
        clock.advance(0.001)
    assert len(told) <= 1.0 / GAP_S + 1
    assert max(told) <= GAP_S
