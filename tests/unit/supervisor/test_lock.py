"""Locks that die with their holders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.errors import BootError, Exit
from pbus.supervisor.lock import BootLocks, PidLock, holder


def test_second_master_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first = PidLock(str(tmp_path), FakeClock())
    first.take()
    assert holder(str(tmp_path)) == os.getpid()
    with pytest.raises(BootError, match=f"already running as pid {os.getpid()}") as refused:
        PidLock(str(tmp_path), FakeClock()).take()
    assert refused.value.exit_status == Exit.TEMPORARY
    first.give_back()
    assert holder(str(tmp_path)) == 0
    assert not Path(first.path).exists()


def test_text_of_the_pid_file_is_information_only(tmp_path: Path) -> None:
    (tmp_path / "pbus.pid").write_text("1\n")
    assert holder(str(tmp_path)) == 0
    lock = PidLock(str(tmp_path), FakeClock())
    lock.take()
    assert (tmp_path / "pbus.pid").read_text() == f"{os.getpid()}\n"
    lock.give_back()


def test_lock_on_a_file_that_its_last_holder_removed_is_not_taken_for_ours(tmp_path: Path) -> None:
    first = PidLock(str(tmp_path), FakeClock())
    first.take()
    waiting = os.open(first.path, os.O_RDWR)
    first.give_back()
    second = PidLock(str(tmp_path), FakeClock())
    second.fd = waiting
    assert not second._locked()
    os.close(waiting)


def test_boot_is_over_when_the_last_copy_of_its_lock_is_closed(tmp_path: Path) -> None:
    locks = BootLocks(str(tmp_path))
    boot, descriptor = locks.begin()
    inherited = os.dup(descriptor)
    own, own_descriptor = locks.begin()
    assert own != boot
    os.close(descriptor)
    assert locks.others(own) == ([], [boot])
    os.close(inherited)
    assert locks.others(own) == ([boot], [])
    locks.forget(boot)
    assert locks.others(own) == ([], [])
    os.close(own_descriptor)


def test_living_boot_names_its_holders(tmp_path: Path) -> None:
    locks = BootLocks(str(tmp_path))
    boot, descriptor = locks.begin()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0)
    try:
        os.close(descriptor)
        assert locks.holders(boot) == [pid]
        assert locks.others("") == ([], [boot])
    finally:
        os.write(write, b"x")
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    assert locks.others("") == ([boot], [])
