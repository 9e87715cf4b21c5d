"""
Queues of an embedded store as logs: declaring, appending, trimming.

Rule: functions here run inside a transaction that the driver opened; ids are integers
(unix ms << 20 | sequence) and only this file turns them into text and back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any, Final

import apsw

from pbus.core.job import Push
from pbus.errors import Conflict, Unavailable
from pbus.storage.driver import Appended, QueueSpec

SEQUENCE_BITS: Final = 20
_SEQUENCES: Final = 1 << SEQUENCE_BITS
_LARGEST_MS: Final = 1 << 43
TRIM_STEP: Final = 2_000


def id_text(number: int) -> str:
    """A job id as everybody else sees it."""
    return f"{number >> SEQUENCE_BITS}-{number & (_SEQUENCES - 1)}"


def id_number(text: str) -> int:
    """The integer of a job id; -1 when it cannot be one of this store's."""
    ms, dash, sequence = text.partition("-")
    if not (dash and ms.isdecimal() and sequence.isdecimal() and len(ms) <= 14 and len(sequence) <= 7):
        return -1
    if int(ms) >= _LARGEST_MS or int(sequence) >= _SEQUENCES:
        return -1
    return int(ms) << SEQUENCE_BITS | int(sequence)


@dataclass
class QueueRow:
    """A queue as this process knows it: numbers for names, and the statements on its log."""

    qid: int
    name: str
    topics: dict[str, int] = field(default_factory=dict)

    @cached_property
    def log(self) -> str:
        """Its table."""
        return f"log_{self.qid}"

    @cached_property
    def insert(self) -> str:
        return f"INSERT INTO {self.log} VALUES (?, ?, ?, ?, ?)"

    @cached_property
    def after(self) -> str:
        """Entries after a cursor."""
        return f"SELECT id, body, traceparent, content_type FROM {self.log} WHERE id > ? ORDER BY id LIMIT ?"

    @cached_property
    def claim_range(self) -> str:
        """Claims on the entries of a range, none of them tried before."""
        return f"INSERT INTO claims SELECT ?, ?, id, 0, 0, 0, 0, 0 FROM {self.log} WHERE id > ? AND id <= ?"

    @cached_property
    def came_back(self) -> str:
        """What came back to a topic, oldest first, with its body where the log still has it."""
        return (
            "SELECT a.id, a.attempts, a.crashes, a.redelivered, a.first_ms, a.aside, "
            "l.body, l.traceparent, l.content_type "
            f"FROM again a LEFT JOIN {self.log} l ON l.id = a.id WHERE a.tid = ? ORDER BY a.id LIMIT ?"
        )


