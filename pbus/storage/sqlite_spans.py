"""
Pushes of an embedded store that need a closer look: bounds, dedupe keys, delay, ttl, key, metadata.

Rule: functions here run inside a write transaction that the driver opened. Spans are judged one
after the other, each against what the ones before it have left: first the dedupe key (a duplicate
is answered however full the queue is), then jobs, then bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from pbus.core.job import Push
from pbus.storage.sqlite_catalog import QueueRow, id_ms
from pbus.storage.sqlite_log import Part, QueueAnswer, QueueState, append_plain, is_plain

_KNOWN_KEY = "SELECT id FROM dedupe WHERE qid = ? AND key = ? AND at_ms > ?"
_KEEP_KEY = "INSERT OR REPLACE INTO dedupe VALUES (?, ?, ?, ?)"
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
        self.parts: list[Part] = []

    @property
    def stored(self) -> int:
        """How many jobs so far."""
        return len(self._rows)

    def add(self, span: Sequence[Push]) -> None:
        """Store *span*, or say why not."""
        state = self._state
        key = span[0].options.dedupe if span[0].options else ""
        if key:
            known = self._db.execute(
                _KNOWN_KEY, (self._queue.qid, key, self._now_ms - state.dedupe_window_ms)
            ).get
            if known is not None:
                self.parts.append(Part(1, known, duplicate=True))
                return
        refused = state.refusal(len(span), sum(len(push.body) for push in span))
        if refused:
            self._note(Part(len(span), refused=refused))
            return
        first = state.take_ids(len(span), self._now_ms)
        for number, push in enumerate(span, first):
            self._rows.append(self._row(number, push))
        if key:
            self._db.execute(_KEEP_KEY, (self._queue.qid, key, first, self._now_ms))
        self._note(Part(len(span), first))

    def end(self) -> None:
        """Write what was added."""
        self._state.write(self._db, self._queue.qid)
        self._db.executemany(self._queue.insert, self._rows)
        if self._delayed:
            # In the same write every topic gets them, not taken so far.
            self._db.execute(
                "INSERT INTO delayed SELECT t.tid, l.id, 0, 0, 0, 0, 0, 0, coalesce(l.expires_ms, 0), "
                f"coalesce(l.key, ''), 1, l.due_ms FROM {self._queue.log} l JOIN topics t ON t.qid = ? "
                "WHERE l.id >= ? AND l.due_ms IS NOT NULL", (self._queue.qid, self._rows[0][0]),
            )
            self._db.execute(_DELAYED_TOPICS, (self._delayed, self._queue.qid))

    def _row(self, number: int, push: Push) -> tuple[Any, ...]:
        """Its entry in the log; the counters of the queue move with it."""
        state, options = self._state, push.options
        state.pushed += 1
        state.pushed_bytes += len(push.body)
        due_ms = expires_ms = key = None
        if options:
            due_ms = self._now_ms + options.delay_ms if options.delay_ms > 0 else None
            expires_ms = id_ms(number) + options.ttl_ms if options.ttl_ms > 0 else None
            key = options.key or None
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
            self.parts[-1] = last._replace(size=last.size + part.size)
        else:
            self.parts.append(part)


def append(db: apsw.Connection, queue: QueueRow, pushes: Sequence[Push], now_ms: int) -> QueueAnswer:
    """Store what may be stored of *pushes*, all of one queue."""
    state = QueueState.read(db, queue.qid)
    if is_plain(pushes):
        bodies = [push.body for push in pushes]
        size = sum(map(len, bodies))
        if state.fits(len(bodies), size):
            return append_plain(db, queue, state, bodies, size, now_ms)
    run = _Run(db, queue, state, now_ms)
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
