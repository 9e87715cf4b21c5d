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
from importlib.resources import files
from pathlib import Path
from typing import Final

import apsw

from pbus.errors import BootError, Exit

OLDEST_LIBRARY: Final = (3, 51, 3)
APPLICATION_ID: Final = 0x70627573      # "pbus"
SCHEMA_VERSION: Final = 2
WHOLE_CHECK_BYTES: Final = 32 * 1024 * 1024
_COUNTER_TABLES: Final = ("queues", "topics", "boots", "owners", "claims", "keys")


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
        _make(db)
        return
    if db.pragma("application_id") != APPLICATION_ID:
        raise BootError(f"{path} is the database of another program: give [storage] another url", Exit.CONFIG)
    version = db.pragma("user_version")
    if version != SCHEMA_VERSION:
        raise BootError(f"{path} has format {version}; this pbus reads {SCHEMA_VERSION}: use the pbus that wrote it",
                        Exit.CONFIG)
    if first and path.stat().st_size <= WHOLE_CHECK_BYTES:
        found = [db.pragma("quick_check", 1)]
    else:
        found = [db.execute(f"PRAGMA quick_check({table})").get for table in _COUNTER_TABLES]
    for text in found:
        if text != "ok":
            raise apsw.CorruptError(str(text))


def _make(db: apsw.Connection) -> None:
    schema = files("pbus.storage").joinpath("sql/schema.sql").read_text("utf-8")
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(schema)
        db.pragma("application_id", APPLICATION_ID)
        db.pragma("user_version", SCHEMA_VERSION)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
