"""
A throw-away process of the master that tries what the master must not: read files, resolve names, bind.

    master --fork--> rehearsal: act() --pipe, pickled--> master
                        |
             DEADLINE_S, MOST_BYTES: killed, and that is the answer

Rule: the master never waits for it. What it answers is an object of ours or the reason why there is none; nothing that
it opens, imports or breaks is left.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import setproctitle

from pbus.clock import Clock
from pbus.errors import Exit, PbusError
from pbus.supervisor import process
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.spawn import close_all_but

DEADLINE_S: Final = 30.0
MOST_BYTES: Final = 256 << 20
_READ_BYTES: Final = 1 << 20
_AT_ONCE: Final = 64


class Failed(Exception):
    """There is no answer; carries why, for people, and the exit status that belongs to it."""

    def __init__(self, text: str, exit_status: int) -> None:
        self.exit_status = exit_status
        super().__init__(text, exit_status)  # both, or it cannot be pickled

    def __str__(self) -> str:
        return str(self.args[0])


Then = Callable[[Any], None]
"""Called once, by the master's loop, with the answer or a ``Failed``."""


class Rehearsals:
    """At most one at a time. One owner: the master."""

    def __init__(self, switchboard: Switchboard, clock: Clock, what: str = "the check of the configuration") -> None:
        """*what* is tried, for people."""
        self._what = what
        self._switchboard = switchboard
        self._clock = clock
        self._then: Then | None = None
        self._pid = 0
        self._fd = -1
        self._data = bytearray()
        self._until_s = float("inf")

    @property
    def is_busy(self) -> bool:
        """One is under way."""
        return self._fd >= 0

    @property
    def next_s(self) -> float:
        """When ``settle`` has something to do by itself (monotonic)."""
        return self._until_s

    def begin(self, act: Callable[[], Any], then: Then) -> None:
        """
        Have *act* done elsewhere, and *then* told what it answers.

        Raises:
            OSError: no process or descriptor is left.
        """
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        master = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _rehearse(act, write, master)
        except OSError:
            os.close(read)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(write)
        self._pid, self._fd, self._then, self._data = pid, read, then, bytearray()
        self._until_s = self._clock.monotonic_s() + DEADLINE_S
        self._switchboard.watch(read, self._read)

    def settle(self) -> None:
        """A duty of every turn: what takes too long is over."""
        if self._then is not None and self._clock.monotonic_s() >= self._until_s:
            self._end(Failed(f"{self._what} took longer than {DEADLINE_S:g} s", Exit.TEMPORARY))

    def give_up(self) -> None:
        """Nobody waits for it any more; idempotent."""
        self._then = None
        self._forget()

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._end(_answer(bytes(self._data), self._what))
                return
            self._data += data
            if len(self._data) > MOST_BYTES:
                self._end(Failed(f"{self._what} answers with more than {MOST_BYTES >> 20} MiB", Exit.CONFIG))
                return

    def _end(self, answer: Any) -> None:
        then, self._then = self._then, None
        self._forget()
        if then is not None:
            then(answer)

    def _forget(self) -> None:
        """It may not have ended: it is a child of ours, so its number is nobody else's before ``reap`` has met it."""
        if self._fd >= 0:
            self._switchboard.unwatch(self._fd)
            os.close(self._fd)
            if self._pid in process.children(os.getpid()):
                process.kill(self._pid, signal.SIGKILL, group=False)
        self._fd, self._pid, self._until_s, self._data = -1, 0, float("inf"), bytearray()


def _answer(data: bytes, what: str) -> Any:
    try:
        return pickle.loads(data)  # from a fork of this very process, through a pipe of our own
    except Exception:  # noqa: BLE001 - cut off: it died
        return Failed(f"the process that did {what} died; the log may say why", Exit.BUG)


def _rehearse(act: Callable[[], Any], write: int, master: int) -> NoReturn:
    """The whole life of the throw-away process. Nothing may return into the master's stack."""
    status: int = Exit.BUG
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        process.die_with_parent(signal.SIGKILL)
        if os.getppid() == master:
            close_all_but([0, 1, 2, write])
            setproctitle.setproctitle("pbus: check")
            os.set_blocking(write, True)
            _send(write, _tried(act))
            status = Exit.DONE
    except BaseException:  # noqa: BLE001 - the last net of this process
        with contextlib.suppress(Exception):
            sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _tried(act: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps(act(), pickle.HIGHEST_PROTOCOL)
    except Failed as error:
        return pickle.dumps(error)
    except PbusError as error:
        return pickle.dumps(Failed(str(error), int(error.exit_status)))
    except Exception as error:  # noqa: BLE001 - a bug of the check must not be one of the bus
        return pickle.dumps(Failed(f"internal error: {type(error).__name__}: {error}", int(Exit.BUG)))


def _send(write: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(write, view) :]
