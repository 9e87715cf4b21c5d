"""
A blocking driver seen from a gevent child: each call runs on the child's one storage thread.

A file lock held elsewhere would otherwise stop every connection of the child (measured: 400 ms
for the whole hub; none in a thread, at 23-46 us a trip, taken once a batch). No gevent here: the
role passes ``apply`` of its own one-thread pool.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pbus.core.job import Delivery, Push, Settlement
from pbus.core.statistics import Bucket
from pbus.storage.documents import Document
from pbus.storage.halves import Met, Waiting
from pbus.storage.driver import (
    Appended, Bell, DeadGroup, DeadLetter, Driver, Entry, Expired, Fill, Held, JobRecord, Promoted, QueueNumbers,
    QueueSpec, Running, TopicNumbers, Want,
)
from pbus.storage.statistics import Known

Apply = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


class Threaded:
    """A Driver that forwards every call to *driver* by *apply*; bells stay outside the thread."""

    def __init__(self, driver: Driver, apply: Apply) -> None:
        self._driver = driver
        self._in_thread = apply
        self.capabilities = driver.capabilities
        self.expired: collections.deque[Expired] = getattr(driver, "expired", collections.deque())

    def _apply(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What *method* answers or raises, on the storage thread."""
        answer, error = self._in_thread(_attempt, (method, arguments))
        if error is not None:
            raise error
        return answer

    def open(self) -> None:
        self._apply(self._driver.open, ())

    def close(self) -> None:
        self._apply(self._driver.close, ())

    def check(self) -> None:
        self._apply(self._driver.check, ())

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        self._apply(self._driver.declare, (queues,))

    def append(self, owner: str, batch: int, pushes: Sequence[Push]) -> Sequence[Appended]:
        answer: Sequence[Appended] = self._apply(self._driver.append, (owner, batch, pushes))
        return answer

    def claim(self, wants: Sequence[Want]) -> list[Delivery]:
        answer: list[Delivery] = self._apply(self._driver.claim, (wants,))
        return answer

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        answer: list[bool] = self._apply(self._driver.settle, (settlements,))
        return answer

    def give_back(self, owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        answer: list[bool] = self._apply(self._driver.give_back, (owner, settlements))
        return answer

    def reassign(self, owner: str, heir: str, claims: Sequence[tuple[str, str, str]]) -> list[bool]:
        answer: list[bool] = self._apply(self._driver.reassign, (owner, heir, claims))
        return answer

    def held(self, owner: str) -> list[Held]:
        answer: list[Held] = self._apply(self._driver.held, (owner,))
        return answer

    def holders(self, queue: str, topic: str, ids: Sequence[str]) -> list[str]:
        answer: list[str] = self._apply(self._driver.holders, (queue, topic, ids))
        return answer

    def running(self, queue: str, topic: str, limit: int = 1000) -> list[Running]:
        answer: list[Running] = self._apply(self._driver.running, (queue, topic, limit))
        return answer

    def owners(self) -> list[str]:
        answer: list[str] = self._apply(self._driver.owners, ())
        return answer

    def promote_due(self, limit: int = 1000, queues: Sequence[str] | None = None) -> Promoted:
        answer: Promoted = self._apply(self._driver.promote_due, (limit, queues))
        return answer

    def trim(self) -> int:
        answer: int = self._apply(self._driver.trim, ())
        return answer

    def checkpoint(self) -> int:
        answer: int = self._apply(self._driver.checkpoint, ())
        return answer

    def backlog(self, queue: str) -> int:
        answer: int = self._apply(self._driver.backlog, (queue,))
        return answer

    def numbers(self, queues: Sequence[str] | None = None) -> dict[tuple[str, str], TopicNumbers]:
        answer: dict[tuple[str, str], TopicNumbers] = self._apply(self._driver.numbers, (queues,))
        return answer

    def queue_numbers(self) -> dict[str, QueueNumbers]:
        answer: dict[str, QueueNumbers] = self._apply(self._driver.queue_numbers, ())
        return answer

    def fill(self) -> Fill:
        answer: Fill = self._apply(self._driver.fill, ())
        return answer

    def put_statistics(
        self, at_s: int, rows: Sequence[Bucket], known: Mapping[tuple[str, str], Known] | None = None
    ) -> None:
        self._apply(self._driver.put_statistics, (at_s, rows, known))

    def statistics(self, queue: str, topic: str | None, since_s: int, until_s: int, span_s: int) -> list[Bucket]:
        answer: list[Bucket] = self._apply(self._driver.statistics, (queue, topic, since_s, until_s, span_s))
        return answer

    def documents(self, kind: str, names: Sequence[str] | None = None) -> list[Document]:
        answer: list[Document] = self._apply(self._driver.documents, (kind, names))
        return answer

    def write_document(self, kind: str, name: str, text: str, version: int) -> int:
        answer: int = self._apply(self._driver.write_document, (kind, name, text, version))
        return answer

    def drop_document(self, kind: str, name: str, version: int) -> bool:
        answer: bool = self._apply(self._driver.drop_document, (kind, name, version))
        return answer

    def meet(self, queue: str, topic: str, halves: Sequence[Waiting]) -> Met:
        answer: Met = self._apply(self._driver.meet, (queue, topic, halves))
        return answer

    def cancel(self, queue: str, topic: str, ids: Sequence[str]) -> list[int]:
        answer: list[int] = self._apply(self._driver.cancel, (queue, topic, ids))
        return answer

    def purge(self, queue: str, topic: str) -> int:
        answer: int = self._apply(self._driver.purge, (queue, topic))
        return answer

    def revive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        answer: list[bool] = self._apply(self._driver.revive, (queue, topic, ids))
        return answer

    def accept(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        answer: list[bool] = self._apply(self._driver.accept, (queue, topic, ids))
        return answer

    def forget_dead(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        answer: list[bool] = self._apply(self._driver.forget_dead, (queue, topic, ids))
        return answer

    def forgive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        answer: list[bool] = self._apply(self._driver.forgive, (queue, topic, ids))
        return answer

    def dead_letters(
        self, queue: str, topic: str, limit: int = 100, *, fingerprint: str = "", before: DeadLetter | None = None
    ) -> list[DeadLetter]:
        page = partial(self._driver.dead_letters, queue, topic, limit, fingerprint=fingerprint, before=before)
        answer: list[DeadLetter] = self._apply(page, ())
        return answer

    def dead_groups(self, queue: str, topic: str) -> list[DeadGroup]:
        answer: list[DeadGroup] = self._apply(self._driver.dead_groups, (queue, topic))
        return answer

    def job(self, queue: str, id: str) -> JobRecord | None:
        answer: JobRecord | None = self._apply(self._driver.job, (queue, id))
        return answer

    def jobs(self, queue: str, after: str = "", limit: int = 100) -> list[JobRecord]:
        answer: list[JobRecord] = self._apply(self._driver.jobs, (queue, after, limit))
        return answer

    def records(self, queue: str, ids: Sequence[str]) -> list[JobRecord]:
        answer: list[JobRecord] = self._apply(self._driver.records, (queue, ids))
        return answer

    def entries(self, queue: str, first: str, last: str, limit: int = 100, *, newest: bool = False) -> list[Entry]:
        page = partial(self._driver.entries, queue, first, last, limit, newest=newest)
        answer: list[Entry] = self._apply(page, ())
        return answer

    def pause(self, queue: str, topic: str, paused: bool) -> None:
        self._apply(self._driver.pause, (queue, topic, paused))

    def drop_topic(self, queue: str, topic: str) -> bool:
        answer: bool = self._apply(self._driver.drop_topic, (queue, topic))
        return answer

    def bell(self, name: str, queues: Sequence[str]) -> Bell:
        return self._driver.bell(name, queues)

    def beat(self, node: str, boot: str) -> None:
        self._apply(self._driver.beat, (node, boot))

    def beats(self) -> dict[str, int]:
        answer: dict[str, int] = self._apply(self._driver.beats, ())
        return answer

    def fence(self, boot: str) -> None:
        self._apply(self._driver.fence, (boot,))

    def forget(self, boot: str) -> None:
        self._apply(self._driver.forget, (boot,))


def _attempt(method: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """
    Answer or exception as a value.

    gevent prints the traceback of whatever a pool's thread raises, whoever waits for it: a store that
    is away would write to stderr at each call.
    """
    try:
        return method(*arguments), None
    except Exception as error:  # noqa: BLE001 - it is raised again where the call came from
        return None, error
