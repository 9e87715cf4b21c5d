"""An embedded store and its clock: ids, delays and retention to the millisecond, by a clock moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import FakeClock
from pbus.core.job import Delivery, Move, Push, PushOptions, Settlement
from pbus.core.names import JOB_ID, job_id_ms
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite import SqliteDriver
from pbus.storage.sqlite_catalog import id_number, id_text, kept_text, told_text
from pbus.storage.sqlite_log import AppendedRun

OWNER = "n1/b1/1.1"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall_s=1_800_000_000.0)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteDriver]:
    made = SqliteDriver(StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1"), clock)
    made.open()
    made.declare([QueueSpec("gift", (TopicSpec("credit"),), 60.0, 1 << 30)])
    yield made
    made.close()


def push(store: SqliteDriver, batch: int, count: int = 1) -> list[str]:
    return [one.id for one in store.append(OWNER, batch, [Push("gift", b"x")] * count)]


def claim(store: SqliteDriver) -> list[Delivery]:
    return store.claim([Want(OWNER, "gift", "credit", 10_000)])


def settle(store: SqliteDriver, delivery: Delivery, move: Move, delay_s: float = 0.0) -> None:
    end = Settlement(owner=OWNER, queue="gift", topic="credit", id=delivery.id, move=move, delay_s=delay_s, counts=True)
    assert store.settle([end]) == [True]


def test_ids_of_one_moment_count_up_and_the_next_moment_starts_anew(store: SqliteDriver, clock: FakeClock) -> None:
    ids = push(store, 1, 3)
    clock.advance(0.001)

    assert ids + push(store, 2) == ["1800000000000-0", "1800000000000-1", "1800000000000-2", "1800000000001-0"]


def test_ids_never_go_back_with_the_clock(store: SqliteDriver, clock: FakeClock) -> None:
    ids = push(store, 1)
    for batch, seconds in enumerate((-3600.0, -1.0, 1800.0), 2):
        clock.jump(seconds)
        ids += push(store, batch, 2)

    numbers = [id_number(job_id) for job_id in ids]
    assert numbers == sorted(set(numbers))
    assert {job_id_ms(job_id) for job_id in ids} == {1_800_000_000_000}


def test_more_jobs_in_a_moment_than_it_has_numbers_go_on_in_the_next(store: SqliteDriver) -> None:
    push(store, 1)
    db = store._file._db
    assert db is not None
    db.execute("UPDATE queues SET last_id = last_id | 1048575")

    assert push(store, 2, 2) == ["1800000000001-0", "1800000000001-1"]


def test_retry_is_due_at_its_time_and_not_before(store: SqliteDriver, clock: FakeClock) -> None:
    push(store, 1)
    settle(store, claim(store)[0], Move.RETRY, delay_s=10.0)
    seen = []
    for seconds in (0.0, 9.998, 0.003):
        clock.advance(seconds)
        promoted = store.promote_due()
        seen.append((dict(promoted.moved), promoted.next_in_s))

    assert seen == [({}, 10.0), ({}, pytest.approx(0.002, abs=0.0011)), ({("gift", "credit"): 1}, None)]
    assert claim(store)[0].first_ms == 1_800_000_000_000


def test_retention_ends_to_the_moment(store: SqliteDriver, clock: FakeClock) -> None:
    push(store, 1, 2)
    for delivery in claim(store):
        settle(store, delivery, Move.ACK)
    clock.advance(60.0)
    assert store.trim() == 0
    clock.advance(0.001)

    assert store.trim() == 2


def test_shorter_retention_counts_from_its_declaration_on(store: SqliteDriver, clock: FakeClock) -> None:
    push(store, 1)
    settle(store, claim(store)[0], Move.ACK)
    clock.advance(6.0)
    assert store.trim() == 0

    store.declare([QueueSpec("gift", (TopicSpec("credit"),), 5.0, 1 << 30)])

    assert store.trim() == 1


def test_oldest_wait_is_never_negative(store: SqliteDriver, clock: FakeClock) -> None:
    push(store, 1)
    clock.advance(2.5)
    assert store.numbers()["gift", "credit"].oldest_wait_s == 2.5
    clock.jump(-3600.0)

    assert store.numbers()["gift", "credit"].oldest_wait_s == 0.0


def test_dead_letters_carry_their_time(store: SqliteDriver, clock: FakeClock) -> None:
    push(store, 1, 2)
    for delivery in claim(store):
        settle(store, delivery, Move.BURY)
        clock.advance(1.0)

    assert [letter.at_ms for letter in store.dead_letters("gift", "credit")] == [1_800_000_001_000, 1_800_000_000_000]


@given(st.integers(0, (1 << 63) - 1))
def test_id_is_read_as_it_was_written(number: int) -> None:
    text = id_text(number)

    assert JOB_ID.match(text)
    assert id_number(text) == number


@given(st.from_regex(JOB_ID, fullmatch=True) | st.text())
def test_any_text_is_an_id_of_this_store_or_none(text: str) -> None:
    number = id_number(text)

    assert -1 <= number < 1 << 63
    assert number == -1 or tuple(map(int, text.split("-"))) == tuple(map(int, id_text(number).split("-")))


@given(st.text(st.characters(exclude_categories=())), st.text("\0\x01\ud8000a"))
def test_any_text_is_kept_as_it_was(one: str, other: str) -> None:
    for text in (one, other):
        assert told_text(kept_text(text)) == text
        assert "\0" not in kept_text(text)
        kept_text(text).encode()


@given(st.integers(0, 1 << 62), st.integers(0, 50), st.integers(-60, 60), st.integers(-60, 60))
def test_answer_made_on_demand_is_the_list_it_stands_for(first: int, size: int, start: int, stop: int) -> None:
    run = AppendedRun(first, size, 7, 2)
    whole = list(run)

    assert len(run) == len(whole) == size
    assert [one.id for one in whole] == [id_text(first + place) for place in range(size)]
    assert list(run[start:stop]) == whole[start:stop]
    assert not size or run[-1] == whole[-1]


@pytest.mark.parametrize("pair", [("a\0b", "a\0c"), ("\ud800", "\ud801"), ("a", "a\0")])
def test_keys_that_only_the_unreadable_part_tells_apart_are_apart(store: SqliteDriver, pair: tuple[str, str]) -> None:
    options = [PushOptions(dedupe=text, key=text) for text in pair]
    answers = [store.append(OWNER, batch, [Push("gift", b"x", options=options[batch % 2])])[0] for batch in (1, 2, 3)]

    assert [one.duplicate for one in answers] == [False, False, True]
    assert sorted(one.key for one in claim(store)) == sorted(pair)
