"""
The database file of an embedded store: opening it, and turns to write.

Rule: one connection per process, used by one thread at a time; every write, opening and closing
happens within a turn of the turnstile; nothing of apsw leaves this floor. ``sqlite_trust`` judges what is opened.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw

from pbus.clock import SystemClock
from pbus.errors import StorageError, Unavailable
from pbus.storage.driver import Fill
from pbus.storage.sqlite_bell import Doorbell
from pbus.storage.sqlite_errors import DamageReport, meaning, unopenable, untrusted
from pbus.storage.sqlite_lock import FileLock, NodeLock, Turnstile
from pbus.storage.sqlite_space import Space
from pbus.storage.sqlite_trust import LogWitness, make_or_trust, make_private, refuse_cut_off, refuse_old_library

_STATEMENTS_CACHED: Final = 2000        # a handful per queue, hundreds of queues
_CACHE_KIB: Final = 4096
_WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
_WAL_LIMIT_BYTES: Final = 256 * 1024 * 1024
"""
More than is written until the scheduler looks (100 MB/s, 2 s): a writer that has to copy it in its turn keeps all the
others waiting, for 60 to 80 ms after 64 MiB.
"""
_PASSES: Final = 3
_SHORT_BYTES: Final = 1024 * 1024
_PAGE_BYTES: Final = 2048
"""
A write costs whole pages, most of them for a counter or two. Jobs of 200 bytes, pushed and run 32 at a time, write
7.4 times their bodies with these, 10.8 times with pages of 4 KiB (6.7 with 1 KiB, but a tenth more of the processor);
one at a time 97 and 168 times.
"""


@dataclass(slots=True)
class Write:
    """One write transaction; ``rings`` are the queues (qid) that got jobs by it."""

    db: apsw.Connection
    rings: set[int] = field(default_factory=set)


class SqliteFile:
    """An open database. ``open`` and ``close`` belong to the thread that calls everything else."""

    def __init__(self, path: Path, node: str, timeout_s: float, min_free_bytes: int = 0) -> None:
        self.path = path
        self.space = Space(path, min_free_bytes, self._free_inside)
        self._node = node
        self._timeout_s = timeout_s
        self._parts = contextlib.ExitStack()
        self._db: apsw.Connection | None = None
        self._turnstile: Turnstile | None = None
        self.doorbell: Doorbell | None = None
        self._inode = (0, 0)
        self._durable: bool | None = None
        self._wal_pages = 0
        self._page_bytes = _PAGE_BYTES
        self._damage = DamageReport(path)

    def open(self) -> None:
        """See ``driver.Driver.open``; a file that was removed or replaced meanwhile is opened anew."""
        if self._db is not None:
            if not self._is_replaced():
                return
            self.close()
        refuse_old_library(apsw.sqlite_lib_version())
        with contextlib.ExitStack() as parts:
            try:
                self._open(parts)
            except OSError as error:
                raise unopenable(self.path, error) from error
            except apsw.Error as error:
                raise untrusted(self.path, error) from error
            self._parts = parts.pop_all()

    def close(self) -> None:
        """Give everything back; idempotent, never raises."""
        if self._db is None:
            return
        with contextlib.ExitStack() as turn:
            # Without a turn it is closed all the same: the process ends.
            with contextlib.suppress(StorageError):
                turn.enter_context(self._held().turn())
            self._disconnect()
        self._parts.close()

    @contextlib.contextmanager
    def write(
        self, *, durable: bool, unsure: type[StorageError] = Unavailable, pushing: bool = False
    ) -> Iterator[Write]:
        """
        One write transaction in this process' turn; undone when the block raises.

        Args:
            durable: It is on the disk when the block has ended. Else it may be lost with the power
                (never in part, never out of order).
            unsure: Raised when the disk failed in the middle of the commit: a later start may find
                it executed.
            pushing: A full disk refuses pushes; the store is not away (``StoreFull``).
        """
        with self._mapped(pushing=pushing):
            with self._held().turn():
                write = Write(self._connection())
                self._begin(write.db, durable)
                try:
                    yield write
                    self._commit(write.db, unsure)
                except BaseException as error:
                    _undo(write.db)
                    if isinstance(error, apsw.FullError):
                        self._make_room()
                    raise
                if write.rings and self.doorbell:
                    self.doorbell.count(write.rings)
                if self._wal_pages * self._page_bytes > _WAL_LIMIT_BYTES:
                    # The scheduler, whose duty it is, is away or slow. Whatever goes wrong with it,
                    # this write is committed: the next one meets a failing disk by itself.
                    self._make_room()
            if write.rings and self.doorbell:
                self.doorbell.ring()

    @contextlib.contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """One read transaction: everything in the block is seen as of one moment. Waits for nobody."""
        with self._mapped():
            db = self._connection()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                _undo(db)

    def look(self, statement: str) -> Any:
        """The one row of a single reading statement."""
        with self._mapped():
            return self._connection().execute(statement).get

    def fill(self) -> Fill:
        """See ``driver.Driver.fill``."""
        try:
            with self.read():
                return self.space.fill()
        except OSError as error:
            raise Unavailable(f"{self.path}: {error.strerror}") from error

    def checkpoint(self) -> int:
        """
        Move committed pages from the log file into the database; see ``driver.Driver.checkpoint``.

        Most of it beside the writers, the rest in a turn, so that the next writer starts the log
        file anew and nobody waits for the bulk of the copying.
        """
        with self._mapped():
            before = self._copy_back()
            for _ in range(_PASSES):
                pages = self._copy_back()
                if abs(pages - before) * self._page_bytes < _SHORT_BYTES:
                    break
                before = pages  # writers were fast: what came meanwhile is not left for the turn
            with self._held().turn():
                return self._copy_back() * self._page_bytes

    def _open(self, parts: contextlib.ExitStack) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opening = FileLock(self.path.with_name(self.path.name + ".gate"))
        parts.callback(opening.close)
        if not opening.wait_exclusive(SystemClock(), self._timeout_s):
            raise Unavailable(f"{self.path}: another process is opening it for {self._timeout_s:g} s")
        node = NodeLock(self.path, self._node)
        parts.callback(node.close)
        first = node.take()
        self._turnstile = Turnstile(self.path, self._timeout_s, fresh=first)
        parts.callback(self._turnstile.close)
        with self._turnstile.turn():
            self._db = self._connect(first, node.machine_stayed_up)
        parts.callback(self._disconnect)
        self.doorbell = Doorbell(self.path)
        parts.callback(self.doorbell.close)
        opening.close()

    def _connect(self, first: bool, machine_stayed_up: bool) -> apsw.Connection:
        if first:
            refuse_cut_off(self.path)
        witness = LogWitness(self.path) if first and machine_stayed_up else None
        make_private(self.path)
        db = apsw.Connection(str(self.path), statementcachesize=_STATEMENTS_CACHED)
        try:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # what is refused is not touched
            db.set_busy_timeout(int(self._timeout_s * 1000))
            db.pragma("page_size", _PAGE_BYTES)  # of a new file; one that is there keeps its own
            db.pragma("journal_mode", "wal")
            db.pragma("wal_autocheckpoint", 0)
            db.set_wal_hook(self._note_wal)  # after that pragma, which takes any hook away
            db.pragma("journal_size_limit", _WAL_KEPT_BYTES)
            db.pragma("cache_size", -_CACHE_KIB)
            db.pragma("temp_store", "memory")
            # Plans do not depend on bound values: else a statement with a LEFT JOIN or a partial index
            # is compiled again at each call (9 us instead of 1.5).
            db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            if witness:
                witness.compare(db)
            make_or_trust(db, self.path, first)
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            self._page_bytes = db.pragma("page_size")
            status = os.stat(self.path)
        except BaseException:
            db.close()
            if witness:
                witness.restore()
            raise
        self._inode = (status.st_dev, status.st_ino)
        self._durable = None
        return db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(apsw.Error):
                db.close()

    def _begin(self, db: apsw.Connection, durable: bool) -> None:
        if durable is not self._durable:
            # Not cached: this pragma acts when it is prepared, not when it is run.
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}", can_cache=False)
            self._durable = durable
        db.execute("BEGIN IMMEDIATE")

    def _commit(self, db: apsw.Connection, unsure: type[StorageError]) -> None:
        try:
            db.execute("COMMIT")
        except apsw.IOError as error:
            raise unsure(f"{self.path}: {error}: the disk failed while it was written") from error

    def _copy_back(self) -> int:
        """How many pages the log file has; all those that were there when it was called are copied, as a rule."""
        self._wal_pages = pages = 0
        with contextlib.suppress(apsw.BusyError):  # another process copies at this moment
            pages, _ = self._connection().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return max(0, pages)

    def _make_room(self) -> None:
        """In a turn: after this the next write may begin the log file anew, which needs no room on the disk."""
        with contextlib.suppress(apsw.Error):
            self._copy_back()

    def _free_inside(self) -> int:
        db = self._connection()
        pages: int = db.pragma("freelist_count")
        return pages * self._page_bytes

    def _note_wal(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _connection(self) -> apsw.Connection:
        if self._db is None:
            raise Unavailable(f"{self.path} is not open")
        if self._is_replaced():
            # SQLite would go on writing to what nobody will find.
            raise Unavailable(f"{self.path} was removed or replaced while it was in use; it is opened anew")
        return self._db

    def _is_replaced(self) -> bool:
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._inode

    def _held(self) -> Turnstile:
        if self._turnstile is None:
            raise Unavailable(f"{self.path} is not open")
        return self._turnstile

    @contextlib.contextmanager
    def _mapped(self, *, pushing: bool = False) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            self._damage.look_at(error)
            raise meaning(self.path, error, pushing=pushing) from error


def _undo(db: apsw.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")
