"""
How many statements a call of the embedded store costs. Each hands the interpreter lock over to the
other threads of the process and waits to get it back, so their number must not grow with the jobs
(of a push: by one for each block).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite import SqliteDriver
from pbus.storage.sqlite_catalog import BLOCK

OWNER = "n1/b1/1.1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteDriver]:
    made = SqliteDriver(StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1"))
    made.open()
    made.declare([QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 1 << 30, 100_000, 1 << 30)])
    yield made
    made.close()


def steps(store: SqliteDriver, act: Callable[[], Any]) -> tuple[Any, int]:
    """What *act* answers, and in how many rows and ends of statements."""
    db = store._file._db
    assert db is not None
    count = 0

    def note(event: dict[str, Any]) -> None:
        nonlocal count
        count += 1

    db.trace_v2(apsw.SQLITE_TRACE_ROW | apsw.SQLITE_TRACE_PROFILE, note)
    answer = act()
    db.trace_v2(0, None)
    return answer, count


def life(store: SqliteDriver, batch: int, jobs: int) -> tuple[int, int, int]:
    """Steps of a push, a claim and a settle of so many jobs."""
    _, pushing = steps(store, lambda: store.append(OWNER, batch, [Push("gift", b"x" * n) for n in range(jobs)]))
    got, claiming = steps(store, lambda: store.claim([Want(OWNER, "gift", "credit", jobs)]))
    assert [one.body for one in got] == [b"x" * n for n in range(jobs)]

    def settle() -> list[bool]:
        return store.settle([done(one) for one in got])

    answers, settling = steps(store, settle)
    assert answers == [True] * jobs
    return pushing, claiming, settling


def done(one: Delivery) -> Settlement:
    return Settlement(owner=OWNER, queue="gift", topic="credit", id=one.id, move=Move.ACK)


def test_calls_cost_the_same_for_any_number_of_plain_jobs(store: SqliteDriver) -> None:
    life(store, 1, 5)  # the first one makes its owner
    pushing, *rest = life(store, 2, 10)
    pushing_many, *rest_many = life(store, 3, 1000)

    assert rest == rest_many
    assert pushing_many <= pushing + 1000 // BLOCK


def test_look_that_finds_nothing_is_one_statement(store: SqliteDriver) -> None:
    got, count = steps(store, lambda: store.claim([Want(OWNER, "gift", "credit", 10)]))

    assert got == []
    assert count <= 2  # a row and its end


def test_busy_topic_is_claimed_without_a_look_before(store: SqliteDriver) -> None:
    push_and_claim(store, 1, 10, 6)     # it makes its owner
    assert len(store.claim([Want(OWNER, "gift", "credit", 6)])) == 4    # there is no more
    store.append(OWNER, 2, [Push("gift", b"x")] * 10)

    first, looking = steps(store, lambda: store.claim([Want(OWNER, "gift", "credit", 5)]))
    second, busy = steps(store, lambda: store.claim([Want(OWNER, "gift", "credit", 5)]))

    assert len(first) == len(second) == 5
    assert busy == looking - 3  # a row and its end; and the pragma after a push


def push_and_claim(store: SqliteDriver, batch: int, pushed: int, wanted: int) -> None:
    store.append(OWNER, batch, [Push("gift", b"x")] * pushed)
    assert len(store.claim([Want(OWNER, "gift", "credit", wanted)])) == min(pushed, wanted)


def test_claims_that_do_not_end_alike_end_each_as_it_must(store: SqliteDriver) -> None:
    store.append(OWNER, 1, [Push("gift", b"x")] * 4)
    got = store.claim([Want(OWNER, "gift", "credit", 4)])
    assert store.settle([done(got[1])]) == [True]

    assert store.settle([done(one) for one in (*got, got[0])]) == [True, False, True, True, False]
    assert store.numbers()["gift", "credit"].running == 0
    assert store.numbers()["gift", "credit"].done_total == 4


def test_topic_of_an_older_catalog_that_seemed_busy_is_looked_up_again(store: SqliteDriver, tmp_path: Path) -> None:
    push_and_claim(store, 1, 10, 5)
    other = SqliteDriver(StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1"))
    other.open()
    assert other.drop_topic("gift", "credit")
    other.declare([QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 1 << 30, 100_000, 1 << 30)])
    other.append("n1/b1/2.1", 1, [Push("gift", b"new")])
    other.close()

    assert [one.body for one in store.claim([Want(OWNER, "gift", "credit", 5)])] == [b"new"]
