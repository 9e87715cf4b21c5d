"""
Whether a storage answers, as its callers in this child see it, and how long they wait between tries.

Rule: one of these per storage; each caller says here when it failed and when it got through. The
problem is lifted when nobody fails any more: a full store may refuse one kind of call and take another.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.05
LONGEST_S: Final = 1.0
"""Back at work at most this much later than the store."""


class StoreHealth:
    """
    Args:
        name: Of the storage.
        problem: Raises (or with an empty text lifts) a problem that ``pbus status`` shows.
    """

    def __init__(self, name: str, problem: Callable[[str, str], None]) -> None:
        self._key = f"storage {name}"
        self._problem = problem
        self._failing: set[str] = set()

    def away(self, caller: str, error: BaseException) -> None:
        """A call of *caller* failed: *error* says why."""
        self._failing.add(caller)
        self._problem(self._key, f"{self._key} is away: {error}")

    def back(self, caller: str) -> None:
        """A call of *caller* got through."""
        if caller in self._failing:
            self._failing.discard(caller)
            if not self._failing:
                self._problem(self._key, "")


class Backoff:
    """Pauses of one caller while its calls fail: 0.05, 0.1 .. 1 s, each with jitter."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def pause_s(self) -> float:
        """How long to wait now."""
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, LONGEST_S)
        return wait_s * (0.5 + random.random() / 2)

    def reset(self) -> None:
        """It worked."""
        self._next_s = FIRST_S
