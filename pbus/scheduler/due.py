"""Delayed deliveries whose time has come become ready: retries, and what a handler asked to wait."""

from __future__ import annotations

from typing import Final

from pbus.scheduler.roster import SHORTEST_WAIT_S, Store
from pbus.storage.driver import Promoted

LONGEST_S: Final = 1.0
"""
It looks at least so often; one call for all topics. Shorter delays are told (a frame ``delayed``);
those of other nodes, or whose frame got lost, come up to this much late.
"""
LIMIT: Final = 1000


def next_turn_s(promoted: Promoted, limit: int = LIMIT) -> float:
    """How long until the next look: at once when a topic had more than *limit*, at most a second."""
    if any(count >= limit for count in promoted.moved.values()):
        return 0.0
    if promoted.next_in_s is None:
        return LONGEST_S
    return min(LONGEST_S, max(SHORTEST_WAIT_S, promoted.next_in_s))


class Due:
    """The duty. It keeps nothing between turns."""

    name = "due"

    def __init__(self, store: Store) -> None:
        self._store = store

    def turn(self) -> float:
        promoted = self._store.driver.promote_due(LIMIT)
        if self._store.traces is not None:
            self._store.traces.look()
        return next_turn_s(promoted)

    def interrupted(self) -> None:
        """Nothing was concluded."""
