"""
The database file of an embedded store: opening and distrusting it, turns to write, what errors mean.

Rule: one connection per process, used by one thread at a time; every write, opening and closing
happens within a turn of the turnstile; nothing of apsw leaves this floor.

What a start checks, so that it costs the same for 10 KB and 10 GB: the version of the library, the
header and size of the file, whose database it is, its schema, and the tables of counters
(``quick_check`` of each). Whoever opens it first on this node also checks a file of at most
``WHOLE_CHECK_BYTES`` as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

import apsw

from pbus.clock import SystemClock
from pbus.errors import BootError, Exit, StorageError, Unavailable
from pbus.storage.sqlite_bell import Doorbell
from pbus.storage.sqlite_lock import FileLock, NodeLock, Turnstile

OLDEST_LIBRARY: Final = (3, 51, 3)
APPLICATION_ID: Final = 0x70627573      # "pbus"
SCHEMA_VERSION: Final = 1
WHOLE_CHECK_BYTES: Final = 32 * 1024 * 1024
_COUNTER_TABLES: Final = ("queues", "topics", "boots", "owners", "claims")
_STATEMENTS_CACHED: Final = 2000        # a handful per queue, hundreds of queues
_CACHE_KIB: Final = 4096
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
_WAL_LIMIT_PAGES: Final = 16_384


@dataclass(slots=True)
class Write:
    """One write transaction; ``rings`` are the queues (qid) that got jobs by it."""

    db: apsw.Connection
    rings: set[int] = field(default_factory=set)


class SqliteFile:
    """An open database. ``open`` and ``close`` belong to the thread that calls everything else."""

    def __init__(self, path: Path, node: str, timeout_s: float) -> None:
        self.path = path
        self._node = node
        self._timeout_s = timeout_s
        self._parts = contextlib.ExitStack()
        self._db: apsw.Connection | None = None
        self._turnstile: Turnstile | None = None
        self.doorbell: Doorbell | None = None
        self._inode = (0, 0)
        self._durable: bool | None = None
        self._wal_pages = 0

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
                raise _unopenable(self.path, error) from error
            except apsw.Error as error:
                raise _untrusted(self.path, error) from error
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
    def write(self, *, durable: bool, unsure: type[StorageError] = Unavailable) -> Iterator[Write]:
        """
        One write transaction in this process' turn; undone when the block raises.

        Args:
            durable: It is on the disk when the block has ended. Else it may be lost with the power
                (never in part, never out of order).
            unsure: Raised when the disk failed in the middle of the commit: a later start may find
                it executed.
        """
        with self._mapped():
            with self._held().turn():
                write = Write(self._connection())
                self._begin(write.db, durable)
                try:
                    yield write
                except BaseException:
                    _undo(write.db)
                    raise
                self._commit(write.db, unsure)
                if write.rings and self.doorbell:
                    self.doorbell.count(write.rings)
                if self._wal_pages > _WAL_LIMIT_PAGES:
                    # The scheduler, whose duty it is, is away or slow. Whatever goes wrong with it,
                    # this write is committed: the next one meets a failing disk by itself.
                    with contextlib.suppress(apsw.Error):
                        self._copy_back()
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

    def checkpoint(self) -> None:
        """
        Move committed pages from the log file into the database.

        Most of it beside the writers, the rest in a turn, so that the next writer starts the log
        file anew and nobody waits for the bulk of the copying.
        """
        with self._mapped():
            self._copy_back()
            with self._held().turn():
                self._copy_back()

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
            self._db = self._connect(first)
        parts.callback(self._disconnect)
        self.doorbell = Doorbell(self.path)
        parts.callback(self.doorbell.close)
        opening.close()

    def _connect(self, first: bool) -> apsw.Connection:
        if first:
            _refuse_cut_off(self.path)
        _make_private(self.path)
        db = apsw.Connection(str(self.path), statementcachesize=_STATEMENTS_CACHED)
        try:
            db.set_busy_timeout(int(self._timeout_s * 1000))
            db.pragma("journal_mode", "wal")
            db.pragma("wal_autocheckpoint", 0)
            db.set_wal_hook(self._note_wal)  # after that pragma, which takes any hook away
            db.pragma("journal_size_limit", _WAL_LIMIT_BYTES)
            db.pragma("cache_size", -_CACHE_KIB)
            db.pragma("temp_store", "memory")
            _make_or_trust(db, self.path, first)
            status = os.stat(self.path)
        except BaseException:
            db.close()
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
            _undo(db)
            raise unsure(f"{self.path}: {error}: the disk failed while it was written") from error
        except apsw.Error:
            _undo(db)
            raise

    def _copy_back(self) -> None:
        with contextlib.suppress(apsw.BusyError):  # another process copies at this moment
            self._connection().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._wal_pages = 0

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
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            raise _meaning(self.path, error) from error


def _undo(db: apsw.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _meaning(path: Path, error: apsw.Error) -> StorageError:
    """What went wrong in the words of whoever must act."""
    match error:
        case apsw.FullError():
            what = "the disk is full: free space there, pushes go on by themselves"
        case apsw.BusyError() | apsw.LockedError():
            what = "another program (not pbus) keeps it locked: end that"
        case apsw.CorruptError() | apsw.NotADBError():
            what = "it is damaged: stop pbus, copy the file, recover it with `sqlite3 FILE .recover`"
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.CantOpenError():
            what = "it cannot be written: look at the rights of the file and its directory"
        case apsw.IOError():
            what = "the disk fails"
        case _:
            what = "SQLite refuses"
    return Unavailable(f"{path}: {what} ({error})")


def _unopenable(path: Path, error: OSError) -> BootError | Unavailable:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        where = error.filename or path.parent
        text = f"{where} cannot be written by this user: {error.strerror}; let it, or configure another place"
        return BootError(f"{text} (node.data_dir, or the storage's url)", Exit.NO_PERMISSION)
    return Unavailable(f"{path}: {error.strerror}")


def _untrusted(path: Path, error: apsw.Error) -> BootError | StorageError:
    """An error of the first statements: damage and missing rights will not pass by themselves."""
    meaning = _meaning(path, error)
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return BootError(f"{meaning}; or move it away to start with an empty store", Exit.CONFIG)
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.CantOpenError):
        return BootError(str(meaning), Exit.NO_PERMISSION)
    return meaning


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


def _make_private(path: Path) -> None:
    """A new file is readable by nobody else, and so are the files that SQLite puts beside it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _refuse_cut_off(path: Path) -> None:
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


def _make_or_trust(db: apsw.Connection, path: Path, first: bool) -> None:
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
        _undo(db)
        raise
