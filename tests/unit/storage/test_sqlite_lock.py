"""Turns to write and whose file it is, between real processes that die and freeze."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pbus.clock import SystemClock
from pbus.errors import BootError, Exit, Unavailable
from pbus.storage.sqlite_lock import FileLock, NodeLock, Turnstile
from tests.support.waiting import until


@contextlib.contextmanager
def child(life: Callable[[int], object]) -> Iterator[int]:
    """A process that runs *life* with a descriptor to write to when it is where it should be; killed at the end."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            life(told)
        finally:
            os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGCONT)
            os.waitpid(pid, 0)


def holding(path: Path) -> Callable[[int], object]:
    """A life that takes a turn and keeps it."""

    def life(told: int) -> None:
        with Turnstile(path, 5.0, fresh=False).turn():
            os.write(told, b"!")
            signal.pause()

    return life


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pbus.db"


@pytest.fixture
def turnstile(path: Path) -> Iterator[Turnstile]:
    made = Turnstile(path, 0.2, fresh=True)
    yield made
    made.close()


def test_turn_follows_turn(turnstile: Turnstile) -> None:
    for _ in range(3):
        with turnstile.turn():
            pass


def test_turn_that_somebody_keeps_is_unavailable_after_the_timeout(path: Path, turnstile: Turnstile) -> None:
    with child(holding(path)):
        began = time.monotonic()
        with pytest.raises(Unavailable, match="write lock"), turnstile.turn():
            pass
        assert time.monotonic() - began > 0.15


def test_turn_of_a_stopped_process_is_unavailable_and_comes_back(path: Path, turnstile: Turnstile) -> None:
    with child(holding(path)) as pid:
        os.kill(pid, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(Unavailable), turnstile.turn():
                pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    with turnstile.turn():
        pass


def test_killed_holder_leaves_the_turn_to_the_next(path: Path, turnstile: Turnstile) -> None:
    for _ in range(3):
        with child(holding(path)) as pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        with turnstile.turn():
            pass


def test_process_stopped_at_the_gate_blocks_nobody_for_ever(path: Path, turnstile: Turnstile) -> None:
    def queueing(told: int) -> None:
        os.write(told, b"!")
        with Turnstile(path, 60.0, fresh=False).turn():
            pass

    with child(holding(path)) as holder, child(queueing) as waiting:
        until(lambda: sleeps(waiting), 5.0, "it waits for its turn")
        os.kill(waiting, signal.SIGSTOP)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with pytest.raises(Unavailable), turnstile.turn():  # whose own 0.2 s end it, not the 60 s of the stopped one
            pass

    with turnstile.turn():
        pass


def test_turns_exclude_each_other(path: Path, turnstile: Turnstile, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    counter.write_text("0")

    def adding(told: int) -> None:
        mine = Turnstile(path, 10.0, fresh=False)
        os.write(told, b"!")
        for _ in range(300):
            with mine.turn():
                counter.write_text(str(int(counter.read_text()) + 1))
        counter.with_suffix(f".{os.getpid()}").write_text("done")

    with child(adding), child(adding), child(adding):
        until(lambda: len(list(tmp_path.glob("count.*"))) == 3, 15.0, "all have added")

    assert counter.read_text() == "900"


def test_writer_that_comes_back_at_once_does_not_starve_another(path: Path, turnstile: Turnstile) -> None:
    turns = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")  # of the others; written by whose turn it is

    def greedy(told: int) -> None:
        mine = Turnstile(path, 15.0, fresh=False)
        os.write(told, b"!")
        while True:
            with mine.turn():
                turns[0] += 1
                SystemClock().sleep(0.001)

    patient = Turnstile(path, 15.0, fresh=False)
    waited = []
    with child(greedy), child(greedy):
        until(lambda: turns[0] > 10, 10.0, "they take turns")
        for _ in range(50):
            before = turns[0]
            with patient.turn():
                waited.append(turns[0] - before)
                SystemClock().sleep(0.001)
    patient.close()
    print(f"turns of the others before ours: {sorted(waited)}")
    assert statistics.median(waited) < 10


def test_closed_turnstile_gives_no_turn(turnstile: Turnstile) -> None:
    turnstile.close()
    turnstile.close()

    with pytest.raises(Unavailable, match="closed"), turnstile.turn():
        pass


def test_processes_of_one_node_share_the_file(path: Path) -> None:
    first, second = NodeLock(path, "n1"), NodeLock(path, "n1")

    assert (first.take(), second.take()) == (True, False)
    first.close()
    second.close()


def test_another_node_is_refused_by_name_while_any_process_lives(path: Path) -> None:
    first, second = NodeLock(path, "bus-1"), NodeLock(path, "bus-1")
    first.take()
    second.take()
    first.close()
    other = NodeLock(path, "bus-2")

    with pytest.raises(BootError, match="bus-1") as caught:
        other.take()

    assert caught.value.exit_status == Exit.TEMPORARY
    second.close()
    assert other.take()
    other.close()


def test_node_that_was_killed_leaves_the_file(path: Path) -> None:
    def owning(told: int) -> None:
        lock = NodeLock(path, "bus-1")
        lock.take()
        os.write(told, b"!")
        signal.pause()

    other = NodeLock(path, "bus-2")
    with child(owning) as pid:
        with pytest.raises(BootError):
            other.take()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert other.take()
    other.close()


def test_file_lock_waits_no_longer_than_told(tmp_path: Path) -> None:
    held, waiting = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert held.wait_exclusive(SystemClock(), 1.0)

    assert not waiting.wait_exclusive(SystemClock(), 0.02)
    held.close()
    assert waiting.wait_exclusive(SystemClock(), 1.0)
    waiting.close()
    waiting.close()


def sleeps(pid: int) -> bool:
    """Whether a process waits in the kernel."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
