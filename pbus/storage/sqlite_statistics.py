"""
Statistics of an embedded store: a row a level, time, queue, topic and node; what is older than its level is deleted.

Rule: functions here run inside a transaction that the driver opened. The tables are made by the first write, so a file
that has none is as good, and a pbus that knows nothing of them reads it as before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
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


def put(
    db: apsw.Connection, at_s: int, rows: Iterable[Bucket], known: Mapping[tuple[str, str], Known]
) -> None:
    """See ``KeepsStatistics.put_statistics``."""
    db.execute(_TABLES)
    rows = [*rows, *_grown(db, known)]
    for span, keep in LEVELS.items():
        at = begin_s(at_s, span)
        stored: dict[tuple[str, str, str], bytes] = {
            (queue, topic, node): numbers for queue, topic, node, numbers in db.execute(_AT, (span, at))
        } if rows else {}
        db.executemany("INSERT OR REPLACE INTO statistics VALUES (?, ?, ?, ?, ?, ?)", [
            (span, at, row.queue, row.topic, row.node, joined(row, stored.get((row.queue, row.topic, row.node))))
            for row in rows
        ])
        db.execute("DELETE FROM statistics WHERE span = ? AND at < ?", (span, at - keep))


def read(db: apsw.Connection, queue: str, topic: str | None, times: range) -> list[Bucket]:
    """See ``KeepsStatistics.statistics``."""
    if not db.execute(_IS_THERE).get:
        return []
    found: Any = db.execute(_READ, (json.dumps(list(times)), times.step, queue, topic))
    buckets = [unpacked(numbers, Bucket(queue, name, node, at, times.step)) for at, name, node, numbers in found]
    return [bucket for bucket in buckets if bucket is not None]


def _grown(db: apsw.Connection, known: Mapping[tuple[str, str], Known]) -> Sequence[Bucket]:
    """What totals grew by; from here on these count."""
    before = {(queue, topic): Known(*totals) for queue, topic, *totals in db.execute("SELECT * FROM counted")}
    db.executemany("INSERT OR REPLACE INTO counted VALUES (?, ?, ?, ?, ?)", [
        (*path, now.pushed, now.expired, now.cancelled) for path, now in known.items() if before.get(path) != now
    ])
    rows = []
    for (queue, topic), now in known.items():
        then = asdict(before.get((queue, topic), now))
        # A smaller total is of a new topic of that name.
        more = {name: each - then[name] if each >= then[name] else each for name, each in asdict(now).items()}
        row = Bucket(queue, topic, "", 0, **more)
        if not row.is_empty:
            rows.append(row)
    return rows
