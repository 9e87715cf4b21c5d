"""
Why pushes are refused before they come near a store, and what they are told.

    away      the store cannot be used               nobody may push
    slow      a write takes far too long             nobody may push: waiting would be queueing in memory
    crowded   too much waits for the next write      the same
    full      the store refused for want of room     nobody may push, one try a second
    filling   it is above its high water mark        queues of the least importance first

Rule: asking costs one look at ``closed``; deciding happens when something changes.
"""

from __future__ import annotations

from typing import Final

LEAST_IMPORTANT: Final = 3
MARKS: Final = {2: 0.92, 1: 0.97}
"""Share of the store at which queues of that importance are refused; those of 3 at its ``high_water``."""


class Gate:
    """
    The gate of one store. One owner: its ``Store``.

    Attributes:
        closed: What a push is told, by the importance of its queue (1 to 3; 0 is not used); empty: it may pass.
            The list stays the same one, so that whoever pushes may keep it.
    """

    def __init__(self, storage: str, high_water: float) -> None:
        self.closed = [""] * (LEAST_IMPORTANT + 1)
        self._storage = storage
        self._marks = {LEAST_IMPORTANT: high_water} | {level: max(high_water, mark) for level, mark in MARKS.items()}
        self._shut: dict[str, str] = {"away": "", "slow": "", "crowded": "", "full": ""}
        self._share = 0.0
        self.refused_from = LEAST_IMPORTANT + 1

    def away(self, reason: str) -> None:
        """The store cannot be used because of *reason*; empty: it can."""
        self._set("away", away(self._storage, reason) if reason else "")

    def slow(self, running_s: float) -> None:
        """A write has been running for so long; 0: none is too slow."""
        text = f"UNAVAILABLE the store '{self._storage}' is slow (a write runs for {running_s:.1f} s)"
        self._set("slow", f"{text}: not stored, try again in 1 s" if running_s else "")

    def crowded(self, waiting_bytes: int) -> None:
        """So much waits for the next write; 0: not too much."""
        text = f"UNAVAILABLE the store '{self._storage}' does not keep up ({waiting_bytes >> 20} MiB wait for it)"
        self._set("crowded", f"{text}: not stored, try again in 1 s" if waiting_bytes else "")

    def full(self, reason: str) -> None:
        """It refused a push for want of room; empty: try again."""
        self._set("full", no_room(self._storage, reason) if reason else "")

    def fill(self, share: float) -> bool:
        """The store is that full (0..1); whether other queues than before are refused now."""
        before = self.refused_from
        self._share = share
        shut = [level for level, mark in self._marks.items() if mark and share >= mark]
        self.refused_from = min(shut, default=LEAST_IMPORTANT + 1)
        if shut or before <= LEAST_IMPORTANT:
            self._judge()
        return self.refused_from != before

    @property
    def mark(self) -> float:
        """The lowest share at which anybody is refused."""
        return self._marks[LEAST_IMPORTANT]

    def _set(self, cause: str, text: str) -> None:
        if self._shut[cause] != text:
            self._shut[cause] = text
            self._judge()

    def _judge(self) -> None:
        everybody = next((text for text in self._shut.values() if text), "")
        for importance in range(1, LEAST_IMPORTANT + 1):
            self.closed[importance] = everybody or self._filling(importance)

    def _filling(self, importance: int) -> str:
        if importance < self.refused_from:
            return ""
        mark = self._marks[importance]
        what = f"UNAVAILABLE the store '{self._storage}' is {self._share:.0%} full".replace("%", " %")
        rule = f"queues of importance {importance} are refused from {mark:.0%} on".replace("%", " %")
        return f"{what}, {rule}: not stored, try again in 5 s"


def away(storage: str, reason: str) -> str:
    """What a producer is told while the store is away."""
    return f"UNAVAILABLE the store '{storage}' is away ({reason}): not stored, try again in 1 s"


def no_room(storage: str, reason: str) -> str:
    """What a producer is told when the store has no room for pushes."""
    return f"UNAVAILABLE the store '{storage}' has no room ({reason}): not stored, try again in 5 s"
