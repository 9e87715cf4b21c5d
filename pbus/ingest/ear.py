"""
Listening to a store's bell while somebody waits for a job.

    needed --> bell --rung--> which queues to look at
                 |  silence, or it was deaf: look at all
                 +-- nobody has waited for a while: hung down

Rule: the bell is lossy by design, so everybody looks again now and then. Nobody waits for ever because of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent
import gevent.event
import structlog

from pbus.clock import Clock
from pbus.errors import StorageError
from pbus.storage.driver import Bell

LOOK_AGAIN_S: Final = 5.0
"""The bell is lossy by design."""
KEEP_BELL_S: Final = 60.0
"""It stays hung up so long after the last one who waited: clients that loop would hang it up each time."""
_AGAIN_S: Final = 0.5


class Ear:
    """
    One bell of one store. One owner: whoever claims for those who wait.

    Args:
        name: Of the store, for the log.
        bell: Hangs one up; raises StorageError while the store is away.
        waited_for: Whether somebody waits now.
        heard: Called with every sound: queues that got jobs; empty: look at all of them.
        clock, log: Of the child.
    """

    def __init__(
        self, name: str, bell: Callable[[], Bell], waited_for: Callable[[], bool],
        heard: Callable[[frozenset[str]], None], clock: Clock, log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._name = name
        self._bell = bell
        self._waited_for = waited_for
        self._heard = heard
        self._clock = clock
        self._log = log
        self._needed = gevent.event.Event()
        self._stopped = False

    def start(self) -> None:
        """Begin to listen as soon as it is needed."""
        gevent.spawn(self._listen)

    def stop(self) -> None:
        """The child is about to exit: the bell is hung down at its next sound."""
        self._stopped = True

    def need(self) -> None:
        """Somebody waits."""
        self._needed.set()

    def _listen(self) -> None:
        while not self._stopped:
            self._needed.wait()
            try:
                self._hear(self._bell())
            except StorageError as error:
                self._log.debug("bell.lost", storage=self._name, reason=str(error))
                self._look_later()
            except Exception:  # noqa: BLE001 - nobody may wait for ever, and the log has it
                self._log.exception("pull.failed", storage=self._name)
                self._look_later()

    def _hear(self, bell: Bell) -> None:
        last_s = self._clock.monotonic_s()
        try:
            while not self._stopped:
                self._heard(bell.wait(LOOK_AGAIN_S) or frozenset())
                now_s = self._clock.monotonic_s()
                if self._waited_for():
                    last_s = now_s
                elif now_s - last_s > KEEP_BELL_S:
                    self._needed.clear()
                    return
        finally:
            bell.close()

    def _look_later(self) -> None:
        self._clock.sleep(_AGAIN_S)
        self._heard(frozenset())
