"""
Queues of an embedded store as logs: declaring, appending, trimming.

Rule: functions here run inside a transaction that the driver opened; ids are integers
(unix ms << 20 | sequence) and only this file turns them into text and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from itertools import accumulate, chain
from typing import Any, Final, overload

import apsw

from pbus.core.job import Push
from pbus.errors import Conflict, Unavailable
from pbus.storage.driver import Appended, QueueSpec

SEQUENCE_BITS: Final = 20
_SEQUENCES: Final = 1 << SEQUENCE_BITS
_LARGEST_MS: Final = 1 << 43
TRIM_STEP: Final = 2_000
_ROWS: Final = 16                   # in one INSERT: a third less processor time a row than one by one


def id_text(number: int) -> str:
    """A job id as everybody else sees it."""
    return f"{number >> SEQUENCE_BITS}-{number & (_SEQUENCES - 1)}"


def id_number(text: str) -> int:
    """The integer of a job id; -1 when it cannot be one of this store's."""
    ms, _, sequence = text.partition("-")
    if not (text.isascii() and ms.isdecimal() and sequence.isdecimal()):
        return -1
    if len(text) > len("99999999999999-1048575") or int(ms) >= _LARGEST_MS or int(sequence) >= _SEQUENCES:
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
        """One entry."""
        return f"INSERT INTO {self.log} VALUES (?, ?, ?, ?, ?)"

    @cached_property
    def insert_rows(self) -> str:
        """``_ROWS`` entries without metadata: the first id, then upto and body of each."""
        rows = ", ".join(f"(?1 + {row}, ?{2 * row + 2}, ?{2 * row + 3})" for row in range(_ROWS))
        return f"INSERT INTO {self.log} (id, upto, body) VALUES {rows}"

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


@dataclass(slots=True)
class OwnerRow:
    """A holder of claims, and its last append with the answer to it (see ``append``)."""

    oid: int
    batch: int = 0
    answer: str = ""


@dataclass(slots=True)
class AppendedRun(Sequence[Appended]):
    """
    The answer for pushes of one queue; most callers look at one entry of many, so none is made before.

    Read-only by agreement, as ``Appended`` is: parts of it are cut for every client of a batch.
    """

    first: int
    size: int
    backlog: int
    topics: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Appended: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Appended]: ...
    def __getitem__(self, index: int | slice) -> Appended | Sequence[Appended]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step != 1:
                return [self[place] for place in range(start, stop, step)]
            return AppendedRun(self.first + start, max(0, stop - start), self.backlog, self.topics)
        place = index + self.size if index < 0 else index
        if not 0 <= place < self.size:
            raise IndexError(index)
        return Appended(id_text(self.first + place), self.backlog, self.topics)


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
    db: apsw.Connection, catalog: Catalog, owner: OwnerRow, batch: int, pushes: Sequence[Push], now_ms: int
) -> Sequence[Appended]:
    """
    Store *pushes* in their queues and the answer beside the owner's *batch* number.

    Raises:
        Conflict: *batch* is older than the owner's last one.
    """
    if batch == owner.batch:
        return _answer(_read_runs(owner.answer), pushes)
    if batch < owner.batch:
        raise Conflict(f"append {batch} came after append {owner.batch} of the same owner: not stored")
    names = {push.queue for push in pushes}
    runs = {}
    for name in names:
        run = pushes if len(names) == 1 else [push for push in pushes if push.queue == name]
        runs[name] = _append_run(db, catalog.queue(db, name), run, now_ms)
    db.execute("UPDATE owners SET batch = ?, answer = ? WHERE oid = ?", (batch, _write_runs(runs), owner.oid))
    return _answer(runs, pushes)


def _append_run(db: apsw.Connection, queue: QueueRow, run: Sequence[Push], now_ms: int) -> AppendedRun:
    """Store the pushes of one queue."""
    bodies = [push.body for push in run]
    total = sum(map(len, bodies))
    last_id, pushed, upto = db.execute(
        "UPDATE queues SET last_id = max(last_id, ?) + ?, pushed = pushed + ?, pushed_bytes = pushed_bytes + ? "
        "WHERE qid = ? RETURNING last_id, pushed, pushed_bytes",
        ((now_ms << SEQUENCE_BITS) - 1, len(run), len(run), total, queue.qid),
    ).get
    first = last_id - len(run) + 1
    uptos = list(accumulate(map(len, bodies), initial=upto - total))[1:]
    _insert(db, queue, first, uptos, bodies, run)
    topics, taken = db.execute("SELECT count(*), min(taken) FROM topics WHERE qid = ?", (queue.qid,)).get
    return AppendedRun(first, len(run), pushed - taken if topics else len(run), topics)


def _insert(
    db: apsw.Connection, queue: QueueRow, first: int, uptos: Sequence[int], bodies: Sequence[bytes], run: Sequence[Push]
) -> None:
    """Entries from id *first* on; whole blocks in one statement each, where nothing has metadata."""
    done = 0
    if len(run) >= _ROWS and not any(push.traceparent or push.content_type for push in run):
        done = len(run) // _ROWS * _ROWS
        for start in range(0, done, _ROWS):
            block = slice(start, start + _ROWS)
            pairs = zip(uptos[block], bodies[block], strict=True)
            db.execute(queue.insert_rows, (first + start, *chain.from_iterable(pairs)))
    rest = zip(range(first + done, first + len(run)), uptos[done:], bodies[done:], run[done:], strict=True)
    db.executemany(queue.insert, [
        (number, upto, body, push.traceparent or None, push.content_type or None) for number, upto, body, push in rest
    ])


def _write_runs(runs: dict[str, AppendedRun]) -> str:
    """One line a queue; names hold no spaces."""
    return "\n".join(f"{name} {run.first} {run.size} {run.backlog} {run.topics}" for name, run in runs.items())


def _read_runs(text: str) -> dict[str, AppendedRun]:
    lines = [line.split(" ") for line in text.split("\n")]
    return {name: AppendedRun(*map(int, numbers)) for name, *numbers in lines}


def _answer(runs: dict[str, AppendedRun], pushes: Iterable[Push]) -> Sequence[Appended]:
    """One entry a push: the ids of a queue follow one another in the order of the pushes."""
    if len(runs) == 1:
        return next(iter(runs.values()))
    following = {name: iter(run) for name, run in runs.items()}
    return [next(following[push.queue]) for push in pushes]


def to_trim(db: apsw.Connection, catalog: Catalog, now_ms: int) -> list[QueueRow]:
    """Queues with something to drop, the fullest log last: it must not keep the others waiting."""
    names = db.execute("SELECT name FROM queues WHERE pushed > trimmed ORDER BY pushed - trimmed").fetchall()
    queues = [catalog.queue(db, str(name)) for (name,) in names]
    return [queue for queue in queues if trimmable(db, queue, now_ms)]


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
