"""Waiting in tests: poll for what is promised, with a deadline; never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


def until(condition: Callable[[], T], timeout_s: float, what: str | Callable[[], str]) -> T:
    """
    The first true answer of *condition*, asked again and again.

    Args:
        condition: Asked at least once, and once more after the deadline; its exceptions pass through.
        timeout_s: Seconds until giving up.
        what: What is being waited for; goes into the failure (a callable is asked only then).

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        late = time.monotonic() >= deadline
        answer = condition()
        if answer:
            return answer
        if late:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout_s:g} s: {text}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
