"""
Jobs of an embedded store as people look at them: the body, and where it is on its way to each topic.

Rule: reads only, inside a read transaction that the driver opened. A job is known as long as the
store has its body: in the log, or put aside for a topic that still needs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Final

import apsw

from pbus.core.sample import in_sample
from pbus.storage import origin
from pbus.storage.driver import Entry, JobRecord, Place
from pbus.storage.sqlite_catalog import QueueRow, id_bound, id_number, id_text, told_text
from pbus.storage.sqlite_shadows import is_sampled

PAGE_BYTES: Final = 4 * 1024 * 1024
LONGEST_PAGE: Final = 1_000

_CONTENT = "id, body, traceparent, content_type, expires_ms, key"
_THESE = "tid = ?1 AND id IN (SELECT value FROM json_each(?2))"
_COUNTS = "attempts, crashes, redelivered, first_ms"
# Owners first: claims are found by owner, topic and id.
_RUNNING = (
    f"SELECT c.id, {_COUNTS}, o.name FROM owners o CROSS JOIN claims c ON c.oid = o.oid "
    "AND c.tid = ?1 AND c.id IN (SELECT value FROM json_each(?2))"
)
_WAITING = (
    f"SELECT w.id, {_COUNTS}, coalesce(k.holder, 0) FROM waiting w LEFT JOIN keys k ON k.tid = w.tid AND k.key = w.key "
    "WHERE w.tid = ?1 AND w.id IN (SELECT value FROM json_each(?2))"
)
_IN_LOG = (
    "SELECT l.id FROM json_each(?2) j CROSS JOIN {log} l ON l.id = j.value JOIN topics t ON t.tid = ?1 "
    "WHERE l.id > t.cursor AND (l.due_ms IS NULL OR (l.id <= t.born AND l.due_ms <= t.born_ms)) "
    "AND NOT EXISTS (SELECT 1 FROM cancelled c WHERE c.tid = ?1 AND c.id = l.id) "
    f"AND (t.sample = 0 OR {is_sampled('l.id', 't.sample')})"
)


def job(db: apsw.Connection, queue: QueueRow, id: str) -> JobRecord | None:
    """See ``Driver.job``."""
    found = some(db, queue, [id])
    return found[0] if found else None


def some(db: apsw.Connection, queue: QueueRow, ids: Sequence[str]) -> list[JobRecord]:
    """See ``Driver.records``."""
    return _records(db, queue, _page(_these(db, queue, map(id_number, ids)), LONGEST_PAGE))


def jobs(db: apsw.Connection, queue: QueueRow, after: str, limit: int) -> list[JobRecord]:
    """See ``Driver.jobs``; at most ``LONGEST_PAGE`` of them."""
    limit = min(limit, LONGEST_PAGE)
    start, _ = id_bound(after) if after else (-1, True)
    return _records(db, queue, _page(_contents(db, queue, start, limit), limit))


def entries(
    db: apsw.Connection, queue: QueueRow, first: str, last: str, limit: int, *, newest: bool
) -> list[Entry]:
    """See ``Driver.entries``; at most ``LONGEST_PAGE`` of them."""
    limit = min(limit, LONGEST_PAGE)
    least, is_id = id_bound(first)
    bounds = (least if is_id else least + 1, id_bound(last)[0], limit)
    rows = _page(_of_log(db, queue, "DESC" if newest else "ASC", bounds), limit)
    return [
        Entry(id_text(number), body, origin.read(traceparent or "").traceparent, told_text(key or ""))
        for number, body, traceparent, _, _, key in rows
    ]


def _page(contents: Generator[Any, None, None], limit: int) -> list[Any]:
    """The first of *contents*, as far as one answer of bodies may go."""
    rows: list[Any] = []
    size = 0
    with contextlib.closing(contents):
        for row in contents:
            if len(rows) >= limit or (rows and size + len(row[1]) > PAGE_BYTES):
                break
            rows.append(row)
            size += len(row[1])
    return rows


def _these(db: apsw.Connection, queue: QueueRow, numbers: Iterable[int]) -> Generator[Any, None, None]:
    """Jobs by their numbers, in the log or put aside; who is in neither is left out."""
    in_log = f"SELECT {_CONTENT} FROM {queue.log} WHERE id = ?"
    aside = f"SELECT {_CONTENT} FROM aside WHERE tid IN (SELECT tid FROM topics WHERE qid = ?) AND id = ? LIMIT 1"
    for number in numbers:
        row = db.execute(in_log, (number,)).get or db.execute(aside, (queue.qid, number)).get
        if row:
            yield row


def _contents(db: apsw.Connection, queue: QueueRow, start: int, limit: int) -> Generator[Any, None, None]:
    """Jobs with an id above *start*; what was put aside is older than everything in the log."""
    # One copy of several is enough; bodies are read when it is known which.
    yield from db.execute(
        f"SELECT {_CONTENT} FROM aside WHERE rowid IN (SELECT min(rowid) FROM aside WHERE id > ?1 "
        "AND tid IN (SELECT tid FROM topics WHERE qid = ?2) GROUP BY id ORDER BY id LIMIT ?3) ORDER BY id",
        (start, queue.qid, limit),
    )
    yield from db.execute(f"SELECT {_CONTENT} FROM {queue.log} WHERE id > ? ORDER BY id LIMIT ?", (start, limit))


def _of_log(
    db: apsw.Connection, queue: QueueRow, order: str, bounds: tuple[int, int, int]
) -> Generator[Any, None, None]:
    """What is between two ids, at most so much."""
    yield from db.execute(
        f"SELECT {_CONTENT} FROM {queue.log} WHERE id BETWEEN ? AND ? ORDER BY id {order} LIMIT ?", bounds
    )


def _records(db: apsw.Connection, queue: QueueRow, rows: Sequence[Any]) -> list[JobRecord]:
    numbers = [row[0] for row in rows]
    topics: list[Any] = db.execute(
        "SELECT name, tid, since, sample FROM topics WHERE qid = ? ORDER BY name", (queue.qid,)
    ).fetchall()
    places = {name: _places(db, queue, tid, numbers) for name, tid, *_ in topics}
    records = []
    for number, body, text, content_type, expires_ms, key in rows:
        traceparent, replay_of, only = origin.read(text or "")
        # A job that is older than a topic is not on its way there, nor to a shadow that does not see it.
        meant = [
            name for name, _, since, sample in topics
            if number > since and (only == name or (not only and in_sample(id_text(number), sample)))
        ]
        records.append(JobRecord(
            id_text(number), queue.name, body, traceparent, content_type or "", told_text(key or ""),
            expires_ms or 0, {name: places[name].get(number, Place("ended")) for name in meant}, replay_of,
        ))
    return records


def _places(db: apsw.Connection, queue: QueueRow, tid: int, numbers: Sequence[int]) -> dict[int, Place]:
    """Where those of *numbers* are that have not ended."""
    these = (tid, str(list(numbers)))
    places = {number: Place("ready") for (number,) in db.execute(_IN_LOG.format(log=queue.log), these)}
    for number, *counts in db.execute(f"SELECT id, {_COUNTS} FROM again WHERE {_THESE}", these):
        places[number] = _place("ready", counts)
    for number, *counts, holder in db.execute(_WAITING, these):
        places[number] = _place("ready", counts, behind=id_text(holder) if holder else "")
    for number, *counts, due_ms in db.execute(f"SELECT id, {_COUNTS}, due_ms FROM delayed WHERE {_THESE}", these):
        places[number] = _place("delayed", counts, due_ms=due_ms)
    for number, *counts, owner in db.execute(_RUNNING, these):
        places[number] = _place("running", counts, owner=owner)
    dead = f"SELECT id, {_COUNTS}, at_ms, reason, error, fingerprint FROM dead WHERE {_THESE}"
    for number, *counts, at_ms, reason, error, fingerprint in db.execute(dead, these):
        places[number] = _place("dead", counts, at_ms=at_ms, reason=reason, error=error, fingerprint=fingerprint)
    return places


def _place(state: str, counts: Sequence[Any], **more: Any) -> Place:
    attempts, crashes, redelivered, first_ms = counts
    return Place(state, attempts, crashes, bool(redelivered), first_ms, **more)
