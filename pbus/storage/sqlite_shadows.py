"""
Shadow topics of an embedded store: their sample of the log, and what they missed.

Rule: functions here run inside a write transaction that the driver opened. A shadow costs the log nothing: nobody
waits for its cursor, and what is trimmed before it came is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import apsw

from pbus.core.sample import OF_MS, OF_SEQUENCE, PRIME, in_sample
from pbus.storage.sqlite_catalog import SEQUENCE_BITS, QueueRow, id_text

STEP: Final = 2_000
"""Entries of the log that are passed over at once."""

# As core.sample.residue: all is below 2 ** 63.
_MIXED: Final = (
    f"((({{id}} >> {SEQUENCE_BITS}) % {PRIME} * {OF_MS} + "
    f"({{id}} & {(1 << SEQUENCE_BITS) - 1}) % {PRIME} * {OF_SEQUENCE}) % {PRIME})"
)
_COLUMNS: Final = "id, body, traceparent, content_type, due_ms, expires_ms, key"
_SHADOWS: Final = "SELECT tid, sample, cursor, born, born_ms FROM topics WHERE qid = ? AND sample > 0"
_GIVEN: Final = (
    "INSERT INTO delayed SELECT ?1, id, 0, 0, 0, 0, 0, 0, coalesce(expires_ms, 0), coalesce(key, ''), 1, due_ms "
    "FROM {log} WHERE id IN (SELECT value FROM json_each(?2))"
)
_COUNT_GIVEN: Final = (
    "UPDATE topics SET delayed = delayed + ?, taken = taken + ?, taken_bytes = taken_bytes + ? WHERE tid = ?"
)
_LEFT_BEHIND: Final = (
    "UPDATE topics SET cursor = ?, passed = passed + ?, holes = holes - ?, taken = taken + ?, "
    "taken_bytes = taken_bytes + ?, forgotten_total = forgotten_total + ? WHERE tid = ?"
)


def is_sampled(number: str, sample: str) -> str:
    """An expression: whether the job with the id *number* is in *sample*."""
    mixed = _MIXED.format(id=number)
    return f"(SELECT x * x % {PRIME} * x % {PRIME} < {sample} FROM (SELECT {mixed} AS x))"


def page(
    db: apsw.Connection, queue: QueueRow, cursor: int, sample: int, room: int, room_bytes: int
) -> tuple[list[Any], int]:
    """
    The next entries of a sample, as ``QueueRow.after`` has them, and the last entry that was looked at.

    Of the bodies of the others SQLite reads nothing.
    """
    last: int | None = db.execute(
        f"SELECT max(id) FROM (SELECT id FROM {queue.log} WHERE id > ? ORDER BY id LIMIT {STEP})", (cursor,)
    ).get
    if last is None:
        return [], cursor
    rows: list[Any] = []
    wanted = db.execute(
        f"SELECT {_COLUMNS} FROM {queue.log} WHERE id > ?1 AND id <= ?2 AND {is_sampled('id', '?3')} "
        "ORDER BY id LIMIT ?4", (cursor, last, sample, room),
    )
    for row in wanted:
        rows.append(row)
        room_bytes -= len(row[1])
        if room_bytes <= 0:
            break
    wanted.close()
    return rows, rows[-1][0] if rows and (len(rows) >= room or room_bytes <= 0) else last


@dataclass(frozen=True, slots=True)
class Standing:
    """A shadow, and how far it has come; *born*, *born_ms* as in table topics."""

    tid: int
    sample: int
    cursor: int
    born: int
    born_ms: int

    def finds(self, number: int, due_ms: int | None) -> bool:
        """Whether it finds an entry in the log; the others came to it when they were pushed, or never do."""
        return due_ms is None or (number <= self.born and due_ms <= self.born_ms)


@dataclass(frozen=True, slots=True)
class Left:
    """
    What a shadow goes past.

    Attributes:
        count: Entries that it finds there.
        cancelled: Those of them that somebody had cancelled: taken long ago.
        taken, taken_bytes: The others, and bytes of their bodies.
    """

    count: int
    cancelled: frozenset[int]
    taken: int
    taken_bytes: int


def leave(db: apsw.Connection, queue: QueueRow, shadow: Standing, last: int) -> Left:
    """It goes past the entries up to *last*; the caller writes that down."""
    cancelled: list[Any] = db.execute(
        "DELETE FROM cancelled WHERE tid = ? AND id <= ? RETURNING id", (shadow.tid, last)
    ).fetchall()
    numbers = frozenset(number for (number,) in cancelled)
    count, taken, taken_bytes = db.execute(
        "SELECT count(*), count(*) FILTER (WHERE c.value IS NULL), "
        "coalesce(sum(length(body)) FILTER (WHERE c.value IS NULL), 0) "
        f"FROM {queue.log} LEFT JOIN json_each(?5) c ON c.value = {queue.log}.id "
        f"WHERE {queue.log}.id > ?1 AND {queue.log}.id <= ?2 AND {_here(f'{queue.log}.id')}",
        (shadow.cursor, last, shadow.born, shadow.born_ms, json.dumps(sorted(numbers))),
    ).get
    return Left(count, numbers, taken, taken_bytes)


def give_delayed(db: apsw.Connection, queue: QueueRow, delayed: Sequence[tuple[int, int]]) -> None:
    """Pushes with a delay (id, bytes) have been stored: each shadow gets its sample, and has taken the others."""
    shadows: list[Any] = db.execute(_SHADOWS, (queue.qid,)).fetchall()
    for tid, sample, *_ in shadows:
        mine = [number for number, _ in delayed if in_sample(id_text(number), sample)]
        others = [size for number, size in delayed if not in_sample(id_text(number), sample)]
        db.execute(_GIVEN.format(log=queue.log), (tid, json.dumps(mine)))
        db.execute(_COUNT_GIVEN, (len(mine), len(others), sum(others), tid))


def leave_behind(db: apsw.Connection, queue: QueueRow, last: int) -> None:
    """Entries up to *last* are about to go: shadows that did not come so far go on behind them."""
    shadows: list[Any] = db.execute(_SHADOWS, (queue.qid,)).fetchall()
    for shadow in [Standing(*row) for row in shadows]:
        if shadow.cursor >= last:
            continue
        left = leave(db, queue, shadow, last)
        skipped = db.execute(
            f"SELECT count(*) FROM {queue.log} WHERE id > ?1 AND id <= ?2 AND {_here('id')} "
            f"AND {is_sampled('id', '?5')} AND id NOT IN (SELECT value FROM json_each(?6))",
            (shadow.cursor, last, shadow.born, shadow.born_ms, shadow.sample, json.dumps(sorted(left.cancelled))),
        ).get
        db.execute(_LEFT_BEHIND, (
            last, left.count, len(left.cancelled), left.taken, left.taken_bytes, skipped, shadow.tid,
        ))


def _here(number: str) -> str:
    """A condition on entries that the ``Standing`` with born ?3 and born_ms ?4 finds in the log."""
    return f"(due_ms IS NULL OR ({number} <= ?3 AND due_ms <= ?4))"
