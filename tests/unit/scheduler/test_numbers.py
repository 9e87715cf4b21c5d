"""Answers for ``pbus status``: of this moment, or the last known with the reason, always in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pbus.clock import FakeClock, SystemClock
from pbus.errors import Unavailable
from pbus.scheduler.numbers import Source, answer
from pbus.scheduler.roster import Store
from pbus.storage.driver import TopicNumbers
from pbus.storage.pauses import KIND, note
from tests.unit.scheduler.store import QUEUES, SchedulerStore, prepared


@pytest.fixture
def driver() -> SchedulerStore:
    return SchedulerStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def source(driver: SchedulerStore, clock: FakeClock) -> Iterator[Source]:
    """A source that is served by a thread."""
    source = Source(prepared(driver), clock)
    serving = threading.Thread(target=source.serve)
    serving.start()
    yield source
    source.end()
    serving.join(5)


def test_answer_is_read_from_the_store_each_time(driver: SchedulerStore, source: Source) -> None:
    first = answer([source], SystemClock(), 5)
    driver.known = {("gift", "credit"): TopicNumbers(ready=7, done_total=2)}
    second = answer([source], SystemClock(), 5)
    assert [first["topics"][0]["ready"], second["topics"][0]["ready"]] == [1, 7]
    assert (second["topics"][0]["queue"], second["topics"][0]["topic"], second["problem"]) == ("gift", "credit", "")


def test_store_that_is_away_leaves_the_last_known_and_a_problem(
    driver: SchedulerStore, source: Source, clock: FakeClock
) -> None:
    answer([source], SystemClock(), 5)
    clock.advance(42)
    driver.fail = Unavailable("connection refused")
    said = answer([source], SystemClock(), 5)
    assert said["topics"][0]["ready"] == 1
    assert said["problem"] == "numbers of topics are 42 s old: storage main: connection refused"


def test_who_paused_is_told_and_asked_only_where_something_is_paused(
    driver: SchedulerStore, source: Source
) -> None:
    driver.known = {("gift", "credit"): TopicNumbers(paused_ms=90_000), ("gift", "mail"): TopicNumbers(paused_ms=5)}
    driver.write_document(KIND, "gift/credit", note("ann on n1", 90_000), 0)
    driver.write_document(KIND, "gift/mail", "{", 0)
    said = answer([source], SystemClock(), 5)
    assert [row["paused_by"] for row in said["topics"]] == ["ann on n1", ""]
    driver.known = {("gift", "credit"): TopicNumbers(paused_ms=190_000)}        # another pause, that nobody noted
    assert answer([source], SystemClock(), 5)["topics"][0]["paused_by"] == ""


def test_mistake_in_a_driver_does_not_end_the_answers(driver: SchedulerStore, source: Source) -> None:
    driver.fail = KeyError("a bug")
    assert "KeyError" in answer([source], SystemClock(), 5)["problem"]
    driver.fail = None
    assert answer([source], SystemClock(), 5)["problem"] == ""


def test_store_that_was_never_read_has_no_topics(clock: FakeClock) -> None:
    source = Source(Store("main", SchedulerStore(), QUEUES), clock)  # type: ignore[arg-type] # see store.py
    source.refresh()
    assert source.topics() == []
    assert source.problem(fresh=True) == "numbers of topics are not known yet: storage main is away"


def test_store_that_hangs_does_not_hold_the_answer_up(driver: SchedulerStore, source: Source) -> None:
    hangs = threading.Event()
    driver.during_call = lambda: assert_freed(hangs)
    said = answer([source], SystemClock(), 0.05)
    assert "storage main" in said["problem"] or said["problem"] == "numbers of topics are not known yet: not read"
    hangs.set()


def assert_freed(event: threading.Event) -> None:
    assert event.wait(10)


def test_askers_share_one_look(driver: SchedulerStore, source: Source) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert_freed(leave)

    driver.during_call = hold
    first = source.ask()
    assert entered.wait(5)
    late = [source.ask() for _ in range(10)]
    leave.set()
    assert source.wait(first, 5)
    assert all(source.wait(number, 5) for number in late)
    assert driver.calls.count("numbers") == 2
