"""The Redis driver's halves of comparisons: a hash a shadow, and when each of them came."""

from __future__ import annotations

from collections.abc import Sequence

from pbus.errors import StorageError
from pbus.storage.halves import HALF_BYTES, KEEP_S, MOST, Met, Waiting
from pbus.storage.redis_store import RedisStore


class RedisHalves(RedisStore):
    """See ``halves.KeepsHalves``."""

    def meet(self, queue: str, topic: str, halves: Sequence[Waiting]) -> Met:
        if any(len(half.text.encode()) > HALF_BYTES for half in halves):
            raise StorageError(f"half of a comparison is longer than {HALF_BYTES} bytes")
        call = self._scripts.meet(self._queue(queue), topic, halves, (round(KEEP_S * 1000), MOST))
        dropped, *others = self._calls.one(call, repeat=False)
        return Met([None if other is None else other.decode() for other in others], dropped)
