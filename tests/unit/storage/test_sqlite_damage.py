"""An embedded store whose file was damaged: a start refuses it and touches nothing, a running one uses the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog.testing

from pbus.core.job import Push
from pbus.errors import BootError, Exit, Unavailable
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite import SqliteDriver

OWNER = "n1/b1/1.1"
GIFT = QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 1 << 30)
ORDER = QueueSpec("order", (TopicSpec("ship"),), 3600.0, 1 << 30)
PUSHES = 40


def driver(path: Path) -> SqliteDriver:
    return SqliteDriver(StoreTarget("main", f"sqlite:{path}", "", 5.0, "n1"))


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A file whose only process was killed: 40 pushes, nearly all of them in the log file."""
    path = tmp_path / "pbus.db"
    pid = os.fork()
    if pid == 0:
        try:
            store = driver(path)
            store.open()
            store.declare([GIFT])
            store.checkpoint()
            for batch in range(1, PUSHES + 1):
                store.append(OWNER, batch, [Push("gift", b"%d" % batch * 1000)])
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteDriver]:
    made = driver(tmp_path / "pbus.db")
    made.open()
    made.declare([GIFT, ORDER])
    yield made
    made.close()


def beside(path: Path, what: str) -> Path:
    return path.with_name(path.name + what)


def refused(path: Path) -> BootError:
    with pytest.raises(BootError) as caught:
        driver(path).open()
    assert caught.value.exit_status == Exit.CONFIG
    return caught.value


def opened(path: Path) -> int:
    """How many jobs a start finds."""
    store = driver(path)
    store.open()
    store.declare([GIFT])
    count = len(store.claim([Want(OWNER, "gift", "credit", 100)]))
    store.close()
    return count


def damage(path: Path, at: int, size: int = 64) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"\xaa" * size)


def test_killed_store_opens_with_everything(killed: Path) -> None:
    assert opened(killed) == PUSHES


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_damage_in_the_middle_of_the_log_file_is_refused_again_and_again(killed: Path, share: float) -> None:
    wal = beside(killed, "-wal")
    damage(wal, int(wal.stat().st_size * share))
    before = {each.name: each.read_bytes() for each in (killed, wal)}

    for _ in range(3):
        error = refused(killed)

    assert "pages of its log file pbus.db-wal" in str(error)
    assert ".recover" in str(error)
    assert before == {each.name: each.read_bytes() for each in (killed, wal)}


@pytest.mark.parametrize(
    "spoil", [lambda wal: damage(wal, 0, 32), lambda wal: wal.unlink(), lambda wal: os.truncate(wal, 9)],
    ids=["overwritten", "removed", "cut off"],
)
def test_log_file_without_its_beginning_is_refused(killed: Path, spoil: Callable[[Path], None]) -> None:
    spoil(beside(killed, "-wal"))

    assert "pages and is gone, or its beginning is damaged" in str(refused(killed))
    assert "pbus.db-shm" in str(refused(killed))


def test_who_accepts_the_loss_can_go_on(killed: Path) -> None:
    wal = beside(killed, "-wal")
    damage(wal, wal.stat().st_size // 2)
    refused(killed)

    beside(killed, "-shm").unlink()

    assert 0 < opened(killed) < PUSHES


def test_end_of_the_log_file_that_a_loss_of_power_cut_off_is_no_damage(killed: Path) -> None:
    beside(killed, ".node").write_text("n1\nanother life of the machine")
    os.truncate(beside(killed, "-wal"), beside(killed, "-wal").stat().st_size - 5000)

    assert 0 < opened(killed) < PUSHES


def test_copy_of_the_file_alone_is_no_damage(killed: Path, tmp_path: Path) -> None:
    store = driver(killed)
    store.open()
    store.close()
    shutil.copy(killed, tmp_path / "copy.db")

    assert opened(tmp_path / "copy.db") == PUSHES


def test_damaged_header_is_refused(killed: Path) -> None:
    assert opened(killed) == PUSHES
    damage(killed, 0, 100)

    assert ".recover" in str(refused(killed))


def test_damage_met_while_running_is_said_once_and_the_rest_goes_on(store: SqliteDriver, tmp_path: Path) -> None:
    store.append(OWNER, 1, [Push("gift", bytes(3000))] * 50)
    store.checkpoint()
    db = store._file._db
    assert db is not None
    root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'log_1'").get
    damage(tmp_path / "pbus.db", (root - 1) * db.pragma("page_size"), 300)
    db.pragma("shrink_memory")  # what it read before it has forgotten

    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            with pytest.raises(Unavailable, match="damaged"):
                store.claim([Want(OWNER, "gift", "credit", 100)])
    store.append(OWNER, 2, [Push("order", b"x")])
    (got,) = store.claim([Want(OWNER, "gift", "credit", 100), Want(OWNER, "order", "ship", 100)])

    assert got.body == b"x"
    assert [(line["event"], line["log_level"]) for line in lines] == [("store.damaged", "critical")]
    assert ".recover" in lines[0]["what"]
