"""
Deliveries of an embedded store: claiming, settling, and what becomes due.

Rule: functions here run inside a write transaction that the driver opened. A delivery is in the
log after its topic's cursor or in exactly one of claims, again, delayed, dead (core/job.py says
which way it may go); the counters of its topic move with it.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from pbus.core.job import Delivery, Move, Settlement
from pbus.errors import Unavailable
from pbus.storage.driver import CLAIM_BYTES, Want
from pbus.storage.sqlite_log import Catalog, QueueRow, id_number, id_text

_COUNTERS = ("cursor", "taken", "again", "running", "redelivered_total")
_READ_TOPIC = f"SELECT {', '.join(_COUNTERS)} FROM topics WHERE tid = ?"
_WRITE_TOPIC = f"UPDATE topics SET {', '.join(f'{name} = ?' for name in _COUNTERS)} WHERE tid = ?"
_CLAIM = "INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_END_CLAIM = (
    "DELETE FROM claims WHERE oid = ? AND tid = ? AND id = ? RETURNING attempts, crashes, redelivered, first_ms, aside"
)
_TOGETHER = "oid = ?1 AND tid = ?2 AND id IN (SELECT value FROM json_each(?3))"
_HELD_TOGETHER = f"SELECT count(*) FROM claims WHERE {_TOGETHER} AND NOT aside"
_END_TOGETHER = f"DELETE FROM claims WHERE {_TOGETHER}"
_COUNT_MOVES = (
    "UPDATE topics SET running = running - ?, again = again + ?, delayed = delayed + ?, dead = dead + ?, "
    "dead_total = dead_total + ?, done_total = done_total + ?, failed_total = failed_total + ? WHERE tid = ?"
)
_READY = (
    "SELECT t.tid FROM topics t JOIN queues q USING (qid) WHERE t.again > 0 OR q.pushed > t.taken"
)
_DUE = (
    "DELETE FROM delayed WHERE tid = ?1 AND id IN "
    "(SELECT id FROM delayed WHERE tid = ?1 AND due_ms <= ?2 ORDER BY due_ms, id LIMIT ?3) "
    "RETURNING tid, id, attempts, crashes, redelivered, first_ms, aside"
)
_BACK = "INSERT INTO again VALUES (?, ?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class _Topic:
    """A topic while this transaction claims from it; written back once."""

    queue: QueueRow
    tid: int
    cursor: int
    taken: int
    again: int
    running: int
    redelivered_total: int


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


def with_work(db: apsw.Connection, catalog: Catalog, wants: Sequence[Want]) -> list[Want]:
    """Those of *wants* whose topic has something ready; a read, so that looking costs no turn."""
    ready = {tid for (tid,) in db.execute(_READY)}
    return [want for want in wants if want.count > 0 and catalog.topic(db, want.queue, want.topic)[1] in ready]


def claim(db: apsw.Connection, catalog: Catalog, wants: Sequence[Want], oids: dict[str, int]) -> list[Delivery]:
    """Claims for *wants* in their order; *oids* are the numbers of their owners."""
    topics: dict[int, _Topic] = {}
    deliveries: list[Delivery] = []
    for want in wants:
        queue, tid = catalog.topic(db, want.queue, want.topic)
        if tid not in topics:
            topics[tid] = _Topic(queue, tid, *db.execute(_READ_TOPIC, (tid,)).get)
        topic = topics[tid]
        oid = oids[want.owner]
        if want.exclusive and _is_others(db, topic, oid):
            continue
        came_back = _claim_again(db, topic, want, oid)
        deliveries += came_back
        room_bytes = CLAIM_BYTES - sum(len(delivery.body) for delivery in came_back)
        if len(came_back) < want.count and room_bytes > 0:
            deliveries += _claim_log(db, topic, want, oid, want.count - len(came_back), room_bytes)
    for topic in topics.values():
        row = (topic.cursor, topic.taken, topic.again, topic.running, topic.redelivered_total, topic.tid)
        db.execute(_WRITE_TOPIC, row)
    return deliveries


def settle(
    db: apsw.Connection, catalog: Catalog, settlements: Sequence[Settlement], oids: dict[str, int], now_ms: int
) -> tuple[list[bool], set[int]]:
    """
    End claims, each if its owner (a number of *oids*) still holds it.

    Returns:
        Per settlement whether it took effect; the queues (qid) that have something ready by it.
    """
    tallies: dict[int, _Tally] = collections.defaultdict(_Tally)
    answers = _ack_together(db, catalog, settlements, oids, tallies)
    rings: set[int] = set()
    for at, settlement in enumerate(settlements):
        if answers[at]:
            continue
        queue, tid = catalog.topic(db, settlement.queue, settlement.topic)
        place = (tid, id_number(settlement.id))
        claimed: Any = db.execute(_END_CLAIM, (oids.get(settlement.owner, -1), *place)).get
        if claimed is None:
            continue
        answers[at] = True
        if settlement.move is Move.ACK:
            tallies[tid].acked += 1
            _drop_aside(db, place, claimed)
            continue
        tallies[tid].count(settlement)
        _put(db, settlement, place, claimed, now_ms)
        if settlement.move is Move.RELEASE:
            rings.add(queue.qid)
    for tid, tally in tallies.items():
        db.execute(_COUNT_MOVES, (*tally.row(), tid))
    return answers, rings


def _ack_together(
    db: apsw.Connection, catalog: Catalog, settlements: Sequence[Settlement], oids: dict[str, int],
    tallies: dict[int, _Tally],
) -> list[bool]:
    """
    The usual case in two statements: an owner is done with deliveries of a topic, all of them its own.

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
        _, tid = catalog.topic(db, queue, topic)
        row = (oids.get(owner, -1), tid, str([id_number(settlements[at].id) for at in places]))
        # Fewer: one was settled before, is somebody else's, came twice, or has its body aside.
        if db.execute(_HELD_TOGETHER, row).get == len(places):
            db.execute(_END_TOGETHER, row)
            tallies[tid].acked += len(places)
            for at in places:
                answers[at] = True
    return answers


