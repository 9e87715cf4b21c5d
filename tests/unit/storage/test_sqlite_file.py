"""The file of an embedded store: what it refuses to open, and what full, locked and lost disks mean."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pbus.core.job import Move, Push, Settlement
from pbus.errors import BootError, Conflict, Exit, MaybeStored, StoreFull, Unavailable
from pbus.storage import sqlite_file, sqlite_trust
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite import SqliteDriver
from pbus.storage.sqlite_trust import refuse_old_library

OWNER = "n1/b1/1.1"
GIFT = QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 1 << 30)


def driver(path: Path, *, node: str = "n1", timeout_s: float = 5.0) -> SqliteDriver:
    return SqliteDriver(StoreTarget("main", f"sqlite:{path}", "", timeout_s, node))


def push(store: SqliteDriver, batch: int, *bodies: bytes) -> list[str]:
    return [one.id for one in store.append(OWNER, batch, [Push("gift", body) for body in bodies])]


def bodies(store: SqliteDriver) -> list[bytes]:
    return [one.body for one in store.claim([Want(OWNER, "gift", "credit", 100)])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "pbus.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteDriver]:
    made = driver(path)
    made.open()
    made.declare([GIFT])
    yield made
    made.close()


def refused(path: Path, **how: str) -> BootError:
    """What a start says that must not succeed; it leaves nothing open and nothing locked."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BootError) as caught:
        driver(path, **how).open()
    assert len(os.listdir("/proc/self/fd")) == before
    return caught.value


def closed(path: Path, *pushed: bytes) -> None:
    """A healthy file that nobody has open."""
    made = driver(path)
    made.open()
    made.declare([GIFT])
    if pushed:
        push(made, 1, *pushed)
    made.close()


# --- opening ----------------------------------------------------------------------------------------


def test_what_is_made_is_made_for_its_owner_only(path: Path, store: SqliteDriver) -> None:
    push(store, 1, b"a")

    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {each.name for each in path.parent.iterdir() if each.stat().st_mode & 0o077} == set()


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0", "2.9.9"])
def test_library_that_damages_files_is_refused_with_what_to_do(version: str) -> None:
    with pytest.raises(BootError, match=r"3\.51\.3.*pip install") as caught:
        refuse_old_library(version)

    assert caught.value.exit_status == Exit.CONFIG


@pytest.mark.parametrize("version", ["3.51.3", "3.51.10", "3.100.0", "4.0.0"])
def test_current_library_is_taken(version: str) -> None:
    refuse_old_library(version)


def test_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"hello " * 1000)

    error = refused(path)

    assert error.exit_status == Exit.CONFIG
    assert str(path) in str(error)
    assert ".recover" in str(error)


def test_database_of_another_program_is_refused_and_not_touched(path: Path) -> None:
    path.parent.mkdir()
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE bookmarks (url)")
    other.close()

    error = refused(path)

    assert error.exit_status == Exit.CONFIG
    assert "another program" in str(error)
    other = apsw.Connection(str(path))
    assert other.execute("SELECT group_concat(name) FROM sqlite_schema").get == "bookmarks"
    other.close()


def test_format_of_another_version_is_refused(path: Path) -> None:
    closed(path)
    db = apsw.Connection(str(path))
    db.pragma("user_version", 99)
    db.close()

    assert "format 99" in str(refused(path))


def test_file_that_was_cut_off_is_refused(path: Path) -> None:
    closed(path, *[bytes(2000)] * 200)
    size = path.stat().st_size
    os.truncate(path, size - 40_960)

    error = refused(path)

    assert error.exit_status == Exit.CONFIG
    assert f"{size - 40_960} of {size} bytes" in str(error)


