"""
The duties of one storage, taken in turn by one greenlet, and what happens when the store is away.

    due? --> prepare the store --> duty.turn() --> wait as long as the duty says
                    |                  |
                    +-- StorageError --+--> problem, back off with jitter, begin again with prepare
                                       +-- Conflict --> this boot was fenced: nothing more is done

Rule: one call at a time per storage, so a driver needs no care for greenlets, and a greenlet inside
a storage call is never killed. Nothing here spins: every way out of a turn names a wait.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from pbus.clock import Clock
from pbus.errors import BootError, Conflict, StorageError, Unavailable
from pbus.storage.driver import Driver, QueueSpec
from pbus.storage.traces_writer import TraceWriter

FIRST_BACKOFF_S: Final = 0.1
LONGEST_BACKOFF_S: Final = 1.0
"""Short, because deliveries resume within two seconds after the store is back."""
BROKEN_DUTY_S: Final = 10.0
SHORTEST_WAIT_S: Final = 0.02
GRID_S: Final = 0.5
"""Turns that are not urgent fall together on it: a bus with nothing to do wakes up twice a second."""


class Duty(Protocol):
    """Something the scheduler does to one storage again and again."""

    name: str

    def turn(self) -> float:
        """
        Do it once.

        Returns:
            Seconds until it wants its next turn.

        Raises:
            StorageError: the store could not; it will be asked again.
        """

    def interrupted(self) -> None:
        """The store was away: whatever was concluded from its silence is void."""


class Store:
    """
    One storage as the scheduler sees it.

    Attributes:
        lock: Held around every call; see the rule of this file.
        traces: Told how claims of the dead end; None: nobody keeps that.
    """

    def __init__(self, name: str, driver: Driver, queues: Sequence[QueueSpec]) -> None:
        self.name = name
        self.driver = driver
        self.lock = threading.Lock()
        self.traces: TraceWriter | None = None
        self.queues = queues
        self._opened = False
        self._declared = False

    @property
    def ready(self) -> bool:
        """Opened and declared; calls that name queues may be made."""
        return self._declared

    def prepare(self) -> None:
        """
        Open it and declare the queues, unless that is done.

        Raises:
            BootError: it can never work as it is.
            StorageError: not now.
        """
        if not self._opened:
            self.driver.open()
            self._opened = True
        if not self._declared:
            self.driver.declare(self.queues)
            self._declared = True

    def declare_again(self) -> None:
        """What was away may have come back empty: declare before the next call."""
        self._declared = False


def together_s(due_s: float, wait_s: float) -> float:
    """When a turn that is due at *due_s*, *wait_s* from now, is taken: then, or at the grid's last line before."""
    return due_s if wait_s < GRID_S else math.floor((due_s + SHORTEST_WAIT_S) / GRID_S) * GRID_S


def backoff_s(failures: int, draw: float) -> float:
    """Wait after *failures* failed turns in a row (from 1), half of it drawn at random."""
    grown: float = FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16)
    return min(LONGEST_BACKOFF_S, grown) * (0.5 + 0.5 * draw)


class Roster:
    """The duties of *store*. One owner: the greenlet that calls ``turn``."""

    def __init__(
        self, store: Store, duties: Sequence[Duty], clock: Clock, log: structlog.typing.FilteringBoundLogger,
        problem: Callable[[str, str], None], fenced: Callable[[], None], draw: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            problem: Called with a name and a text (empty: it is over) when the store's state changes.
            fenced: Called once when the store says that this boot was declared dead.
            draw: Uniform draws in [0, 1).
        """
        self._store = store
        self._clock = clock
        self._log = log.bind(storage=store.name)
        self._problem = problem
        self._tell_fenced = fenced
        self._draw = draw
        self._due_at = {duty.name: 0.0 for duty in duties}
        self._hastened: dict[str, float] = {}
        self._stirred = threading.Event()
        self._duties = list(duties)
        self._failures = 0
        self.failures_total = 0
        """Turns that the store failed."""
        self.over = False

    @property
    def is_up(self) -> bool:
        """The store did what it was asked last."""
        return self._store.ready and not self._failures and not self.over

    def hasten(self, name: str, in_s: float) -> None:
        """Give the duty *name* its next turn in *in_s* seconds, if it would come later; for any greenlet."""
        at_s = self._clock.monotonic_s() + max(0.0, in_s)
        self._hastened[name] = min(at_s, self._hastened.get(name, at_s))
        self.stir()

    def stir(self) -> None:
        """End the wait between two turns."""
        self._stirred.set()

    def rest(self, seconds: float) -> None:
        """Wait between two turns, until stirred."""
        self._stirred.wait(seconds)
        self._stirred.clear()

    def turn(self) -> float:
        """Do what is due; seconds until something is due again."""
        for duty in self._duties:
            if self.over:
                break
            if self._due_s(duty.name) > self._clock.monotonic_s():
                continue
            if not self._do(duty):
                return backoff_s(self._failures, self._draw())
        if self.over:
            return LONGEST_BACKOFF_S
        soonest = min(map(self._due_s, self._due_at), default=LONGEST_BACKOFF_S)
        return max(SHORTEST_WAIT_S, soonest - self._clock.monotonic_s())

    def _due_s(self, name: str) -> float:
        return min(self._due_at[name], self._hastened.get(name, float("inf")))

    def _do(self, duty: Duty) -> bool:
        """One turn of *duty*; False when the store is away."""
        self._hastened.pop(duty.name, None)  # before the turn: what is hastened during it counts
        try:
            with self._store.lock:
                self._store.prepare()
                wait_s = duty.turn()
        except Conflict as error:
            self._fenced(error)
            return True
        except (StorageError, BootError) as error:
            self._away(duty, error)
            return False
        except Exception as error:  # noqa: BLE001 - a bug in one duty must not end the others
            self._broken(duty, error)
            wait_s = BROKEN_DUTY_S
        else:
            self._fine(duty)
        self._due_at[duty.name] = together_s(self._clock.monotonic_s() + wait_s, wait_s)
        return True

    def _fine(self, duty: Duty) -> None:
        if self._failures:
            self._log.info("store.back", failures=self._failures)
        self._failures = 0
        self._problem(f"storage.{self._store.name}", "")
        self._problem(f"scheduler.{duty.name}.{self._store.name}", "")

    def _away(self, duty: Duty, error: Exception) -> None:
        self._failures += 1
        self.failures_total += 1
        if self._failures == 1:
            self._log.error("store.away", error=str(error), duty=duty.name)
        text = f"{'is away' if isinstance(error, Unavailable) else 'fails'}: {error}"   # as other children say it
        self._problem(f"storage.{self._store.name}", f"storage {self._store.name} {text}")
        self._store.declare_again()
        for other in self._duties:
            other.interrupted()

    def _broken(self, duty: Duty, error: Exception) -> None:
        self._log.exception("scheduler.duty_failed", duty=duty.name)
        text = f"the scheduler's duty {duty.name!r} fails: {type(error).__name__}: {error}"
        self._problem(f"scheduler.{duty.name}.{self._store.name}", text)

    def _fenced(self, error: Exception) -> None:
        self.over = True
        self._log.critical("node.fenced", error=str(error))
        self._tell_fenced()
