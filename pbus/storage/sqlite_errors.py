"""
What errors of SQLite and of the file system mean: who must act, and what to do.

Rule: the only place that turns a foreign exception of an embedded store into one of ours.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

import apsw

from pbus.clock import Clock, SystemClock
from pbus.errors import BootError, Exit, StorageError, StoreFull, Unavailable

_REPORT_EVERY_S: Final = 60.0

_DAMAGED = "it is damaged: stop pbus, copy the file, recover it with `sqlite3 FILE .recover`"


class Damaged(Unavailable):
    """A part of the file is damaged: what is in other parts can be done."""


class DamageReport:
    """Says once a minute, however often it is met, that a file is damaged that was whole when it was opened."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._silent_until_s = 0.0

    def look_at(self, error: apsw.Error) -> None:
        """Tell if *error* is damage; the file is used on: most of it may be whole."""
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            now_s = self._clock.monotonic_s()
            if now_s >= self._silent_until_s:
                self._silent_until_s = now_s + _REPORT_EVERY_S
                from pbus.telemetry import log  # a fifth of what a command imports, and it seldom meets damage

                log.get().critical("store.damaged", file=str(self._path), what=f"{_DAMAGED} ({error})")


def meaning(path: Path, error: apsw.Error, *, pushing: bool = False) -> StorageError:
    """What went wrong in the words of whoever must act; *pushing*: only that needed the room."""
    kind: type[Unavailable] = Unavailable
    match error:
        case apsw.FullError():
            kind = StoreFull if pushing else Unavailable
            what = "the disk is full: free space there, pushes go on by themselves"
        case apsw.BusyError() | apsw.LockedError():
            what = "another program (not pbus) keeps it locked: end that"
        case apsw.CorruptError() | apsw.NotADBError():
            kind = Damaged
            what = _DAMAGED
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.CantOpenError():
            what = "it cannot be written: look at the rights of the file and its directory"
        case apsw.IOError():
            what = "the disk fails"
        case _:
            what = "SQLite refuses"
    return kind(f"{path}: {what} ({error})")


def unopenable(path: Path, error: OSError) -> BootError | Unavailable:
    """An error of the file system while the file was opened: missing rights will not pass by themselves."""
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        where = error.filename or path.parent
        text = f"{where} cannot be written by this user: {error.strerror}; let it, or configure another place"
        return BootError(f"{text} (node.data_dir, or the storage's url)", Exit.NO_PERMISSION)
    return Unavailable(f"{path}: {error.strerror}")


def untrusted(path: Path, error: apsw.Error) -> BootError | StorageError:
    """An error of the first statements: damage and missing rights will not pass by themselves."""
    what = meaning(path, error)
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return BootError(f"{what}; or move it away to start with an empty store", Exit.CONFIG)
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.CantOpenError):
        return BootError(str(what), Exit.NO_PERMISSION)
    return what