@pytest.mark.parametrize("whole_check_bytes", [1 << 30, 0])
def test_damaged_counters_are_found_in_small_and_in_large_files(
    path: Path, whole_check_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(path, b"a")
    monkeypatch.setattr(sqlite_trust, "WHOLE_CHECK_BYTES", whole_check_bytes)
    db = apsw.Connection(str(path))
    page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'topics'").get
    db.close()
    overwrite(path, page, b"\xff" * 2000)

    assert refused(path).exit_status == Exit.CONFIG


def test_damage_anywhere_in_a_small_file_is_found(path: Path) -> None:
    closed(path, *[bytes([n]) * 3000 for n in range(50)])
    db = apsw.Connection(str(path))
    page = db.execute("SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name LIKE 'log_%'").get
    db.close()
    overwrite(path, page, b"\xff" * 300)

    assert refused(path).exit_status == Exit.CONFIG


def test_empty_file_is_a_new_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()

    closed(path, b"a")


def test_second_node_is_refused_while_the_first_is_alive(path: Path, store: SqliteDriver) -> None:
    error = refused(path, node="n2")

    assert error.exit_status == Exit.TEMPORARY
    assert "'n1'" in str(error)
    assert push(store, 1, b"a")
    store.close()
    closed_by_other = driver(path, node="n2")
    closed_by_other.open()
    closed_by_other.close()


def test_other_processes_of_the_node_may_open(path: Path, store: SqliteDriver) -> None:
    second = driver(path)
    second.open()
    store.close()

    push(second, 1, b"a")
    assert bodies(second) == [b"a"]
    second.close()


def apart(act: Callable[[], None]) -> int:
    """Exit status of *act* in a process whose rights and limits end with it: that of its BootError, 0 without."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            act()
            status = 0
        except BootError as error:
            status = error.exit_status
        except BaseException:  # noqa: BLE001 - pytest's own failures too; the parent sees the status
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def opened_by_nobody(path: Path) -> int:
    """Exit status of a start by a user without rights."""

    def start() -> None:
        if os.geteuid() == 0:
            os.setgid(65_534)
            os.setuid(65_534)
        driver(path).open()

    return apart(start)


def reachable(folder: Path) -> None:
    """Let everybody pass through pytest's private folders."""
    for parent in [folder, *folder.parents]:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)


