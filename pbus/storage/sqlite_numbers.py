"""
What an embedded store tells: numbers and open claims.

Rule: reads only, inside a read transaction that the driver opened. Counts come from counters; a
topic costs a look-up only for what is not empty, so a thousand idle topics are one scan.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import apsw

from pbus.core.sample import PRIME
from pbus.storage.driver import Held, QueueNumbers, Running, TopicNumbers
from pbus.storage.sqlite_catalog import id_ms, id_number, id_text, told_text

_TOPICS = (
    "SELECT q.name, t.name, t.qid, t.tid, q.plain - t.passed - t.holes, t.again, t.waiting, t.delayed, t.running, "
    "t.dead, t.done_total, t.failed_total, t.dead_total, t.redelivered_total, t.cancelled_total, t.expired_total, "
    "t.forgotten_total, t.paused_ms, t.waiting, t.sample FROM topics t JOIN queues q USING (qid)"
)
_OF_QUEUES = " WHERE q.name IN (SELECT value FROM json_each(?))"
_FIRST_IN_LOG = (
    "SELECT l.id FROM topics t CROSS JOIN {log} l ON l.id > t.cursor WHERE t.tid = ?1 AND "
    "(l.due_ms IS NULL OR (l.id <= t.born AND l.due_ms <= t.born_ms)) AND "
    "NOT EXISTS (SELECT 1 FROM cancelled c WHERE c.tid = ?1 AND c.id = l.id) ORDER BY l.id LIMIT 1"
)

# Owners first: claims are found by owner, topic and id. Most owners hold nothing of a topic, which is one look.
_OF_TOPIC = (
    "FROM owners o CROSS JOIN claims c ON c.oid = o.oid AND c.tid = ?1 "
    "WHERE EXISTS (SELECT 1 FROM claims e WHERE e.oid = o.oid AND e.tid = ?1)"
)
_HOLDERS = f"SELECT c.id, o.name {_OF_TOPIC} AND c.id IN (SELECT value FROM json_each(?2))"
_RUNNING = f"SELECT c.id, o.name, c.attempts {_OF_TOPIC} ORDER BY c.id LIMIT max(0, ?2)"


def numbers(
    db: apsw.Connection, now_ms: int, queues: Sequence[str] | None = None
) -> dict[tuple[str, str], TopicNumbers]:
    """See ``Driver.numbers``; ages are of the jobs, by the time in their ids."""
    answer = {}
    rows = db.execute(_TOPICS) if queues is None else db.execute(_TOPICS + _OF_QUEUES, (json.dumps(list(queues)),))
    for queue, topic, qid, tid, logged, again, waiting, delayed, running, dead, *totals, sample in rows:
        due, oldest = _due(db, tid, now_ms) if delayed else (0, None)
        firsts = [oldest]
        for table, count in (("again", again), ("waiting", waiting)):
            if count:
                firsts.append(db.execute(f"SELECT min(id) FROM {table} WHERE tid = ?", (tid,)).get)
        if logged:
            firsts.append(db.execute(_FIRST_IN_LOG.format(log=f"log_{qid}"), (tid,)).get)
        first = min((number for number in firsts if number is not None), default=None)
        wait_s = 0.0 if first is None else max(0.0, (now_ms - id_ms(first)) / 1000)
        ready = (-(-logged * sample // PRIME) if sample else logged) + again + waiting + due
        answer[queue, topic] = TopicNumbers(ready, running, delayed - due, dead, wait_s, *totals)
    return answer


def queue_numbers(db: apsw.Connection) -> dict[str, QueueNumbers]:
    """See ``Driver.queue_numbers``."""
    rows = db.execute(
        "SELECT q.name, coalesce(q.pushed - min(t.taken), 0), coalesce(q.pushed_bytes - min(t.taken_bytes), 0), "
        "q.pushed - q.trimmed, q.pushed FROM queues q "
        "LEFT JOIN topics t ON t.qid = q.qid AND t.sample = 0 GROUP BY q.qid"
    )
    return {name: QueueNumbers(*row) for name, *row in rows}


def backlog(db: apsw.Connection, qid: int) -> int:
    """See ``Driver.backlog``."""
    waiting: int | None = db.execute(
        "SELECT q.pushed - min(t.taken) FROM queues q JOIN topics t USING (qid) "
        "WHERE q.qid = ? AND t.sample = 0", (qid,)
    ).get
    return waiting or 0


def held(db: apsw.Connection, owner: str) -> list[Held]:
    """See ``Driver.held``."""
    rows = db.execute(
        "SELECT q.name, t.name, c.id, c.attempts, c.crashes, c.forgiven, c.key FROM owners o JOIN claims c USING (oid) "
        "JOIN topics t USING (tid) JOIN queues q USING (qid) WHERE o.name = ? ORDER BY c.id, c.tid", (owner,),
    )
    return [
        Held(queue, topic, id_text(number), attempts, crashes, forgiven, told_text(key))
        for queue, topic, number, attempts, crashes, forgiven, key in rows
    ]


def holders(db: apsw.Connection, tid: int, ids: Sequence[str]) -> list[str]:
    """See ``Driver.holders``."""
    asked = [id_number(one) for one in ids]
    found: dict[int, str] = dict(db.execute(_HOLDERS, (tid, str(asked))))
    return [found.get(number, "") for number in asked]


def running(db: apsw.Connection, tid: int, limit: int) -> list[Running]:
    """See ``Driver.running``."""
    return [Running(id_text(number), owner, attempts) for number, owner, attempts in db.execute(_RUNNING, (tid, limit))]


def owners(db: apsw.Connection) -> list[str]:
    """See ``Driver.owners``."""
    rows = db.execute("SELECT name FROM owners o WHERE EXISTS (SELECT 1 FROM claims c WHERE c.oid = o.oid)")
    return [name for (name,) in rows]


def _due(db: apsw.Connection, tid: int, now_ms: int) -> tuple[int, int | None]:
    """How many delayed deliveries of a topic are due, and the oldest of them."""
    row: tuple[int, int | None] = db.execute(
        "SELECT count(*), min(id) FROM delayed WHERE tid = ? AND due_ms <= ?", (tid, now_ms)
    ).get
    return row
