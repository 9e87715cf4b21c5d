"""
Whether the file of an embedded store can be trusted, and making a new one.

What a start checks, so that it costs the same for 10 KB and 10 GB: the version of the library, the
header and size of the file, that its log file holds all that it did, whose database it is, its
schema, and the tables of counters (``quick_check`` of each). Whoever opens it first on this node
also checks a file of at most ``WHOLE_CHECK_BYTES`` as a whole.

Rule: what is damaged is refused and not touched.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import apsw

from pbus.errors import BootError, Exit
from pbus.storage.sqlite_migrate import APPLICATION_ID, OLDEST, VERSION, add_columns, make, migrate

OLDEST_LIBRARY: Final = (3, 51, 3)
WHOLE_CHECK_BYTES: Final = 32 * 1024 * 1024
_COUNTER_TABLES: Final = ("queues", "topics", "boots", "owners", "claims")


def refuse_old_library(version: str) -> None:
    """
    Raises:
        BootError: SQLite of that *version* damages files under this very load.
    """
    if tuple(int(part) for part in version.split(".")) < OLDEST_LIBRARY:
        wanted = ".".join(str(part) for part in OLDEST_LIBRARY)
        raise BootError(
            f"SQLite {version} can damage a file that several processes write (WAL reset, "
            f"fixed in {wanted}): install a current apsw (pip install -U apsw)",
            Exit.CONFIG,
        )


def make_private(path: Path) -> None:
    """A new file is readable by nobody else, and so are the files that SQLite puts beside it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def refuse_cut_off(path: Path) -> None:
    """
    A file shorter than its own header says (unless its log file still holds the rest).

    Only while no connection of this process has it open: closing any descriptor of a file drops all
    of the process' POSIX locks on it, SQLite's too.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as stream:
        header = stream.read(100)
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        return
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    told = int.from_bytes(header[28:32], "big") * page_bytes
    if header.startswith(b"SQLite format 3\0") and path.stat().st_size < told:
        raise apsw.CorruptError(f"{path.stat().st_size} of {told} bytes are there")


def make_or_trust(db: apsw.Connection, path: Path, first: bool) -> None:
    """Create the schema in an empty file; judge one that is not."""
    if not db.execute("SELECT count(*) FROM sqlite_schema").get:
        make(db)
        return
    if db.pragma("application_id") != APPLICATION_ID:
        raise BootError(f"{path} is the database of another program: give [storage] another url", Exit.CONFIG)
    version = db.pragma("user_version")
    if not OLDEST <= version <= VERSION:
        raise BootError(f"{path} has format {version}; this pbus reads {OLDEST} to {VERSION}: use the pbus that "
                        "wrote it", Exit.CONFIG)
    if version < VERSION and not first:
        raise BootError(f"{path} has format {version} and an older pbus has it open: stop that first", Exit.TEMPORARY)
    _refuse_damaged(db, path, first)
    if version < VERSION:
        migrate(db)
    add_columns(db)


def _refuse_damaged(db: apsw.Connection, path: Path, first: bool) -> None:
    if first and path.stat().st_size <= WHOLE_CHECK_BYTES:
        found = [db.pragma("quick_check", 1)]
    else:
        found = [db.execute(f"PRAGMA quick_check({table})").get for table in _COUNTER_TABLES]
    for text in found:
        if text != "ok":
            raise apsw.CorruptError(str(text))


class LogWitness:
    """
    How many pages the log file had, by who had it open last: the shared memory file is still there
    when all of them were killed.

    SQLite takes a log file up to the first page that is not whole, and forgets the rest. After a loss
    of power that is right; while the machine was up it means that somebody damaged the file, and that
    pushes answered with OK are in the rest.

    Layout: https://www.sqlite.org/walformat.html, sections 2.1 (shared memory) and 1.1 (log file).
    """

    _HEADER_BYTES: Final = 48
    _READ_BYTES: Final = 136

    def __init__(self, path: Path) -> None:
        """Before anything opens the file: SQLite makes the shared memory anew."""
        self._path = path
        self._memory_path = path.with_name(path.name + "-shm")
        self._memory = _start_of(self._memory_path, self._READ_BYTES)
        self._log = _start_of(path.with_name(path.name + "-wal"), 32)
        # A file that was taken away took its log along: SQLite removes what is left of it.
        self.pages = self._pages() if path.exists() and path.stat().st_size else 0

    def compare(self, db: apsw.Connection) -> None:
        """
        Raises:
            CorruptError: the log file that SQLite found is shorter.
        """
        if self.pages:
            found, _ = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            if found < self.pages:
                self._fail(f"of {self.pages} pages of its log file {self._path.name}-wal {max(0, found)} are whole")

    def restore(self) -> None:
        """The file was refused: the next start must know what this one did."""
        if self._memory:
            with self._memory_path.open("r+b") as stream:
                stream.write(self._memory)

    def _pages(self) -> int:
        """0: nobody knows, or there were none."""
        header, second = self._memory[:self._HEADER_BYTES], self._memory[self._HEADER_BYTES:2 * self._HEADER_BYTES]
        if len(self._memory) < self._READ_BYTES or header != second or not header[12]:
            return 0
        pages = int.from_bytes(header[16:20], sys.byteorder)
        copied = int.from_bytes(self._memory[96:100], sys.byteorder)
        if pages > copied and (self._log[:3] != b"\x37\x7f\x06" or self._log[16:24] != header[32:40]):
            self._fail(f"its log file {self._path.name}-wal had {pages} pages and is gone, or its beginning is damaged")
        return pages

    def _fail(self, what: str) -> NoReturn:
        raise apsw.CorruptError(f"{what}. To go on without what is missing remove {self._memory_path.name}")


def _start_of(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except FileNotFoundError:
        return b""
