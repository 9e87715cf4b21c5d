"""
Once a minute, and at the drain: what this node counted goes to the store, as a row a topic in which anything happened.

    histograms (memory of all children) --now less then--> rows  --+
    frames ``machine`` (cores of consumers) -> seconds ------^     +--> Driver.put_statistics
    looks (numbers of the store) ----------> totals that grew -----+

Rule: lossy, and it never holds up a job. A store that cannot take them gets them with the next minute; those of the
minute in which this process dies are lost. A minute without work is no call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from pbus.clock import Clock
from pbus.core.names import topic_path
from pbus.core.statistics import Bucket
from pbus.errors import Conflict, StorageError
from pbus.scheduler.looks import Looks
from pbus.scheduler.roster import GRID_S, Store
from pbus.storage.statistics import Known
from pbus.supervisor.histograms import Totals

MINUTE_S: Final = 60
_LATE_S: Final = GRID_S + 0.1
"""After the full minute: a turn may come so much earlier than it was asked for."""
_LONGEST_GAP_S: Final = 10.0
"""Between two frames of the master, that say what was used in between."""

Path = tuple[str, str]
"""(queue, topic)."""
_COUNTS: Final = ("done", "failed", "retried", "dead", "redelivered", "bytes")


class Processor:
    """Seconds of processors that consumers used, by ``queue/topic``; only those whose processes are ours are known."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_s: float | None = None
        self.seconds: Counter[str] = Counter()
        """Since the start of this process."""

    def hear(self, frame: Mapping[str, Any]) -> None:
        """A frame ``machine`` of the master."""
        now_s = self._clock.monotonic_s()
        gap_s = 0.0 if self._heard_s is None else min(_LONGEST_GAP_S, now_s - self._heard_s)
        self._heard_s = now_s
        for path, row in frame["topics"].items():
            used_s = float(row.get("cores", 0.0)) * gap_s
            if used_s:
                self.seconds[path] += used_s  # type: ignore[assignment] # a Counter of seconds


class Statistics:
    """The duty of one store."""

    name = "statistics"

    def __init__(
        self, store: Store, node: str, read: Callable[[], Mapping[Path, Totals]], looks: Looks, processor: Processor,
        clock: Clock, log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """
        Args:
            node: Name of this node, that its rows have.
            read: What all children of this node counted so far (``Histograms.read``).
        """
        self._store = store
        self._node = node
        self._read = read
        self._looks = looks
        self._processor = processor
        self._clock = clock
        self._log = log.bind(storage=store.name)
        self._queues = frozenset(spec.name for spec in store.queues)
        self._at_s = clock.wall_s()
        self._counted = dict(read())
        self._used_s = dict(processor.seconds)
        self._known: Mapping[Path, Known] = {}
        self._fails = False

    def turn(self) -> float:
        self.write()
        return MINUTE_S - self._clock.wall_s() % MINUTE_S + _LATE_S

    def interrupted(self) -> None:
        """It may come back empty: every total is told again, so that the store knows from where on to count."""
        self._known = {}

    def write(self) -> None:
        """
        Tell what happened since the last time, if anything did.

        Raises:
            Conflict: this boot was fenced.
        """
        now_s, counted, used_s = self._clock.wall_s(), dict(self._read()), dict(self._processor.seconds)
        known = self._totals()
        changed = {path: totals for path, totals in known.items() if self._known.get(path) != totals}
        rows = self._rows(counted, used_s)
        # The middle of what the rows tell of: a turn comes a little after its minute, or at the drain before its end.
        at_s = int((min(self._at_s, now_s) + now_s) / 2)
        if rows or changed:
            try:
                self._store.driver.put_statistics(at_s, rows, changed)
            except Conflict:
                raise
            except StorageError as error:
                if not self._fails:
                    self._log.warning("statistics.late", error=str(error))
                self._fails = True
                return
        self._fails = False
        self._at_s, self._counted, self._used_s, self._known = now_s, counted, used_s, known

    def _rows(self, counted: Mapping[Path, Totals], used_s: Mapping[str, float]) -> list[Bucket]:
        rows = []
        for path, now in counted.items():
            if path[0] not in self._queues:
                continue
            name = topic_path(*path)
            cpu_us = _us(used_s.get(name, 0.0)) - _us(self._used_s.get(name, 0.0))
            row = _row(path, self._node, now, self._counted.get(path), cpu_us)
            if not row.is_empty:
                rows.append(row)
        return rows

    def _totals(self) -> dict[Path, Known]:
        """Of the store, as they were looked at a moment ago."""
        found = {(queue, ""): Known(pushed=numbers.pushed_total) for queue, numbers in self._looks.queues.items()}
        for path, numbers in self._looks.known.items():
            found[path] = Known(expired=numbers.expired_total, cancelled=numbers.cancelled_total)
        return found


def _row(path: Path, node: str, now: Totals, then: Totals | None, cpu_us: int) -> Bucket:
    """What happened between two looks."""
    return Bucket(
        *path, node, 0, MINUTE_S,
        **{name: getattr(now, name) - (getattr(then, name) if then else 0) for name in _COUNTS},
        wait_us=_us(now.wait_s) - _us(then.wait_s if then else 0.0),
        run_us=_us(now.run_s) - _us(then.run_s if then else 0.0), cpu_us=cpu_us,
        wait=_classes(now.wait, then.wait if then else ()), run=_classes(now.run, then.run if then else ()),
    )


def _classes(now: tuple[int, ...], then: tuple[int, ...]) -> dict[int, int]:
    before = then or (0,) * len(now)
    return {place: new - old for place, (new, old) in enumerate(zip(now, before, strict=True)) if new > old}


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
