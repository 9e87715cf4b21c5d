"""
The structured log: ``log_dir/pbus.log``, one JSON object a line (or text for people).

    {"ts": .., "level": .., "event": "job.failed", "node": .., "role": .., "pid": .., "queue": .., ..}

Rule: ``event`` is a stable dotted name (docs/logs.md lists them all); what varies is in the fields.
A call never raises and never waits; below the level it is a method that does nothing. Job bodies
and secrets never get in (``redact``).
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, Protocol, cast

import structlog

from pbus.clock import Clock, SystemClock
from pbus.telemetry import lines
from pbus.telemetry.redact import Redactor
from pbus.telemetry.sink import STDOUT, LogFile

FILE_NAME: Final = "pbus.log"
DAY_BYTES: Final = 512 * 1024 * 1024
"""pbus.log takes no more than this a day; what comes later is counted."""

Logger = structlog.typing.FilteringBoundLogger

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OWN: Final = frozenset({"ts", "level", "event", "node", "role", "pid"})


class LogSettings(Protocol):
    """What of ``[log]`` matters here."""

    @property
    def level(self) -> str:
        """``debug``, ``info``, ``warning`` or ``error``."""

    @property
    def format(self) -> str:
        """``json`` or ``text``."""


def configure(
    settings: LogSettings, log_dir: str, *, secrets: Iterable[str] = (), clock: Clock | None = None, **bound: Any
) -> LogFile:
    """
    Set up this process' log; a forked child calls it again with its own *bound* (role, ..).

    Args:
        settings: Level and format.
        log_dir: Folder of pbus.log, or ``-`` for standard output.
        secrets: Values to hide wherever they turn up (``redact.secrets_of(settings)``).
        clock: Where ``ts`` comes from.
        bound: Fields of every line: ``node``, ``role``.

    Returns:
        The file, for who wants to ask it how many lines it dropped.
    """
    path = STDOUT if log_dir == STDOUT else os.path.join(log_dir, FILE_NAME)
    writer = Writer(path, settings.format, Redactor(secrets), clock or SystemClock(), bound)
    structlog.configure(
        processors=[writer.render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS.get(settings.level, logging.INFO)),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    return writer.file


def get(**bound: Any) -> Logger:
    """A logger whose lines carry *bound*; bind once where a room is built, not per line."""
    return cast(Logger, structlog.get_logger().bind(**bound))


def hold() -> None:
    """Open the file now and not with the first line: that one may be about having no descriptor left."""
    writer = structlog.get_config()["logger_factory"]()
    if isinstance(writer, Writer):
        writer.file.hold()


def reopen() -> None:
    """Continue in the file that has the name now (USR1, after a rotation)."""
    writer = structlog.get_config()["logger_factory"]()
    if isinstance(writer, Writer):
        writer.file.reopen()
        writer.file.hold()


def losses() -> str:
    """Why lines of this process are missing in the log, one sentence; empty when all are there. Tries again first."""
    writer = structlog.get_config()["logger_factory"]()
    count, reason = writer.file.catch_up() if isinstance(writer, Writer) else (0, "")
    return f"logs cannot be written: {reason}, {count} lines dropped" if count else ""


class Writer:
    """
    Turns an event into one line of the file. One owner: the process' structlog configuration.

    structlog calls ``render`` as the only processor and hands its answer to a method named after
    the level; all of them are ``_write``.
    """

    def __init__(self, path: str, style: str, redactor: Redactor, clock: Clock, bound: Mapping[str, Any]) -> None:
        self._text = style == "text"
        self._redactor = redactor
        self._clock = clock
        self._bound = dict(bound)
        self.file = LogFile(path, DAY_BYTES, clock, self._notice)

    def render(self, _: Any, level: str, event: MutableMapping[str, Any]) -> tuple[tuple[bytes], dict[str, Any]]:
        """The line for *event*; whatever is wrong with the fields, there is one."""
        try:
            line = self._format(level, event)
        except Exception as error:  # noqa: BLE001 a field that cannot be shown must not fail its job
            line = self._format("error", {"event": "log.unwritable", "err": type(error).__name__})
        return (line,), {}

    def _write(self, line: bytes) -> None:
        self.file.write(line)

    debug = info = warning = error = critical = exception = msg = _write

    def _format(self, level: str, event: MutableMapping[str, Any]) -> bytes:
        level = "error" if level == "exception" else level
        fields: dict[str, Any] = {
            "ts": lines.timestamp(self._clock.wall_s()), "level": level, "event": event.pop("event", ""), **self._bound,
            "pid": os.getpid(),
        }
        _tell_exception(event)
        for key in lines.ORDER:
            if key in event:
                fields[key] = self._safe(key, event.pop(key))
        for key, value in event.items():
            fields[key] = self._safe(key, value)
        return lines.text_line(fields).encode("utf-8", "replace") + b"\n" if self._text else lines.json_line(fields)

    def _safe(self, key: str, value: Any) -> Any:
        """*value* as it may be written; the fields that pbus sets by itself are what they are."""
        if type(value) is int or key in _OWN:
            return value
        value = self._redactor.value(key, value)
        return lines.cut(value) if type(value) is str else value

    def _notice(self, event: str, count: int, reason: str) -> bytes:
        return self._format("warning", {"event": event, "count": count, "reason": reason})


def _tell_exception(event: MutableMapping[str, Any]) -> None:
    """``exc_info`` (an exception, or True inside an except block) as ``err`` and ``traceback``."""
    error = event.pop("exc_info", None)
    if not error:
        return
    if not isinstance(error, BaseException):
        error = error[1] if isinstance(error, tuple) else sys.exception()
    if error is not None:
        event.setdefault("err", f"{type(error).__name__}: {error}")
        event["traceback"] = "".join(traceback.format_exception(error)).rstrip()

