"""
Traces beside an embedded store: a file of its own, ``PATH.traces``.

Of its own, since its writes are worth nothing compared with a push: no turn at the turnstile, no fsync but at its
checkpoints (a lost power loses the last seconds, never the file), and when it is damaged it is thrown away.

Rows are numbered by the second in which they are written: what is too old is one range at the beginning of a table.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from pbus.clock import Clock, SystemClock
from pbus.core.trace import Shelf
from pbus.errors import StorageError, Unavailable
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite_errors import meaning
from pbus.storage.sqlite_lock import FileLock
from pbus.storage.sqlite_trust import make_private
from pbus.storage.traces import BLOCK_COST, REFUSAL_BYTES, REFUSALS, Block, Put, TraceLimits, check_span

FORMAT: Final = 1
_CACHE_KIB: Final = 1024
_WAL_PAGES: Final = 1_000
_WAL_LIMIT_BYTES: Final = 8 * 1024 * 1024
_TRIM_LIMIT: Final = 5_000
_AHEAD_S: Final = 600.0
_NUMBER_BITS: Final = 20
"""Rows are numbered by second << these bits; a full second goes on in the next one's numbers."""
_BUSY_PART: Final = 0.2
"""Of the storage's call_timeout: so long a writer waits for another one."""

_TABLES: Final = {Shelf.RECENT: "recent", Shelf.KEPT: "kept", Shelf.INDEX: "marks"}
_SCHEMA: Final = "".join(
    f"CREATE TABLE {table} "
    "(at INTEGER PRIMARY KEY, queue TEXT NOT NULL, second INTEGER NOT NULL, data BLOB NOT NULL) STRICT;"
    f"CREATE INDEX {table}_by_job ON {table} (queue, second);"
    for table in _TABLES.values()
) + (
    "CREATE TABLE refused (at INTEGER PRIMARY KEY, queue TEXT NOT NULL, data BLOB NOT NULL) STRICT;"
    "CREATE INDEX refused_by_queue ON refused (queue, at);"
    "CREATE TABLE used (shelf INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;"
    f"INSERT INTO used SELECT value, 0 FROM json_each('{[int(shelf) for shelf in _TABLES]}');"
    f"PRAGMA user_version = {FORMAT};"
)


