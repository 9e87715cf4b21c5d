"""
Names and numbers of an embedded store: job ids, queues and topics, and making them.

Rule: functions here run inside a transaction that the driver opened; ids are integers
(unix ms << 20 | sequence) and only this file turns them into text and back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any, Final

import apsw

from pbus.errors import Unavailable
from pbus.storage.driver import QueueSpec, TopicSpec

SEQUENCE_BITS: Final = 20
_SEQUENCES: Final = 1 << SEQUENCE_BITS
_LARGEST_MS: Final = 1 << 43
_LONGEST_ID: Final = len("99999999999999-1048575")

ONLY_MS: Final = 1 << 62
"""``due_ms`` of an entry for one topic only: no topic finds it in the log."""

SIZE_BITS: Final = 30
"""Of a number that says where a body is, for its size: SQLite keeps none that is larger."""

BLOCK: Final = 64
"""Entries in the one INSERT that has a place for each."""

CARRIED: Final = "id, attempts, crashes, forgiven, redelivered, first_ms, aside, expires_ms, key"
"""What a delivery takes along from place to place, after its topic."""

_ESCAPE: Final = "\x01"
_UNKEPT = re.compile("[\0\x01\ud800-\udfff]")
_KEPT = re.compile(f"{_ESCAPE}([0-9a-f]{{4}})")
_BOUNDS = ("retention_ms", "retention_bytes", "max_backlog", "max_backlog_bytes", "dedupe_window_ms")
_KNOWN_QUEUE = f"SELECT qid FROM queues WHERE name = ? AND {' AND '.join(f'{name} = ?' for name in _BOUNDS)}"
_DECLARE_QUEUE = (
    f"INSERT INTO queues (name, {', '.join(_BOUNDS)}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
    f"SET {', '.join(f'{name} = excluded.{name}' for name in _BOUNDS)} RETURNING qid"
)
_KEEP_DEAD = "UPDATE topics SET dead_keep_ms = ?, dead_max = ?, sample = ? WHERE qid = ? AND name = ?"
_NEW_TOPIC = (
    "INSERT INTO topics "
    "(qid, name, dead_keep_ms, dead_max, sample, since, born, born_ms, cursor, passed, taken, taken_bytes) "
)
_FROM_NOW = (
    "SELECT qid, ?, ?, ?, ?, last_id, last_id, ?, last_id, plain, pushed, pushed_bytes FROM queues WHERE qid = ?"
)


def kept_text(key: str) -> str:
    """Any text as SQLite's JSON takes it and gives it back: NUL ends a text there, a lone surrogate is none."""
    return _UNKEPT.sub(lambda found: f"{_ESCAPE}{ord(found[0]):04x}", key)


def told_text(kept: str) -> str:
    """What ``kept_text`` was given."""
    return _KEPT.sub(lambda found: chr(int(found[1], 16)), kept) if _ESCAPE in kept else kept


def id_text(number: int) -> str:
    """A job id as everybody else sees it."""
    return f"{number >> SEQUENCE_BITS}-{number & (_SEQUENCES - 1)}"


def id_number(text: str) -> int:
    """The integer of a job id; -1 when it cannot be one of this store's."""
    ms_text, _, sequence_text = text.partition("-")
    if not (ms_text.isdecimal() and sequence_text.isdecimal() and text.isascii()) or len(text) > _LONGEST_ID:
        return -1
    ms, sequence = int(ms_text), int(sequence_text)
    return ms << SEQUENCE_BITS | sequence if ms < _LARGEST_MS and sequence < _SEQUENCES else -1


def id_bound(text: str) -> tuple[int, bool]:
    """
    The largest integer of an id that is not above *text*, which is one in form only; whether it is *text* itself.

    Clients name moments of which no store has an id.
    """
    ms_text, _, sequence_text = text.partition("-")
    ms, sequence = int(ms_text), int(sequence_text)
    if ms >= _LARGEST_MS:
        return (_LARGEST_MS << SEQUENCE_BITS) - 2, False
    return ms << SEQUENCE_BITS | min(sequence, _SEQUENCES - 1), sequence < _SEQUENCES


def id_ms(number: int) -> int:
    """When a job was pushed, unix ms."""
    return number >> SEQUENCE_BITS