def due_topics(db: apsw.Connection, now_ms: int) -> tuple[list[tuple[int, int, str, str]], int | None]:
    """Topics with something due, as (tid, qid, queue, topic); when the next delivery is due, unix ms."""
    rows: list[Any] = db.execute(
        "SELECT t.tid, t.qid, q.name, t.name, (SELECT min(due_ms) FROM delayed d WHERE d.tid = t.tid) "
        "FROM topics t JOIN queues q USING (qid) WHERE t.delayed > 0"
    ).fetchall()
    next_ms = min((due_ms for *_, due_ms in rows), default=None)
    return [(tid, qid, queue, topic) for tid, qid, queue, topic, due_ms in rows if due_ms <= now_ms], next_ms


def promote(db: apsw.Connection, tid: int, now_ms: int, limit: int) -> int:
    """Move what is due of one topic to ready, longest due first; answers how many."""
    due = db.execute(_DUE, (tid, now_ms, limit)).fetchall()
    db.executemany(_BACK, due)
    db.execute("UPDATE topics SET again = again + ?1, delayed = delayed - ?1 WHERE tid = ?2", (len(due), tid))
    return len(due)


def _is_others(db: apsw.Connection, topic: _Topic, oid: int) -> bool:
    """Whether another owner holds a claim of this topic."""
    if not topic.running:
        return False
    own: int = db.execute("SELECT count(*) FROM claims WHERE oid = ? AND tid = ?", (oid, topic.tid)).get
    return topic.running > own


def _claim_again(db: apsw.Connection, topic: _Topic, want: Want, oid: int) -> list[Delivery]:
    if not topic.again:
        return []
    rows: list[Any] = []
    deliveries: list[Delivery] = []
    size = 0
    with contextlib.closing(db.execute(topic.queue.came_back, (topic.tid, want.count))) as found:
        for row in found:
            number, attempts, crashes, redelivered, first_ms, aside, *logged = row
            content = _aside(db, topic.tid, number) if aside else logged
            deliveries.append(_delivery(want, number, content, attempts, crashes, redelivered, first_ms))
            rows.append(row)
            size += len(content[0])
            if size >= CLAIM_BYTES:
                break
    db.executemany(_CLAIM, ((oid, topic.tid, *row[:6]) for row in rows))
    db.execute("DELETE FROM again WHERE tid = ? AND id <= ?", (topic.tid, rows[-1][0]))
    topic.again -= len(rows)
    topic.running += len(rows)
    topic.redelivered_total += sum(delivery.redelivered for delivery in deliveries)
    return deliveries


def _claim_log(
    db: apsw.Connection, topic: _Topic, want: Want, oid: int, room: int, room_bytes: int
) -> list[Delivery]:
    rows: list[Any] = []
    with contextlib.closing(db.execute(topic.queue.after, (topic.cursor, room))) as found:
        for row in found:
            rows.append(row)
            room_bytes -= len(row[1])
            if room_bytes <= 0:
                break
    if not rows:
        return []
    last = rows[-1][0]
    db.execute(topic.queue.claim_range, (oid, topic.tid, topic.cursor, last))
    topic.cursor = last
    topic.taken += len(rows)
    topic.running += len(rows)
    return [_delivery(want, number, content, 0, 0, 0, 0) for number, *content in rows]


def _delivery(
    want: Want, number: int, content: Sequence[Any], attempts: int, crashes: int, redelivered: int, first_ms: int
) -> Delivery:
    body, traceparent, content_type = content
    return Delivery(
        id_text(number), want.queue, want.topic, body, attempts + 1, crashes, bool(redelivered),
        traceparent or "", content_type or "", first_ms, want.owner,
    )


def _aside(db: apsw.Connection, tid: int, number: int) -> Sequence[Any]:
    row: Sequence[Any] | None = db.execute(
        "SELECT body, traceparent, content_type FROM aside WHERE tid = ? AND id = ?", (tid, number)
    ).get
    if row is None:
        raise Unavailable(f"the body of job {id_text(number)} is not in the file: it is damaged")
    return row


def _put(
    db: apsw.Connection, settlement: Settlement, place: tuple[int, int], claimed: Sequence[int], now_ms: int
) -> None:
    """Where a claim goes that just ended, and not as done; *claimed* is what it had come to."""
    attempts, crashes, redelivered, first_ms, aside = claimed
    if settlement.counts and not first_ms:
        first_ms = now_ms
    attempts += settlement.counts
    crashes += settlement.crash
    redelivered |= settlement.redelivered  # what may have run once stays so
    row = (*place, attempts, crashes, redelivered, first_ms, aside)
    if settlement.move is Move.RELEASE:
        db.execute(_BACK, row)
    elif settlement.move is Move.RETRY:
        due_ms = now_ms + max(0, round(settlement.delay_s * 1000))
        db.execute("INSERT INTO delayed VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, due_ms))
    else:
        death = (*row, now_ms, settlement.reason, settlement.error)
        db.execute("INSERT INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", death)


def _drop_aside(db: apsw.Connection, place: tuple[int, int], claimed: Sequence[int]) -> None:
    """A delivery is done: the copy of its body goes, where there is one."""
    if claimed[-1]:
        db.execute("DELETE FROM aside WHERE tid = ? AND id = ?", place)
