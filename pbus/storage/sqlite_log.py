"""
Pushes of an embedded store: one write a call, and the answer that a repetition of it gets again.

Rule: functions here run inside a write transaction that the driver opened. Nearly all calls are
plain: no options, everything fits; those cost a fixed number of statements a queue. ``sqlite_spans``
is for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple, Self

import apsw

from pbus.core.job import Push
from pbus.core.plain import Plain
from pbus.errors import Conflict
from pbus.storage.driver import Appended
from pbus.storage.sqlite_catalog import BLOCK, SEQUENCE_BITS, SIZE_BITS, Catalog, QueueRow, id_number, id_text
from pbus.storage.sqlite_owners import OwnerRow
from pbus.storage.stored_run import StoredRun

_READ_STATE = (
    "SELECT q.last_id, q.pushed, q.pushed_bytes, q.plain, q.max_backlog, q.max_backlog_bytes, q.dedupe_window_ms, "
    "count(t.tid), min(t.taken), min(t.taken_bytes) "
    "FROM queues q LEFT JOIN topics t ON t.qid = q.qid AND t.sample = 0 WHERE q.qid = ?"
)
_READ_TAKEN = "SELECT min(taken), min(taken_bytes) FROM topics WHERE qid = ? AND sample = 0"
_WRITE_STATE = "UPDATE queues SET last_id = ?, pushed = ?, pushed_bytes = ?, plain = ? WHERE qid = ?"
_WRITE_ANSWER = "UPDATE owners SET batch = ?, answer = ? WHERE oid = ?"
_DUPLICATE, _REFUSED = "=", "!"


@dataclass(slots=True)
class QueueState:
    """The counters of a queue while pushes are stored in it; written back once."""

    last_id: int
    pushed: int
    pushed_bytes: int
    plain: int
    max_backlog: int
    max_backlog_bytes: int
    dedupe_window_ms: int
    topics: int
    taken: int
    taken_bytes: int

    @classmethod
    def read(cls, db: apsw.Connection, qid: int) -> Self:
        """As it is now; a queue without topics has no backlog and no bounds."""
        state = cls(*db.execute(_READ_STATE, (qid,)).get)
        if not state.topics:
            state.taken, state.taken_bytes = state.pushed, state.pushed_bytes
            state.max_backlog = state.max_backlog_bytes = 0
        return state

    def write(self, db: apsw.Connection, qid: int) -> None:
        db.execute(_WRITE_STATE, (self.last_id, self.pushed, self.pushed_bytes, self.plain, qid))

    def take_ids(self, count: int, now_ms: int) -> int:
        """The first of *count* new ids, which follow one another."""
        first = max(self.last_id + 1, now_ms << SEQUENCE_BITS)
        self.last_id = first + count - 1
        return first

    def refusal(self, jobs: int, size: int) -> str:
        """What so much more would be above, as ``Appended.refused`` says it."""
        if self.pushed == self.taken:
            return ""
        if self.max_backlog and self.pushed - self.taken + jobs > self.max_backlog:
            return "jobs"
        if self.max_backlog_bytes and self.pushed_bytes - self.taken_bytes + size > self.max_backlog_bytes:
            return "bytes"
        return ""

    def fits(self, jobs: int, size: int) -> bool:
        """Whether so much more is within the bounds in any order."""
        return (not self.max_backlog or self.pushed - self.taken + jobs <= self.max_backlog) and (
            not self.max_backlog_bytes or self.pushed_bytes - self.taken_bytes + size <= self.max_backlog_bytes
        )

    def look_again(self, db: apsw.Connection, qid: int) -> None:
        """What the slowest topic has taken, after some took what is not for them."""
        self.taken, self.taken_bytes = db.execute(_READ_TAKEN, (qid,)).get

    def backlog(self, stored: int) -> int:
        """For the answer to a call that stored so many: without topics those count."""
        return self.pushed - self.taken if self.topics else stored


class AppendedRun(StoredRun):
    """``StoredRun`` by the store's own ids."""

    __slots__ = ("first",)

    def __init__(self, first: int, size: int, backlog: int, topics: int) -> None:
        super().__init__(size, backlog, topics)
        self.first = first

    def _id(self, place: int) -> str:
        return id_text(self.first + place)

    def _part(self, start: int, size: int) -> AppendedRun:
        return AppendedRun(self.first + start, size, self.backlog, self.topics)


class Part(NamedTuple):
    """
    Neighbours in the answer for one queue.

    Attributes:
        size: How many pushes.
        first: Id of the first, they follow one another; of a duplicate the first push's id.
        refused: As ``Appended.refused``; then there is no id.
        duplicate: One push that was not stored again.
    """

    size: int
    first: int = 0
    refused: str = ""
    duplicate: bool = False