@dataclass
class QueueRow:
    """A queue as this process knows it: numbers for names, and the statements on its log."""

    qid: int
    name: str
    topics: dict[str, int] = field(default_factory=dict)
    plain: bool = True
    """The last entries that were looked at were nothing but bodies: the next ones are, probably."""

    @cached_property
    def log(self) -> str:
        """Its table."""
        return f"log_{self.qid}"

    @cached_property
    def insert(self) -> str:
        """One entry with everything."""
        return f"INSERT INTO {self.log} VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

    @cached_property
    def insert_plain(self) -> str:
        """One entry that is nothing but a body."""
        return f"INSERT INTO {self.log} (id, upto, body) VALUES (?, ?, ?)"

    @cached_property
    def insert_block(self) -> str:
        """``BLOCK`` of those: the first id, then upto and body of each."""
        rows = ", ".join(f"(?1 + {row}, ?{2 * row + 2}, ?{2 * row + 3})" for row in range(BLOCK))
        return f"INSERT INTO {self.log} (id, upto, body) VALUES {rows}"

    @cached_property
    def insert_many(self) -> str:
        """
        Any number of those, a third dearer an entry than a block: the first id, the bytes before them,
        the bodies as one, and where each is in that (start << SIZE_BITS | size). One statement: each
        hands the interpreter lock over.
        """
        start, size = f"(value >> {SIZE_BITS})", f"(value & {(1 << SIZE_BITS) - 1})"
        return (
            f"INSERT INTO {self.log} (id, upto, body) "
            f"SELECT ?1 + key, ?2 + {start} + {size}, substr(?3, {start} + 1, {size}) FROM json_each(?4)"
        )

    @cached_property
    def insert_rows(self) -> str:
        """
        ``insert_many`` with the other columns: ?5, ?7 .. say whether a column is the same in all
        entries, ?6, ?8 .. what it is; else it is behind the number of its entry. (Most are: of pushes
        that arrive together, and taking one out of JSON costs as much as storing the entry.)
        """
        start, size = f"(place >> {SIZE_BITS})", f"(place & {(1 << SIZE_BITS) - 1})"
        more = ", ".join(f"iif(?{3 + 2 * column}, ?{4 + 2 * column}, value ->> {column})" for column in range(1, 6))
        return (
            f"INSERT INTO {self.log} SELECT ?1 + key, ?2 + {start} + {size}, substr(?3, {start} + 1, {size}), {more} "
            "FROM (SELECT key, value, iif(type = 'integer', value, value ->> 0) AS place FROM json_each(?4))"
        )

    @cached_property
    def after(self) -> str:
        """Entries after a cursor."""
        return (
            "SELECT id, body, traceparent, content_type, due_ms, expires_ms, key "
            f"FROM {self.log} WHERE id > ? ORDER BY id LIMIT ?"
        )

    @cached_property
    def after_at_once(self) -> str:
        """
        The same, and no more than about so many bytes, in one row: how many, the last, whether any is
        more than a body, ids, sizes, all bodies as one. A row each would hand the interpreter lock
        over for each.
        """
        begin = "upto - length(body)"
        return (
            "SELECT count(*), max(id), max(more), group_concat((id >> {bits}) || '-' || (id & {mask})), "
            "group_concat(size), CAST(group_concat(body, '') AS BLOB) FROM (SELECT id, body, length(body) AS size, "
            "coalesce(traceparent, content_type, due_ms, expires_ms, key) IS NOT NULL AS more "
            f"FROM {self.log} WHERE id > ?1 AND {begin} < ?3 + "
            f"(SELECT {begin} FROM {self.log} WHERE id > ?1 ORDER BY id LIMIT 1) ORDER BY id LIMIT ?2)"
        ).format(bits=SEQUENCE_BITS, mask=_SEQUENCES - 1)

    @cached_property
    def claim_range(self) -> str:
        """Claims on the entries of a range, none of them tried before."""
        return f"INSERT INTO claims SELECT ?, ?, id, 0, 0, 0, 0, 0, 0, 0, '' FROM {self.log} WHERE id > ? AND id <= ?"

    @cached_property
    def came_back(self) -> str:
        """What came back to a topic, oldest first, with its body where the log still has it."""
        return (
            "SELECT a.id, a.attempts, a.crashes, a.forgiven, a.redelivered, a.first_ms, a.aside, a.expires_ms, a.key, "
            f"a.fresh, l.body, l.traceparent, l.content_type "
            f"FROM again a LEFT JOIN {self.log} l ON l.id = a.id WHERE a.tid = ? ORDER BY a.id LIMIT ?"
        )


