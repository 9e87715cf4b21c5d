"""
The text log of one topic, ``log_dir/topic/QUEUE.TOPIC.log``, or of one program, ``log_dir/program/NAME.log``.

Here goes what handlers say: output of consumers, STDERR of FastCGI, and what programs that are no consumers say.
Lines are ``time pid job LEVEL message``; a program has no job. Rule: handlers' text is not
trusted; each of its lines becomes one line with a head of its own, control characters shown. With
``log_dir = "-"`` the lines are events ``handler.output`` on standard output instead.
"""

from __future__ import annotations

import os
from typing import Any, Final

import structlog

from pbus.clock import Clock, SystemClock
from pbus.core.names import is_name
from pbus.telemetry import lines, log
from pbus.telemetry.sink import STDOUT, LogFile

DAY_BYTES: Final = 64 * 1024 * 1024
"""A topic's log takes no more than this a day; what comes later is counted."""

WRITE_CHARS: Final = 64 * 1024
"""Of one text no more than this is written."""

FOLDER: Final = "topic"
PROGRAM_FOLDER: Final = "program"
FOLDERS: Final = (FOLDER, PROGRAM_FOLDER)
"""Below ``log_dir``; what is in them is a file a day, as the main log is."""


def file_name(queue: str, topic: str) -> str:
    """
    ``QUEUE.TOPIC.log``.

    Raises:
        ValueError: one of them is not a name (names become paths only after that check).
    """
    if not is_name(queue) or not is_name(topic):
        raise ValueError(f"{queue!r}/{topic!r} is not a topic's name")
    return f"{queue}.{topic}.log"


class TextLog:
    """
    What somebody else's code said. Several processes may append; a line stays whole.

    Args:
        log_dir: As configured, or ``-``.
        path: Its file below *log_dir*.
        clock: Where the time comes from.
        bound: What the events on standard output are about that take the place of lines.
    """

    def __init__(self, log_dir: str, path: str, clock: Clock | None, **bound: str) -> None:
        self._clock = clock or SystemClock()
        self._log = log.get(**bound) if log_dir == STDOUT else None
        self._file = LogFile(os.path.join(log_dir, path), DAY_BYTES, self._clock, self._notice)

    def write(self, job_id: str, level: str, text: str, pid: int) -> None:
        """
        Append *text*, which may have several lines, in one write. Never raises, never waits.

        Args:
            job_id: The job that was running, or empty.
            level: ``INFO``, ``ERROR``..
            pid: Who said it; 0 when that is not known (a php-fpm child elsewhere).
        """
        said = [line for line in lines.cut(text, WRITE_CHARS).splitlines() if line.strip()]
        if not said:
            return
        if self._log is not None:
            for line in said:
                self._tell(self._log, {"job": job_id, "said": line, "stream": level, "handler_pid": pid})
            return
        head = self._head(job_id, level, pid)
        block = "".join(f"{head}{lines.escape(lines.cut(line))}\n" for line in said)
        self._file.write(block.encode("utf-8", "replace"))

    def reopen(self) -> None:
        """Continue in the file that has the name now (USR1, after a rotation)."""
        self._file.reopen()

    @property
    def losses(self) -> str:
        """Why what is said now is not kept, for people; empty while it is."""
        return f"its output is dropped, {self._file.reason}" if self._file.dropped else ""

    def _tell(self, log: structlog.typing.FilteringBoundLogger, fields: dict[str, Any]) -> None:
        """One line as an event."""
        log.info("handler.output", **fields)

    def _head(self, job_id: str, level: str, pid: int) -> str:
        return f"{lines.timestamp(self._clock.wall_s())} {pid or '-'} {job_id or '-'} {level.upper()} "

    def _notice(self, event: str, count: int, reason: str) -> bytes:
        return f"{self._head('', 'WARNING', os.getpid())}{event} {count}: {reason}\n".encode()


class TopicLog(TextLog):
    """
    What the handlers of one topic said.

    Args:
        log_dir: As configured, or ``-``.
        queue, topic: Whose log it is.
        clock: Where the time comes from.

    Raises:
        ValueError: *queue* or *topic* is not a name.
    """

    def __init__(self, log_dir: str, queue: str, topic: str, clock: Clock | None = None) -> None:
        path = os.path.join(FOLDER, file_name(queue, topic))
        super().__init__(log_dir, path, clock, queue=queue, topic=topic)


class ProgramLog(TextLog):
    """
    What the processes of one program said.

    Args:
        log_dir: As configured, or ``-``.
        name: Whose log it is.
        clock: Where the time comes from.

    Raises:
        ValueError: *name* is not a name.
    """

    def __init__(self, log_dir: str, name: str, clock: Clock | None = None) -> None:
        if not is_name(name):
            raise ValueError(f"{name!r} is not a program's name")
        path = os.path.join(PROGRAM_FOLDER, f"{name}.log")
        super().__init__(log_dir, path, clock, program=name)

    def _tell(self, log: structlog.typing.FilteringBoundLogger, fields: dict[str, Any]) -> None:
        log.info("program.output", **{name: value for name, value in fields.items() if name != "job"})
