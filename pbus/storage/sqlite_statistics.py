"""
Statistics of an embedded store: a row a level, time, queue, topic and node; what is older than its level is deleted.

Rule: functions here run inside a transaction that the driver opened. The tables are made by the first write, so a file
that has none is as good, and a pbus that knows nothing of them reads it as before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import apsw

from pbus.core.statistics import LEVELS, Bucket
from pbus.storage.statistics import Known, begin_s, joined, unpacked

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS statistics (span INTEGER NOT NULL, at INTEGER NOT NULL, queue TEXT NOT NULL, "
    "topic TEXT NOT NULL, node TEXT NOT NULL, numbers BLOB NOT NULL, PRIMARY KEY (span, at, queue, topic, node)) "
    "STRICT, WITHOUT ROWID; "
    "CREATE TABLE IF NOT EXISTS counted (queue TEXT NOT NULL, topic TEXT NOT NULL, pushed INTEGER NOT NULL, "
    "expired INTEGER NOT NULL, cancelled INTEGER NOT NULL, PRIMARY KEY (queue, topic)) STRICT, WITHOUT ROWID"
)
_IS_THERE: Final = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'statistics')"
_AT: Final = "SELECT queue, topic, node, numbers FROM statistics WHERE span = ? AND at = ?"
# Time by time: the queue's rows of each are found by the whole key, and other queues' are not looked at.
_READ: Final = (
    "SELECT s.at, s.topic, s.node, s.numbers FROM json_each(?1) times CROSS JOIN statistics s "
    "ON s.span = ?2 AND s.at = times.value AND s.queue = ?3 "
    "WHERE ?4 IS NULL OR s.topic IN (?4, '') ORDER BY s.at, s.topic, s.node"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What there is already: by queue and topic how far totals are counted, by span the rows of the time."""

    counted: Mapping[tuple[str, str], Known]
    rows: Mapping[int, Mapping[tuple[str, str, str], bytes]]


def stored(db: apsw.Connection, at_s: int) -> Stored:
    """Of the buckets that *at_s* is in."""
    if not db.execute(_IS_THERE).get:
        return Stored({}, {span: {} for span in LEVELS})
    rows = {
        span: {tuple(names): numbers for *names, numbers in db.execute(_AT, (span, begin_s(at_s, span)))}
        for span in LEVELS
    }
    return Stored(_counted(db), rows)


def added(at_s: int, rows: Iterable[Bucket], known: Mapping[tuple[str, str], Known], before: Stored) -> list[Any]:
    """Rows of the table with *rows* and what totals grew by in them; made before the turn, since it takes its time."""
    rows = [*rows, *_grown(before.counted, known)]
    return [
        (span, begin_s(at_s, span), row.queue, row.topic, row.node,
         joined(row, before.rows[span].get((row.queue, row.topic, row.node))))
        for span in LEVELS for row in rows
    ]


def put(
    db: apsw.Connection, at_s: int, rows: Sequence[Bucket], known: Mapping[tuple[str, str], Known], before: Stored,
    table: Sequence[Any],
) -> None:
    """
    See ``KeepsStatistics.put_statistics``.

    Args:
        before: What was there when *table* was made (``added``).
    """
    db.execute(_TABLES)
    if _counted(db) != before.counted:      # another process has told totals meanwhile
        table = added(at_s, rows, known, before := stored(db, at_s))
    db.executemany("INSERT OR REPLACE INTO counted VALUES (?, ?, ?, ?, ?)", [
        (*path, now.pushed, now.expired, now.cancelled)
        for path, now in known.items() if before.counted.get(path) != now
    ])
    db.executemany("INSERT OR REPLACE INTO statistics VALUES (?, ?, ?, ?, ?, ?)", table)
    for span, keep in LEVELS.items():
        db.execute("DELETE FROM statistics WHERE span = ? AND at < ?", (span, begin_s(at_s, span) - keep))


def read(db: apsw.Connection, queue: str, topic: str | None, times: range) -> list[Bucket]:
    """See ``KeepsStatistics.statistics``."""
    if not db.execute(_IS_THERE).get:
        return []
    found: Any = db.execute(_READ, (json.dumps(list(times)), times.step, queue, topic))
    buckets = [unpacked(numbers, Bucket(queue, name, node, at, times.step)) for at, name, node, numbers in found]
    return [bucket for bucket in buckets if bucket is not None]


def _counted(db: apsw.Connection) -> Mapping[tuple[str, str], Known]:
    return {(queue, topic): Known(*totals) for queue, topic, *totals in db.execute("SELECT * FROM counted")}


def _grown(before: Mapping[tuple[str, str], Known], known: Mapping[tuple[str, str], Known]) -> Sequence[Bucket]:
    """What totals grew by."""
    rows = []
    for (queue, topic), now in known.items():
        then = before.get((queue, topic), now)
        if then == now:
            continue
        old = asdict(then)
        # A smaller total is of a new topic of that name.
        more = {name: each - old[name] if each >= old[name] else each for name, each in asdict(now).items()}
        rows.append(Bucket(queue, topic, "", 0, **more))
    return rows
