"""Room for an embedded store: pushes stop below min_free and go on above it, everything else always goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.core.job import Move, Push, Settlement
from pbus.errors import StoreFull
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite import SqliteDriver
from pbus.storage.sqlite_space import Space

OWNER = "n1/b1/1.1"
MIB = 1 << 20


class Disk:
    """A directory as statvfs shows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 1000 * MIB
        self.looks = 0
        monkeypatch.setattr(os, "statvfs", self._statvfs)

    def _statvfs(self, _: object) -> os.statvfs_result:
        self.looks += 1
        blocks, free = 1000 * MIB // 4096, self.free // 4096
        return os.statvfs_result((4096, 4096, blocks, free, free, 0, 0, 0, 0, 255))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteDriver]:
    made = SqliteDriver(StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1", min_free_bytes=64 * MIB))
    made.open()
    made.declare([QueueSpec("gift", (TopicSpec("credit"),), 0.0, 0)])
    yield made
    made.close()


def test_pushes_stop_below_min_free_and_nothing_else_does(store: SqliteDriver, disk: Disk) -> None:
    store.append(OWNER, 1, [Push("gift", b"a"), Push("gift", b"b")])
    store._file.space._look_at_s = 0.0
    disk.free = 63 * MIB

    with pytest.raises(StoreFull, match="min_free"):
        store.append(OWNER, 2, [Push("gift", b"c")])

    store.check()
    first, second = store.claim([Want(OWNER, "gift", "credit", 2)])
    ends = [(first, Move.RETRY), (second, Move.BURY)]
    assert store.settle([
        Settlement(owner=OWNER, queue="gift", topic="credit", id=one.id, move=move) for one, move in ends
    ]) == [True, True]
    assert store.promote_due().moved
    assert store.queue_numbers()["gift"].pushed_total == 2
    disk.free = 65 * MIB
    assert store.append(OWNER, 2, [Push("gift", b"c")])[0].id


def test_repeated_push_is_answered_however_full_the_disk_is(store: SqliteDriver, disk: Disk) -> None:
    first = store.append(OWNER, 1, [Push("gift", b"a")])
    disk.free = 0
    store._file.space._look_at_s = 0.0

    assert list(store.append(OWNER, 1, [Push("gift", b"a")])) == list(first)


def test_disk_is_looked_at_ten_times_a_second_at_most(disk: Disk, tmp_path: Path) -> None:
    clock = FakeClock()
    space = Space(tmp_path / "x", 64 * MIB, lambda: 0, clock)
    for _ in range(1000):
        space.need(100)
        clock.advance(0.001)

    assert disk.looks <= 11


def test_what_is_pushed_between_two_looks_is_counted(disk: Disk, tmp_path: Path) -> None:
    disk.free = 74 * MIB
    space = Space(tmp_path / "x", 64 * MIB, lambda: 0, FakeClock())

    for _ in range(4):
        space.need(MIB)
    disk.free = 66 * MIB
    space.need(MIB)
    disk.free = 64 * MIB
    with pytest.raises(StoreFull):
        space.need(MIB)


def test_pages_that_are_free_inside_the_file_count_but_not_alone(disk: Disk, tmp_path: Path) -> None:
    disk.free = 20 * MIB
    Space(tmp_path / "x", 64 * MIB, lambda: 60 * MIB, FakeClock()).need(1)
    disk.free = 15 * MIB

    with pytest.raises(StoreFull):
        Space(tmp_path / "x", 64 * MIB, lambda: 600 * MIB, FakeClock()).need(1)


def test_min_free_of_nothing_looks_at_nothing(disk: Disk, tmp_path: Path) -> None:
    disk.free = 0
    Space(tmp_path / "x", 0, lambda: 0, FakeClock()).need(1 << 40)

    assert not disk.looks


def test_drained_file_is_as_empty_as_it_was(store: SqliteDriver, disk: Disk) -> None:
    before = store.fill()
    store.append(OWNER, 1, [Push("gift", bytes(MIB))] * 10)
    store.checkpoint()
    for one in store.claim([Want(OWNER, "gift", "credit", 100)]) + store.claim([Want(OWNER, "gift", "credit", 100)]) \
            + store.claim([Want(OWNER, "gift", "credit", 100)]):
        store.settle([Settlement(owner=OWNER, queue="gift", topic="credit", id=one.id, move=Move.ACK)])
    while store.trim():
        pass
    after = store.fill()

    assert before.share == 0.0
    assert after.free_bytes is not None
    assert before.free_bytes is not None
    assert after.free_bytes > before.free_bytes + 9 * MIB  # inside the file; this disk never changes
