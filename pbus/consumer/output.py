"""
Where a handler's output goes: the topic's log, each line tagged with the job that was running.

Rule: printing never fails a job. ``sys.stdout`` and ``sys.stderr`` are replaced by writers that know
the current job; descriptors 1 and 2 lead to the same file for what C code and child processes print.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import traceback
from typing import Any, Final, Protocol

from pbus.consumer.descriptors import inode

LINE_BYTES: Final = 16 * 1024
"""A line without an end is cut here, so that a handler cannot grow us by printing."""
SLICE: Final = 32 * 1024
"""So much of a text is looked at in one go: the lines of 100 MB would take ten times as much."""


class Log(Protocol):
    """What of telemetry.topic_log.TopicLog is used here."""

    def write(self, job_id: str, level: str, text: str, pid: int) -> None:
        """One or more lines, tagged."""


class Tag:
    """Which job runs now. Written by the loop, read by every writer of this process."""

    def __init__(self) -> None:
        self.job_id = ""


class LineWriter(io.TextIOBase):
    """A text stream whose lines go to the topic's log."""

    def __init__(self, log: Log, level: str, tag: Tag, fd: int) -> None:
        super().__init__()
        self._log = log
        self._level = level
        self._tag = tag
        self._fd = fd
        self._partial = ""
        self._lock = threading.RLock()  # handlers have threads, and print in signal handlers
        self.buffer = _ByteSide(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def write(self, text: str) -> int:
        with self._lock:
            for start in range(0, len(text), SLICE):
                self._write(text[start : start + SLICE])
        return len(text)

    def _write(self, text: str) -> None:
        lines = (self._partial + text).split("\n")
        self._partial = lines.pop()
        if len(self._partial) > LINE_BYTES:
            lines.append(self._partial)
            self._partial = ""
        if lines:
            self._log.write(self._tag.job_id, self._level, "\n".join(lines), os.getpid())

    def renew(self) -> None:
        """In a forked process: the thread that held the lock is not here."""
        self._lock = threading.RLock()

    def flush(self) -> None:
        """Nothing: a line is written when it ends. ``end_of_job`` writes what has no end."""

    def end_of_job(self) -> None:
        """Write the rest that has no line end, as long as its job's tag is set."""
        if self._partial:
            self.write("\n")

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False


class _ByteSide(io.RawIOBase):
    """``sys.stdout.buffer``."""

    def __init__(self, text: LineWriter) -> None:
        super().__init__()
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "replace"))
        return len(raw)

    def fileno(self) -> int:
        return self._text.fileno()


class JobLogHandler(logging.Handler):
    """``job.log``: standard logging records, written with their level."""

    def __init__(self, log: Log, tag: Tag) -> None:
        super().__init__()
        self._log = log
        self._tag = tag

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
            self._log.write(self._tag.job_id, record.levelname, text, os.getpid())
        except Exception:  # noqa: BLE001 a wrong format argument is said in the log, as logging does
            self.handleError(record)


class Output:
    """Everything a handler can print to, as one thing to install and to tag. One a process."""

    def __init__(self, log: Log) -> None:
        self._tag = Tag()
        self._out = LineWriter(log, "INFO", self._tag, 1)
        self._err = LineWriter(log, "ERROR", self._tag, 2)
        self.logger = logging.Logger("pbus.job")
        self.logger.addHandler(JobLogHandler(log, self._tag))

    def install(self) -> None:
        """Take over ``sys.stdout`` and ``sys.stderr`` of this process."""
        sys.stdout, sys.stderr = self._out, self._err
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._out.renew()
        self._err.renew()

    def begin(self, job_id: str) -> None:
        """What is printed from now on belongs to that job."""
        self._tag.job_id = job_id

    def end(self) -> None:
        """The job is over; lines without an end are written under its name."""
        self._out.end_of_job()
        self._err.end_of_job()
        self._tag.job_id = ""


class Descriptors:
    """
    Descriptors 0, 1 and 2 of a consumer: nothing to read, and the topic's log for what C code and programs print.

    A log that cannot be opened leaves them as they are: output is worth less than jobs.

    Args:
        path: The topic's log; empty: 1 and 2 stay where they lead.
        most_bytes: The log takes no more than this a day; then what is printed past Python goes nowhere.
    """

    def __init__(self, path: str, most_bytes: int) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._inode = 0
        self.is_full = False
        """What is printed past Python goes nowhere."""

    def lead(self) -> None:
        """To the file that has the name now; but what user code has led elsewhere stays there."""
        first = self.is_full or not self._inode
        self.is_full = False
        self._onto([number for number in (1, 2) if first or inode(number) == self._inode])

    def mend(self) -> bool:
        """Open again what user code has closed, or the next file that it opens is printed into; False: nothing."""
        closed = [number for number in (0, 1, 2) if not inode(number)]
        for number in closed:
            _nowhere(number)
        self._onto([number for number in closed if number])
        return bool(closed)

    def bound(self) -> bool:
        """Stop what is printed past Python when the log is full; True: that is now."""
        if self.is_full or not self._path or inode(1) != self._inode:
            return False
        if os.fstat(1).st_size <= self._most_bytes:
            return False
        self.is_full = True
        for number in (1, 2):
            _nowhere(number)
        return True

    def _onto(self, numbers: list[int]) -> None:
        """Lead *numbers* to the log."""
        if not self._path or not numbers:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)
        except OSError:
            return
        self._inode = inode(fd)
        for number in numbers:
            os.dup2(fd, number)
        if fd > 2:
            os.close(fd)


def _nowhere(number: int) -> None:
    fd = os.open(os.devnull, os.O_RDWR)
    if fd != number:
        os.dup2(fd, number)
        os.close(fd)
    else:
        os.set_inheritable(fd, True)
