"""
When a failed delivery is tried again, and when it is given up.

Source of the form: exponential back-off with a cap and a proportional jitter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often, how long and how far apart a delivery is tried.

    Attributes:
        attempts: At most so many attempts in all; 1 means never again.
        for_s: No new attempt later than this after the first one ended, seconds; 0: no bound.
        first_s: Wait before attempt 2, seconds.
        factor: Growth of the wait per attempt.
        cap_s: Longest wait, seconds.
        jitter: Share of the wait that is drawn at random, 0..1.
    """

    attempts: int = 10
    for_s: float = 86_400.0
    first_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 600.0
    jitter: float = 0.5


def next_delay_s(attempt: int, policy: RetryPolicy, draw: float) -> float:
    """
    Wait before attempt number *attempt* of a delivery.

    Args:
        attempt: 1-based number of the attempt about to be made.
        policy: Growth and cap.
        draw: Uniform draw in [0, 1); passed in so this stays pure.

    Returns:
        Seconds, at most ``policy.cap_s``; 0 for attempt 1.

    Raises:
        ValueError: *attempt* < 1.
    """
    if attempt < 1:
        raise ValueError(f"attempt numbers start at 1, not {attempt}")
    if attempt == 1:
        return 0.0
    try:
        grown = policy.first_s * policy.factor ** (attempt - 2)
    except OverflowError:
        grown = policy.cap_s
    wait = min(grown, policy.cap_s)
    return wait * (1.0 - policy.jitter * draw)


def is_exhausted(attempt: int, age_s: float, policy: RetryPolicy) -> str:
    """
    Why a delivery whose attempt just failed gets no further one.

    Args:
        attempt: 1-based number of the attempt that failed, of those that count; 0: only the age is judged.
        age_s: Seconds since its first attempt ended.
        policy: The bounds.

    Returns:
        A sentence for people, empty when another attempt is due.
    """
    if attempt > policy.attempts:           # a person tried it once more
        return f"attempt {attempt} failed, {policy.attempts} may be made"
    if attempt == policy.attempts:
        return f"attempt {attempt} of {policy.attempts} failed"
    if policy.for_s and age_s >= policy.for_s:
        return f"still failing {age_s:.0f} s after its first attempt (limit {policy.for_s:.0f} s)"
    return ""
