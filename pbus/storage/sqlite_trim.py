"""
What an embedded store drops: log entries that nobody needs, old dead letters, dedupe keys, rested keys.

Rule: functions here run inside a transaction that the driver opened, small ones, so that nobody
waits long for a turn. Bodies that a delivery still needs are put aside before their entry goes.
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from pbus.storage import sqlite_dead, sqlite_shadows
from pbus.storage.sqlite_catalog import SEQUENCE_BITS, Catalog, QueueRow

TRIM_STEP: Final = 2_000
_NEED_BODIES: Final = ("claims", "again", "waiting", "delayed", "dead")
# Nothing is left for the topic in the log, though its cursor may not have passed what is not for it.
_ALL_PASSED = "q.plain = t.passed + t.holes"
_OVER = "d.at_ms <= ?1 - q.dedupe_window_ms"


def to_trim(db: apsw.Connection, catalog: Catalog, now_ms: int) -> list[QueueRow]:
    """Queues with something to drop, the fullest log last: it must not keep the others waiting."""
    names = db.execute("SELECT name FROM queues WHERE pushed > trimmed ORDER BY pushed - trimmed").fetchall()
    queues = [catalog.queue(db, str(name)) for (name,) in names]
    return [queue for queue in queues if trimmable(db, queue, now_ms)]


def trimmable(db: apsw.Connection, queue: QueueRow, now_ms: int) -> int:
    """
    Id of the last entry that can go now, 0 for none; looks at ``TRIM_STEP`` entries at most.

    An entry can go when every topic has passed it and either it is older than the
    retention, or it and the passed entries after it are more than the retention's bytes.
    """
    floor, retention_ms, retention_bytes = db.execute(
        f"SELECT coalesce((SELECT min(CASE WHEN {_ALL_PASSED} THEN q.last_id ELSE t.cursor END) FROM topics t "
        "WHERE t.qid = q.qid AND t.sample = 0), q.last_id), retention_ms, retention_bytes FROM queues q "
        "WHERE qid = ?", (queue.qid,),
    ).get
    settled_upto = db.execute(
        f"SELECT upto FROM {queue.log} WHERE id <= ? ORDER BY id DESC LIMIT 1", (floor,)
    ).get
    if settled_upto is None:
        return 0
    oldest_kept = max(0, now_ms - retention_ms) << SEQUENCE_BITS
    last: int | None = db.execute(
        f"SELECT max(id) FROM (SELECT id, upto - length(body) AS start FROM {queue.log} WHERE id <= ? "
        f"ORDER BY id LIMIT {TRIM_STEP}) WHERE id < ? OR start < ?",
        (floor, oldest_kept, settled_upto - retention_bytes),
    ).get
    return last or 0


def trim(db: apsw.Connection, queue: QueueRow, now_ms: int) -> int:
    """Drop what ``trimmable`` names, bodies that are still needed put aside; answers how many went."""
    last = trimmable(db, queue, now_ms)
    if not last:
        return 0
    _pass_on(db, queue)
    sqlite_shadows.leave_behind(db, queue, last)
    first = db.execute(f"SELECT min(id) FROM {queue.log}").get
    tids: list[Any] = db.execute("SELECT tid FROM topics WHERE qid = ?", (queue.qid,)).fetchall()
    for (tid,) in tids:
        for table in _NEED_BODIES:
            _put_aside(db, queue, table, (tid, first, last))
    upto: int = db.execute(f"SELECT upto FROM {queue.log} WHERE id = ?", (last,)).get
    db.execute(f"DELETE FROM {queue.log} WHERE id <= ?", (last,))
    dropped = db.changes()
    db.execute("UPDATE queues SET trimmed = trimmed + ?, trimmed_bytes = ? WHERE qid = ?", (dropped, upto, queue.qid))
    return dropped


def is_tidy(db: apsw.Connection, now_ms: int) -> bool:
    """Whether ``tidy`` has nothing to do."""
    over = db.execute(
        f"SELECT EXISTS (SELECT 1 FROM queues q, dedupe d WHERE d.qid = q.qid AND {_OVER}) "
        "OR EXISTS (SELECT 1 FROM keys WHERE holder = 0 AND rest_ms <= ?1)", (now_ms,),
    ).get
    return not over and not sqlite_dead.has_old(db, now_ms)


def tidy(db: apsw.Connection, now_ms: int) -> None:
    """Dead letters beyond their keep, dedupe keys whose window is over, keys that have rested; a bounded number."""
    sqlite_dead.drop_old(db, now_ms)
    db.execute(
        "DELETE FROM dedupe WHERE (qid, key) IN "
        f"(SELECT d.qid, d.key FROM queues q, dedupe d WHERE d.qid = q.qid AND {_OVER} LIMIT {TRIM_STEP})", (now_ms,),
    )
    db.execute(
        "DELETE FROM keys WHERE (tid, key) IN "
        f"(SELECT tid, key FROM keys WHERE holder = 0 AND rest_ms <= ? LIMIT {TRIM_STEP})", (now_ms,),
    )


def _pass_on(db: apsw.Connection, queue: QueueRow) -> None:
    """Cursors that have nothing but delayed and cancelled entries before them go to the end."""
    passed: list[Any] = db.execute(
        "UPDATE topics AS t SET cursor = q.last_id, passed = t.passed + t.holes, holes = 0 FROM queues q "
        f"WHERE t.qid = ? AND q.qid = t.qid AND t.cursor < q.last_id AND {_ALL_PASSED} RETURNING tid", (queue.qid,),
    ).fetchall()
    for (tid,) in passed:
        db.execute("DELETE FROM cancelled WHERE tid = ?", (tid,))


def _put_aside(db: apsw.Connection, queue: QueueRow, table: str, part: tuple[int, int, int]) -> None:
    """Copy the bodies that deliveries of *table* in *part* (topic, first and last id) still need."""
    needed = f"{table} WHERE tid = ?1 AND id BETWEEN ?2 AND ?3"
    db.execute(
        f"INSERT INTO aside SELECT ?1, id, body, traceparent, content_type, expires_ms, key FROM {queue.log} "
        f"WHERE id IN (SELECT id FROM {needed})",
        part,
    )
    db.execute(f"UPDATE {needed.replace(' WHERE', ' SET aside = 1 WHERE', 1)}", part)
