"""
Signals of the master: handlers put them into a queue and wake the loop, nothing else.

Rule: a handler neither logs nor decides. What came in a storm is kept once: five hundred HUPs are
one, a second TERM while the first still waits to be seen is not lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Final

CAUGHT: Final = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2,
)
_IGNORED: Final = (signal.SIGPIPE,)

_AT_MOST: Final = 2


class Signals:
    """The queue. One owner: the master, in its main thread."""

    def __init__(self) -> None:
        self._seen: list[signal.Signals] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._wake_read

    def install(self) -> None:
        """Catch the signals of this table from now on."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for signum in CAUGHT:
            signal.signal(signum, self._note)
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_IGN)

    def take(self) -> list[signal.Signals]:
        """What came since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        seen, self._seen = self._seen, []
        return seen

    def hold(self) -> tuple[list[int], list[str]]:
        """
        From now on no signal comes through, and none is lost: who is executed in our place gets them.

        Returns:
            What was held back before, and the names of those that came and were not taken.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return sorted(map(int, before)), [signum.name for signum in self.take()]

    def let(self, mask: Iterable[int], seen: Iterable[str]) -> None:
        """Go on after ``hold``, in this process or in who it has become: *seen* come first."""
        for name in seen:
            self._note(signal.Signals[name], None)
        signal.pthread_sigmask(signal.SIG_SETMASK, list(mask))

    def close(self) -> None:
        """For a forked child."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _note(self, signum: int, _: object) -> None:
        if self._seen.count(signal.Signals(signum)) < _AT_MOST:
            self._seen.append(signal.Signals(signum))
