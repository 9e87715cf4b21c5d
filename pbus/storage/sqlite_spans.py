"""
Pushes of an embedded store that need a closer look: bounds, dedupe keys, delay, ttl, key, metadata.

Rule: functions here run inside a write transaction that the driver opened. Spans are judged one
after the other, each against what the ones before it have left: first the dedupe key (a duplicate
is answered however full the queue is), then jobs, then bytes. A group is judged so, too; when one of its
spans is refused, what it did so far is undone. Where everything fits nothing is refused, so
nobody looks for groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, count, repeat
from typing import Any, NamedTuple

import apsw

from pbus.core.job import Push
from pbus.core.plain import Plain, bodies_of
from pbus.storage import origin, sqlite_shadows
from pbus.storage.sqlite_catalog import ONLY_MS, SIZE_BITS, QueueRow, id_ms, kept_text
from pbus.storage.sqlite_log import Part, QueueAnswer, QueueState, append_plain, is_plain

_KNOWN_KEYS = (
    "SELECT json_group_object(d.key, d.id) FROM json_each(?2) j CROSS JOIN dedupe d "
    "ON d.qid = ?1 AND d.key = j.value AND +d.at_ms > ?3"
)
_KEEP_KEYS = "INSERT OR REPLACE INTO dedupe SELECT ?1, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?2)"
_NUL = "\\u0000"
_DELAYED_TOPICS = "UPDATE topics SET delayed = delayed + ? WHERE qid = ? AND sample = 0"
# What is for one topic only is what came back to it; the others have taken it.
_TO_ONE = {
    False: "INSERT INTO again SELECT tid, ?3, 0, 0, 0, 0, 0, 0, ?4, ?5, 1 FROM topics WHERE qid = ?1 AND name = ?2",
    True: (
        "INSERT INTO delayed SELECT tid, ?3, 0, 0, 0, 0, 0, 0, ?4, ?5, 1, ?6 FROM topics WHERE qid = ?1 AND name = ?2"
    ),
}
_COUNT_ONE = {
    False: "UPDATE topics SET again = again + 1 WHERE qid = ? AND name = ?",
    True: "UPDATE topics SET delayed = delayed + 1 WHERE qid = ? AND name = ?",
}
_IS_TOPIC = "SELECT EXISTS (SELECT 1 FROM topics WHERE qid = ? AND name = ?)"
_NOT_TO_OTHERS = "UPDATE topics SET taken = taken + 1, taken_bytes = taken_bytes + ?3 WHERE qid = ?1 AND name <> ?2"
_WHOLE = "whole"
"""``Appended.refused`` of those whose group is refused because of another one."""


class _Mark(NamedTuple):
    """How far a run had come: to go back there."""

    state: QueueState
    stored: int
    delayed: int
    keys: int
    parts: int
    last: Part | None


class _Given(NamedTuple):
    """A push for one topic only, as that one gets it."""

    topic: str
    number: int
    size: int
    expires_ms: int
    key: str
    due_ms: int | None


class _Run:
    """The pushes of one queue in one call, on their way into it."""

    def __init__(self, db: apsw.Connection, queue: QueueRow, state: QueueState, now_ms: int) -> None:
        self._db = db
        self._queue = queue
        self._now_ms = now_ms
        self.state = state
        self._rows: list[tuple[Any, ...]] = []
        self._delayed = 0
        self._only: list[_Given] = []
        self._known: dict[str, int] = {}
        self._new_keys: list[tuple[str, int, int]] = []
        self.parts: list[Part] = []

    def look_up(self, keys: Sequence[str]) -> None:
        """Which of these dedupe keys were pushed within the window, and as which job."""
        since_ms = self._now_ms - self.state.dedupe_window_ms
        self._known = json.loads(self._db.execute(_KNOWN_KEYS, (self._queue.qid, json.dumps(keys), since_ms)).get)

    @property
    def stored(self) -> int:
        """How many jobs so far."""
        return len(self._rows)

    def add(self, span: Sequence[Push]) -> str:
        """Store *span*; or answer why not, and store nothing."""
        key = kept_text(span[0].options.dedupe) if span[0].options else ""
        known = self._known.get(key) if key else None
        if known is not None:
            self.parts.append(Part(1, known, duplicate=True))
            return ""
        only = span[0].options.only if span[0].options else ""
        if only and not self._db.execute(_IS_TOPIC, (self._queue.qid, only)).get:
            return "topic"
        refused = self.state.refusal(len(span), sum(len(push.body) for push in span))
        if refused:
            return refused
        first = self.store(span)
        if key:
            self._known[key] = first
            options = span[0].options
            window_ms = self.state.dedupe_window_ms
            # It is judged by the window: one that counts for longer was pushed later.
            later_ms = round(options.dedupe_s * 1000) - window_ms if options and options.dedupe_s else 0
            self._new_keys.append((key, first, self._now_ms + later_ms))
        return ""

    def offer(self, span: Sequence[Push]) -> None:
        """Store *span*, or answer why not."""
        refused = self.add(span)
        if refused:
            self.refuse(span, refused)

    def refuse(self, pushes: Sequence[Push], why: str) -> None:
        """Answer *why* for each of *pushes*."""
        self._note(Part(len(pushes), refused=why))

    def mark(self) -> _Mark:
        """Where it is now."""
        last = self.parts[-1] if self.parts else None
        return _Mark(replace(self.state), self.stored, self._delayed, len(self._new_keys), len(self.parts), last)

    def go_back(self, mark: _Mark) -> None:
        """Undo what was added since *mark*; nothing of it is in the file yet."""
        self.state = mark.state
        self._delayed = mark.delayed
        for key, *_ in self._new_keys[mark.keys:]:
            del self._known[key]
        self._only = [one for one in self._only if one.number <= mark.state.last_id]
        del self._rows[mark.stored:], self._new_keys[mark.keys:], self.parts[mark.parts:]
        if mark.last is not None:
            self.parts[-1] = mark.last

    def store(self, pushes: Sequence[Push]) -> int:
        """Store *pushes*, which fit; the id of the first."""
        first = self.state.take_ids(len(pushes), self._now_ms)
        self._rows += map(self._row, count(first), pushes)
        self._note(Part(len(pushes), first))
        return first

    def end(self) -> QueueAnswer:
        """Write what was added."""
        if self.stored:
            self._write()
        return QueueAnswer(self.state.backlog(self.stored), self.state.topics, self.parts)

    def _write(self) -> None:
        self.state.write(self._db, self._queue.qid)
        self._insert()
        if self._new_keys:
            self._db.execute(_KEEP_KEYS, (self._queue.qid, json.dumps(self._new_keys)))
        if self._delayed:
            # In the same write every topic gets them, not taken so far.
            self._db.execute(
                "INSERT INTO delayed SELECT t.tid, l.id, 0, 0, 0, 0, 0, 0, coalesce(l.expires_ms, 0), "
                f"coalesce(l.key, ''), 1, l.due_ms FROM {self._queue.log} l JOIN topics t ON t.qid = ? "
                f"AND t.sample = 0 WHERE l.id >= ? AND l.due_ms < {ONLY_MS}", (self._queue.qid, self._rows[0][0]),
            )
            self._db.execute(_DELAYED_TOPICS, (self._delayed, self._queue.qid))
            delayed = [(row[0], len(row[2])) for row in self._rows if row[5] is not None and row[5] < ONLY_MS]
            sqlite_shadows.give_delayed(self._db, self._queue, delayed)
        if self._only:
            self._give_to_one()

    def _give_to_one(self) -> None:
        """In the same write: what is for one topic only."""
        qid = self._queue.qid
        for one in self._only:
            is_delayed = one.due_ms is not None
            values = (qid, one.topic, one.number, one.expires_ms, one.key)
            self._db.execute(_TO_ONE[is_delayed], (*values, one.due_ms) if is_delayed else values)
            self._db.execute(_COUNT_ONE[is_delayed], (qid, one.topic))
            self._db.execute(_NOT_TO_OTHERS, (qid, one.topic, one.size))
        self.state.look_again(self._db, qid)

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
        state, options = self.state, push.options
        state.pushed += 1
        state.pushed_bytes += len(push.body)
        due_ms = expires_ms = key = None
        if options:
            due_ms = self._now_ms + options.delay_ms if options.delay_ms > 0 else None
            expires_ms = id_ms(number) + options.ttl_ms if options.ttl_ms > 0 else None
            key = kept_text(options.key) or None
            if options.only:
                self._only.append(_Given(options.only, number, len(push.body), expires_ms or 0, key or "", due_ms))
                return (number, state.pushed_bytes, push.body, origin.written(push), push.content_type or None,
                        ONLY_MS, expires_ms, key)
        state.plain += due_ms is None
        self._delayed += due_ms is not None
        return (number, state.pushed_bytes, push.body, origin.written(push) or None, push.content_type or None,
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


def append(
    db: apsw.Connection, runs: Sequence[tuple[QueueRow, Sequence[Push]]], pushes: Sequence[Push], now_ms: int
) -> dict[str, QueueAnswer]:
    """Store what may be stored of *pushes*; *runs*: the same, each queue with its own."""
    if len(runs) == 1:
        queue, of_queue = runs[0]
        return {queue.name: _append(db, queue, of_queue, QueueState.read(db, queue.qid), now_ms)}
    states = [QueueState.read(db, queue.qid) for queue, _ in runs]
    tight = [
        queue for (queue, of_queue), state in zip(runs, states, strict=True)
        if not state.fits(len(of_queue), sum([len(push.body) for push in of_queue]))
    ]
    if tight and any(push.whole for push in pushes):
        return _append_together(db, runs, states, pushes, now_ms)
    return {
        queue.name: _append(db, queue, of_queue, state, now_ms)
        for (queue, of_queue), state in zip(runs, states, strict=True)
    }


def _append(
    db: apsw.Connection, queue: QueueRow, pushes: Sequence[Push], state: QueueState, now_ms: int
) -> QueueAnswer:
    """Store what may be stored in one queue; no group of others is refused."""
    bodies = bodies_of(pushes)
    size = sum(map(len, bodies))
    fits = state.fits(len(bodies), size)
    if fits and (type(pushes) is Plain or is_plain(pushes)):
        return append_plain(db, queue, state, bodies, size, now_ms)
    run, has_keys = _run(db, queue, pushes, state, now_ms)
    if fits and not has_keys:
        run.store(pushes)
    elif fits:  # no group is refused, and those of several queues are not whole here
        for span in _spans(pushes):
            run.offer(span)
    else:
        _offer({queue.name: run}, pushes)
    return run.end()


def _append_together(
    db: apsw.Connection, runs: Sequence[tuple[QueueRow, Sequence[Push]]], states: Sequence[QueueState],
    pushes: Sequence[Push], now_ms: int,
) -> dict[str, QueueAnswer]:
    """The same where a group may be refused because of another queue: push by push through all of them."""
    made = {
        queue.name: _run(db, queue, of_queue, state, now_ms)[0]
        for (queue, of_queue), state in zip(runs, states, strict=True)
    }
    _offer(made, pushes)
    return {name: run.end() for name, run in made.items()}


def _offer(runs: dict[str, _Run], pushes: Sequence[Push]) -> None:
    """Store what may be stored, each in the run of its queue."""
    start = 0
    while start < len(pushes):
        first = pushes[start]
        end = start + (first.whole or max(1, first.span))
        if first.whole:
            _add_group(runs, pushes[start:end])
        else:
            runs[first.queue].offer(pushes[start:end])
        start = end


def _add_group(runs: dict[str, _Run], group: Sequence[Push]) -> None:
    """Store all of *group*, or nothing of it."""
    marks = {name: runs[name].mark() for name in {push.queue for push in group}}
    spans, refused = list(_spans(group)), ""
    for span in spans:
        refused = runs[span[0].queue].add(span)
        if refused:
            break
    if not refused:
        return
    for name, mark in marks.items():
        runs[name].go_back(mark)
    for each in spans:
        runs[each[0].queue].refuse(each, refused if each is span else _WHOLE)


def _run(
    db: apsw.Connection, queue: QueueRow, pushes: Sequence[Push], state: QueueState, now_ms: int
) -> tuple[_Run, bool]:
    """A run for *pushes* that knows their dedupe keys; whether one may be answered other than as stored."""
    run = _Run(db, queue, state, now_ms)
    keys = [kept_text(push.options.dedupe) for push in pushes if push.options and push.options.dedupe]
    if keys:
        run.look_up(keys)
    return run, bool(keys) or any(push.options.only for push in pushes if push.options)


def _spans(pushes: Sequence[Push]) -> Iterator[Sequence[Push]]:
    """What is stored all or none."""
    start = 0
    while start < len(pushes):
        end = start + max(1, pushes[start].span)
        yield pushes[start:end]
        start = end
