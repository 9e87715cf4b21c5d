"""
One storage as this child sees it: opened, declared, watched while it is away.

Rule: a store that is away stops nothing but its own queues. The first call that finds it away says
so (a problem, one line in the log), everybody else is refused at once, and one greenlet tries until
it is back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import gevent
import gevent.event

from pbus.core.job import Delivery, Push, Settlement
from pbus.errors import BootError, Conflict, StorageError, Unavailable
from pbus.ingest.committer import Committer
from pbus.ingest.puller import Puller
from pbus.storage.driver import Appended, Bell, Driver, Held, QueueSpec, TopicNumbers, Want
from pbus.supervisor.child import Child

_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 1.0
_T = TypeVar("_T")


class Store:
    """
    A storage and everything of this child that waits for it.

    Attributes:
        name: Its name in the configuration.
        away: Why it cannot be used now; empty while it can.
        committer, puller: The child's one writer of pushes, and its one taker of claims.

    Args:
        driver: Not opened yet; its calls must yield under gevent.
        queues: What it keeps.
        pulls: Those of them that have a topic for pulling.
    """

    def __init__(
        self, name: str, driver: Driver, queues: Sequence[QueueSpec], pulls: Sequence[str], child: Child
    ) -> None:
        self.name = name
        self.away = "not open yet"
        self._driver = driver
        self._queues = queues
        self._pulls = pulls
        self._child = child
        self._opened = False
        self._fenced = False
        self._lost = gevent.event.Event()
        self._first = gevent.event.Event()
        self._owner = str(child.owner)
        self.committer = Committer(name, self._append, self.lost, child.clock)
        self.puller = Puller(self, self._owner, child.clock, child.log)

    def start(self) -> None:
        """Begin; ``wait_first`` tells when the first try to open is over."""
        self._lost.set()
        gevent.spawn(self._keep)
        gevent.spawn(self.committer.run)
        self.puller.start()

    def wait_first(self) -> None:
        """Until it is open, or known to be away."""
        self._first.wait()

    def _append(self, batch: int, pushes: Sequence[Push]) -> Sequence[Appended]:
        return self._driver.append(self._owner, batch, pushes)

    def claim(self, wants: list[Want]) -> list[Delivery]:
        """``Driver.claim``."""
        return self._call(lambda: self._driver.claim(wants))

    def settle(self, settlements: list[Settlement]) -> list[bool]:
        """``Driver.settle``."""
        return self._call(lambda: self._driver.settle(settlements))

    def held(self) -> list[Held]:
        """``Driver.held`` of this child."""
        return self._call(lambda: self._driver.held(self._owner))

    def backlog(self, queue: str) -> int:
        """``Driver.backlog``."""
        return self._call(lambda: self._driver.backlog(queue))

    def numbers(self) -> dict[tuple[str, str], TopicNumbers]:
        """``Driver.numbers``."""
        return self._call(self._driver.numbers)

    def bell(self) -> Bell:
        """A bell of this child for the queues that can be pulled from."""
        return self._driver.bell(f"ingest-{self._owner.rpartition('/')[2]}", self._pulls)

    def _call(self, function: Callable[[], _T]) -> _T:
        """A call that marks the store as away when it fails, and is refused at once while it is."""
        if self.away:
            raise Unavailable(self.away)
        try:
            return function()
        except StorageError as error:
            self.lost(error)
            raise

    def lost(self, error: StorageError) -> None:
        """A call met *error*: refuse further ones until a try succeeds."""
        self._note(error)
        self._lost.set()

    def _note(self, error: StorageError) -> None:
        if isinstance(error, Conflict) and not self._fenced:
            self._fenced = True                       # this process is over; the master replaces it
            self._child.tell("fenced")
        self._mark(str(error) or type(error).__name__)

    def _mark(self, away: str) -> None:
        if away and not self.away:
            self._child.log.error("store.away", storage=self.name, reason=away)
        elif self.away and not away and self._first.is_set():
            self._child.log.info("store.back", storage=self.name)
        self.away = away
        text = f"storage {self.name} is away: {away}" if away else ""
        self._child.problem(f"storage.{self.name}", text)

    def _keep(self) -> None:
        """Open it, and each time it is lost try until it is back, for ever."""
        while True:
            self._lost.wait()
            self._lost.clear()
            delay_s = _RETRY_FIRST_S
            while not self._try():
                self._first.set()
                self._child.clock.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(_RETRY_MOST_S, delay_s * 2)
            self._first.set()

    def _try(self) -> bool:
        """Whether it can be used; also makes sure of its queues (it may have come back empty)."""
        if self._fenced:
            return False
        try:
            if not self._opened:
                self._driver.open()
                self._opened = True
            else:
                self._driver.check()
            self._driver.declare(self._queues)
        except BootError as error:
            if not self._first.is_set():
                self._child.fail(str(error), error.exit_status)
            self._mark(str(error))
            return False
        except StorageError as error:
            if not self._first.is_set():
                self.away = ""                        # the first failure is told, too
            self._note(error)
            return False
        except Exception as error:
            self._child.log.exception("store.failed", storage=self.name)
            self._mark(repr(error))
            return False
        self._mark("")
        self.puller.look()
        return True

    def close(self) -> None:
        """Give the driver back; the child is about to exit."""
        self.puller.stop()
        self._driver.close()
