"""
Is it alive, is it ready: the two questions that load balancers and supervisors ask.

Alive: the master and pbus' own children are there. It never asks the store, because a store that
is away is no reason to restart the bus. Consumers run user code; one that crashes does not make
the bus dead. Ready: every store takes writes and the node is not draining.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.errors import PbusError
from pbus.storage.driver import Driver
from pbus.supervisor.scoreboard import SlotView

RESPAWN_S: Final = 5.0
"""A child that died may be missing so long before that counts: respawning takes a moment."""

STALE_S: Final = 30.0
"""A child whose event loop gave no sign of life for so long is stuck."""

FRESH_S: Final = 1.0
"""An answer about a store is good for so long, however often it is asked for."""

WAIT_S: Final = 5.0
"""The longest a question waits for the stores."""


def alive_problems(rows: Iterable[SlotView], now_s: float, master_is_there: bool) -> list[str]:
    """
    Why the bus is not alive; empty when it is.

    Args:
        rows: The scoreboard.
        now_s: Monotonic seconds.
        master_is_there: The process that forked us is still our parent.
    """
    problems = [] if master_is_there else ["the master is gone"]
    latest: dict[tuple[str, int], SlotView] = {}
    for row in rows:
        place = (row.role, row.index)
        if not row.own_group and (place not in latest or row.n > latest[place].n):
            latest[place] = row
    for (role, index), row in sorted(latest.items()):
        silent_s = now_s - row.beat_s
        if not row.alive and row.exit_status != 0 and silent_s > RESPAWN_S:
            problems.append(f"{role} {index} is dead (exit status {row.exit_status})")
        elif row.alive and row.beat_s and silent_s > STALE_S:
            problems.append(f"{role} {index} gave no sign of life for {silent_s:.0f} s")
    return problems


class Stores:
    """
    Whether every store takes writes, asked at most once a second however many want to know.

    A question never waits longer than WAIT_S; a check that takes longer goes on in the background
    (a greenlet inside a storage call is never killed), and until it ends the answer is that.
    """

    def __init__(self, stores: Mapping[str, Driver], clock: Clock, *, wait_s: float = WAIT_S) -> None:
        self._checks = [_Check(name, driver, clock) for name, driver in stores.items()]
        self._wait_s = wait_s

    def problems(self) -> list[str]:
        """Why not, one sentence a store; empty when all of them take writes."""
        for check in self._checks:
            check.begin()
        gevent.wait([check.over for check in self._checks], timeout=self._wait_s)
        return [problem for check in self._checks if (problem := check.answer(self._wait_s))]


class _Check:
    """The state of one store. At most one greenlet asks it at a time."""

    def __init__(self, name: str, driver: Driver, clock: Clock) -> None:
        self._name = name
        self._driver = driver
        self._clock = clock
        self._opened = False
        self._asked_s = float("-inf")
        self._problem = ""
        self.over = gevent.event.Event()
        self.over.set()

    def begin(self) -> None:
        """Ask, unless the last answer is fresh or somebody is asking."""
        now_s = self._clock.monotonic_s()
        if self.over.is_set() and now_s - self._asked_s >= FRESH_S:
            self._asked_s = now_s
            self.over.clear()
            gevent.spawn(self._ask)

    def answer(self, waited_s: float) -> str:
        """What is wrong, or nothing."""
        if not self.over.is_set():
            return f"storage {self._name}: no answer within {waited_s:g} s"
        return self._problem

    def _ask(self) -> None:
        try:
            if not self._opened:
                self._driver.open()
                self._opened = True
            self._driver.check()
            self._problem = ""
        except PbusError as error:
            self._problem = f"storage {self._name}: {error}"
        except Exception as error:  # noqa: BLE001 a health check that dies would leave its askers waiting
            self._problem = f"storage {self._name}: {type(error).__name__}: {error}"
        finally:
            self._asked_s = self._clock.monotonic_s()
            self.over.set()
