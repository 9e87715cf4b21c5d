"""
Where log lines end up: one file that several processes append to, or standard output.

Rule: a line is one ``os.write`` on an O_APPEND descriptor, so lines of different processes never
mix; nothing here raises or waits. What cannot be written (full disk, the day's bound, a pipe that
nobody reads) is counted, and one line says so when writing works again. A file that was renamed
is noticed by ``reopen`` (USR1) and, as a net, by its inode once a second.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from typing import Final

from pbus.clock import Clock

STDOUT: Final = "-"
"""The ``log_dir`` that means standard output."""

_CHECK_EVERY_S: Final = 1.0
_PIPE_BYTES: Final = 1024 * 1024
_NO_FILE: Final = -1
_MARGIN: Final = 1000
"""The last thousandth of the day's bound stays free, so that being full is not left again at once."""

Notice = Callable[[str, int, str], bytes]
"""(event, count of lines, reason) -> a line of the file's own format that tells of it."""


class LogFile:
    """
    One log, as this process appends to it. One owner: the process; survives a fork.

    Args:
        path: File, or ``-``. Its folder is made when missing.
        day_bytes: The file takes no more than this (rotation starts a new one each day).
        clock: Tells when to look at the inode again.
        notice: Formats the lines that the sink writes by itself: ``log.dropped`` when writing
            works again, ``log.full`` when the day's bound is reached.
    """

    def __init__(self, path: str, day_bytes: int, clock: Clock, notice: Notice) -> None:
        self.path = path
        self.dropped = 0
        self._day_bytes = day_bytes
        self._clock = clock
        self._notice = notice
        self._fd = _NO_FILE
        self._pid = os.getpid()
        self._inode = 0
        self._room = 0
        self._check_at_s = 0.0
        self._torn = False
        self._full = False
        self.reason = ""

    def write(self, line: bytes) -> None:
        """Append *line* (which ends in a newline), or count it as dropped."""
        try:
            self._look()
            if len(line) > self._room:
                self._refuse()
                return
            if self.dropped:
                self._put(self._notice("log.dropped", self.dropped, self.reason))
                self.dropped = 0
            self._put(line)
        except OSError as error:
            self._drop(error.strerror or "error")

    def catch_up(self) -> tuple[int, str]:
        """
        Try to tell of dropped lines although nobody writes.

        Returns:
            How many lines are dropped and not told of, and why; (0, "") when there are none.
        """
        if not self.dropped:
            return 0, ""
        try:
            self._look()
            notice = self._notice("log.dropped", self.dropped, self.reason)
            if len(notice) <= self._room:
                self._put(notice)
                self.dropped = 0
                return 0, ""
        except OSError as error:
            self.reason = error.strerror or "error"
        return self.dropped, self.reason

    def hold(self) -> None:
        """Be open from now on: the line that says that descriptors have run out needs none any more."""
        try:
            self._look()
        except OSError:
            pass  # the next line tries again

    def reopen(self) -> None:
        """Continue in the file that has the name now (after a rotation)."""
        if self._fd != _NO_FILE and self._pid == os.getpid() and self._is_ours():
            try:
                os.close(self._fd)
            except OSError:
                pass  # somebody else closed it; it is gone either way
        self._fd = _NO_FILE

    def _look(self) -> None:
        """Make sure that the descriptor is ours, open, and still the file of that name."""
        if self._pid != os.getpid() or (self._fd != _NO_FILE and not self._is_ours()):
            # After a fork, or when user code closed it, the number may be somebody else's: forget it, never close it.
            self._pid = os.getpid()
            self._fd = _NO_FILE
        now_s = self._clock.monotonic_s()
        if self._fd == _NO_FILE:
            self._open()
        elif now_s < self._check_at_s:
            return
        elif self.path != STDOUT and not self._is_current():
            self.reopen()
            self._open()
        self._check_at_s = now_s + _CHECK_EVERY_S
        self._measure()

    def _open(self) -> None:
        if self.path == STDOUT:
            self._fd = _open_stdout()
        else:
            try:
                self._fd = _open_append(self.path)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self.path), 0o750, exist_ok=True)
                self._fd = _open_append(self.path)
        self._inode = os.fstat(self._fd).st_ino

    def _is_ours(self) -> bool:
        """Whether the number still leads to what was opened."""
        try:
            return os.fstat(self._fd).st_ino == self._inode
        except OSError:
            return False

    def _is_current(self) -> bool:
        try:
            return os.stat(self.path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def _measure(self) -> None:
        """How much the day's bound leaves, counting what other processes wrote."""
        if self.path == STDOUT:
            self._room = self._day_bytes
            return
        room = self._day_bytes - os.fstat(self._fd).st_size
        if room >= self._day_bytes // _MARGIN:
            self._full = False
            self._room = room
        else:
            self._room = 0

    def _refuse(self) -> None:
        """The day's bound is reached: say so once in the file, then count."""
        if not self._full:
            self._full = True
            self._put(self._notice("log.full", self._day_bytes, "the day's bound is reached"))
        self._room = 0
        self._drop("the day's bound is reached")

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        self.reason = reason

    def _put(self, line: bytes) -> None:
        data = b"\n" + line if self._torn else line
        written = os.write(self._fd, data)
        self._torn = written < len(data)
        self._room -= written
        if self._torn:
            raise OSError(0, "a line was cut off")


def _open_append(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    return os.open(path, flags, 0o640)


def _open_stdout() -> int:
    """
    A descriptor for standard output that does not wait for its reader.

    A pipe is opened anew, so that O_NONBLOCK is ours alone and not also that of whoever shares
    standard output; what cannot be opened anew (a socket, a closed descriptor's heir) is shared.
    """
    fd = 1
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        try:
            fd = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass  # no /proc, or the user's pipe pages are used up: the plain pipe will do
    return os.dup(1) if fd == 1 else fd
