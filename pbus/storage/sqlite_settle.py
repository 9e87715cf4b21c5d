"""
Ends of claims of an embedded store, and what becomes due.

Rule: functions here run inside a write transaction that the driver opened. A claim is ended by who
holds it (core/job.py says where the delivery may go); the counters of its topic move with it, and
the key of what has ended is handed on in the same write.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apsw

from pbus.core.job import Move, Settlement
from pbus.storage import sqlite_dead
from pbus.storage.sqlite_catalog import CARRIED, Catalog, id_number
from pbus.storage.sqlite_keys import release

_END_CLAIM = f"DELETE FROM claims WHERE oid = ? AND tid = ? AND id = ? RETURNING {CARRIED}"
_TOGETHER = "oid = ?1 AND tid = ?2 AND id IN (SELECT value FROM json_each(?3))"
_ACKED_WITH_KEYS = (
    "SELECT count(*), json_group_array(json_array(key, id)) FILTER (WHERE key <> '') FROM claims "
    f"WHERE {_TOGETHER} AND NOT aside"
)
_END_ALL = f"DELETE FROM claims WHERE {_TOGETHER}"
# All of them or none: the count is taken before the first one goes.
_END_TOGETHER = (
    f"DELETE FROM claims WHERE {_TOGETHER} AND "
    f"(SELECT count(*) FROM claims WHERE {_TOGETHER} AND NOT aside AND key = '') = ?4"
)
_PLAIN = "NOT aside AND key = ''"
_LISTED = {
    size: f"DELETE FROM claims WHERE oid = ?1 AND tid = ?2 AND {_PLAIN} AND id IN "
          f"({', '.join(f'?{place + 3}' for place in range(size))})"
    for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)
}
"""Less than half of what JSON costs. For so many claims, or less: the last one may be named several times."""
_LONGEST_LIST = max(_LISTED)
_END_MANY = f"DELETE FROM claims WHERE {_TOGETHER} AND {_PLAIN}"
_REASSIGN = f"UPDATE claims SET oid = ?4 WHERE {_TOGETHER}"
_HELD_OF = f"SELECT id FROM claims WHERE {_TOGETHER}"
_COUNT_MOVES = (
    "UPDATE topics SET running = running - ?, again = again + ?, delayed = delayed + ?, dead = dead + ?, "
    "dead_total = dead_total + ?, done_total = done_total + ?, failed_total = failed_total + ? WHERE tid = ?"
)
_BACK = f"INSERT INTO again (tid, {CARRIED}, fresh) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
_LATER = f"INSERT INTO delayed (tid, {CARRIED}, fresh, due_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)"
_DROP_ASIDE = "DELETE FROM aside WHERE tid = ? AND id = ?"

_DELAYED = (
    "SELECT t.tid, t.qid, q.name, t.name, (SELECT min(due_ms) FROM delayed d WHERE d.tid = t.tid) "
    "FROM topics t JOIN queues q USING (qid) WHERE t.delayed > 0"
)
_OF_QUEUES = " AND q.name IN (SELECT value FROM json_each(?))"
_DUE = (
    "DELETE FROM delayed WHERE tid = ?1 AND id IN "
    "(SELECT id FROM delayed WHERE tid = ?1 AND due_ms <= ?2 ORDER BY due_ms, id LIMIT ?3) "
    f"RETURNING tid, {CARRIED}, fresh"
)
_READY = f"INSERT INTO again (tid, {CARRIED}, fresh) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COUNT_DUE = (
    "UPDATE topics SET again = again + ?, delayed = delayed - ?, expired_total = expired_total + ?, "
    "taken = taken + ?, taken_bytes = taken_bytes + ? WHERE tid = ?"
)


@dataclass(slots=True)
class _Tally:
    """What the settlements of one call do to the counters of a topic."""

    acked: int = 0
    released: int = 0
    retried: int = 0
    buried: int = 0
    failed: int = 0

    def count(self, settlement: Settlement) -> None:
        """Add one that is no ack."""
        self.released += settlement.move is Move.RELEASE
        self.retried += settlement.move is Move.RETRY
        self.buried += settlement.move is Move.BURY
        self.failed += settlement.counts or settlement.crash

    def row(self) -> tuple[int, ...]:
        """Parameters of ``_COUNT_MOVES`` without the topic."""
        ended = self.acked + self.released + self.retried + self.buried
        return ended, self.released, self.retried, self.buried, self.buried, self.acked, self.failed


@dataclass(slots=True)
class _Settling:
    """One call: what it has done so far."""

    now_ms: int
    tallies: dict[int, _Tally] = field(default_factory=lambda: collections.defaultdict(_Tally))
    ended: list[tuple[int, str, int]] = field(default_factory=list)
    rests_ms: dict[tuple[int, str], int] = field(default_factory=dict)
    ringing: set[int] = field(default_factory=set)

    def end(self, db: apsw.Connection, one: Settlement, tid: int, claimed: Sequence[Any]) -> None:
        """What becomes of a claim that just ended; *claimed* is what it carried."""
        number, aside, key = claimed[0], claimed[6], claimed[8]
        if one.move is Move.ACK:
            self.tallies[tid].acked += 1
            if aside:
                db.execute(_DROP_ASIDE, (tid, number))
        else:
            self.tallies[tid].count(one)
            _put(db, one, tid, claimed, self.now_ms)
            if one.move is Move.RELEASE:
                self.ringing.add(tid)
        if key and one.move in (Move.ACK, Move.BURY):
            self.ended.append((tid, key, number))
            if one.move is Move.BURY and one.key_rest_s > 0:
                self.rests_ms[tid, key] = round(one.key_rest_s * 1000)


class NotAlike(Exception):
    """Claims that were to end together, and did not: one is not its owner's, has a key, or its body aside."""


