"""
Halves of comparisons in an embedded store. The table is made by the first write, as that of documents is.

Rule: functions here run inside a write transaction that the driver opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from pbus.storage.halves import KEEP_S, MOST, Met, Waiting
from pbus.storage.sqlite_catalog import id_number

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS halves (tid INTEGER NOT NULL, id INTEGER NOT NULL, shadow INTEGER NOT NULL, "
    "at_ms INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (tid, id, shadow)) STRICT"
)
_BY_TIME: Final = "CREATE INDEX IF NOT EXISTS halves_at ON halves (at_ms)"
_TAKE: Final = "DELETE FROM halves WHERE tid = ? AND id = ? AND shadow = ? RETURNING text"
_KEEP: Final = "INSERT OR REPLACE INTO halves VALUES (?, ?, ?, ?, ?)"
_TOO_MANY: Final = (
    "DELETE FROM halves WHERE rowid IN (SELECT rowid FROM halves WHERE tid = ?1 ORDER BY at_ms, id "
    "LIMIT max(0, (SELECT count(*) FROM halves WHERE tid = ?1) - ?2))"
)


def meet(db: apsw.Connection, tid: int, halves: Sequence[Waiting], now_ms: int) -> Met:
    """See ``KeepsHalves.meet``. What is too old goes for all: a topic that was dropped leaves its own behind."""
    db.execute(_TABLE)
    db.execute(_BY_TIME)
    old_ms = now_ms - round(KEEP_S * 1000)
    dropped = db.execute("SELECT count(*) FROM halves WHERE at_ms <= ? AND tid = ?", (old_ms, tid)).get
    db.execute("DELETE FROM halves WHERE at_ms <= ?", (old_ms,))
    others: list[str | None] = []
    for half in halves:
        number = id_number(half.id)
        other = db.execute(_TAKE, (tid, number, not half.shadow)).get
        if other is None:
            db.execute(_KEEP, (tid, number, half.shadow, now_ms, half.text))
        others.append(other)
    db.execute(_TOO_MANY, (tid, MOST))
    return Met(others, dropped + db.changes())
