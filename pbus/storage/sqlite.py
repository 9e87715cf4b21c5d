"""
The embedded store: one SQLite file, one node, nothing to run; an OK is on the disk.

``sqlite_file`` opens it and gives turns to write, ``sqlite_lock`` is the turnstile, ``sqlite_bell``
wakes who waits; the others are the statements, a subject each. This file puts them together to a
``driver.Driver``: what is one transaction, and what must be on the disk.

Rule: pushes, deaths, fences and what people do are durable when their call returns; claims, acks and retries are
as soon as the next of those, a checkpoint or the kernel has written (a lost one repeats a delivery).
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pbus.clock import Clock, SystemClock
from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.core.plain import bodies_of
from pbus.core.statistics import Bucket
from pbus.errors import MaybeStored, StorageError, Unavailable
from pbus.storage import (
    sqlite_catalog, sqlite_claims, sqlite_dead, sqlite_documents, sqlite_halves, sqlite_jobs, sqlite_log,
    sqlite_numbers, sqlite_owners, sqlite_people, sqlite_settle, sqlite_spans, sqlite_statistics, sqlite_trim,
)
from pbus.storage.documents import Document, check
from pbus.storage.driver import (
    EXPIRED, Appended, Bell, Capabilities, DeadGroup, DeadLetter, Entry, Expired, Fill, Held, JobRecord, Promoted,
    QueueNumbers, QueueSpec, Running, TopicNumbers, Want,
)
from pbus.storage.halves import HALF_BYTES, Met, Waiting
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite_errors import Damaged
from pbus.storage.sqlite_file import SqliteFile, Write
from pbus.storage.statistics import Known, window

TRIM_LIMIT: Final = 10_000
_CAREFUL: Final = 100
"""So many settlements look at what they end first, after one that found something else than was expected."""


class SqliteDriver:
    """``driver.Driver`` on a file; made and opened in the process and thread that calls it."""

    capabilities = Capabilities(blocking=True, many_nodes=False, atomic_fan_out=True)

    def __init__(self, target: StoreTarget, clock: Clock | None = None) -> None:
        """
        Args:
            target: Where; its url is ``sqlite:PATH``.
            clock: Of ids and of what is due.
        """
        self._clock = clock or SystemClock()
        path = Path(target.url.removeprefix("sqlite:"))
        self._file = SqliteFile(path, target.node, target.call_timeout_s, target.min_free_bytes)
        self._catalog = sqlite_catalog.Catalog()
        self._busy: frozenset[tuple[str, str]] = frozenset()
        self._careful = 0
        self.expired: collections.deque[Expired] = collections.deque(maxlen=EXPIRED)

    def open(self) -> None:
        """See ``Driver.open``."""
        self._file.open()
        with self._file.read() as db:
            self._catalog.read(db)

    def close(self) -> None:
        """See ``Driver.close``."""
        self._file.close()

    def check(self) -> None:
        """See ``Driver.check``."""
        with self._file.write(durable=True) as write:
            write.db.execute("UPDATE pulse SET checks = checks + 1")

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        """See ``Driver.declare``; all of them in one transaction."""
        with self._file.read() as db:
            missing = [spec for spec in queues if not sqlite_catalog.is_declared(db, spec)]
        if missing:
            with self._file.write(durable=True) as write:
                for spec in missing:
                    sqlite_catalog.declare(write.db, spec, self._now_ms())
        with self._file.read() as db:
            self._catalog.read(db)

    def append(self, owner: str, batch: int, pushes: Sequence[Push]) -> Sequence[Appended]:
        """See ``Driver.append``; all queues of the call in one transaction."""
        if not pushes:
            return []
        with self._file.write(durable=True, unsure=MaybeStored, pushing=True) as write:
            own = sqlite_owners.pushing(write.db, owner)
            answer = sqlite_log.answered(own, batch, pushes)
            if answer is not None:
                return answer
            self._file.space.need(sum(map(len, bodies_of(pushes))))
            runs = sqlite_log.runs(self._catalog, write.db, pushes)
            answers = sqlite_spans.append(write.db, runs, pushes, self._now_ms())
            for queue, _ in runs:
                write.rings.add(queue.qid)
            sqlite_log.remember(write.db, own, batch, answers)
        return sqlite_log.in_order(answers, pushes)

    def claim(self, wants: Sequence[Want]) -> list[Delivery]:
        """See ``Driver.claim``; all queues of the call in one transaction."""
        # A look costs no turn, and is one statement: most looks find nothing. Topics that gave all that was
        # wanted have more, probably: there it would only be a third of what a small claim costs.
        if not self._busy.issuperset([(want.queue, want.topic) for want in wants]):
            wants = self._ready(wants)
        wants = [want for want in wants if want.count > 0]
        if not wants:
            return []
        self._busy = frozenset()
        deliveries = self._claim_all(wants)
        if len(deliveries) == sum([want.count for want in wants]):
            self._busy = frozenset([(want.queue, want.topic) for want in wants])
        return deliveries

    def _ready(self, wants: Sequence[Want]) -> list[Want]:
        """Those of *wants* whose topic has something."""
        glance = sqlite_owners.Glance.of(self._file.look(sqlite_owners.GLANCE))
        if glance.fenced:
            sqlite_owners.refuse_these((want.owner for want in wants), glance.fenced)
        return [want for want in wants if want.count > 0 and self._tid(want, glance.catalog) in glance.ready]

    def _claim_all(self, wants: Sequence[Want]) -> list[Delivery]:
        """All of *wants* in one transaction; where a log is damaged, queue by queue."""
        try:
            return self._claim(wants)
        except Damaged:
            queues = {want.queue for want in wants}
            if len(queues) == 1:
                raise
            return self._claim_apart([[want for want in wants if want.queue == queue] for queue in sorted(queues)])

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """See ``Driver.settle``; all queues of the call in one transaction."""
        owners = {settlement.owner for settlement in settlements}
        return self._settle(settlements, owners, dead_owner=False)

    def give_back(self, owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        """See ``Driver.give_back``."""
        return self._settle(settlements, {owner}, dead_owner=True)

    def reassign(self, owner: str, heir: str, claims: Sequence[tuple[str, str, str]]) -> list[bool]:
        """See ``Driver.reassign``; all queues of the call in one transaction."""
        if not claims:
            return []
        with self._file.write(durable=False) as write:
            oids, version = sqlite_owners.claiming(write.db, [owner, heir])
            if version != self._catalog.version:
                self._catalog.read(write.db)
            return sqlite_settle.reassign(write.db, self._catalog, oids[owner], oids[heir], claims)

    def held(self, owner: str) -> list[Held]:
        """See ``Driver.held``."""
        with self._file.read() as db:
            return sqlite_numbers.held(db, owner)

    def holders(self, queue: str, topic: str, ids: Sequence[str]) -> list[str]:
        """See ``Driver.holders``."""
        with self._file.read() as db:
            self._catalog.refresh(db)
            return sqlite_numbers.holders(db, self._catalog.topic(db, queue, topic)[1], ids)

    def running(self, queue: str, topic: str, limit: int = 1000) -> list[Running]:
        """See ``Driver.running``."""
        with self._file.read() as db:
            self._catalog.refresh(db)
            return sqlite_numbers.running(db, self._catalog.topic(db, queue, topic)[1], limit)

    def owners(self) -> list[str]:
        """See ``Driver.owners``."""
        with self._file.read() as db:
            return sqlite_numbers.owners(db)

    def promote_due(self, limit: int = 1000, queues: Sequence[str] | None = None) -> Promoted:
        """See ``Driver.promote_due``."""
        now_ms = self._now_ms()
        with self._file.read() as db:
            due, next_ms = sqlite_settle.due_topics(db, now_ms, queues)
        moved: dict[tuple[str, str], int] = {}
        expired: list[tuple[str, str, str]] = []
        if due:
            with self._file.write(durable=False) as write:
                for tid, qid, queue, topic in due:
                    count, woken, gone = sqlite_settle.promote(write.db, f"log_{qid}", tid, now_ms, limit)
                    expired += [(queue, topic, sqlite_catalog.id_text(number)) for number in gone]
                    if count:
                        moved[queue, topic] = count
                    if count or woken:
                        write.rings.add(qid)
                _, next_ms = sqlite_settle.due_topics(write.db, now_ms, queues)
        self.expired += expired
        return Promoted(moved, None if next_ms is None else max(0.0, (next_ms - now_ms) / 1000))

    def trim(self) -> int:
        """See ``Driver.trim``; small transactions, so that nobody waits long for a turn."""
        now_ms = self._now_ms()
        with self._file.read() as db:
            queues = sqlite_trim.to_trim(db, self._catalog, now_ms)
            tidy = sqlite_trim.is_tidy(db, now_ms)
        if not tidy:
            with self._file.write(durable=False) as write:
                sqlite_trim.tidy(write.db, now_ms)
        dropped = 0
        for queue in queues:
            count = 1
            while count and dropped < TRIM_LIMIT:
                with self._file.write(durable=False) as write:
                    count = sqlite_trim.trim(write.db, queue, now_ms)
                dropped += count
        return dropped

    def checkpoint(self) -> int:
        """See ``Driver.checkpoint``."""
        return self._file.checkpoint()

    def backlog(self, queue: str) -> int:
        """See ``Driver.backlog``."""
        with self._file.read() as db:
            return sqlite_numbers.backlog(db, self._catalog.queue(db, queue).qid)

    def numbers(self, queues: Sequence[str] | None = None) -> dict[tuple[str, str], TopicNumbers]:
        """See ``Driver.numbers``."""
        with self._file.read() as db:
            return sqlite_numbers.numbers(db, self._now_ms(), queues)

    def queue_numbers(self) -> dict[str, QueueNumbers]:
        """See ``Driver.queue_numbers``."""
        with self._file.read() as db:
            return sqlite_numbers.queue_numbers(db)

    def fill(self) -> Fill:
        """See ``Driver.fill``."""
        return self._file.fill()

    def put_statistics(
        self, at_s: int, rows: Sequence[Bucket], known: Mapping[tuple[str, str], Known] | None = None
    ) -> None:
        """See ``Driver.put_statistics``; all queues of the call in one transaction, made ready before its turn."""
        known = known or {}
        with self._file.read() as db:
            before = sqlite_statistics.stored(db, at_s)
        table = sqlite_statistics.added(at_s, rows, known, before)
        with self._file.write(durable=False) as write:
            sqlite_statistics.put(write.db, at_s, rows, known, before, table)

    def statistics(self, queue: str, topic: str | None, since_s: int, until_s: int, span_s: int) -> list[Bucket]:
        """See ``Driver.statistics``."""
        with self._file.read() as db:
            return sqlite_statistics.read(db, queue, topic, window(since_s, until_s, span_s))

    def documents(self, kind: str, names: Sequence[str] | None = None) -> list[Document]:
        """See ``Driver.documents``."""
        with self._file.read() as db:
            return sqlite_documents.read(db, kind, names)

    def write_document(self, kind: str, name: str, text: str, version: int) -> int:
        """See ``Driver.write_document``."""
        check(kind, name, text)
        with self._file.write(durable=True) as write:
            return sqlite_documents.write(write.db, kind, name, text, version)

    def drop_document(self, kind: str, name: str, version: int) -> bool:
        """See ``Driver.drop_document``."""
        check(kind, name, "")
        with self._file.write(durable=True) as write:
            return sqlite_documents.drop(write.db, kind, name, version)

    def meet(self, queue: str, topic: str, halves: Sequence[Waiting]) -> Met:
        """See ``Driver.meet``."""
        if any(len(half.text.encode()) > HALF_BYTES for half in halves):
            raise StorageError(f"half of a comparison is longer than {HALF_BYTES} bytes")
        with self._file.write(durable=False) as write:
            self._catalog.refresh(write.db)
            _, tid = self._catalog.topic(write.db, queue, topic)
            return sqlite_halves.meet(write.db, tid, halves, self._now_ms())

    def cancel(self, queue: str, topic: str, ids: Sequence[str]) -> list[int]:
        """See ``Driver.cancel``."""
        with self._person(queue, topic or None, durable=True) as (write, row, tids):
            counts = [0] * len(ids)
            for tid in tids:
                answers, woken = sqlite_people.cancel(write.db, row, tid, ids, self._now_ms())
                counts = [count + answer for count, answer in zip(counts, answers, strict=True)]
                if woken:
                    write.rings.add(row.qid)
        return counts

    def purge(self, queue: str, topic: str) -> int:
        """See ``Driver.purge``."""
        with self._person(queue, topic, durable=True) as (write, row, (tid,)):
            count, woken = sqlite_people.purge(write.db, row, tid, self._now_ms())
            if woken:
                write.rings.add(row.qid)
        return count

    def revive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """See ``Driver.revive``."""
        with self._person(queue, topic, durable=True) as (write, row, (tid,)):
            write.rings.add(row.qid)
            return sqlite_dead.revive(write.db, tid, ids)

    def accept(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """See ``Driver.accept``."""
        with self._person(queue, topic, durable=True) as (write, _, (tid,)):
            return sqlite_dead.accept(write.db, tid, ids)

    def forget_dead(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """See ``Driver.forget_dead``."""
        with self._person(queue, topic, durable=True) as (write, _, (tid,)):
            return sqlite_dead.forget_dead(write.db, tid, ids)

    def forgive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """See ``Driver.forgive``."""
        with self._person(queue, topic, durable=False) as (write, row, (tid,)):
            answers, woken = sqlite_people.forgive(write.db, row, tid, ids)
            if woken:
                write.rings.add(row.qid)
        return answers

    def dead_letters(
        self, queue: str, topic: str, limit: int = 100, *, fingerprint: str = "", before: DeadLetter | None = None
    ) -> list[DeadLetter]:
        """See ``Driver.dead_letters``."""
        with self._file.read() as db:
            self._catalog.refresh(db)
            _, tid = self._catalog.topic(db, queue, topic)
            return sqlite_dead.dead_letters(db, queue, topic, tid, limit, fingerprint, before)

    def dead_groups(self, queue: str, topic: str) -> list[DeadGroup]:
        """See ``Driver.dead_groups``."""
        with self._file.read() as db:
            self._catalog.refresh(db)
            _, tid = self._catalog.topic(db, queue, topic)
            return sqlite_dead.dead_groups(db, queue, topic, tid)

    def job(self, queue: str, id: str) -> JobRecord | None:
        """See ``Driver.job``."""
        with self._file.read() as db:
            return sqlite_jobs.job(db, self._catalog.queue(db, queue), id)

    def jobs(self, queue: str, after: str = "", limit: int = 100) -> list[JobRecord]:
        """See ``Driver.jobs``."""
        with self._file.read() as db:
            return sqlite_jobs.jobs(db, self._catalog.queue(db, queue), after, limit)

    def records(self, queue: str, ids: Sequence[str]) -> list[JobRecord]:
        """See ``Driver.records``."""
        with self._file.read() as db:
            return sqlite_jobs.some(db, self._catalog.queue(db, queue), ids)

    def entries(self, queue: str, first: str, last: str, limit: int = 100, *, newest: bool = False) -> list[Entry]:
        """See ``Driver.entries``."""
        with self._file.read() as db:
            return sqlite_jobs.entries(db, self._catalog.queue(db, queue), first, last, limit, newest=newest)

    def pause(self, queue: str, topic: str, paused: bool) -> None:
        """See ``Driver.pause``."""
        with self._person(queue, topic, durable=True) as (write, row, (tid,)):
            sqlite_people.pause(write.db, tid, paused, self._now_ms())
            if not paused:
                write.rings.add(row.qid)

    def drop_topic(self, queue: str, topic: str) -> bool:
        """See ``Driver.drop_topic``."""
        with self._file.write(durable=True) as write:
            self._catalog.refresh(write.db)
            tid = self._catalog.topic_number(write.db, queue, topic)
            return sqlite_people.drop_topic(write.db, tid)

    def bell(self, name: str, queues: Sequence[str]) -> Bell:  # noqa: ARG002 - a place in the bell page is its name here
        """See ``Driver.bell``; safe from any thread, needs no *name*."""
        doorbell = self._file.doorbell
        if doorbell is None:
            raise Unavailable("the store is not open")
        missing = [queue for queue in queues if queue not in self._catalog.queues]
        if missing:
            raise Unavailable(f"queue {missing[0]!r} was never declared to this store")
        try:
            return doorbell.listen({queue: self._catalog.queues[queue].qid for queue in queues})
        except OSError as error:
            raise Unavailable(f"no place to listen for pushes: {error}") from error

    def beat(self, node: str, boot: str) -> None:
        """See ``Driver.beat``."""
        with self._file.write(durable=False) as write:
            sqlite_owners.beat(write.db, node, boot)

    def beats(self) -> dict[str, int]:
        """See ``Driver.beats``."""
        with self._file.read() as db:
            return dict(db.execute("SELECT boot, beat FROM boots WHERE NOT fenced"))

    def fence(self, boot: str) -> None:
        """See ``Driver.fence``."""
        with self._file.write(durable=True) as write:
            sqlite_owners.fence(write.db, boot)

    def forget(self, boot: str) -> None:
        """See ``Driver.forget``."""
        with self._file.write(durable=False) as write:
            sqlite_owners.forget(write.db, boot)

    def _settle(self, settlements: Sequence[Settlement], owners: set[str], *, dead_owner: bool) -> list[bool]:
        if not settlements:
            return []
        if self._careful:
            self._careful -= 1
            return self._settle_once(settlements, owners, dead_owner=dead_owner, careful=True)
        try:
            return self._settle_once(settlements, owners, dead_owner=dead_owner, careful=False)
        except sqlite_settle.NotAlike:
            # Undone. With keys, or after a repetition, the next ones are probably not alike either.
            self._careful = _CAREFUL
            return self._settle_once(settlements, owners, dead_owner=dead_owner, careful=True)

    def _settle_once(
        self, settlements: Sequence[Settlement], owners: set[str], *, dead_owner: bool, careful: bool
    ) -> list[bool]:
        durable = any(settlement.move is Move.BURY for settlement in settlements)
        with self._file.write(durable=durable) as write:
            oids, version = sqlite_owners.settling(write.db, owners, dead=dead_owner)
            if version != self._catalog.version:
                self._catalog.read(write.db)
            known = sqlite_settle.Known(self._catalog, oids, careful)
            answers, rings = sqlite_settle.settle(write.db, known, settlements, self._now_ms())
            write.rings.update(rings)
        return answers

    def _claim_apart(self, parts: Sequence[Sequence[Want]]) -> list[Delivery]:
        """Each queue in a transaction of its own: one whose log is damaged does not keep the others waiting."""
        deliveries: list[Delivery] = []
        failures: list[Damaged] = []
        for wants in parts:
            try:
                deliveries += self._claim(wants)
            except Damaged as error:
                failures.append(error)
        if failures and not deliveries:
            raise failures[0]
        return deliveries

    def _claim(self, wants: Sequence[Want]) -> list[Delivery]:
        """All of *wants* in one transaction."""
        with self._file.write(durable=False) as write:
            oids, version = sqlite_owners.claiming(write.db, {want.owner for want in wants})
            if version != self._catalog.version:
                self._catalog.read(write.db)
            deliveries, rings, expired = sqlite_claims.claim(write.db, self._catalog, wants, oids, self._now_ms())
            write.rings.update(rings)
        self.expired += expired
        return deliveries

    @contextlib.contextmanager
    def _person(
        self, queue: str, topic: str | None, *, durable: bool
    ) -> Iterator[tuple[Write, sqlite_catalog.QueueRow, Sequence[int]]]:
        """A write about one topic of a queue, or (None) all of them: numbers of what the store has now."""
        with self._file.write(durable=durable) as write:
            self._catalog.refresh(write.db)
            if topic is None:
                row = self._catalog.queue(write.db, queue)
                yield write, row, list(row.topics.values())
            else:
                row, tid = self._catalog.topic(write.db, queue, topic)
                yield write, row, [tid]

    def _tid(self, want: Want, version: int) -> int:
        """Number of a want's topic, by a catalog of that version at least."""
        queue = self._catalog.queues.get(want.queue)
        if version != self._catalog.version or queue is None or want.topic not in queue.topics:
            with self._file.read() as db:
                self._catalog.read(db)
                return self._catalog.topic(db, want.queue, want.topic)[1]
        return queue.topics[want.topic]

    def _now_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)