class Known(NamedTuple):
    """
    What a call knows beforehand.

    Attributes:
        oids: Numbers of the owners.
        careful: Look at claims before they end together; else ``NotAlike`` may be raised.
    """

    catalog: Catalog
    oids: dict[str, int]
    careful: bool


def settle(
    db: apsw.Connection, known: Known, settlements: Sequence[Settlement], now_ms: int
) -> tuple[list[bool], set[int]]:
    """
    End claims, each if its owner still holds it.

    Returns:
        Per settlement whether it took effect; queues (qid) that have something ready by it.

    Raises:
        NotAlike: undo everything, then call again and be careful.
    """
    catalog, oids, _ = known
    settling = _Settling(now_ms)
    answers = _ack_together(db, known, settlements, settling)
    for at, one in enumerate(settlements):
        if answers[at]:
            continue
        tid = catalog.topic_number(db, one.queue, one.topic)
        claimed: Any = db.execute(_END_CLAIM, (oids.get(one.owner, -1), tid, id_number(one.id))).get
        if claimed is not None:
            answers[at] = True
            settling.end(db, one, tid, claimed)
    for tid, tally in settling.tallies.items():
        db.execute(_COUNT_MOVES, (*tally.row(), tid))
        if tally.buried:
            sqlite_dead.drop_above_max(db, tid)
    ringing = settling.ringing | release(db, settling.ended, now_ms, settling.rests_ms)
    rows = [(catalog.queues[one.queue], one.topic) for one in settlements if one.queue in catalog.queues]
    return answers, {row.qid for row, topic in rows if row.topics.get(topic) in ringing} if ringing else set()


def _ack_together(
    db: apsw.Connection, known: Known, settlements: Sequence[Settlement], settling: _Settling
) -> list[bool]:
    """
    The usual case in one statement: an owner is done with deliveries of a topic, all of them its own.

    Every statement lets the other threads of this process in, and waits for them afterwards: beside
    a busy one, a statement a delivery costs four times what it costs alone.

    Returns:
        Per settlement whether it took effect; those that did not are not looked at yet.
    """
    answers = [False] * len(settlements)
    groups: dict[tuple[str, str, str], list[int]] = collections.defaultdict(list)
    for at, one in enumerate(settlements):
        if one.move is Move.ACK:
            groups[one.owner, one.queue, one.topic].append(at)
    for (owner, queue, topic), places in groups.items():
        tid = known.catalog.topic_number(db, queue, topic)
        numbers = [id_number(settlements[at].id) for at in places]
        if _end_together(db, known, settling, (known.oids.get(owner, -1), tid, numbers)):
            settling.tallies[tid].acked += len(places)
            for at in places:
                answers[at] = True
    return answers


def _end_together(
    db: apsw.Connection, known: Known, settling: _Settling, these: tuple[int, int, list[int]]
) -> bool:
    """Whether *these* (owner, topic, ids) have ended: all of them or none."""
    oid, tid, numbers = these
    count = len(numbers)
    if known.careful:
        row = (oid, tid, str(numbers), count)
        db.execute(_END_TOGETHER, row)
        # None: one was settled before, is somebody else's, came twice, has a key, or its body aside.
        return db.changes() == count or _end_with_keys(db, settling, tid, row)
    if count > _LONGEST_LIST:
        db.execute(_END_MANY, (oid, tid, str(numbers)))
    else:
        size = 1 << (count - 1).bit_length()
        db.execute(_LISTED[size], (oid, tid, *numbers, *numbers[-1:] * (size - count)))
    if db.changes() != count:
        raise NotAlike
    return True


