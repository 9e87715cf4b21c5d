"""Statistics of the embedded store: rows are made before the turn to write, totals are checked in it."""

from __future__ import annotations

import apsw

from pbus.core.statistics import LEVELS, Bucket
from pbus.storage import sqlite_statistics
from pbus.storage.statistics import Known

NOON = 43_200
QUEUE = ("gift", "")


def put(db: apsw.Connection, pushed: int, between: int | None = None) -> None:
    """Tell *pushed*; *between* is told by somebody else when our rows are made already."""
    known = {QUEUE: Known(pushed)}
    before = sqlite_statistics.stored(db, NOON)
    table = sqlite_statistics.added(NOON, [Bucket("gift", "credit", "n1", 0, done=1)], known, before)
    if between is not None:
        put(db, between)
    with db:
        sqlite_statistics.put(db, NOON, [Bucket("gift", "credit", "n1", 0, done=1)], known, before, table)


def test_total_that_another_process_told_meanwhile_counts_once() -> None:
    db = apsw.Connection("")
    put(db, 10)
    put(db, 17, between=15)

    for span in LEVELS:
        rows = sqlite_statistics.read(db, "gift", "credit", range(0, NOON + 1, span))
        assert [(row.topic, row.pushed, row.done) for row in rows] == [("", 7, 0), ("credit", 0, 3)]


def test_file_without_the_tables_has_nothing_and_a_total_that_stays_is_not_written() -> None:
    db = apsw.Connection("")
    assert sqlite_statistics.read(db, "gift", None, range(0, NOON, 60)) == []
    put(db, 10)
    put(db, 10)

    assert [row.topic for row in sqlite_statistics.read(db, "gift", None, range(NOON, NOON + 1, 60))] == ["credit"]
