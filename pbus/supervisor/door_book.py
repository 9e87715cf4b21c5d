"""
What all ingest children together refused and closed, and who failed to prove who they are, for ``pbus status``.

    child --door {refused, closed, limited, failed}, what came since its last--> book --> status

Rule: numbers of a child that is gone stay counted. Who failed is kept for an hour and bounded: the oldest make room.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.clock import Clock

RECENT_S: Final = 600.0
"""What ``recent`` counts."""
KEPT_S: Final = 3600.0
ROWS: Final = 256
LISTED: Final = 100
_BUCKET_S: Final = 30.0
_COUNTED: Final = ("refused", "closed", "limited")


@dataclass(slots=True)
class _Failures:
    """Of one address at one identity."""

    tried: str = ""
    count: int = 0
    last_s: float = 0.0
    last_ms: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, count: int, tried: str, now_s: float, wall_s: float) -> None:
        self.count += count
        self.tried, self.last_s, self.last_ms = tried, now_s, round(wall_s * 1000)
        bucket = int(now_s // _BUCKET_S)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self._forget(now_s)

    def recent(self, now_s: float) -> int:
        self._forget(now_s)
        return sum(self.buckets.values())

    def _forget(self, now_s: float) -> None:
        first = (now_s - RECENT_S) // _BUCKET_S
        for bucket in [bucket for bucket in self.buckets if bucket <= first]:
            del self.buckets[bucket]


class DoorBook:
    """One owner: the master."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in _COUNTED}
        self._failed: dict[tuple[str, str], _Failures] = {}

    def heard(self, frame: Mapping[str, Any]) -> None:
        """
        A child tells what came since it told last.

        Raises:
            LookupError, TypeError, ValueError: the frame makes no sense.
        """
        for kind in _COUNTED:
            self._counts[kind].update({str(name): int(count) for name, count in frame.get(kind, {}).items()})
        now_s, wall_s = self._clock.monotonic_s(), self._clock.wall_s()
        for address, identity, tried, count in frame.get("failed", ()):
            row = self._failed.pop((str(address), str(identity)), None) or _Failures()
            row.add(int(count), str(tried), now_s, wall_s)
            self._failed[str(address), str(identity)] = row    # the latest last
            if len(self._failed) > ROWS:
                del self._failed[next(iter(self._failed))]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """What was counted so far, as a child would tell it."""
        return {kind: dict(counts) for kind, counts in self._counts.items()}

    def view(self) -> dict[str, Any]:
        """
        ``refused`` (by word), ``closed`` (by reason), ``limited`` (by limit), ``failed_auths`` (the latest first).

        A row of ``failed_auths``: ``address``, ``identity`` (empty: a name that nobody bears), ``tried`` (that name as
        the client gave it, the last one), ``count``, ``recent`` (of these in the last ten minutes), ``last_ms``.
        """
        now_s = self._clock.monotonic_s()
        self._failed = {key: row for key, row in self._failed.items() if now_s - row.last_s < KEPT_S}
        rows = [
            {
                "address": address, "identity": identity, "tried": row.tried, "count": row.count,
                "recent": row.recent(now_s), "last_ms": row.last_ms,
            }
            for (address, identity), row in reversed(self._failed.items())
        ]
        return {**{kind: dict(sorted(self._counts[kind].items())) for kind in _COUNTED}, "failed_auths": rows[:LISTED]}
