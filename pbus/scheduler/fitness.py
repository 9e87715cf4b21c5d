"""
Whether a store that answers can still be trusted: a write, and what the driver checks with it.

A Redis may be told at any time to throw keys away when it is full; then jobs would vanish without a
trace, so it is looked at every minute and said in ``pbus status``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pbus.errors import Conflict, StorageError
from pbus.scheduler.roster import Store

LOOK_S: Final = 60.0


class Fitness:
    """The duty. An unfit store goes on being used: what it holds must be delivered all the same."""

    name = "fitness"

    def __init__(self, store: Store, problem: Callable[[str, str], None]) -> None:
        self._store = store
        self._problem = problem
        self.wrong = ""
        """What it lacks; empty: nothing."""

    def turn(self) -> float:
        try:
            self._store.driver.check()
        except Conflict:
            raise
        except StorageError as error:
            self._say(str(error))
        else:
            self._say("")
        return LOOK_S

    def interrupted(self) -> None:
        """It is away, which is said already; look when it is back."""
        self._say("")

    def _say(self, wrong: str) -> None:
        self.wrong = wrong
        self._problem(f"fitness.{self._store.name}", f"storage {self._store.name}: {wrong}" if wrong else "")