class Catalog:
    """Names of queues and topics and their numbers; read again when a name is not known, or one was removed."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueRow] = {}
        self.version = -1

    def read(self, db: apsw.Connection) -> None:
        """Learn everything that the store knows."""
        self.version = db.execute("SELECT catalog FROM pulse").get
        queues = {name: QueueRow(qid, name) for qid, name in db.execute("SELECT qid, name FROM queues")}
        for name, topic, tid in db.execute("SELECT q.name, t.name, t.tid FROM topics t JOIN queues q USING (qid)"):
            queues[name].topics[topic] = tid
        self.queues = queues

    def refresh(self, db: apsw.Connection) -> None:
        """Learn what changed, if anything did."""
        if db.execute("SELECT catalog FROM pulse").get != self.version:
            self.read(db)

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

    def topic_number(self, db: apsw.Connection, queue: str, topic: str) -> int:
        """Its tid; -1: it was removed, or never was."""
        try:
            return self.topic(db, queue, topic)[1]
        except Unavailable:
            return -1


def is_declared(db: apsw.Connection, spec: QueueSpec) -> bool:
    """Whether the store knows all of *spec* already (most starts: nothing to write)."""
    qid = db.execute(_KNOWN_QUEUE, (spec.name, *_bounds(spec))).get
    if qid is None:
        return False
    rows = db.execute("SELECT name, dead_keep_ms, dead_max, sample FROM topics WHERE qid = ?", (qid,))
    return set(rows).issuperset((topic.name, *_kept(topic)) for topic in spec.topics)


def declare(db: apsw.Connection, spec: QueueSpec, now_ms: int) -> None:
    """Make the queue, its log and its topics as far as they are missing."""
    qid: int = db.execute(_DECLARE_QUEUE, (spec.name, *_bounds(spec))).get
    make_log(db, qid)
    known = {name for (name,) in db.execute("SELECT name FROM topics WHERE qid = ?", (qid,))}
    for topic in spec.topics:
        keeps = _kept(topic)
        if topic.name in known:
            db.execute(_KEEP_DEAD, (*keeps, qid, topic.name))
        elif topic.start == "history":
            _from_history(db, qid, (topic.name, *keeps), now_ms)
        else:
            db.execute(_NEW_TOPIC + _FROM_NOW, (topic.name, *keeps, now_ms, qid))
    db.execute("UPDATE pulse SET catalog = catalog + 1")


def make_log(db: apsw.Connection, qid: int) -> None:
    """The table of a queue's log, where it is missing."""
    db.execute(files("pbus.storage").joinpath("sql/log.sql").read_text("utf-8").replace("{qid}", str(qid)))


def _from_history(db: apsw.Connection, qid: int, topic: tuple[Any, ...], now_ms: int) -> None:
    """
    A topic that begins with what the log still holds.

    Marked entries that are due it finds where they are (``sqlite_claims`` compares with born_ms); those
    that are not get a delayed delivery now. Those for one topic only it has taken.
    """
    log = f"log_{qid}"
    db.execute(
        _NEW_TOPIC + f"SELECT qid, ?1, ?2, ?3, ?6, 0, last_id, ?4, 0, "
        f"plain - (pushed - trimmed - (SELECT count(*) FROM {log} WHERE due_ms > ?4)), trimmed + o.count, "
        f"trimmed_bytes + o.bytes FROM queues, (SELECT count(*) AS count, coalesce(sum(length(body)), 0) AS bytes "
        f"FROM {log} WHERE due_ms = {ONLY_MS}) o WHERE qid = ?5", (*topic[:3], now_ms, qid, topic[3]),
    )
    tid = db.last_insert_rowid()
    db.execute(
        f"INSERT INTO delayed SELECT ?1, id, 0, 0, 0, 0, 0, 0, coalesce(expires_ms, 0), coalesce(key, ''), 1, due_ms "
        f"FROM {log} WHERE due_ms > ?2 AND due_ms < {ONLY_MS}", (tid, now_ms),
    )
    db.execute("UPDATE topics SET delayed = ? WHERE tid = ?", (db.changes(), tid))


def _bounds(spec: QueueSpec) -> tuple[int, ...]:
    """Values of ``_BOUNDS``."""
    retention_ms, window_ms = int(spec.retention_s * 1000), int(spec.dedupe_window_s * 1000)
    return retention_ms, spec.retention_bytes, spec.max_backlog, spec.max_backlog_bytes, window_ms


def _kept(topic: TopicSpec) -> tuple[int, int, int]:
    return int(topic.dead_keep_s * 1000), topic.dead_max, topic.sample
