"""
Claims of an embedded store: what is ready goes to whoever has room for it.

Rule: functions here run inside a write transaction that the driver opened.
What came back is looked at before the log, each in the order of jobs. What has expired ends here,
what was cancelled in the log is passed over, what meets a held key is set aside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import apsw

from pbus.core.job import Delivery
from pbus.errors import Unavailable
from pbus.storage import origin, sqlite_shadows
from pbus.storage.driver import CLAIM_BYTES, Want
from pbus.storage.sqlite_catalog import CARRIED, Catalog, QueueRow, id_text, told_text
from pbus.storage.sqlite_keys import Meeting, meet, release


LOOK: Final = 2_000
"""Deliveries that one want looks at beyond those it gets; the next claim goes on there."""

_FEW: Final = 4                     # so many entries cost less one by one
# What is claimed or set aside moves by statements that name all of it. {source}: where it is ready.
_THESE = "id IN (SELECT value FROM json_each(?3))"
_CLAIM = f"INSERT INTO claims (oid, tid, {CARRIED}) SELECT ?1, ?2, {{source}} AND {_THESE}"
_WAIT = f"INSERT INTO waiting (fresh, tid, {CARRIED}) SELECT {{fresh}}, ?2, {{source}} AND ?1 AND {_THESE}"
_DELAY = (
    f"INSERT INTO delayed (due_ms, fresh, tid, {CARRIED}) SELECT ?1, {{fresh}}, ?2, {{source}} AND {_THESE}"
)
_IN_AGAIN = f"{CARRIED} FROM again WHERE tid = ?2"
_IN_LOG = "id, 0, 0, 0, 0, 0, 0, coalesce(expires_ms, 0), coalesce(key, '') FROM {log} WHERE ?2"
_LEAVE_AGAIN = "DELETE FROM again WHERE tid = ? AND id <= ?"
_CANCELLED = "DELETE FROM cancelled WHERE tid = ? AND id <= ? RETURNING id"
_OWN = "SELECT count(*) FROM claims WHERE oid = ? AND tid = ?"
_ASIDE = "SELECT body, traceparent, content_type FROM aside WHERE tid = ? AND id = ?"
_DROP_ASIDE = "DELETE FROM aside WHERE tid = ? AND id = ?"


_NO_KEY = (Meeting.MINE, 0)


@dataclass(slots=True)
class _Counters:
    """What a claim changes of a topic; columns of ``topics``."""

    cursor: int
    passed: int
    holes: int
    taken: int
    taken_bytes: int
    again: int
    waiting: int
    delayed: int
    running: int
    redelivered_total: int
    expired_total: int


_COUNTERS = [each.name for each in fields(_Counters)]
_READ_TOPIC = f"SELECT paused_ms, born, born_ms, sample, {', '.join(_COUNTERS)} FROM topics WHERE tid = ?"
_WRITE_TOPIC = f"UPDATE topics SET {', '.join(f'{name} = ?' for name in _COUNTERS)} WHERE tid = ?"


class _Topic:
    """A topic while this transaction claims from it."""

    def __init__(self, db: apsw.Connection, queue: QueueRow, tid: int) -> None:
        self.queue = queue
        self.tid = tid
        row: Any = db.execute(_READ_TOPIC, (tid,)).get
        # Removed a moment ago: nothing is ready.
        row = row or (1, *[0] * (len(_COUNTERS) + 3))
        self.closed: bool = row[0] > 0
        self.born: int = row[1]
        self.born_ms: int = row[2]
        self.sample: int = row[3]
        self._before: tuple[int, ...] = row[4:]
        self.now = _Counters(*self._before)

    def write(self, db: apsw.Connection) -> None:
        now = self.now
        values = (
            now.cursor, now.passed, now.holes, now.taken, now.taken_bytes, now.again, now.waiting, now.delayed,
            now.running, now.redelivered_total, now.expired_total,
        )
        if values != self._before:
            db.execute(_WRITE_TOPIC, (*values, self.tid))


@dataclass(slots=True)
class _Found:
    """A delivery that is ready: what it carries (see ``CARRIED``), whether its topic takes it now, its job."""

    carried: Sequence[Any]
    fresh: bool
    content: Sequence[Any]

    @property
    def number(self) -> int:
        """Of its job."""
        number: int = self.carried[0]
        return number

    @property
    def expires_ms(self) -> int:
        """0: never."""
        expires_ms: int = self.carried[7]
        return expires_ms

    @property
    def key(self) -> str:
        """Empty: none."""
        key: str = self.carried[8]
        return key


class _Claiming:
    """One call."""

    def __init__(self, db: apsw.Connection, now_ms: int) -> None:
        self._db = db
        self._now_ms = now_ms
        self.deliveries: list[Delivery] = []
        self.ended: list[tuple[int, str, int]] = []
        self.unfinished: set[int] = set()
        self.expired: list[tuple[str, str, str]] = []

    def take(self, topic: _Topic, want: Want, oid: int) -> None:
        """Fill *want* as far as it goes."""
        before = len(self.deliveries)
        room_bytes = CLAIM_BYTES
        for take_from in (self._from_again, self._from_log):
            looked = 0
            while looked < LOOK and room_bytes > 0 and len(self.deliveries) - before < want.count:
                begin = len(self.deliveries)
                step = take_from(topic, want, oid, want.count - (begin - before), room_bytes)
                if not step:
                    break
                claimed = self.deliveries[begin:]
                room_bytes -= sum(len(delivery.body) for delivery in claimed)
                looked += step - len(claimed)
            if looked >= LOOK:
                self.unfinished.add(topic.queue.qid)
                return

    def _from_again(self, topic: _Topic, want: Want, oid: int, room: int, room_bytes: int) -> int:
        """One look at what came back; answers how many were looked at."""
        if not topic.now.again:
            return 0
        found: list[_Found] = []
        with contextlib.closing(self._db.execute(topic.queue.came_back, (topic.tid, room))) as rows:
            for row in rows:
                content = self._aside(topic.tid, row[0]) if row[6] else row[10:]
                found.append(_Found(row[:9], bool(row[9]), content))
                room_bytes -= len(content[0])
                if room_bytes <= 0:
                    break
        self._hand_out(topic, want, oid, found, (_IN_AGAIN, "fresh"))
        self._db.execute(_LEAVE_AGAIN, (topic.tid, found[-1].carried[0]))
        topic.now.again -= len(found)
        return len(found)

    def _from_log(self, topic: _Topic, want: Want, oid: int, room: int, room_bytes: int) -> int:
        """One look at the log after the cursor; answers how many entries were looked at."""
        if topic.sample:
            return self._from_sample(topic, want, oid, room, room_bytes)
        if topic.queue.plain and room > _FEW and not topic.now.holes:
            count = self._from_log_at_once(topic, want, oid, room, room_bytes)
            if count >= 0:
                return count
        rows: list[Any] = []
        special = topic.now.holes > 0
        with contextlib.closing(self._db.execute(topic.queue.after, (topic.now.cursor, room))) as entries:
            for row in entries:
                rows.append(row)
                special = special or row[4] is not None or row[5] is not None or row[6] is not None
                room_bytes -= len(row[1])
                if room_bytes <= 0:
                    break
        if not rows:
            return 0
        last = rows[-1][0]
        topic.queue.plain = not any(row[2] or row[3] for row in rows) and not special
        if special:
            source = (_IN_LOG.format(log=topic.queue.log), "1")
            self._hand_out(topic, want, oid, self._taken_by(topic, rows), source)
            topic.now.cursor = last
        else:
            self.deliveries += [_plain(want, row) for row in rows]
            self._claim_range(topic, oid, last, len(rows), sum(len(row[1]) for row in rows))
        return len(rows)

    def _from_log_at_once(self, topic: _Topic, want: Want, oid: int, room: int, room_bytes: int) -> int:
        """The same where all entries are nothing but bodies; -1: they are not, and nothing is done."""
        found: Any = self._db.execute(topic.queue.after_at_once, (topic.now.cursor, room, room_bytes)).get
        count, last, more, ids, sizes, bodies = found
        if not count or more:
            topic.queue.plain = not more
            return -1 if more else 0
        queue, name, owner = want.queue, want.topic, want.owner
        start = 0
        for text, size in zip(ids.split(","), map(int, sizes.split(",")), strict=True):
            end = start + size
            self.deliveries.append(Delivery(text, queue, name, bodies[start:end], 1, 0, False, "", "", 0, owner))
            start = end
        self._claim_range(topic, oid, last, count, start)
        return int(count)

    def _from_sample(self, topic: _Topic, want: Want, oid: int, room: int, room_bytes: int) -> int:
        """The same for a shadow: it has taken what is not in its sample, or would have to wait for its key."""
        now, queue = topic.now, topic.queue
        rows, last = sqlite_shadows.page(self._db, queue, now.cursor, topic.sample, room, room_bytes)
        if last == now.cursor:
            return 0
        standing = sqlite_shadows.Standing(topic.tid, topic.sample, now.cursor, topic.born, topic.born_ms)
        left = sqlite_shadows.leave(self._db, queue, standing, last)
        found = [
            _Found((row[0], 0, 0, 0, 0, 0, 0, row[5] or 0, row[6] or ""), False, row[1:4]) for row in rows
            if standing.finds(row[0], row[4]) and row[0] not in left.cancelled
        ]
        self._hand_out(topic, want, oid, found, (_IN_LOG.format(log=queue.log), "1"))
        now.cursor = last
        now.passed += left.count
        now.holes -= len(left.cancelled)
        now.taken += left.taken
        now.taken_bytes += left.taken_bytes
        return max(1, left.count)

    def _claim_range(self, topic: _Topic, oid: int, last: int, count: int, size: int) -> None:
        """Everything in the log up to *last* is claimed."""
        now = topic.now
        self._db.execute(topic.queue.claim_range, (oid, topic.tid, now.cursor, last))
        now.cursor = last
        now.passed += count
        now.taken += count
        now.taken_bytes += size
        now.running += count

    def _taken_by(self, topic: _Topic, rows: Sequence[Any]) -> list[_Found]:
        """The entries among *rows* that are deliveries of this topic, here and not cancelled."""
        holes: set[int] = set()
        if topic.now.holes:
            passed: list[Any] = self._db.execute(_CANCELLED, (topic.tid, rows[-1][0])).fetchall()
            holes = {number for (number,) in passed}
            topic.now.holes -= len(holes)
        found = []
        for number, body, traceparent, content_type, due_ms, expires_ms, key in rows:
            if due_ms is not None and (number > topic.born or due_ms > topic.born_ms):
                continue  # its delivery began in delayed
            topic.now.passed += 1
            if number not in holes:
                carried = (number, 0, 0, 0, 0, 0, 0, expires_ms or 0, key or "")
                found.append(_Found(carried, True, (body, traceparent, content_type)))
        return found

    def _hand_out(
        self, topic: _Topic, want: Want, oid: int, found: Sequence[_Found], source: tuple[str, str]
    ) -> None:
        """Claim those of *found* that may run; the others go where they belong. *source*: see ``_CLAIM``."""
        expired = [one for one in found if 0 < one.expires_ms <= self._now_ms]
        alive = [one for one in found if not 0 < one.expires_ms <= self._now_ms] if expired else found
        for one in expired:
            self._expire(topic, one)
            self.expired.append((want.queue, want.topic, id_text(one.number)))
        met = meet(self._db, topic.tid, [(one.key, one.number) for one in alive if one.key], self._now_ms)
        claims, waiting = [], []
        for one in alive:
            meeting, rest_ms = met.get(one.number, _NO_KEY)
            if meeting is Meeting.MINE:
                claims.append(one.number)
                self.deliveries.append(_delivery(want, one))
                topic.now.redelivered_total += one.carried[4]
                self._take(topic, one)
            elif topic.sample and source[1] == "1":
                continue  # what waits for a key would be kept; a shadow keeps nothing
            elif meeting is Meeting.HELD:
                waiting.append(one.number)
            else:
                self._move(_DELAY, source, (rest_ms, topic.tid, [one.number]))
                topic.now.delayed += 1
        self._move(_CLAIM, source, (oid, topic.tid, claims))
        self._move(_WAIT, source, (1, topic.tid, waiting))
        topic.now.running += len(claims)
        topic.now.waiting += len(waiting)

    def _move(self, statement: str, source: tuple[str, str], values: tuple[int, int, list[int]]) -> None:
        first, tid, numbers = values
        if numbers:
            rows, fresh = source
            self._db.execute(statement.format(source=rows, fresh=fresh), (first, tid, str(numbers)))

    def _expire(self, topic: _Topic, one: _Found) -> None:
        number, aside = one.number, one.carried[6]
        self._take(topic, one)
        topic.now.expired_total += 1
        if one.key:
            self.ended.append((topic.tid, one.key, number))
        if aside:
            self._db.execute(_DROP_ASIDE, (topic.tid, number))

    def _take(self, topic: _Topic, one: _Found) -> None:
        if one.fresh:
            topic.now.taken += 1
            topic.now.taken_bytes += len(one.content[0])

    def _aside(self, tid: int, number: int) -> Sequence[Any]:
        row: Sequence[Any] | None = self._db.execute(_ASIDE, (tid, number)).get
        if row is None:
            raise Unavailable(f"the body of job {id_text(number)} is not in the file: it is damaged")
        return row


def claim(
    db: apsw.Connection, catalog: Catalog, wants: Sequence[Want], oids: dict[str, int], now_ms: int
) -> tuple[list[Delivery], set[int], list[tuple[str, str, str]]]:
    """
    Claims for *wants* in their order; *oids* are the numbers of their owners.

    Returns:
        The deliveries; queues (qid) that somebody should look at again; (queue, topic, id) of what has expired.
    """
    claiming = _Claiming(db, now_ms)
    topics: dict[int, _Topic] = {}
    for want in wants:
        queue, tid = catalog.topic(db, want.queue, want.topic)
        if tid not in topics:
            topics[tid] = _Topic(db, queue, tid)
        topic = topics[tid]
        oid = oids[want.owner]
        if not topic.closed and not (want.exclusive and _is_others(db, topic, oid)):
            claiming.take(topic, want, oid)
    for topic in topics.values():
        topic.write(db)
    woken = release(db, claiming.ended, now_ms, {})
    return claiming.deliveries, claiming.unfinished | {topics[tid].queue.qid for tid in woken}, claiming.expired


def _is_others(db: apsw.Connection, topic: _Topic, oid: int) -> bool:
    """Whether another owner holds a claim of this topic."""
    if not topic.now.running:
        return False
    own: int = db.execute(_OWN, (oid, topic.tid)).get
    return topic.now.running > own


def _plain(want: Want, row: Sequence[Any]) -> Delivery:
    """An entry of the log that has nothing but a body, and metadata."""
    number, body, traceparent, content_type, *_ = row
    delivery = Delivery(
        id_text(number), want.queue, want.topic, body, 1, 0, False, traceparent or "", content_type or "", 0, want.owner
    )
    return origin.told(delivery) if traceparent else delivery


def _delivery(want: Want, found: _Found) -> Delivery:
    number, attempts, crashes, forgiven, redelivered, first_ms, _, _, key = found.carried
    body, traceparent, content_type = found.content
    return origin.told(Delivery(
        id_text(number), want.queue, want.topic, body, attempts + 1, crashes, bool(redelivered),
        traceparent or "", content_type or "", first_ms, want.owner, told_text(key), forgiven,
    ))
