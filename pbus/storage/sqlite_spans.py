"""
Pushes of an embedded store that need a closer look: bounds, dedupe keys, delay, ttl, key, metadata.

Rule: functions here run inside a write transaction that the driver opened. Spans are judged one
after the other, each against what the ones before it have left: first the dedupe key (a duplicate
is answered however full the queue is), then jobs, then bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, count, repeat
from typing import Any

import apsw

from pbus.core.job import Push
from pbus.storage.sqlite_catalog import SIZE_BITS, QueueRow, id_ms, kept_text
from pbus.storage.sqlite_log import Part, QueueAnswer, QueueState, append_plain, is_plain

_KNOWN_KEYS = (
    "SELECT json_group_object(d.key, d.id) FROM json_each(?2) j CROSS JOIN dedupe d "
    "ON d.qid = ?1 AND d.key = j.value AND +d.at_ms > ?3"
)
_KEEP_KEYS = "INSERT OR REPLACE INTO dedupe SELECT ?1, value ->> 0, value ->> 1, ?2 FROM json_each(?3)"
_NUL = "\\u0000"
_DELAYED_TOPICS = "UPDATE topics SET delayed = delayed + ? WHERE qid = ?"


class _Run:
    """The pushes of one queue in one call, on their way into it."""

    def __init__(self, db: apsw.Connection, queue: QueueRow, state: QueueState, now_ms: int) -> None:
        self._db = db
        self._queue = queue
        self._state = state
        self._now_ms = now_ms
        self._rows: list[tuple[Any, ...]] = []
        self._delayed = 0
        self._known: dict[str, int] = {}
        self._new_keys: list[tuple[str, int]] = []
        self.parts: list[Part] = []

    def look_up(self, keys: Sequence[str]) -> None:
        """Which of these dedupe keys were pushed within the window, and as which job."""
        since_ms = self._now_ms - self._state.dedupe_window_ms
        self._known = json.loads(self._db.execute(_KNOWN_KEYS, (self._queue.qid, json.dumps(keys), since_ms)).get)

    @property
    def stored(self) -> int:
        """How many jobs so far."""
        return len(self._rows)

    def add(self, span: Sequence[Push]) -> None:
        """Store *span*, or say why not."""
        key = kept_text(span[0].options.dedupe) if span[0].options else ""
        known = self._known.get(key) if key else None
        if known is not None:
            self.parts.append(Part(1, known, duplicate=True))
            return
        refused = self._state.refusal(len(span), sum(len(push.body) for push in span))
        if refused:
            self._note(Part(len(span), refused=refused))
            return
        first = self.store(span)
        if key:
            self._known[key] = first
            self._new_keys.append((key, first))

    def store(self, pushes: Sequence[Push]) -> int:
        """Store *pushes*, which fit; the id of the first."""
        first = self._state.take_ids(len(pushes), self._now_ms)
        self._rows += map(self._row, count(first), pushes)
        self._note(Part(len(pushes), first))
        return first

    def end(self) -> None:
        """Write what was added."""
        self._state.write(self._db, self._queue.qid)
        self._insert()
        if self._new_keys:
            self._db.execute(_KEEP_KEYS, (self._queue.qid, self._now_ms, json.dumps(self._new_keys)))
        if self._delayed:
            # In the same write every topic gets them, not taken so far.
            self._db.execute(
                "INSERT INTO delayed SELECT t.tid, l.id, 0, 0, 0, 0, 0, 0, coalesce(l.expires_ms, 0), "
                f"coalesce(l.key, ''), 1, l.due_ms FROM {self._queue.log} l JOIN topics t ON t.qid = ? "
                "WHERE l.id >= ? AND l.due_ms IS NOT NULL", (self._queue.qid, self._rows[0][0]),
            )
            self._db.execute(_DELAYED_TOPICS, (self._delayed, self._queue.qid))

    def _insert(self) -> None:
        first, upto, body, *_ = self._rows[0]
        before = upto - len(body)
        places = [(row[1] - len(row[2]) - before) << SIZE_BITS | len(row[2]) for row in self._rows]
        columns = list(zip(*self._rows, strict=True))[3:]
        same = [all(value == column[0] for value in column) for column in columns]
        varying = [repeat(0) if one else column for one, column in zip(same, columns, strict=True)]
        entries = str(places) if all(same) else json.dumps(list(zip(places, *varying, strict=False)))
        if len(self._rows) == 1 or _NUL in entries:  # NUL ends a text in SQLite's JSON
            self._db.executemany(self._queue.insert, self._rows)
            return
        more = chain.from_iterable((one, column[0] if one else None) for one, column in zip(same, columns, strict=True))
        bodies = b"".join(row[2] for row in self._rows)
        self._db.execute(self._queue.insert_rows, (first, before, bodies, entries, *more))

    def _row(self, number: int, push: Push) -> tuple[Any, ...]:
        """Its entry in the log; the counters of the queue move with it."""
        state, options = self._state, push.options
        state.pushed += 1
        state.pushed_bytes += len(push.body)
        due_ms = expires_ms = key = None
        if options:
            due_ms = self._now_ms + options.delay_ms if options.delay_ms > 0 else None
            expires_ms = id_ms(number) + options.ttl_ms if options.ttl_ms > 0 else None
            key = kept_text(options.key) or None
        state.plain += due_ms is None
        self._delayed += due_ms is not None
        return (number, state.pushed_bytes, push.body, push.traceparent or None, push.content_type or None,
                due_ms, expires_ms, key)

    def _note(self, part: Part) -> None:
        """Neighbours of one kind are one part: it is remembered, and a run of stored ones is cheap to answer."""
        last = self.parts[-1] if self.parts else None
        if last and not last.duplicate and last.refused == part.refused and (
            part.refused or last.first + last.size == part.first
        ):
            self.parts[-1] = Part(last.size + part.size, last.first, part.refused)
        else:
            self.parts.append(part)


def append(db: apsw.Connection, queue: QueueRow, pushes: Sequence[Push], now_ms: int) -> QueueAnswer:
    """Store what may be stored of *pushes*, all of one queue."""
    state = QueueState.read(db, queue.qid)
    bodies = [push.body for push in pushes]
    size = sum(map(len, bodies))
    fits = state.fits(len(bodies), size)
    if fits and is_plain(pushes):
        return append_plain(db, queue, state, bodies, size, now_ms)
    run = _Run(db, queue, state, now_ms)
    keys = [kept_text(push.options.dedupe) for push in pushes if push.options and push.options.dedupe]
    if keys:
        run.look_up(keys)
    if fits and not keys:
        run.store(pushes)
    else:
        for span in _spans(pushes):
            run.add(span)
    if run.stored:
        run.end()
    return QueueAnswer(state.backlog(run.stored), state.topics, run.parts)


def _spans(pushes: Sequence[Push]) -> Iterator[Sequence[Push]]:
    """What is stored all or none."""
    start = 0
    while start < len(pushes):
        end = start + max(1, pushes[start].span)
        yield pushes[start:end]
        start = end
