"""
Whether a storage answers, as its callers in this child see it, and how long they wait between tries.

Rule: one of these per storage; whoever met an error says so here, whoever got through too. A
problem is raised once and lifted once, however many calls failed in between.
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
        self.is_away = False

    def away(self, error: BaseException) -> None:
        """A call failed: *error* says why."""
        self.is_away = True
        self._problem(self._key, f"{self._key} is away: {error}")

    def back(self) -> None:
        """A call got through."""
        if self.is_away:
            self.is_away = False
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
