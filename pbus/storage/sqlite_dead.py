"""
Dead letters of an embedded store: burying, their groups, their bounds, and what people do with them.

Rule: functions here run inside a transaction that the driver opened. A group knows how many of its
letters are there and how many ever were; what its newest letter says is read from that letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw

from pbus.storage.driver import DeadGroup, DeadLetter
from pbus.storage.sqlite_catalog import CARRIED, id_number, id_text

GROUPS: Final = 1_000
_AT_ONCE: Final = 2_000
_EMPTY_GROUP_KEEP_MS: Final = 7 * 24 * 3600 * 1000

_BURY = f"INSERT INTO dead (tid, {CARRIED}, at_ms, reason, error, fingerprint) VALUES ({', '.join('?' * 14)})"
_COUNT_GROUP = (
    "INSERT INTO dead_groups VALUES (?1, ?2, 1, 1, ?3, ?3) ON CONFLICT (tid, fingerprint) DO UPDATE "
    "SET count = count + 1, total = total + 1, last_ms = max(last_ms, excluded.last_ms)"
)
_LEAVE = f"DELETE FROM dead WHERE tid = ? AND id = ? RETURNING {CARRIED}, fingerprint"
_LEAVE_GROUP = "UPDATE dead_groups SET count = count - ? WHERE tid = ? AND fingerprint = ?"
_TOO_MANY = "SELECT dead - dead_max FROM topics WHERE tid = ? AND dead_max > 0"
_DROP = (
    "DELETE FROM dead WHERE tid = ?1 AND id IN "
    "(SELECT id FROM dead WHERE tid = ?1 AND at_ms <= ?2 ORDER BY at_ms, id LIMIT ?3) RETURNING id, aside, fingerprint"
)
_DROP_ASIDE = "DELETE FROM aside WHERE tid = ? AND id = ?"
_COUNT_ENDS = (
    "UPDATE topics SET dead = dead - ?, again = again + ?, done_total = done_total + ?, "
    "forgotten_total = forgotten_total + ? WHERE tid = ?"
)
_BACK = f"INSERT INTO again (tid, {CARRIED}, fresh) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
_EMPTY_GROUPS = "tid IN (SELECT tid FROM topics) AND count = 0 AND last_ms < {}"
_END_OF_TIME: Final = (1 << 63) - 1


def bury(
    db: apsw.Connection, row: Sequence[Any], now_ms: int, reason: str, error: str, fingerprint: str
) -> None:
    """A delivery dies; *row* is its topic and what it carries. The caller counts it in its topic."""
    db.execute(_BURY, (*row, now_ms, reason, error, fingerprint))
    db.execute(_COUNT_GROUP, (row[0], fingerprint, now_ms))


def drop_above_max(db: apsw.Connection, tid: int) -> None:
    """Hold the topic's dead_max: the oldest letters go, a bounded number a call (it may have been lowered)."""
    too_many: Any = db.execute(_TOO_MANY, (tid,)).get
    if too_many is not None and too_many > 0:
        _drop(db, tid, _END_OF_TIME, min(too_many, _AT_ONCE))


def drop_old(db: apsw.Connection, now_ms: int) -> None:
    """Letters beyond their topic's dead_keep or dead_max, a bounded number a call, and groups that nobody misses."""
    above: list[Any] = db.execute("SELECT tid FROM topics WHERE dead_max > 0 AND dead > dead_max").fetchall()
    for (tid,) in above:
        drop_above_max(db, tid)
    keeping: list[Any] = db.execute(
        "SELECT tid, dead_keep_ms FROM topics WHERE dead_keep_ms > 0 AND dead > 0"
    ).fetchall()
    for tid, keep_ms in keeping:
        _drop(db, tid, now_ms - keep_ms, _AT_ONCE)
    db.execute(f"DELETE FROM dead_groups WHERE {_EMPTY_GROUPS.format('?')}", (now_ms - _EMPTY_GROUP_KEEP_MS,))


def has_old(db: apsw.Connection, now_ms: int) -> bool:
    """Whether ``drop_old`` has anything to do."""
    return bool(db.execute(
        "SELECT EXISTS (SELECT 1 FROM topics t WHERE dead_keep_ms > 0 AND dead > 0 AND "
        "(SELECT min(at_ms) FROM dead d WHERE d.tid = t.tid) <= ?1 - dead_keep_ms) "
        "OR EXISTS (SELECT 1 FROM topics WHERE dead_max > 0 AND dead > dead_max) "
        f"OR EXISTS (SELECT 1 FROM dead_groups WHERE {_EMPTY_GROUPS.format('?2')})",
        (now_ms, now_ms - _EMPTY_GROUP_KEEP_MS),
    ).get)


def revive(db: apsw.Connection, tid: int, ids: Sequence[str]) -> list[bool]:
    """See ``Driver.revive``."""
    return [_wake(db, tid, id_number(text), _revived) for text in ids]


