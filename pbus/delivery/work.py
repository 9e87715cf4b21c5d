"""
What the attempts of this child took: the measurements that the autoscaler decides by.

    desk.finish --ended--> a tally a topic --once a second--> frame ``work`` --> master --> scheduler
                   +-----> a row of the histograms (memory that all children share)

One frame a second with what has something to say, at the full second of the monotonic clock, which all processes of
a machine share: so whoever adds frames up has one of each child in each of its own seconds.

Rule: counting only; nothing here decides. A job costs some tenths of a microsecond: they are counted
many at once.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from pbus.clock import Clock, SystemClock
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.backend import Backend
from pbus.delivery.finished import Finished
from pbus.supervisor.histograms import MANY, TIMES, Ended, Row, row_of_nobody

AGAIN_S: Final = 30.0
"""What has not changed is told again so often: frames may be dropped, and listeners replaced."""

ALL_S: Final = 5.0
"""Lanes that have nothing in hand are looked at so often: there may be a thousand."""

_ATTEMPTS: Final = frozenset({
    Verdict.DONE, Verdict.FAILED, Verdict.RETRY_ASKED, Verdict.PERMANENT, Verdict.TIMEOUT, Verdict.CRASHED,
})
BATCH: Final = MANY
"""Attempts of a topic that are counted together; as many in a second, and the times of each fourth are looked at."""


class Tally:
    """
    Attempts of one topic since the last frame. One owner: ``Work``.

    Attributes:
        ended: Attempts that are not counted yet; ``failed`` and ``redelivered`` of them.
        done: Attempts, ended well or badly.
    """

    __slots__ = ("busy", "done", "ended", "failed", "redelivered", "retry_after_s", "row", "run_s", "timed", "times")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.ended: list[Ended] = []
        self.failed = 0
        self.redelivered = 0
        self.done = 0
        self.timed = 0
        self.run_s = 0.0
        self.busy = 0
        self.retry_after_s = 0.0
        self.times: collections.Counter[int] = collections.Counter()

    def count(self) -> None:
        """Count the attempts that have ended."""
        ended = self.ended
        if ended:
            classes, run_s = self.row.attempts(ended, len(ended) - self.failed, self.redelivered)
            self.done += len(ended)
            self.timed += classes.total()
            self.run_s += run_s
            self.times.update(classes)
            self.failed = self.redelivered = 0
            ended.clear()

    def quantile_s(self, part: float) -> float:
        """So long or shorter took that *part* of them, as the upper end of their class; 0.0 without any."""
        left = math.ceil(part * self.timed)
        for place in sorted(self.times):
            left -= self.times[place]
            if left <= 0:
                return TIMES[min(place, len(TIMES) - 1)]
        return 0.0

    def fields(self) -> dict[str, Any]:
        """For a frame."""
        return {
            "done": self.done, "timed": self.timed, "run_s": self.run_s, "p95_s": self.quantile_s(0.95),
            "busy": self.busy, "retry_after_s": self.retry_after_s,
        }


class Standing(NamedTuple):
    """
    How a lane stands now.

    Attributes:
        is_open: It hands jobs out: not braked, paused or without a backend.
        places: Jobs that it can run at once.
        running: Deliveries in hand.
    """

    is_open: bool
    places: int
    running: int


class Work:
    """One per delivery child, for all of its topics."""

    def __init__(
        self, index: int, row_of: Callable[[str, str], Row] = row_of_nobody, clock: Clock | None = None
    ) -> None:
        """
        Args:
            index: Which child this is.
            row_of: Where it counts the attempts of a queue's topic.
            clock: Tells when an attempt ends.
        """
        self._index = index
        self._row_of = row_of
        self._wall_s = (clock if clock is not None else SystemClock()).wall_s
        self._rows: dict[tuple[str, str], Row] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._told: dict[str, Standing] = {}
        self._told_backends: dict[str, dict[str, int]] = {}
        self._all_again_s = -math.inf
        self._since_s: float | None = None
        self._all_at_s = -math.inf
        self._is_all = True
        self._marked: set[str] = set()

    def begin(self, now_s: float) -> None:
        """A frame is about to be made: which lanes are to be looked at is asked next."""
        self._is_all = now_s >= self._all_at_s
        if self._is_all:
            self._all_at_s = now_s + ALL_S - 0.5

    def look_at(self, path: str) -> None:
        """How that lane stands has changed."""
        self._marked.add(path)

    def wants(self, path: str) -> bool:
        """Whether the next frame is to know how the lane of that topic stands, although it has nothing in hand."""
        told = self._told.get(path)
        return self._is_all or path in self._marked or (told is not None and told.running > 0)

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        """What came of an attempt; ends that say nothing about the handler are left out."""
        verdict = outcome.verdict
        if verdict in _ATTEMPTS:
            tally = self._tallies.get((delivery.queue, delivery.topic)) or self._tally(delivery)
            if verdict is not Verdict.DONE:
                tally.failed += 1
            job = delivery.id
            if delivery.redelivered:
                tally.redelivered += 1
                job = ""
            ended = tally.ended
            ended.append((job, outcome.run_s, self._wall_s(), len(delivery.body)))
            if len(ended) >= BATCH:
                tally.count()
        elif verdict is Verdict.BUSY:
            tally = self._tally(delivery)
            tally.busy += 1
            tally.retry_after_s = max(tally.retry_after_s, outcome.delay_s or 0.0)

    def done(self, finished: Finished) -> None:
        """The same for attempts that ended well."""
        tally = self._tallies.get(finished.path) or self._tally(finished.deliveries[0])
        ended_s = finished.ended_s
        tally.ended += [
            ("" if each.redelivered else each.id, run_s, ended_s, len(each.body))
            for each, run_s in zip(finished.deliveries, finished.runs_s, strict=True)
        ]
        tally.redelivered += sum([each.redelivered for each in finished.deliveries])
        if len(tally.ended) >= BATCH:
            tally.count()

    def count(self) -> None:
        """Count what is not counted yet: this process ends."""
        for tally in self._tallies.values():
            tally.count()

    def _tally(self, delivery: Delivery) -> Tally:
        path = delivery.queue, delivery.topic
        tally = self._tallies.get(path)
        if tally is None:
            tally = self._tallies[path] = Tally(self.row(*path))
        return tally

    def row(self, queue: str, topic: str) -> Row:
        """Where this child counts that topic."""
        row = self._rows.get((queue, topic))
        if row is None:
            row = self._rows[queue, topic] = self._row_of(queue, topic)
        return row

    def frame(
        self, lanes: Iterable[tuple[str, Standing]], backends: Mapping[str, dict[str, int]], now_s: float
    ) -> dict[str, Any] | None:
        """
        The fields of the next frame; None: there is nothing to say.

        Args:
            lanes: (``queue/topic``, how it stands) of lanes that have something in hand, and of those it ``wants``.
            backends: Name -> ``backend_fields``, of those that say anything.
            now_s: Monotonic.
        """
        if now_s >= self._all_again_s:
            self._all_again_s = now_s + AGAIN_S
            self._told.clear()
            self._told_backends.clear()
        topics: dict[str, dict[str, Any]] = {}
        for path, standing in lanes:
            if standing.running or self._told.get(path) != standing:
                self._told[path] = standing
                topics[path] = {
                    "is_open": standing.is_open, "places": standing.places, "running": standing.running,
                }
        tallies, self._tallies = self._tallies, {}
        self._marked.clear()
        for (queue, topic), tally in tallies.items():
            tally.count()
            topics.setdefault(f"{queue}/{topic}", {}).update(tally.fields())
        changed = {name: fields for name, fields in backends.items() if self._told_backends.get(name) != fields}
        self._told_backends |= changed
        since_s, self._since_s = self._since_s, now_s
        if not topics and not changed:
            return None
        interval_s = 1.0 if since_s is None else max(now_s - since_s, 0.001)
        return {"child": self._index, "interval_s": interval_s, "topics": topics, "backends": changed}


def backend_fields(backend: Backend) -> dict[str, int]:
    """
    What its topics may have of a backend, on this node; 0: not known, or no limit.

    ``connections``: ``max_connections`` times addresses. ``processes``: of php-fpm, measured, less the reserve.
    ``listen_queue``: connections that wait for one of them. Addresses that are down count for nothing.
    """
    reached = [address for address in backend.addresses if not address.circuit.is_open]
    pools = [address.pool for address in reached if address.pool is not None]
    sizes = [max(1, pool.size - backend.settings.reserve) for pool in pools if pool.size]
    return {
        "connections": backend.settings.max_connections * len(reached),
        "processes": sum(sizes) if len(sizes) == len(reached) else 0,
        "listen_queue": sum(pool.listen_queue for pool in pools),
    }


def is_telling(fields: Mapping[str, int]) -> bool:
    """Whether those of a backend bound anything."""
    return any(fields.values())


