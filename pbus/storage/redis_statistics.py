"""
The Redis driver's statistics: a hash a queue and bucket, which expires.

A row is written by its node alone: it is read, added to and put back; what the store counts is added by the script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from pbus.core.statistics import LEVELS, Bucket
from pbus.storage.redis_calls import raising
from pbus.storage.redis_link import Words
from pbus.storage.redis_scripts import Call
from pbus.storage.redis_store import RedisStore
from pbus.storage.statistics import Known, begin_s, joined, unpacked, window

PAGE: Final = 250
"""Buckets read in one piece."""


class RedisStatistics(RedisStore):
    """See ``statistics.KeepsStatistics``."""

    def put_statistics(
        self, at_s: int, rows: Sequence[Bucket], known: Mapping[tuple[str, str], Known] | None = None
    ) -> None:
        """Two round trips, however many queues."""
        by_queue: dict[str, list[Bucket]] = {queue: [] for queue, _ in known or ()}
        for row in rows:
            by_queue.setdefault(row.queue, []).append(row)
        buckets = [
            (f"{span}:{begin_s(at_s, span)}", begin_s(at_s, span) + span + keep) for span, keep in LEVELS.items()
        ]
        look: list[Words] = [
            ("HMGET", self._queue(queue).buckets + key, *map(_field, own))
            for queue, own in by_queue.items() if own for key, _ in buckets
        ]
        if not by_queue:
            return
        with self._calls.session() as session:
            stored = iter(raising(self._calls.each(session, look, repeat=True)) if look else ())
            calls: list[Call | Words] = []
            for queue, own in by_queue.items():
                written = [
                    [(_field(row), joined(row, old)) for row, old in zip(own, next(stored), strict=True)] if own else []
                    for _ in buckets
                ]
                totals = _totals(queue, known or {})
                calls.append(self._scripts.statistics(self._queue(queue), buckets, totals, written))
            raising(self._calls.each(session, calls, repeat=True))

    def statistics(self, queue: str, topic: str | None, since_s: int, until_s: int, span_s: int) -> list[Bucket]:
        """A page of buckets is one piece, so a month of hours is three round trips."""
        found: list[Bucket] = []
        times, keys = window(since_s, until_s, span_s), self._queue(queue)
        for place in range(0, len(times), PAGE):
            page = times[place : place + PAGE]
            answers = self._calls.all([("HGETALL", f"{keys.buckets}{span_s}:{at_s}") for at_s in page])
            for at_s, flat in zip(page, answers, strict=True):
                fields = dict(zip(map(bytes.decode, flat[::2]), flat[1::2], strict=True))
                found += _read(queue, topic, at_s, span_s, fields)
        return found


def _field(row: Bucket) -> str:
    return f"{row.topic}/{row.node}"


def _totals(queue: str, known: Mapping[tuple[str, str], Known]) -> dict[str, int]:
    """Fields of the store's own numbers: no node is called anything with a slash before it."""
    return {
        f"{topic}//{name}": total
        for (of_queue, topic), totals in known.items() if of_queue == queue for name, total in asdict(totals).items()
    }


def _read(queue: str, topic: str | None, at_s: int, span_s: int, fields: Mapping[str, bytes]) -> list[Bucket]:
    """The buckets of one hash."""
    found: list[Bucket] = []
    grown: dict[str, dict[str, Any]] = {}
    for field in sorted(fields):
        name, _, node = field.partition("/")
        if topic is not None and name not in (topic, ""):
            continue
        if node.startswith("/"):
            grown.setdefault(name, {})[node[1:]] = int(fields[field])
        elif (bucket := unpacked(fields[field], Bucket(queue, name, node, at_s, span_s))) is not None:
            found.append(bucket)
    own = [Bucket(queue, name, "", at_s, span_s, **counts) for name, counts in grown.items()]
    return sorted(own + found, key=lambda bucket: (bucket.topic, bucket.node))