class Catalog:
    """Names of queues and topics and their numbers; read again when a name is not known."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueRow] = {}

    def read(self, db: apsw.Connection) -> None:
        """Learn everything that the store knows."""
        queues = {name: QueueRow(qid, name) for qid, name in db.execute("SELECT qid, name FROM queues")}
        for name, topic, tid in db.execute("SELECT q.name, t.name, t.tid FROM topics t JOIN queues q USING (qid)"):
            queues[name].topics[topic] = tid
        self.queues = queues

    def queue(self, db: apsw.Connection, name: str) -> QueueRow:
        """
        Raises:
            Unavailable: nobody declared it.
        """
        if name not in self.queues:
            self.read(db)
        if name not in self.queues:
            raise Unavailable(f"queue {name!r} was never declared to this store")
        return self.queues[name]

    def topic(self, db: apsw.Connection, queue: str, topic: str) -> tuple[QueueRow, int]:
        """
        Raises:
            Unavailable: nobody declared it.
        """
        row = self.queue(db, queue)
        if topic not in row.topics:
            self.read(db)
            row = self.queue(db, queue)
        if topic not in row.topics:
            raise Unavailable(f"topic {queue}/{topic} was never declared to this store")
        return row, row.topics[topic]


def is_declared(db: apsw.Connection, spec: QueueSpec) -> bool:
    """Whether the store knows all of *spec* already (most starts: nothing to write)."""
    kept = db.execute(
        "SELECT qid FROM queues WHERE name = ? AND retention_ms = ? AND retention_bytes = ?", (spec.name, *_kept(spec))
    ).get
    if kept is None:
        return False
    topics = {name for (name,) in db.execute("SELECT name FROM topics WHERE qid = ?", (kept,))}
    return topics.issuperset(topic.name for topic in spec.topics)


def declare(db: apsw.Connection, spec: QueueSpec) -> None:
    """Make the queue, its log and its topics as far as they are missing."""
    qid: int = db.execute(
        "INSERT INTO queues (name, retention_ms, retention_bytes) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
        "SET retention_ms = excluded.retention_ms, retention_bytes = excluded.retention_bytes RETURNING qid",
        (spec.name, *_kept(spec)),
    ).get
    db.execute(files("pbus.storage").joinpath("sql/log.sql").read_text("utf-8").replace("{qid}", str(qid)))
    for topic in spec.topics:
        start = "last_id, pushed" if topic.start == "now" else "0, trimmed"
        db.execute(
            f"INSERT INTO topics (qid, name, cursor, taken) SELECT qid, ?, {start} FROM queues WHERE qid = ? "
            "ON CONFLICT (qid, name) DO NOTHING",
            (topic.name, qid),
        )


def append(
    db: apsw.Connection, catalog: Catalog, oid: int, batch: int, pushes: Sequence[Push], now_ms: int
) -> list[Appended]:
    """
    Store *pushes* in their queues and the answer beside the owner's *batch* number.

    Raises:
        Conflict: *batch* is older than the owner's last one.
    """
    last, answer = db.execute("SELECT batch, answer FROM owners WHERE oid = ?", (oid,)).get
    if batch == last:
        return _answer(json.loads(answer), pushes)
    if batch < last:
        raise Conflict(f"append {batch} came after append {last} of the same owner: not stored")
    by_queue: dict[str, list[Push]] = {}
    for push in pushes:
        by_queue.setdefault(push.queue, []).append(push)
    runs = {name: _append_run(db, catalog.queue(db, name), run, now_ms) for name, run in by_queue.items()}
    db.execute("UPDATE owners SET batch = ?, answer = ? WHERE oid = ?", (batch, json.dumps(runs), oid))
    return _answer(runs, pushes)


def _append_run(db: apsw.Connection, queue: QueueRow, run: Sequence[Push], now_ms: int) -> tuple[int, int, int]:
    """Store the pushes of one queue; answers their first id, its backlog and its topics."""
    total = sum(len(push.body) for push in run)
    last_id, pushed, upto = db.execute(
        "UPDATE queues SET last_id = max(last_id, ?) + ?, pushed = pushed + ?, pushed_bytes = pushed_bytes + ? "
        "WHERE qid = ? RETURNING last_id, pushed, pushed_bytes",
        ((now_ms << SEQUENCE_BITS) - 1, len(run), len(run), total, queue.qid),
    ).get
    first = last_id - len(run) + 1
    upto -= total
    rows = []
    for number, push in enumerate(run, first):
        upto += len(push.body)
        rows.append((number, upto, push.body, push.traceparent or None, push.content_type or None))
    db.executemany(queue.insert, rows)
    topics, taken = db.execute("SELECT count(*), min(taken) FROM topics WHERE qid = ?", (queue.qid,)).get
    return first, pushed - taken if topics else len(run), topics


def _answer(runs: dict[str, tuple[int, int, int]], pushes: Iterable[Push]) -> list[Appended]:
    """One entry a push: the ids of a queue follow one another in the order of the pushes."""
    following = {name: first for name, (first, _, _) in runs.items()}
    appended = []
    for push in pushes:
        number = following[push.queue]
        following[push.queue] = number + 1
        _, backlog, topics = runs[push.queue]
        appended.append(Appended(id_text(number), backlog, topics))
    return appended


def trimmable(db: apsw.Connection, queue: QueueRow, now_ms: int) -> int:
    """
    Id of the last entry that can go now, 0 for none; looks at ``TRIM_STEP`` entries at most.

    An entry can go when every topic's cursor has passed it and either it is older than the
    retention, or it and the passed entries after it are more than the retention's bytes.
    """
    floor, retention_ms, retention_bytes = db.execute(
        "SELECT coalesce((SELECT min(cursor) FROM topics WHERE qid = q.qid), q.last_id), retention_ms, retention_bytes "
        "FROM queues q WHERE qid = ?", (queue.qid,),
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
    first = db.execute(f"SELECT min(id) FROM {queue.log}").get
    tids: list[Any] = db.execute("SELECT tid FROM topics WHERE qid = ?", (queue.qid,)).fetchall()
    for (tid,) in tids:
        for table in ("claims", "again", "delayed", "dead"):
            _put_aside(db, queue, table, (tid, first, last))
    db.execute(f"DELETE FROM {queue.log} WHERE id <= ?", (last,))
    dropped = db.changes()
    db.execute("UPDATE queues SET trimmed = trimmed + ? WHERE qid = ?", (dropped, queue.qid))
    return dropped


def _put_aside(db: apsw.Connection, queue: QueueRow, table: str, part: tuple[int, int, int]) -> None:
    """Copy the bodies that deliveries of *table* in *part* (topic, first and last id) still need."""
    needed = f"{table} WHERE tid = ?1 AND id BETWEEN ?2 AND ?3"
    db.execute(
        f"INSERT INTO aside SELECT ?1, id, body, traceparent, content_type FROM {queue.log} "
        f"WHERE id IN (SELECT id FROM {needed})",
        part,
    )
    db.execute(f"UPDATE {needed.replace(' WHERE', ' SET aside = 1 WHERE', 1)}", part)


def _kept(spec: QueueSpec) -> tuple[int, int]:
    return int(spec.retention_s * 1000), spec.retention_bytes
