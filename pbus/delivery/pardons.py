"""
Attempts that are given back after a brake has tripped.

Rule: nothing is held up by it. A delivery that runs at this moment is asked again a little later; what the store
cannot write now is repeated, behind the others. ``forgive`` is not idempotent, so a lost answer may give one attempt
more than was taken, never more than were made.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gevent
import gevent.event

from pbus.delivery.store_health import Backoff
from pbus.errors import Conflict, StorageError
from pbus.storage.driver import Driver

CHUNK: Final = 500
TRIES: Final = 5
AGAIN_S: Final = 0.5
"""Between two tries of deliveries that were running."""


@dataclass(slots=True)
class _Pardon:
    """Deliveries of one topic that get one attempt back each."""

    queue: str
    topic: str
    ids: list[str]
    tries: int = 0
    failures: int = 0


class Pardons:
    """
    One per storage of a delivery child. One owner: its greenlet, ``run``.

    Args:
        store: Where they are written.
        log: Where trouble is said.
        given: Told which deliveries of (queue, topic) got an attempt back.
    """

    def __init__(self, store: Driver, log: Any, given: Callable[[str, str, Sequence[str]], None] | None = None) -> None:
        self._store = store
        self._given = given
        self._log = log
        self._queue: collections.deque[_Pardon] = collections.deque()
        self._filled = gevent.event.Event()
        self._busy = False

    def grant(self, queue: str, topic: str, forgive: Mapping[str, int]) -> None:
        """Give back so many attempts (id -> number). Call when the failures are written. Never blocks."""
        for round_ in range(max(forgive.values(), default=0)):
            ids = [job_id for job_id, times in forgive.items() if times > round_]
            for start in range(0, len(ids), CHUNK):
                self._queue.append(_Pardon(queue, topic, ids[start : start + CHUNK]))
        self._filled.set()

    @property
    def idle(self) -> bool:
        """Everything is written (or given up), as far as the store takes it: a topic may be gone, or damaged."""
        return not self._busy and all(pardon.failures >= TRIES for pardon in self._queue)

    def run(self, came_back: Callable[[str], None]) -> None:
        """Write for ever; *came_back* is told the queue whose dead may be ready again."""
        backoff = Backoff()
        while True:
            self._filled.wait()
            self._filled.clear()
            while self._queue:
                self._busy = True
                pardon = self._queue[0]
                try:
                    self._write(pardon)
                except Conflict:
                    self._queue.clear()  # whoever fenced this boot has its deliveries
                except StorageError:
                    pardon.failures += 1
                    self._queue.rotate(-1)  # the next one may be of a topic that can be written
                    self._busy = False
                    gevent.sleep(backoff.pause_s())
                except Exception as error:  # noqa: BLE001 a driver's bug costs attempts, not deliveries: said
                    self._log.error("brake.not_forgiven", count=len(pardon.ids), exc_info=error)
                    self._queue.popleft()
                else:
                    backoff.reset()
                    came_back(pardon.queue)
                self._busy = False

    def _write(self, pardon: _Pardon) -> None:
        """One call; those that were running are asked again, behind the others."""
        if pardon.tries:
            gevent.sleep(AGAIN_S)
        given = self._store.forgive(pardon.queue, pardon.topic, pardon.ids)
        self._queue.popleft()
        if self._given is not None:
            done_ids = [job_id for job_id, done in zip(pardon.ids, given, strict=True) if done]
            self._given(pardon.queue, pardon.topic, done_ids)
        pardon.ids = [job_id for job_id, done in zip(pardon.ids, given, strict=True) if not done]
        pardon.tries += 1
        if pardon.ids and pardon.tries < TRIES:
            self._queue.append(pardon)
