"""
What people and producers do to deliveries of an embedded store that nobody holds.

Rule: functions here run inside a write transaction that the driver opened. A running delivery is its
owner's: nothing here touches it. The key of what ends here is handed on in the same write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw

from pbus.storage import sqlite_dead
from pbus.storage.sqlite_catalog import QueueRow, id_number
from pbus.storage.sqlite_keys import release
from pbus.storage.sqlite_settle import body_bytes
from pbus.storage.sqlite_shadows import is_sampled

PURGE_STEP: Final = 10_000

_PLACES: Final = ("again", "waiting", "delayed")
_OF_TOPIC: Final = ("claims", "again", "waiting", "delayed", "dead", "dead_groups", "keys", "cancelled", "aside")
_LEAVE: Final = {
    place: f"DELETE FROM {place} WHERE tid = ? AND id BETWEEN ? AND ? RETURNING id, aside, key, fresh"
    for place in _PLACES
}
_COUNT_CANCELLED: Final = {
    place: f"UPDATE topics SET {place} = {place} - ?, cancelled_total = cancelled_total + ?, taken = taken + ?, "
    "taken_bytes = taken_bytes + ? WHERE tid = ?"
    for place in _PLACES
}
_FORGIVE: Final = {
    place: f"UPDATE {place} SET forgiven = min(attempts, forgiven + 1) WHERE tid = ? AND id = ?" for place in _PLACES
}
_DROP_ASIDE = "DELETE FROM aside WHERE tid = ? AND id = ?"
# Entries l of the log that are deliveries of topic t (tid ?1), ready there, and not cancelled.
_IN_LOG = (
    "{log} l JOIN topics t ON t.tid = ?1 WHERE l.id > t.cursor AND "
    "(l.due_ms IS NULL OR (l.id <= t.born AND l.due_ms <= t.born_ms)) AND "
    "NOT EXISTS (SELECT 1 FROM cancelled c WHERE c.tid = ?1 AND c.id = l.id)"
)
_IN_SAMPLE = f" AND (t.sample = 0 OR {is_sampled('l.id', 't.sample')})"


def cancel(db: apsw.Connection, queue: QueueRow, tid: int, ids: Sequence[str], now_ms: int) -> tuple[list[bool], bool]:
    """
    ``Driver.cancel`` in one topic.

    Returns:
        Per job whether it was cancelled; whether something became ready by it.
    """
    ended: list[tuple[int, str, int]] = []
    answers = []
    for number in map(id_number, ids):
        left = any(_leave(db, queue, place, tid, (number, number), ended) for place in _PLACES)
        answers.append(left or _leave_log(db, queue, tid, number))
    return answers, bool(release(db, ended, now_ms, {}))


def purge(db: apsw.Connection, queue: QueueRow, tid: int, now_ms: int) -> tuple[int, bool]:
    """
    One step of ``Driver.purge``.

    Returns:
        How many were cancelled; whether something became ready by it.
    """
    everywhere = " UNION ALL ".join(f"SELECT id FROM {place} WHERE tid = ?1" for place in _PLACES)
    last = db.execute(
        f"SELECT max(id) FROM (SELECT id FROM ({everywhere} UNION ALL SELECT l.id FROM {_in_log(queue)}) "
        f"ORDER BY id LIMIT {PURGE_STEP})", (tid,),
    ).get
    if last is None:
        return 0, False
    ended: list[tuple[int, str, int]] = []
    count = sum(_leave(db, queue, place, tid, (0, last), ended) for place in _PLACES)
    count += _pass_log(db, queue, tid, last)
    return count, bool(release(db, ended, now_ms, {}))


def forgive(db: apsw.Connection, queue: QueueRow, tid: int, ids: Sequence[str]) -> tuple[list[bool], bool]:
    """
    ``Driver.forgive``.

    Returns:
        Its answer; whether something became ready by it.
    """
    answers, woken = [], False
    for number in map(id_number, ids):
        dead = sqlite_dead.forgive(db, tid, number)
        woken = woken or dead
        answers.append(dead or _forgive_waiting(db, queue, tid, number))
    return answers, woken


def pause(db: apsw.Connection, tid: int, paused: bool, now_ms: int) -> None:
    """See ``Driver.pause``."""
    since = "CASE paused_ms WHEN 0 THEN ? ELSE paused_ms END"
    db.execute(f"UPDATE topics SET paused_ms = {since if paused else '? * 0'} WHERE tid = ?", (now_ms, tid))


def drop_topic(db: apsw.Connection, tid: int) -> bool:
    """See ``Driver.drop_topic``."""
    for table in (*_OF_TOPIC, "topics"):
        db.execute(f"DELETE FROM {table} WHERE tid = ?", (tid,))
    dropped = db.changes() > 0
    db.execute("UPDATE pulse SET catalog = catalog + 1")
    return dropped


def _leave(
    db: apsw.Connection, queue: QueueRow, place: str, tid: int, part: tuple[int, int], ended: list[tuple[int, str, int]]
) -> int:
    """Deliveries of *part* (first and last id) of a table are cancelled; answers how many, adds to *ended*."""
    rows: list[Any] = db.execute(_LEAVE[place], (tid, *part)).fetchall()
    if rows:
        fresh = [number for number, _, _, fresh in rows if fresh]
        size = body_bytes(db, queue.log, tid, fresh)
        db.execute(_COUNT_CANCELLED[place], (len(rows), len(rows), len(fresh), size, tid))
        db.executemany(_DROP_ASIDE, [(tid, number) for number, aside, *_ in rows if aside])
        ended += [(tid, key, number) for number, _, key, _ in rows if key]
    return len(rows)


def _leave_log(db: apsw.Connection, queue: QueueRow, tid: int, number: int) -> bool:
    """One entry after the cursor is cancelled: a hole that claims pass over."""
    size = db.execute(f"SELECT length(l.body) FROM {_in_log(queue)} AND l.id = ?2{_IN_SAMPLE}", (tid, number)).get
    if size is None:
        return False
    db.execute("INSERT INTO cancelled VALUES (?, ?)", (tid, number))
    db.execute(
        "UPDATE topics SET holes = holes + 1, cancelled_total = cancelled_total + 1, taken = taken + 1, "
        "taken_bytes = taken_bytes + ? WHERE tid = ?", (size, tid),
    )
    return True


def _pass_log(db: apsw.Connection, queue: QueueRow, tid: int, last: int) -> int:
    """The entries up to *last* are cancelled: the cursor moves on; answers how many."""
    count, size = db.execute(
        f"SELECT count(*), coalesce(sum(length(l.body)), 0) FROM {_in_log(queue)} AND l.id <= ?2", (tid, last)
    ).get
    db.execute("DELETE FROM cancelled WHERE tid = ? AND id <= ?", (tid, last))
    holes = db.changes()
    db.execute(
        "UPDATE topics SET cursor = max(cursor, ?1), passed = passed + ?2 + ?3, holes = holes - ?3, "
        "cancelled_total = cancelled_total + ?2, taken = taken + ?2, taken_bytes = taken_bytes + ?4 WHERE tid = ?5",
        (last, count, holes, size, tid),
    )
    return int(count)


def _forgive_waiting(db: apsw.Connection, queue: QueueRow, tid: int, number: int) -> bool:
    for place in _PLACES:
        db.execute(_FORGIVE[place], (tid, number))
        if db.changes():
            return True
    # Not tried so far: ready, and nothing to give back.
    return bool(db.execute(f"SELECT EXISTS (SELECT 1 FROM {_in_log(queue)} AND l.id = ?2)", (tid, number)).get)


def _in_log(queue: QueueRow) -> str:
    return _IN_LOG.format(log=queue.log)
