"""
Reading log files as people do: some lines back, then what comes, across the change of days.

Rule: reads only; whatever a line holds, it becomes an entry or is passed on as it is.
"""

from __future__ import annotations

import datetime
import glob
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from pbus.clock import Clock

LAST_LINES: Final = 10
"""Shown of the past when nobody said since when."""

_PAUSE_S: Final = 0.2
_MOVE_S: Final = 2.0
"""Writers notice within a second that their file was renamed."""

_BLOCK_BYTES: Final = 256 * 1024
_TOPIC_LINE: Final = re.compile(r"(\S+) (\d+|-) (\S+) ([A-Z]+) (.*)\Z")
_TEXT_LINE: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) ([A-Z]+) +(\S+)(?: (\S+)(?= |\Z))?")
_TEXT_FIELD: Final = re.compile(r"(?<!\S)([a-z_]+)=(\"(?:[^\"\\]|\\.)*\"|\S+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: its text without the newline, and what could be read out of it."""

    text: str
    fields: Mapping[str, Any]

    @property
    def at_s(self) -> float | None:
        """Unix seconds of its time; None where it has none."""
        return _seconds(str(self.fields.get("ts", "")))


def log_entry(line: str) -> Entry:
    """A line of pbus.log, JSON or text."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        return Entry(line, fields)
    match = _TEXT_LINE.match(line)
    if match is None:
        return Entry(line, {})
    ts, level, event, who = match.groups()
    fields = {"ts": ts.replace(" ", "T") + "Z", "level": level.lower(), "event": event}
    if who and "=" not in who:
        queue, _, topic = who.partition("/")
        fields |= {"queue": queue, "topic": topic} if topic else {"queue": queue}
    return Entry(line, fields | {key: _bare(value) for key, value in _TEXT_FIELD.findall(line[match.end(3):])})


def _bare(value: str) -> Any:
    """A value of a text line, as ``telemetry.lines.text_line`` wrote it."""
    if value.startswith('"'):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def topic_entry(line: str) -> Entry:
    """A line of a topic's log: ``time pid job LEVEL message``."""
    match = _TOPIC_LINE.match(line)
    if match is None:
        return Entry(line, {})
    ts, pid, job, level, message = match.groups()
    fields = {"ts": ts, "level": level.lower(), "pid": int(pid) if pid != "-" else None, "job": job, "message": message}
    return Entry(line, fields)


class LogReader:
    """
    One log file that is renamed at the change of days: what it holds, then what comes. One reader.

    Both are read through one descriptor, so nothing falls between them and nothing comes twice.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._file: BinaryIO | None = None
        self._rest = b""
        self._renamed_s: float | None = None
        self._open()

    def past(self, since_s: float | None, keep: Callable[[str], bool] = lambda _: True) -> Iterator[str]:
        """
        Lines that may be as young as *since_s* (unix seconds), from the files of earlier days too.

        Without *since_s*: the last LAST_LINES of those that *keep* wants, of the last quarter of a MiB. Call it first,
        or not at all.
        """
        if since_s is None:
            yield from deque(filter(keep, self._last_block()), LAST_LINES)
            return
        first_day = datetime.datetime.fromtimestamp(since_s, datetime.UTC).date().isoformat()
        for old in sorted(glob.glob(glob.escape(self._path) + ".????-??-??*")):
            if old[len(self._path) + 1 :][:10] >= first_day:
                with open(old, "rb") as file:
                    yield from (_text(line.rstrip(b"\n")) for line in file)
        yield from self._until_end()

    def coming(self) -> Iterator[str]:
        """Lines as they are appended, for ever; waits for a file that is not there yet."""
        for _, line in coming([self], self._clock):
            yield line

    def to_end(self) -> None:
        """Pass over what is there. Call it first, or not at all."""
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def fresh(self) -> list[str] | None:
        """Complete lines that have come; empty: there may be more at once; None: there is nothing now."""
        return self._read() or ([] if self._next_file() else None)

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _last_block(self) -> Iterator[str]:
        if self._file is not None:
            size = os.fstat(self._file.fileno()).st_size
            self._file.seek(max(0, size - _BLOCK_BYTES))
            if size > _BLOCK_BYTES:
                self._file.readline()  # the end of a line that began before the block
        yield from self._until_end()

    def _until_end(self) -> Iterator[str]:
        while fresh := self._read():
            yield from fresh

    def _read(self) -> list[str]:
        """Complete lines of the next block; none at the end."""
        while self._file is not None:
            data = self._file.read(_BLOCK_BYTES)
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                return [_text(line) for line in lines]
        return []

    def _next_file(self) -> bool:
        """Whether another file has the name now (ours was renamed or cut), and is open."""
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        if self._file is not None:
            mine = os.fstat(self._file.fileno())
            if mine.st_ino == named.st_ino and self._file.tell() <= mine.st_size:
                return False
            if mine.st_ino != named.st_ino and not self._writers_have_moved():
                return False
        self.close()
        self._rest = b""
        self._renamed_s = None
        self._open()
        return True

    def _writers_have_moved(self) -> bool:
        """Whether the file was renamed so long ago that nobody appends to it any more."""
        now_s = self._clock.monotonic_s()
        if self._renamed_s is None:
            self._renamed_s = now_s
        return now_s - self._renamed_s >= _MOVE_S

    def _open(self) -> None:
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 - kept open
        except FileNotFoundError:
            self._file = None


def coming(readers: Sequence[LogReader], clock: Clock) -> Iterator[tuple[int, str]]:
    """Lines of several files as they are appended, each with the place of its reader, for ever."""
    while True:
        idle = True
        for place, reader in enumerate(readers):
            fresh = reader.fresh()
            idle = idle and fresh is None
            yield from ((place, line) for line in fresh or ())
        if idle:
            clock.sleep(_PAUSE_S)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _seconds(text: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