def _end_with_keys(db: apsw.Connection, settling: _Settling, tid: int, row: tuple[int, int, str, int]) -> bool:
    """The same for deliveries with keys, which are handed on."""
    count, pairs = db.execute(_ACKED_WITH_KEYS, row[:3]).get
    if count < row[3]:
        return False
    db.execute(_END_ALL, row[:3])
    settling.ended += [(tid, key, number) for key, number in json.loads(pairs)]
    return True


def reassign(
    db: apsw.Connection, catalog: Catalog, oid: int, heir: int, claims: Sequence[tuple[str, str, str]]
) -> list[bool]:
    """See ``Driver.reassign``; *oid* and *heir* are the numbers of the owners."""
    topics: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for queue, topic, job_id in claims:
        topics[queue, topic].append(id_number(job_id))
    held: set[tuple[str, str, int]] = set()
    for (queue, topic), numbers in topics.items():
        tid, these = catalog.topic_number(db, queue, topic), str(numbers)
        db.execute(_REASSIGN, (oid, tid, these, heir))
        held.update([(queue, topic, number) for (number,) in db.execute(_HELD_OF, (heir, tid, these))])
    return [(queue, topic, id_number(job_id)) in held for queue, topic, job_id in claims]


def _put(db: apsw.Connection, one: Settlement, tid: int, claimed: Sequence[Any], now_ms: int) -> None:
    """Where a claim goes that just ended, and not as done."""
    number, attempts, crashes, forgiven, redelivered, first_ms, aside, expires_ms, key = claimed
    if one.counts and not first_ms:
        first_ms = now_ms
    attempts += one.counts
    crashes += one.crash
    redelivered |= one.redelivered  # what may have run once stays so
    row = (tid, number, attempts, crashes, forgiven, redelivered, first_ms, aside, expires_ms, key)
    if one.move is Move.RELEASE:
        db.execute(_BACK, row)
    elif one.move is Move.RETRY:
        db.execute(_LATER, (*row, now_ms + max(0, round(one.delay_s * 1000))))
    else:
        sqlite_dead.bury(db, row, now_ms, one.reason, one.error, one.fingerprint)


def due_topics(
    db: apsw.Connection, now_ms: int, queues: Sequence[str] | None = None
) -> tuple[list[tuple[int, int, str, str]], int | None]:
    """Topics with something due, as (tid, qid, queue, topic); when the next delivery is due, unix ms."""
    found = db.execute(_DELAYED) if queues is None else db.execute(_DELAYED + _OF_QUEUES, (json.dumps(list(queues)),))
    rows: list[Any] = found.fetchall()
    next_ms = min((due_ms for *_, due_ms in rows), default=None)
    return [(tid, qid, queue, topic) for tid, qid, queue, topic, due_ms in rows if due_ms <= now_ms], next_ms


def promote(db: apsw.Connection, log: str, tid: int, now_ms: int, limit: int) -> tuple[int, bool, list[int]]:
    """
    Move what is due of one topic to ready, longest due first, or end it as expired.

    Returns:
        How many became ready; whether a key that was handed on made another one ready; numbers of what has expired.
    """
    due: list[Any] = db.execute(_DUE, (tid, now_ms, limit)).fetchall()
    ready = [row for row in due if not 0 < row[8] <= now_ms]
    expired = [row for row in due if 0 < row[8] <= now_ms]
    db.executemany(_READY, ready)
    fresh = [row[1] for row in expired if row[10]]
    db.execute(_COUNT_DUE, (len(ready), len(due), len(expired), len(fresh), body_bytes(db, log, tid, fresh), tid))
    for row in expired:
        if row[7]:
            db.execute(_DROP_ASIDE, (tid, row[1]))
    woken = release(db, [(tid, row[9], row[1]) for row in expired if row[9]], now_ms, {})
    return len(ready), bool(woken), [row[1] for row in expired]


def body_bytes(db: apsw.Connection, log: str, tid: int, numbers: Sequence[int]) -> int:
    """Bytes of the bodies of these jobs, in the log or put aside for the topic."""
    if not numbers:
        return 0
    size: int = db.execute(
        f"SELECT sum(coalesce(length(l.body), length(a.body))) FROM json_each(?1) j "
        f"LEFT JOIN {log} l ON l.id = j.value LEFT JOIN aside a ON a.tid = ?2 AND a.id = j.value",
        (str(list(numbers)), tid),
    ).get
    return size