def forgive(db: apsw.Connection, tid: int, number: int) -> bool:
    """``Driver.forgive`` of one dead delivery."""
    return _wake(db, tid, number, _forgiven)


def accept(db: apsw.Connection, tid: int, ids: Sequence[str]) -> list[bool]:
    """See ``Driver.accept``."""
    answers = [_end(db, tid, id_number(text)) for text in ids]
    db.execute(_COUNT_ENDS, (sum(answers), 0, sum(answers), 0, tid))
    return answers


def forget_dead(db: apsw.Connection, tid: int, ids: Sequence[str]) -> list[bool]:
    """See ``Driver.forget_dead``."""
    answers = [_end(db, tid, id_number(text)) for text in ids]
    db.execute(_COUNT_ENDS, (sum(answers), 0, 0, sum(answers), tid))
    return answers


def dead_letters(
    db: apsw.Connection, queue: str, topic: str, tid: int, limit: int, fingerprint: str, before: DeadLetter | None
) -> list[DeadLetter]:
    """See ``Driver.dead_letters``."""
    where = "tid = ?"
    values: list[int | str] = [tid]
    if fingerprint:
        where, values = where + " AND fingerprint = ?", [*values, fingerprint]
    if before:
        where, values = where + " AND (at_ms, id) < (?, ?)", [*values, before.at_ms, id_number(before.id)]
    rows = db.execute(
        "SELECT id, at_ms, attempts, crashes, reason, error, fingerprint FROM dead "
        f"WHERE {where} ORDER BY at_ms DESC, id DESC LIMIT ?", (*values, limit),
    )
    return [DeadLetter(queue, topic, id_text(number), *rest) for number, *rest in rows]


def dead_groups(db: apsw.Connection, queue: str, topic: str, tid: int) -> list[DeadGroup]:
    """See ``Driver.dead_groups``; the newest letter is the newest of those that are there."""
    rows: Any = db.execute(
        "SELECT g.fingerprint, g.count, g.total, g.first_ms, d.at_ms, d.reason, d.error, d.id "
        f"FROM (SELECT * FROM dead_groups WHERE tid = ?1 AND count > 0 ORDER BY count DESC, last_ms DESC LIMIT {GROUPS}"
        ") g JOIN dead d ON d.tid = ?1 AND d.id = (SELECT id FROM dead WHERE tid = ?1 AND fingerprint = g.fingerprint "
        "ORDER BY at_ms DESC, id DESC LIMIT 1) ORDER BY g.count DESC, d.at_ms DESC", (tid,),
    )
    return [
        DeadGroup(queue, topic, fingerprint, count, total, first_ms, last_ms, reason, error, id_text(sample))
        for fingerprint, count, total, first_ms, last_ms, reason, error, sample in rows
    ]


def _drop(db: apsw.Connection, tid: int, upto_ms: int, count: int) -> None:
    """The oldest *count* letters that died until then are forgotten."""
    gone: list[Any] = db.execute(_DROP, (tid, upto_ms, count)).fetchall()
    for number, aside, fingerprint in gone:
        db.execute(_LEAVE_GROUP, (1, tid, fingerprint))
        if aside:
            db.execute(_DROP_ASIDE, (tid, number))
    db.execute(_COUNT_ENDS, (len(gone), 0, 0, len(gone), tid))


def _end(db: apsw.Connection, tid: int, number: int) -> bool:
    """A letter goes, and its body with it; False: there is none. The caller counts it in its topic."""
    row: Any = db.execute(_LEAVE, (tid, number)).get
    if row is None:
        return False
    db.execute(_LEAVE_GROUP, (1, tid, row[-1]))
    if row[6]:
        db.execute(_DROP_ASIDE, (tid, number))
    return True


def _wake(
    db: apsw.Connection, tid: int, number: int, change: Callable[[Sequence[Any]], Sequence[Any]]
) -> bool:
    """A dead delivery is ready again, as *change* has it; False: it is not dead."""
    row: Any = db.execute(_LEAVE, (tid, number)).get
    if row is None:
        return False
    db.execute(_LEAVE_GROUP, (1, tid, row[-1]))
    db.execute(_BACK, (tid, *change(row[:-1])))
    db.execute(_COUNT_ENDS, (1, 1, 0, 0, tid))
    return True


def _revived(carried: Sequence[Any]) -> Sequence[Any]:
    number, attempts, _, _, _, _, aside, expires_ms, key = carried
    return number, attempts, 0, attempts, 1, 0, aside, expires_ms, key


def _forgiven(carried: Sequence[Any]) -> Sequence[Any]:
    number, attempts, crashes, forgiven, *rest = carried
    return number, attempts, crashes, min(attempts, forgiven + 1), *rest
