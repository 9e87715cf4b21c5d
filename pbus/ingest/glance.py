"""
One look at a store for everybody who asks at the same time, and what the look before it said.

Rule: nobody gets numbers that were read before he asked. Many who ask cost two looks: the one that
runs is too old for them, the next one is for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.storage.driver import QueueNumbers, TopicNumbers

YOUNGEST_S: Final = 0.5
OLDEST_S: Final = 60.0
"""Rates are between two looks that are so far apart."""


@dataclass(frozen=True, slots=True)
class Look:
    """
    Numbers of a store at one moment.

    Attributes:
        at_s: When, by the monotonic clock.
        before: An earlier look, for rates; None in one that is kept.
    """

    at_s: float
    topics: Mapping[tuple[str, str], TopicNumbers]
    queues: Mapping[str, QueueNumbers]
    before: Look | None = None

    def in_per_s(self, queue: str) -> float:
        """Jobs pushed to *queue* a second, between the look before and this one."""
        if self.before is None or queue not in self.before.queues or queue not in self.queues:
            return 0.0
        count = self.queues[queue].pushed_total - self.before.queues[queue].pushed_total
        return max(0.0, count / (self.at_s - self.before.at_s))

    def done_per_s(self, queue: str, topic: str) -> float:
        """Deliveries of a topic done a second, between the look before and this one."""
        name = (queue, topic)
        if self.before is None or name not in self.before.topics or name not in self.topics:
            return 0.0
        count = self.topics[name].done_total - self.before.topics[name].done_total
        return max(0.0, count / (self.at_s - self.before.at_s))


class Glance:
    """Looks at one store. One owner: its ``Store``."""

    def __init__(self, look: Callable[[], Look], clock: Clock) -> None:
        self._look = look
        self._clock = clock
        self._next: gevent.event.AsyncResult[Look] | None = None
        self._running = False
        self._kept: list[Look] = []                   # at most two: one that is old enough, one that will be

    def take(self) -> Look:
        """
        The numbers as they are now.

        Raises:
            StorageError: the store cannot be asked.
        """
        if self._next is None:
            self._next = gevent.event.AsyncResult()
            if not self._running:
                self._running = True
                gevent.spawn(self._run)
        look: Look = self._next.get()
        return look

    def take_with_rates(self) -> Look:
        """The same, with a look before it; the first one after a long time takes YOUNGEST_S."""
        look = self.take()
        if look.before is None or look.at_s - look.before.at_s > OLDEST_S:
            self._clock.sleep(YOUNGEST_S)
            look = self.take()
        return look

    def _run(self) -> None:
        while self._next is not None:
            asked, self._next = self._next, None
            try:
                asked.set(self._answer())
            except Exception as error:  # noqa: BLE001 - whoever asked gets it, whatever it is
                asked.set_exception(error)
        self._running = False

    def _answer(self) -> Look:
        look = self._look()
        before = next((kept for kept in self._kept if look.at_s - kept.at_s >= YOUNGEST_S), None)
        self._keep(look)
        return Look(look.at_s, look.topics, look.queues, before)

    def _keep(self, look: Look) -> None:
        """The newest look that can be compared with by now, and the newest of all."""
        old = [kept for kept in self._kept if look.at_s - kept.at_s >= YOUNGEST_S][-1:]
        young = [kept for kept in self._kept if look.at_s - kept.at_s < YOUNGEST_S][:1]
        self._kept = [*old, *(young or [look])]
