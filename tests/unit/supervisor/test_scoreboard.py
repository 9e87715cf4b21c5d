"""Shared memory: what a reader in another process may rely on."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.scoreboard import COUNTERS, Scoreboard

JOB = "1800000000000-1"


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(4, FakeClock())


def test_row_reads_back_what_was_written(board: Scoreboard) -> None:
    slot = board.take()
    assert slot is not None
    slot.update(
        n=7, pid=123, role="consumer", path="gift/credit", index=2, state="ready", own_group=True, link=3, stage=1,
        generation=4, connections=5, birth=99, beat_s=1.5, started_s=2.5, counters=(1, 2),
    )
    row = slot.read()
    assert (row.n, row.pid, row.role, row.path, row.index, row.state) == (7, 123, "consumer", "gift/credit", 2, "ready")
    assert (row.own_group, row.link, row.stage, row.generation, row.connections, row.birth) == (True, 3, 1, 4, 5, 99)
    assert (row.beat_s, row.started_s, row.counters[:3]) == (1.5, 2.5, (1, 2, 0))
    assert row.exit_status is None
    assert row.alive
    assert not row.torn


def test_begin_and_end_count_and_name_the_job(board: Scoreboard) -> None:
    slot = board.take()
    assert slot is not None
    slot.begin(JOB)
    row = slot.read()
    assert (row.current, row.running, row.since_s) == (JOB, 1, 1_000.0)
    slot.end(True)
    slot.begin(JOB)
    slot.end(False)
    row = slot.read()
    assert (row.current, row.last, row.running, row.done, row.failed) == ("", JOB, 0, 1, 1)
    slot.clear()
    assert slot.read().last == ""


def test_job_id_longer_than_the_field_is_cut_and_shorter_ones_leave_no_rest(board: Scoreboard) -> None:
    slot = board.take()
    assert slot is not None
    slot.begin("9" * 60)
    assert slot.read().current == "9" * 40
    slot.begin("1-1")
    assert slot.read().current == "1-1"


def test_unknown_field_is_refused_and_the_row_stays_readable(board: Scoreboard) -> None:
    slot = board.take()
    assert slot is not None
    with pytest.raises(KeyError):
        slot.update(colour="red")
    assert not slot.read().torn


def test_counters_add_up(board: Scoreboard) -> None:
    slot = board.take()
    assert slot is not None
    slot.count(0)
    slot.count(COUNTERS - 1, by=5)
    assert slot.read().counters == (1, 0, 0, 0, 0, 0, 0, 5)


def test_row_of_the_dead_stays_readable_until_its_slot_is_needed(board: Scoreboard) -> None:
    slots = [board.take() for _ in range(4)]
    assert board.take() is None
    for number, slot in enumerate(slots):
        assert slot is not None
        slot.update(n=number + 1, state="ready")
    slots[2].begin(JOB)  # type: ignore[union-attr]
    left = board.bury(slots[2], -9)  # type: ignore[arg-type]
    board.bury(slots[0], 0)  # type: ignore[arg-type]
    assert (left.current, left.exit_status, left.state) == (JOB, -9, "dead")
    assert board.deaths == 2
    assert [row.n for row in board.living()] == [2, 4]
    assert [row.n for row in board.rows()] == [1, 2, 3, 4]
    again = board.take()
    assert again is slots[2], "the oldest death goes first"
    assert again is not None
    assert again.read().current == ""
    assert [row.n for row in board.rows()] == [1, 2, 4]


def _write_for_ever(board: Scoreboard) -> None:
    """A child that writes rows which are equal in all their parts."""
    slot = board.slot(0)
    number = 0
    while True:
        number += 1
        text = f"{number:08d}" * 5
        slot.update(n=number, pid=number, done=number, failed=number, current=text, path=text, counters=(number,) * 8)
        os.sched_yield()


def test_reader_in_another_process_never_sees_half_a_write() -> None:
    board = Scoreboard(1)
    board.take()
    board.slot(0).update(n=1, pid=1, done=1, failed=1, current="00000001" * 5, path="00000001" * 5, counters=(1,) * 8)
    pid = os.fork()
    if pid == 0:
        _write_for_ever(board)
    try:
        seen: set[int] = set()
        deadline = time.monotonic() + 10.0
        while len(seen) < 500 and time.monotonic() < deadline:
            row = board.slot(0).read()
            if row.torn:  # the writer lost its processor in the middle of a write
                continue
            seen.add(row.n)
            text = f"{row.n:08d}" * 5
            assert (row.pid, row.done, row.failed, row.current, row.path) == (row.n, row.n, row.n, text, text)
            assert row.counters == (row.n,) * 8
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert len(seen) == 500, "the writer wrote while we read"


def test_job_of_a_process_that_died_in_the_middle_of_a_write_is_its_job_or_none() -> None:
    board = Scoreboard(1)
    board.take()
    for _ in range(30):
        board.slot(0).update(state="ready", current="")
        pid = os.fork()
        if pid == 0:
            slot = board.slot(0)
            while True:
                slot.begin("1800000000000-1")
                slot.end(True)
                slot.begin("1800000000000-22")
                slot.end(True)
        time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert board.slot(0).read().current in ("", "1800000000000-1", "1800000000000-22")
        assert not board.bury(board.slot(0), -9).torn


def test_row_whose_writer_stands_still_is_read_as_torn(board: Scoreboard) -> None:
    slot = board.take()
    assert slot is not None
    slot.update(n=5)
    slot._words[0] |= 1
    assert slot.read().torn
    assert slot.read().n == 5


def test_a_job_costs_the_consumer_about_a_microsecond() -> None:
    board = Scoreboard(1)
    slot = board.take()
    assert slot is not None
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(2000):
            slot.begin(JOB)
            slot.end(True)
        best = min(best, (time.perf_counter() - began) / 2000)
    print(f"begin and end: {best * 1e6:.2f} us")
    assert best < 10e-6