class SqliteTraces:
    """``traces.Traces`` on a file; made and used in the process and thread that opens it."""

    blocking = True
    writers = 0                                       # one node has the file, and knows how many it plans

    def __init__(self, target: StoreTarget, limits: TraceLimits, clock: Clock | None = None) -> None:
        path = Path(target.url.removeprefix("sqlite:"))
        self.path = path.with_name(path.name + ".traces")
        self._limits = limits
        self._caps = limits.caps()
        self._timeout_s = target.call_timeout_s
        self._min_free_bytes = target.min_free_bytes
        self._high_water = target.high_water
        self._clock = clock or SystemClock()
        self._db: apsw.Connection | None = None
        self._inode = (0, 0)

    def open(self) -> None:
        """See ``Traces.open``; a file that is damaged or of another format is replaced by an empty one."""
        if self._db is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._alone():
                try:
                    self._connect()
                except (apsw.CorruptError, apsw.NotADBError, _OtherFormat):
                    self._remove()
                    self._connect()
        except OSError as error:
            raise Unavailable(f"{self.path}: {error.strerror}") from error
        except apsw.Error as error:
            raise meaning(self.path, error) from error

    def close(self) -> None:
        """See ``Traces.close``."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(apsw.Error):
                db.close()

    def put(self, blocks: Sequence[Block], refusals: Sequence[tuple[str, bytes]] = ()) -> Put:
        """See ``Traces.put``; one transaction. Nothing is stored on a disk that the store needs for pushes."""
        if self._is_disk_short():
            return Put(0, len(blocks))
        stored = 0
        with self._write() as db:
            used = _used(db)
            for shelf, table in _TABLES.items():
                rows: list[tuple[str, int, bytes]] = []
                for block in blocks:
                    size = len(block.data) + BLOCK_COST
                    if block.shelf is shelf and used[shelf] + size <= self._caps[shelf]:
                        used[shelf] += size
                        rows.append((block.queue, block.second, block.data))
                if rows:
                    self._insert(db, table, rows)
                    db.execute("UPDATE used SET bytes = ? WHERE shelf = ?", (used[shelf], shelf))
                    stored += len(rows)
            if refusals:
                self._refuse(db, refusals)
        return Put(stored, len(blocks) - stored)

    def blocks(self, queue: str, shelf: Shelf, first_s: int, last_s: int) -> list[Block]:
        """See ``Traces.blocks``."""
        check_span(first_s, last_s)
        where = "queue = ? AND second BETWEEN ? AND ? ORDER BY second, at"
        rows = self._read(f"SELECT second, data FROM {_TABLES[shelf]} WHERE {where}", (queue, first_s, last_s))
        return [Block(queue, shelf, second, data) for second, data in rows]

    def refusals(self, queue: str, limit: int = 100) -> list[bytes]:
        """See ``Traces.refusals``."""
        rows = self._read("SELECT data FROM refused WHERE queue = ? ORDER BY at DESC LIMIT ?", (queue, max(0, limit)))
        return [data for (data,) in rows]

    def used(self) -> dict[Shelf, int]:
        """See ``Traces.used``."""
        return {Shelf(shelf): size for shelf, size in self._read("SELECT shelf, bytes FROM used ORDER BY shelf", ())}

    def trim(self) -> None:
        """See ``Traces.trim``; a transaction a table and 5,000 blocks, so that writers come in between."""
        for shelf, table in _TABLES.items():
            while self._trim(shelf, table) == _TRIM_LIMIT:
                pass
        with self._write() as db:
            db.execute("DELETE FROM refused WHERE at < ? OR at > ?", self._outside(self._limits.keep_failed_s))

    def _trim(self, shelf: Shelf, table: str) -> int:
        with self._write() as db:
            look = f"SELECT at, length(data) FROM {table} WHERE at < ? OR at > ? LIMIT {_TRIM_LIMIT}"
            rows: list[Any] = db.execute(look, self._outside(self._limits.keep_of(shelf))).fetchall()
            if rows:
                size = sum([BLOCK_COST + length for _, length in rows])
                db.executemany(f"DELETE FROM {table} WHERE at = ?", [(at,) for at, _ in rows])
                db.execute("UPDATE used SET bytes = max(0, bytes - ?) WHERE shelf = ?", (size, shelf))
        return len(rows)

    def _outside(self, keep_s: float) -> tuple[int, int]:
        """What is too old, and what was written by a clock that was far ahead: it would stay for as long."""
        return self._number(keep_s), self._number(-_AHEAD_S)

    def _insert(self, db: apsw.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        first: Any = db.execute(f"SELECT max(?, coalesce(max(at) + 1, 0)) FROM {table}", (self._number(0.0),)).get
        places = ", ?" * len(rows[0])
        numbered = ((first + place, *row) for place, row in enumerate(rows))
        db.executemany(f"INSERT INTO {table} VALUES (?{places})", numbered)

    def _refuse(self, db: apsw.Connection, refusals: Sequence[tuple[str, bytes]]) -> None:
        self._insert(db, "refused", [(queue, data[:REFUSAL_BYTES]) for queue, data in refusals])
        for queue in {queue for queue, _ in refusals}:
            db.execute(
                "DELETE FROM refused WHERE queue = ?1 AND at <= (SELECT at FROM refused WHERE queue = ?1 "
                "ORDER BY at DESC LIMIT 1 OFFSET ?2)", (queue, REFUSALS),
            )

    def _is_disk_short(self) -> bool:
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return False  # what is wrong is told by who writes
        is_high = disk.f_blocks > 0 and 1.0 - disk.f_bavail / disk.f_blocks >= self._high_water
        return is_high or disk.f_bavail * disk.f_frsize < self._min_free_bytes

    def _number(self, age_s: float) -> int:
        """The least number of a row that is written *age_s* ago or later."""
        return int(self._clock.wall_s() - age_s) << _NUMBER_BITS

    def _connect(self) -> None:
        make_private(self.path)
        db = apsw.Connection(str(self.path))
        try:
            db.set_busy_timeout(int(self._timeout_s * _BUSY_PART * 1000))
            db.pragma("journal_mode", "wal")
            db.pragma("synchronous", "normal")
            db.pragma("wal_autocheckpoint", _WAL_PAGES)
            db.pragma("journal_size_limit", _WAL_LIMIT_BYTES)
            db.pragma("cache_size", -_CACHE_KIB)
            found = db.pragma("user_version")
            if found == 0:
                db.execute(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")
            elif found != FORMAT:
                raise _OtherFormat
            _used(db)
            status = os.stat(self.path)
        except BaseException:
            db.close()
            raise
        self._inode = (status.st_dev, status.st_ino)
        self._db = db

    def _remove(self) -> None:
        """With its log first: one that is older than its file would be read into it."""
        for ending in ("-wal", "-shm", ""):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.path.with_name(self.path.name + ".gate"))
        try:
            if not lock.wait_exclusive(self._clock, self._timeout_s):
                raise Unavailable(f"{self.path}: another process is opening it for {self._timeout_s:g} s")
            yield
        finally:
            lock.close()

    @contextlib.contextmanager
    def _write(self) -> Iterator[apsw.Connection]:
        with self._mapped() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _read(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._mapped() as db:
            return db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[apsw.Connection]:
        """The connection; after damage the file is thrown away, and the next call has a new one."""
        if self._db is not None and self._is_replaced():
            self.close()
        self.open()
        if self._db is None:
            raise Unavailable(f"{self.path} is not open")
        try:
            yield self._db
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self._throw_away()
            what = "it was damaged: the traces in it are gone, a new file begins"
            raise Unavailable(f"{self.path}: {what} ({error})") from error
        except apsw.Error as error:
            raise meaning(self.path, error) from error

    def _throw_away(self) -> None:
        self.close()
        with contextlib.suppress(OSError, StorageError), self._alone():
            if not self._is_replaced():
                self._remove()

    def _is_replaced(self) -> bool:
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._inode


class _OtherFormat(Exception):
    """Written by another version."""


def _used(db: apsw.Connection) -> dict[Shelf, int]:
    return {Shelf(shelf): size for shelf, size in db.execute("SELECT shelf, bytes FROM used")}