class QueueAnswer(NamedTuple):
    """What a call did to one queue."""

    backlog: int
    topics: int
    parts: list[Part]

    def entries(self) -> Sequence[Appended]:
        """One a push."""
        first = self.parts[0]
        if len(self.parts) == 1 and not first.refused and not first.duplicate:
            return AppendedRun(first.first, first.size, self.backlog, self.topics)
        entries: list[Appended] = []
        for part in self.parts:
            if part.refused:
                entries += [Appended("", self.backlog, self.topics, refused=part.refused)] * part.size
            elif part.duplicate:
                entries.append(Appended(id_text(part.first), self.backlog, self.topics, duplicate=True))
            else:
                entries += AppendedRun(part.first, part.size, self.backlog, self.topics)
        return entries

    def write(self, name: str) -> str:
        """As one line; names hold no spaces."""
        return " ".join([name, str(self.backlog), str(self.topics), *map(_write_part, self.parts)])

    @classmethod
    def read(cls, line: str) -> tuple[str, Self]:
        """Name of the queue and the answer."""
        name, backlog, topics, *parts = line.split(" ")
        return name, cls(int(backlog), int(topics), [_read_part(part) for part in parts])


def answered(owner: OwnerRow, batch: int, pushes: Sequence[Push]) -> Sequence[Appended] | None:
    """
    The answer to a repeated call; None: it is a new one.

    Raises:
        Conflict: *batch* is older than the owner's last one.
    """
    if batch > owner.batch:
        return None
    if batch < owner.batch:
        raise Conflict(f"append {batch} came after append {owner.batch} of the same owner: not stored")
    return in_order(dict(map(QueueAnswer.read, owner.answer.split("\n"))), pushes)


def remember(db: apsw.Connection, owner: OwnerRow, batch: int, answers: dict[str, QueueAnswer]) -> None:
    """Keep the answer to *batch* for a repetition."""
    text = "\n".join(answer.write(name) for name, answer in answers.items())
    db.execute(_WRITE_ANSWER, (batch, text, owner.oid))


def in_order(answers: dict[str, QueueAnswer], pushes: Iterable[Push]) -> Sequence[Appended]:
    """One entry a push, in the order of the pushes."""
    if len(answers) == 1:
        return next(iter(answers.values())).entries()
    following = {name: iter(answer.entries()) for name, answer in answers.items()}
    return [next(following[push.queue]) for push in pushes]


def is_plain(run: Sequence[Push]) -> bool:
    """Whether none of them has anything but a body."""
    more = [push for push in run if push.options or push.traceparent or push.content_type]
    return not more


def append_plain(
    db: apsw.Connection, queue: QueueRow, state: QueueState, bodies: Sequence[bytes], size: int, now_ms: int
) -> QueueAnswer:
    """Store pushes that are nothing but bodies, and fit."""
    count = len(bodies)
    first = state.take_ids(count, now_ms)
    before = state.pushed_bytes
    state.pushed += count
    state.plain += count
    state.pushed_bytes += size
    state.write(db, queue.qid)
    uptos = list(accumulate(map(len, bodies), initial=before))
    done = 0
    while count - done >= BLOCK:
        pairs = zip(uptos[done + 1:done + BLOCK + 1], bodies[done:done + BLOCK], strict=True)
        db.execute(queue.insert_block, (first + done, *chain.from_iterable(pairs)))
        done += BLOCK
    if count - done == 1:
        db.execute(queue.insert_plain, (first + done, uptos[-1], bodies[-1]))
    elif count > done:
        _insert_rest(db, queue, first + done, uptos[done:], bodies[done:])
    return QueueAnswer(state.backlog(count), state.topics, [Part(count, first)])


def _insert_rest(
    db: apsw.Connection, queue: QueueRow, first: int, uptos: Sequence[int], bodies: Sequence[bytes]
) -> None:
    """Less than a block, in one statement all the same."""
    before = uptos[0]
    parts = [(upto - before) << SIZE_BITS | len(body) for upto, body in zip(uptos, bodies, strict=False)]
    db.execute(queue.insert_many, (first, before, b"".join(bodies), str(parts)))


def runs(catalog: Catalog, db: apsw.Connection, pushes: Sequence[Push]) -> list[tuple[QueueRow, Sequence[Push]]]:
    """The pushes of each queue, in their order."""
    if type(pushes) is Plain:
        return [(catalog.queue(db, pushes.queue), pushes)]
    names = dict.fromkeys([push.queue for push in pushes])
    if len(names) == 1:
        return [(catalog.queue(db, pushes[0].queue), pushes)]
    return [(catalog.queue(db, name), [push for push in pushes if push.queue == name]) for name in names]


def _write_part(part: Part) -> str:
    if part.refused:
        return f"{_REFUSED}{part.size}{_REFUSED}{part.refused}"
    if part.duplicate:
        return f"{_DUPLICATE}{id_text(part.first)}"
    return f"{id_text(part.first)}+{part.size}"


def _read_part(text: str) -> Part:
    if text.startswith(_REFUSED):
        _, size, refused = text.split(_REFUSED)
        return Part(int(size), refused=refused)
    if text.startswith(_DUPLICATE):
        return Part(1, id_number(text[1:]), duplicate=True)
    first, _, size = text.partition("+")
    return Part(int(size), id_number(first))
