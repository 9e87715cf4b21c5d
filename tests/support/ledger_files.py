"""
The ledger's files, one line an event, each complete or not there:

    folder/pushed/*            key, sent, replied, ok|err|unknown, id or error, options    (tabs)
    folder/ran/QUEUE.TOPIC     key attempt pid t0 t1 id ok|failed                          (blanks)
    folder/cancelled/*         key, topic or nothing, when, certain|unknown                (tabs)

Options are words such as ``ttl=500 key=k3 dedupe=d7``. Times are unix seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO

OK, ERR, UNKNOWN = "ok", "err", "unknown"


class _Lines:
    """Lines that are on the disk after ``sync``."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, *fields: str) -> None:
        self._file.write("\t".join(fields) + "\n")

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PushedFile(_Lines):
    """What one producer sent and heard. Lines reach the disk by ``sync``, called after each reply or batch."""

    def record(
        self, key: str, sent_s: float, replied_s: float, result: str, about: str = "", options: str = ""
    ) -> None:
        """One push: *about* is the job's id where the reply tells it, or the error."""
        self.write(key, f"{sent_s:.6f}", f"{replied_s:.6f}", result, " ".join(about.split()), options)


class CancelledFile(_Lines):
    """What was cancelled, by key."""

    def record(self, key: str, topic: str, at_s: float, *, certain: bool) -> None:
        """*topic* empty: of every topic. *certain*: the reply said that it was; else it may be, or may have run."""
        self.write(key, topic, f"{at_s:.6f}", "certain" if certain else UNKNOWN)
        self.sync()


@dataclass(frozen=True, slots=True)
class Pushed:
    """One push as its producer saw it."""

    key: str
    sent_s: float
    replied_s: float
    result: str
    about: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt as its handler saw it."""

    key: str
    attempt: int
    pid: int
    start_s: float
    end_s: float
    id: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """One cancel as whoever asked for it heard."""

    key: str
    topic: str
    at_s: float
    certain: bool


def read_pushed(path: Path) -> Iterator[Pushed]:
    """Pushes of one producer; a file of five columns knows no options."""
    for line in whole_lines(path):
        key, sent, replied, result, about, *options = line.split("\t")
        words = dict(word.split("=", 1) for word in options[0].split()) if options else {}
        yield Pushed(key, float(sent), float(replied), result, about, words)


def read_runs(path: Path) -> Iterator[Run]:
    """Attempts of one topic, in the order of the file."""
    for line in whole_lines(path):
        key, attempt, pid, start, end, job_id, result = line.split(" ")
        yield Run(key, int(attempt), int(pid), float(start), float(end), job_id, result == OK)


def read_cancelled(path: Path) -> Iterator[Cancelled]:
    """Cancels of one file."""
    for line in whole_lines(path):
        key, topic, at, certain = line.split("\t")
        yield Cancelled(key, topic, float(at), certain == "certain")


def whole_lines(path: Path) -> list[str]:
    """The complete lines of a file that somebody may be writing; none when it is not there."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    return text[: text.rfind("\n") + 1].splitlines()