def test_directory_without_rights_is_said_to_be_so(path: Path, tmp_path: Path) -> None:
    reachable(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert opened_by_nobody(path) == Exit.NO_PERMISSION
    finally:
        tmp_path.chmod(0o755)


def test_file_without_rights_is_said_to_be_so(path: Path, tmp_path: Path) -> None:
    closed(path, b"a")
    reachable(tmp_path)
    path.parent.chmod(0o777)
    for each in path.parent.iterdir():
        if each.is_file():
            each.chmod(0o666)
    path.chmod(0o444)

    assert opened_by_nobody(path) == Exit.NO_PERMISSION


# --- full, locked, lost -----------------------------------------------------------------------------


def test_full_disk_refuses_pushes_and_goes_on_when_there_is_room(store: SqliteDriver) -> None:
    push(store, 1, b"a")
    db = store._file._db
    assert db is not None
    db.pragma("max_page_count", db.pragma("page_count"))

    with pytest.raises(StoreFull, match="full"):
        push(store, 2, bytes(1 << 20))

    db.pragma("max_page_count", 1 << 30)
    push(store, 2, b"b")
    assert bodies(store) == [b"a", b"b"]


def test_disk_that_fails_in_the_middle_of_a_commit_is_not_called_stored_nor_refused(path: Path) -> None:
    closed(path)

    def life() -> None:
        store = driver(path)
        store.open()
        store.declare([GIFT])
        push(store, 1, b"a")
        (claimed,) = store.claim([Want(OWNER, "gift", "credit", 1)])
        wal = path.with_name("pbus.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 10_000, resource.RLIM_INFINITY))
        with pytest.raises(MaybeStored):
            push(store, 2, bytes(1 << 20))
        ack = Settlement(owner=OWNER, queue="gift", topic="credit", id=claimed.id, move=Move.BURY, error="e" * 20_000)
        with pytest.raises(Unavailable, match="disk"):
            store.settle([ack])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert store.settle([ack]) == [True]
        assert push(store, 2, b"b")
        assert bodies(store) == [b"b"]

    assert apart(life) == 0


def test_disk_that_is_full_at_the_start_is_unavailable_and_opening_can_be_tried_again(path: Path) -> None:
    def life() -> None:
        store = driver(path)
        for room in (0, 4096, 10_000, 40_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(Unavailable):
                store.open()
            assert len(os.listdir("/proc/self/fd")) == before
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.open()
        store.declare([GIFT])
        push(store, 1, b"a")
        store.close()

    assert apart(life) == 0


def test_append_that_is_older_than_the_last_one_is_refused(store: SqliteDriver) -> None:
    push(store, 5, b"a")

    with pytest.raises(Conflict, match="not stored"):
        push(store, 4, b"b")
    assert bodies(store) == [b"a"]


def test_bell_for_a_queue_that_nobody_declared_is_refused(store: SqliteDriver) -> None:
    with pytest.raises(Unavailable, match="never declared"):
        store.bell("delivery.0", ["gift", "nowhere"])


def test_file_that_another_program_keeps_locked_is_unavailable_within_the_timeout(path: Path) -> None:
    closed(path)
    store = driver(path, timeout_s=0.1)
    store.open()
    store.declare([GIFT])
    admin = apsw.Connection(str(path))
    admin.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unavailable, match="locked"):
        push(store, 1, b"a")

    admin.execute("ROLLBACK")
    admin.close()
    push(store, 1, b"b")
    assert bodies(store) == [b"b"]
    store.close()


@pytest.mark.parametrize("swap", ["removed", "replaced"])
def test_file_that_is_taken_away_is_noticed_and_opened_anew(path: Path, store: SqliteDriver, swap: str) -> None:
    push(store, 1, b"a")
    path.rename(path.with_name("away"))
    if swap == "replaced":
        shutil.copy(path.with_name("away"), path)

    for call in (lambda: push(store, 2, b"b"), store.check, store.numbers, lambda: bodies(store)):
        with pytest.raises(Unavailable, match="removed or replaced"):
            call()

    store.open()
    store.declare([GIFT])
    push(store, 3, b"c")
    assert bodies(store)[-1] == b"c"


def test_call_before_open_and_after_close_is_unavailable(path: Path) -> None:
    store = driver(path)
    for call in (store.check, store.numbers, store.checkpoint, lambda: store.bell("x", [])):
        with pytest.raises(Unavailable):
            call()
    store.open()
    store.close()

    with pytest.raises(Unavailable):
        store.check()
    store.close()


# --- what is on the disk ----------------------------------------------------------------------------


def synchronous(store: SqliteDriver) -> int:
    db = store._file._db
    assert db is not None
    level: int = db.execute("PRAGMA synchronous", can_cache=False).get
    return level


def test_pushes_and_deaths_are_synced_and_the_rest_is_not(store: SqliteDriver) -> None:
    full, normal = 2, 1
    levels = []
    push(store, 1, b"a", b"b")
    levels.append(synchronous(store))
    first, second = store.claim([Want(OWNER, "gift", "credit", 2)])
    levels.append(synchronous(store))
    end = Settlement(owner=OWNER, queue="gift", topic="credit", id=first.id, move=Move.BURY)
    store.settle([end])
    levels.append(synchronous(store))
    store.settle([Settlement(owner=OWNER, queue="gift", topic="credit", id=second.id, move=Move.ACK)])
    levels.append(synchronous(store))

    assert levels == [full, normal, full, normal]


def test_log_file_stays_bounded_when_nobody_checkpoints(
    path: Path, store: SqliteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_WAL_LIMIT_BYTES", 1_000_000)
    for batch in range(1, 41):
        push(store, batch, bytes(100_000))

    assert path.with_name("pbus.db-wal").stat().st_size < 3_000_000


def test_checkpoint_moves_pages_into_the_file_and_the_log_starts_anew(path: Path, store: SqliteDriver) -> None:
    wal = path.with_name("pbus.db-wal")
    for batch in range(1, 11):
        push(store, batch, bytes(100_000))
        store.checkpoint()
    size = wal.stat().st_size
    assert path.stat().st_size > 1_000_000
    push(store, 11, bytes(100_000))

    assert wal.stat().st_size == size < 300_000


def test_checkpoint_tells_how_much_there_was_to_copy(store: SqliteDriver) -> None:
    store.checkpoint()
    push(store, 1, bytes(1_000_000))

    assert 1_000_000 < store.checkpoint() < 1_100_000
    push(store, 2, b"a")
    assert 0 < store.checkpoint() < 100_000


def test_a_write_that_is_stored_is_not_refused_because_somebody_else_checkpoints(
    path: Path, store: SqliteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_WAL_LIMIT_BYTES", 0)
    with checkpointing(path):
        ids = [push(store, batch, b"x") for batch in (1, 2)]
        store.checkpoint()

    assert len(ids) == 2
    assert bodies(store) == [b"x", b"x"]


@contextlib.contextmanager
def checkpointing(path: Path) -> Iterator[None]:
    """Another process holds the lock under which SQLite checkpoints (byte 121 of the shared memory file)."""
    code = f"""
import fcntl, sys
with open({str(path) + "-shm"!r}, "r+b") as shm:
    fcntl.lockf(shm, fcntl.LOCK_EX, 1, 121)
    print(flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline()
        yield
        process.stdin.close()


def test_last_close_leaves_one_whole_file(path: Path) -> None:
    closed(path, b"a")

    assert not path.with_name("pbus.db-wal").exists()
    alone = path.with_name("copy.db")
    shutil.copy(path, alone)
    store = driver(alone)
    store.open()
    assert bodies(store) == [b"a"]
    store.close()


def test_file_of_larger_pages_is_opened_and_keeps_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(sqlite_file, "_PAGE_BYTES", 4096)
        closed(path, b"a")

    store = driver(path)
    store.open()
    push(store, 2, b"b")

    assert bodies(store) == [b"a", b"b"]
    store.close()
    assert path.read_bytes()[16:18] == (4096).to_bytes(2, "big")


def overwrite(path: Path, page: int, data: bytes) -> None:
    """Damage the beginning of a page."""
    with path.open("r+b") as stream:
        stream.seek((page - 1) * sqlite_file._PAGE_BYTES)
        stream.write(data)
