"""
What an embedded store tells: numbers, open claims, dead letters.

Rule: reads only, inside a read transaction that the driver opened. Counts come from counters; a
topic costs a look-up only for what is not empty, so a thousand idle topics are one scan.
"""

from __future__ import annotations

import apsw

from pbus.storage.driver import DeadLetter, Held, TopicNumbers
from pbus.storage.sqlite_log import SEQUENCE_BITS, id_text

_TOPICS = (
    "SELECT q.name, t.name, t.qid, t.tid, t.cursor, q.pushed - t.taken, t.again, t.delayed, t.running, t.dead, "
    "t.done_total, t.failed_total, t.dead_total, t.redelivered_total FROM topics t JOIN queues q USING (qid)"
)


def numbers(db: apsw.Connection, now_ms: int) -> dict[tuple[str, str], TopicNumbers]:
    """See ``Driver.numbers``; ages are of the jobs, by the time in their ids."""
    answer = {}
    for queue, topic, qid, tid, cursor, waiting, again, delayed, running, dead, *totals in db.execute(_TOPICS):
        due, oldest = _due(db, tid, now_ms) if delayed else (0, None)
        firsts = [oldest]
        if again:
            firsts.append(db.execute("SELECT min(id) FROM again WHERE tid = ?", (tid,)).get)
        if waiting:
            firsts.append(db.execute(f"SELECT min(id) FROM log_{qid} WHERE id > ?", (cursor,)).get)
        first = min((number for number in firsts if number is not None), default=None)
        wait_s = 0.0 if first is None else max(0.0, (now_ms - (first >> SEQUENCE_BITS)) / 1000)
        answer[queue, topic] = TopicNumbers(waiting + again + due, running, delayed - due, dead, wait_s, *totals)
    return answer


def backlog(db: apsw.Connection, qid: int) -> int:
    """See ``Driver.backlog``."""
    waiting: int | None = db.execute(
        "SELECT q.pushed - min(t.taken) FROM queues q JOIN topics t USING (qid) WHERE q.qid = ?", (qid,)
    ).get
    return waiting or 0


def held(db: apsw.Connection, owner: str) -> list[Held]:
    """See ``Driver.held``."""
    rows = db.execute(
        "SELECT q.name, t.name, c.id, c.attempts, c.crashes FROM owners o JOIN claims c USING (oid) "
        "JOIN topics t USING (tid) JOIN queues q USING (qid) WHERE o.name = ? ORDER BY c.id, c.tid", (owner,),
    )
    return [Held(queue, topic, id_text(number), attempts, crashes) for queue, topic, number, attempts, crashes in rows]


def owners(db: apsw.Connection) -> list[str]:
    """See ``Driver.owners``."""
    rows = db.execute("SELECT name FROM owners o WHERE EXISTS (SELECT 1 FROM claims c WHERE c.oid = o.oid)")
    return [name for (name,) in rows]


def dead_letters(db: apsw.Connection, queue: str, topic: str, tid: int, limit: int) -> list[DeadLetter]:
    """See ``Driver.dead_letters``."""
    rows = db.execute(
        "SELECT id, at_ms, attempts, crashes, reason, error FROM dead WHERE tid = ? "
        "ORDER BY at_ms DESC, id DESC LIMIT ?", (tid, limit),
    )
    return [
        DeadLetter(queue, topic, id_text(number), at_ms, attempts, crashes, reason, error)
        for number, at_ms, attempts, crashes, reason, error in rows
    ]


def _due(db: apsw.Connection, tid: int, now_ms: int) -> tuple[int, int | None]:
    """How many delayed deliveries of a topic are due, and the oldest of them."""
    row: tuple[int, int | None] = db.execute(
        "SELECT count(*), min(id) FROM delayed WHERE tid = ? AND due_ms <= ?", (tid, now_ms)
    ).get
    return row
