"""
Every exception of pbus, sorted by who must act, with its exit status or its RESP reply.

Foreign exceptions (sqlite, redis, sockets) are mapped to these at the edge of the room that met
them; nothing above ever catches a driver's own class.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Exit(enum.IntEnum):
    """Exit statuses of the ``pbus`` command and of its children (sysexits where one fits)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    DEGRADED = 4
    NOT_FOUND = 5
    REFUSED = 6
    UNAVAILABLE = 69
    BUG = 70
    TEMPORARY = 75
    NO_PERMISSION = 77
    CONFIG = 78


class PbusError(Exception):
    """Root of all of them. ``exit_status`` is what a command ends with when it meets one."""

    exit_status: Exit = Exit.FAILED


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: ``file: key.path: what is wrong``."""

    file: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.key, self.what) if part)


class ConfigError(PbusError):
    """The configuration is invalid. Carries every problem found, not the first."""

    exit_status = Exit.CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BootError(PbusError):
    """A process cannot start; the text says why and what to do about it."""

    def __init__(self, text: str, exit_status: Exit = Exit.FAILED) -> None:
        self.exit_status = exit_status
        super().__init__(text)


class ProtocolError(PbusError):
    """
    A client's command is refused. The text is the RESP error line without the leading ``-``.

    Args:
        reply: ``WORD explanation: not stored``; the first word is a stable name of contract.
        fatal: The connection cannot go on (framing is lost); it is closed after the reply.
    """

    def __init__(self, reply: str, *, fatal: bool = False) -> None:
        self.reply = reply
        self.fatal = fatal
        super().__init__(reply)


class StorageError(PbusError):
    """Root of what a storage driver may raise."""

    exit_status = Exit.UNAVAILABLE


class Unavailable(StorageError):
    """The store cannot be reached or cannot write now. What was asked did certainly not happen."""


class StoreFull(Unavailable):
    """The store has no room for pushes now; claims, settles and everything else go on."""


class MaybeStored(StorageError):
    """The store went away in the middle of a write and stayed away: nobody can tell."""


class Conflict(StorageError):
    """The store refuses this process: its boot was fenced, or another node owns the file."""

    exit_status = Exit.TEMPORARY


class HandlerError(PbusError):
    """Root of what an attempt may end with before a handler's own answer exists."""


class HandlerUnavailable(HandlerError):
    """Nothing reached the handler (refused, no such socket, connect timeout, DNS)."""


class HandlerTimeout(HandlerError):
    """The handler had the job and did not answer within the topic's ``timeout``."""


class HandlerRejected(HandlerError):
    """The job must not be sent at all (larger than the backend's ``max_post``)."""


class NotRunning(PbusError):
    """No master answers on the control socket of this configuration."""

    exit_status = Exit.NOT_RUNNING


class NotFound(PbusError):
    """A queue, topic or job of that name does not exist."""

    exit_status = Exit.NOT_FOUND
