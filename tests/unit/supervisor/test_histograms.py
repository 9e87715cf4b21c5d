"""How long jobs waited and ran, in memory that all children share: what is read is what was counted, by whomever."""

from __future__ import annotations

import itertools
import os
import signal
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.job import Move, Settlement
from pbus.supervisor import histograms
from pbus.supervisor.histograms import CELL_WORDS, CLASSES, MANY, TIMES, Histograms
from pbus.telemetry.metrics import BOUNDS, SHOWN
from tests.support.call_desk import delivery as job

PATH = ("gift", "credit")
JOB = "1800000000000-1"
BORN_S = 1_800_000_000.0


def settlement(move: Move) -> Settlement:
    return Settlement(owner="n/b/1.1", queue="gift", topic="credit", id=JOB, move=move)


def test_what_was_counted_is_read_back() -> None:
    board = Histograms([("mail", "send"), PATH], 2)
    board.row(1, *PATH).attempts([(JOB, 0.03, BORN_S + 0.5, 7), ("", 2.0, BORN_S + 9, 1), (JOB, 0.0, BORN_S, 0)], 2, 1)

    (totals,) = board.read().values()

    assert (totals.done, totals.redelivered, totals.bytes) == (2, 1, 8)
    assert {BOUNDS[place]: count for place, count in enumerate(totals.run) if count} == {0.0315: 1, 2.0: 1}
    assert {BOUNDS[place]: count for place, count in enumerate(totals.wait) if count} == {0.5: 1, BOUNDS[0]: 1}
    assert (totals.run_s, totals.wait_s) == (pytest.approx(2.03), pytest.approx(0.47))


def test_what_was_popped_is_done_and_has_waited() -> None:
    board = Histograms([PATH], 1)
    board.row(0, *PATH).popped([job(1), job(2, body=b"abc"), job(3, redelivered=True)], BORN_S + 0.39)
    totals = board.read()[PATH]
    assert (totals.done, totals.redelivered, totals.bytes, sum(totals.run)) == (3, 1, 7, 0)
    assert {BOUNDS[place]: count for place, count in enumerate(totals.wait) if count} == {0.4: 2}
    assert totals.wait_s == pytest.approx(0.78)


def test_ids_of_another_kind_are_no_error_and_have_no_wait() -> None:
    board = Histograms([PATH], 1)
    row = board.row(0, *PATH)
    row.attempts([("abc", 0.1, BORN_S, 1)], 1)
    row.popped([job(1, id="abc"), job(2)], BORN_S)
    totals = board.read()[PATH]
    assert (totals.done, sum(totals.run), sum(totals.wait)) == (3, 1, 1)


def test_of_many_each_fourth_stands_for_four() -> None:
    board = Histograms([PATH], 1)
    ended = [(JOB, 0.1 if number % 4 else 0.4, BORN_S + 0.4, 1) for number in range(MANY)]
    fine, _ = board.row(0, *PATH).attempts(ended, MANY)
    totals = board.read()[PATH]
    assert {BOUNDS[place]: count for place, count in enumerate(totals.run) if count} == {0.4: MANY}
    assert (totals.done, sum(totals.wait), fine.total(), totals.bytes) == (MANY, MANY, MANY, MANY)
    assert totals.run_s == pytest.approx(MANY * (0.4 + 3 * 0.1) / 4)


def test_columns_add_up_and_a_successor_goes_on_where_the_one_before_ended() -> None:
    board = Histograms([PATH], 2)
    for column in (0, 1, 0):
        board.row(column, *PATH).done()
    assert board.read()[PATH].done == 3


def test_topics_of_nobody_and_children_without_a_column_are_counted_for_nobody() -> None:
    board = Histograms([PATH], 1)
    board.row(-1, *PATH).done()
    board.row(0, "gift", "gone").done()
    assert board.read() == {}


def test_ends_are_counted_by_what_came_of_them() -> None:
    board = Histograms([PATH], 1)
    row = board.row(0, *PATH)
    for move, busy in ((Move.RETRY, False), (Move.RETRY, True), (Move.BURY, False), (Move.RELEASE, False)):
        row.settled(settlement(move), busy)
    totals = board.read()[PATH]
    assert (totals.failed, totals.retried, totals.dead) == (2, 1, 1)
    assert (totals.busy, totals.released, totals.done) == (1, 1, 0)


def test_a_killed_writer_leaves_what_it_counted() -> None:
    board = Histograms([PATH], 1)
    pid = os.fork()
    if pid == 0:
        board.row(0, *PATH).done(5)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert board.read()[PATH].done == 5


def test_the_layout_is_the_one_that_other_readers_know() -> None:
    board = Histograms([("mail", "send"), PATH], 3)
    board.row(2, *PATH).attempts([(JOB, 0.5, BORN_S + 1.0, 9)], 1)
    memory = os.pread(board.fd, os.fstat(board.fd).st_size, 0)
    words = struct.unpack(f"={len(memory) // 8}q", memory)

    assert words[:9] == (int.from_bytes(b"pbushist", "little"), 2, 2, 3, 18, CELL_WORDS, CLASSES, 2, 3)
    name_at, used_at = 16 + 18, 16 + 2 * 18
    assert memory[(name_at + 1) * 8 :][: words[name_at]] == b"gift/credit"
    assert words[used_at : used_at + 6] == (0, 0, 0, 0, 0, 1)
    cell = used_at + 6 + (2 * 2 + 1) * CELL_WORDS
    assert words[cell] == 1
    assert words[cell + 7] == 9
    assert struct.unpack_from("=2d", memory, (cell + 10) * 8) == (0.5, 0.5)
    assert sum(words[cell + 16 : cell + 16 + CLASSES]) == sum(words[cell + 16 + CLASSES : cell + CELL_WORDS]) == 1
    assert len(words) == used_at + 6 + 6 * CELL_WORDS


@given(st.floats(min_value=1e-9, max_value=1e7))
def test_a_time_is_counted_in_the_first_class_that_holds_it(seconds: float) -> None:
    board = Histograms([PATH], 1)
    fine, took_s = board.row(0, *PATH).attempts([("", seconds, 0.0, 0)], 1)
    (place,) = [place for place, count in enumerate(board.read()[PATH].run) if count]
    assert seconds <= (*BOUNDS, float("inf"))[place]
    assert place == 0 or seconds > BOUNDS[place - 1]
    assert list(fine.values()) == [1]
    assert took_s == seconds


def test_classes_grow_by_a_quarter_and_the_page_shows_some_of_them() -> None:
    for bounds in (BOUNDS, TIMES):
        assert all(1.2 < later / before < 1.3 for before, later in itertools.pairwise(bounds))
    assert set(SHOWN) <= set(BOUNDS)
    assert list(SHOWN) == sorted(SHOWN)
    assert histograms.VERSION == 2


def test_topics_of_a_later_configuration_are_counted_while_there_is_room() -> None:
    board = Histograms([PATH], 2, rows=2)
    board.lend(1)
    assert board.name([PATH, ("mail", "send"), ("mail", "store")]) == 1
    for path in (PATH, ("mail", "send"), ("mail", "store")):
        board.row(1, *path).done()
    assert {path: totals.done for path, totals in board.read().items()} == {PATH: 1, ("mail", "send"): 1}


def test_columns_that_were_never_lent_are_not_read() -> None:
    board = Histograms([PATH], 8, rows=4)
    board.row(5, *PATH).done()
    assert board.read() == {}
    board.lend(5)
    assert board.read()[PATH].done == 1
