"""The log is cut behind its slowest topic and its retention; SQLite's WAL is put into the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from pbus.scheduler.roster import Store

IDLE_S: Final = 5.0
STEADY_S: Final = 1.0
CATCHING_UP_S: Final = 0.05
MANY: Final = 1_000
TRACES_S: Final = 10.0
CHECKPOINT_S: Final = 2.0
_CHECKPOINTS: Final = ((16 * 1024 * 1024, 0.25), (8 * 1024 * 1024, 1.0))
"""
Bytes that there were to copy, and seconds until the next time: the log file stays below 64 MiB at 100 MB/s. Seldom
where little is written, since what is pushed and dropped in between is copied once or not at all.
"""


def next_trim_s(dropped: int) -> float:
    """Seconds until the next cut after one that dropped so many entries: the more, the sooner."""
    if dropped >= MANY:
        return CATCHING_UP_S
    return STEADY_S if dropped else IDLE_S


def next_checkpoint_s(size: int) -> float:
    """Seconds until the next checkpoint after one that found a log file of so many bytes."""
    return next((wait_s for least, wait_s in _CHECKPOINTS if size >= least), CHECKPOINT_S)


class Trim:
    """The duty. One call is bounded by the driver, so other duties get their turn in between."""

    name = "trim"

    def __init__(self, store: Store) -> None:
        self._store = store

    def turn(self) -> float:
        return next_trim_s(self._store.driver.trim())

    def interrupted(self) -> None:
        """Nothing was concluded."""


class TraceTrim:
    """Stories of jobs that are too old. Its errors are its own: a trace store is no reason to call the store away."""

    name = "traces"

    def __init__(self, trim: Callable[[], None], log: structlog.typing.FilteringBoundLogger) -> None:
        """*trim*: ``Traces.trim``, which may block."""
        self._trim = trim
        self._log = log
        self._fails = False

    def turn(self) -> float:
        try:
            self._trim()
            self._fails = False
        except Exception as error:  # noqa: BLE001 - lossy: said once, then tried again
            if not self._fails:
                self._log.warning("traces.untrimmed", error=str(error))
            self._fails = True
        return TRACES_S

    def interrupted(self) -> None:
        """Nothing was concluded."""


class Checkpoint:
    """Housekeeping of the store's files, by this one process of the node only."""

    name = "checkpoint"

    def __init__(self, store: Store) -> None:
        self._store = store

    def turn(self) -> float:
        return next_checkpoint_s(self._store.driver.checkpoint())

    def interrupted(self) -> None:
        """Nothing was concluded."""
