"""
What the master is told of backends, for ``pbus status`` and ``pbus backend ls``: one frame an address.

Rule: a change of state is told at the next round, counters at most once in COUNTERS_S, nothing while
nothing changes.
"""

from __future__ import annotations

from typing import Any, Final

from pbus.delivery.backends import Backends
from pbus.supervisor.child import Child

COUNTERS_S: Final = 1.0
_STATES: Final = ("state", "reason", "limit", "pool")


class BackendBoard:
    """One per delivery child; everything of ``Backends.rows`` goes out as ``backend`` frames."""

    def __init__(self, backends: Backends, child: Child) -> None:
        self._backends = backends
        self._child = child
        self._told: dict[tuple[str, str], dict[str, Any]] = {}
        self._told_s: dict[tuple[str, str], float] = {}

    def forget(self) -> None:
        """Frames to the master may be dropped: tell everything again."""
        self._told.clear()

    def tell(self) -> None:
        """Tell what has changed."""
        now_s = self._child.clock.monotonic_s()
        for row in self._backends.rows():
            key = (row["backend"], row["address"])
            if self._is_news(self._told.get(key), row, now_s - self._told_s.get(key, -COUNTERS_S)):
                self._told[key], self._told_s[key] = row, now_s
                self._child.tell("backend", **row)

    @staticmethod
    def _is_news(before: dict[str, Any] | None, row: dict[str, Any], age_s: float) -> bool:
        if before is None or any(before[name] != row[name] for name in _STATES):
            return True
        return before != row and age_s >= COUNTERS_S
