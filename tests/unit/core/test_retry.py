"""Retry policy: how waits grow, that they are bounded, and when it is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.retry import RetryPolicy, is_exhausted, next_delay_s

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 1_000_000),
    for_s=st.floats(0, 1e7),
    first_s=st.floats(0, 1e5),
    factor=st.floats(1, 100),
    cap_s=st.floats(0, 1e5),
    jitter=st.floats(0, 1),
)
attempts = st.integers(1, 100_000)
draws = st.floats(0, 1, exclude_max=True)
STEADY = RetryPolicy(first_s=1.0, factor=2.0, cap_s=600.0, jitter=0.0)


def test_waits_double_up_to_the_cap() -> None:
    waits = [next_delay_s(attempt, STEADY, 0.0) for attempt in range(1, 13)]

    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0]


@pytest.mark.parametrize(("draw", "wait"), [(0.0, 4.0), (0.5, 3.0), (0.999_999, 2.0)])
def test_jitter_shortens_by_its_share(draw: float, wait: float) -> None:
    policy = RetryPolicy(first_s=4.0, jitter=0.5)

    assert next_delay_s(2, policy, draw) == pytest.approx(wait, abs=1e-4)


@given(attempts, policies, draws)
def test_a_wait_is_never_negative_nor_above_the_cap(attempt: int, policy: RetryPolicy, draw: float) -> None:
    assert 0.0 <= next_delay_s(attempt, policy, draw) <= policy.cap_s


@given(attempts, policies)
def test_without_chance_a_later_attempt_never_waits_less(attempt: int, policy: RetryPolicy) -> None:
    assert next_delay_s(attempt, policy, 0.0) <= next_delay_s(attempt + 1, policy, 0.0)


@given(attempts, policies, draws)
def test_jitter_takes_at_most_its_share(attempt: int, policy: RetryPolicy, draw: float) -> None:
    full = next_delay_s(attempt, policy, 0.0)

    assert next_delay_s(attempt, policy, draw) >= full * (1 - policy.jitter)


def test_growth_beyond_any_number_is_the_cap() -> None:
    policy = RetryPolicy(first_s=1.0, factor=100.0, cap_s=600.0, jitter=0.0)

    assert next_delay_s(1_000_000, policy, 0.0) == 600.0


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    with pytest.raises(ValueError, match="start at 1"):
        next_delay_s(attempt, STEADY, 0.0)


def test_enough_attempts_are_said_to_be_enough() -> None:
    policy = RetryPolicy(attempts=3, for_s=0.0)

    assert [is_exhausted(attempt, 1e9, policy) for attempt in (1, 2, 3, 4)] == [
        "", "", "attempt 3 of 3 failed", "attempt 4 failed, 3 may be made",
    ]


def test_a_single_attempt_is_never_repeated() -> None:
    assert is_exhausted(1, 0.0, RetryPolicy(attempts=1))


@pytest.mark.parametrize(("age_s", "given_up"), [(0.0, False), (59.9, False), (60.0, True), (1e6, True)])
def test_it_is_given_up_when_it_fails_for_too_long(age_s: float, given_up: bool) -> None:
    text = is_exhausted(2, age_s, RetryPolicy(attempts=100, for_s=60.0))

    assert bool(text) is given_up
    assert not given_up or "limit 60 s" in text


@given(attempts, st.floats(0, 1e9), policies)
def test_it_goes_on_exactly_while_both_bounds_allow(attempt: int, age_s: float, policy: RetryPolicy) -> None:
    allowed = attempt < policy.attempts and (not policy.for_s or age_s < policy.for_s)

    assert (is_exhausted(attempt, age_s, policy) == "") is allowed
