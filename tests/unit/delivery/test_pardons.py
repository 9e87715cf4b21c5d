"""Attempts that are given back reach the store, once each, whatever it does meanwhile."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

import gevent
import pytest
import structlog

from pbus.delivery import pardons
from pbus.delivery.pardons import CHUNK, Pardons
from pbus.errors import Conflict, Unavailable
from tests.support.memory_store import AWAY


class Store:
    """``forgive`` alone."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.fail: list[Exception] = []
        self.gone: set[str] = set()
        self.calls: list[tuple[str, str, int]] = []
        self.given: collections.Counter[str] = collections.Counter()

    def forgive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        self.calls.append((queue, topic, len(ids)))
        assert len(set(ids)) == len(ids)
        if self.fail:
            raise self.fail.pop(0)
        if topic in self.gone:
            raise Unavailable(f"topic {topic} was never declared to this store")
        self.given.update(job_id for job_id in ids if job_id not in self.running)
        return [job_id not in self.running for job_id in ids]


class Office:
    def __init__(self) -> None:
        self.store = Store()
        self.back: list[str] = []
        self.pardons = Pardons(self.store, structlog.get_logger())  # type: ignore[arg-type]
        self.greenlet = gevent.spawn(self.pardons.run, self.back.append)

    def wait_idle(self) -> None:
        with gevent.Timeout(5):
            while not self.pardons.idle:
                gevent.sleep(0.001)


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setattr(pardons, "AGAIN_S", 0.01)
    made = Office()
    yield made
    made.greenlet.kill()


def test_each_gets_back_as_many_as_it_lost(office: Office) -> None:
    office.pardons.grant("gift", "credit", {"1-0": 1, "2-0": 3})
    assert not office.pardons.idle
    office.wait_idle()
    assert office.store.given == {"1-0": 1, "2-0": 3}
    assert set(office.back) == {"gift"}


def test_who_keeps_stories_is_told_of_those_that_got_one_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pardons, "AGAIN_S", 0.01)
    told: list[tuple[str, str, list[str]]] = []
    store = Store()
    store.running = {"2-0"}
    given = Pardons(store, structlog.get_logger(), lambda *each: told.append(each))  # type: ignore[arg-type]
    given.grant("gift", "credit", {"1-0": 1, "2-0": 1})
    writer = gevent.spawn(given.run, lambda queue: None)
    with gevent.Timeout(10):
        while not given.idle:
            gevent.sleep(0.001)
    writer.kill()
    assert told[0] == ("gift", "credit", ["1-0"])


def test_nothing_to_give_back_is_no_call(office: Office) -> None:
    office.pardons.grant("gift", "credit", {})
    office.wait_idle()
    assert office.store.calls == []


def test_many_go_in_portions(office: Office) -> None:
    office.pardons.grant("gift", "credit", {f"{number}-0": 1 for number in range(CHUNK + 1)})
    office.wait_idle()
    assert office.store.calls == [("gift", "credit", CHUNK), ("gift", "credit", 1)]


def test_one_that_runs_at_this_moment_is_asked_again(office: Office) -> None:
    office.store.running = {"1-0"}
    office.pardons.grant("gift", "credit", {"1-0": 1, "2-0": 1})
    with gevent.Timeout(5):
        while not office.store.calls:
            gevent.sleep(0.001)
    office.store.running = set()
    office.wait_idle()
    assert office.store.given == {"1-0": 1, "2-0": 1}


def test_one_that_never_stops_running_is_given_up(office: Office) -> None:
    office.store.running = {"1-0"}
    office.pardons.grant("gift", "credit", {"1-0": 1})
    office.wait_idle()
    assert len(office.store.calls) == pardons.TRIES


def test_a_store_that_is_away_is_waited_for(office: Office) -> None:
    office.store.fail = [AWAY, AWAY]
    office.pardons.grant("gift", "credit", {"1-0": 1})
    office.wait_idle()
    assert office.store.given == {"1-0": 1}


def test_a_topic_that_was_removed_keeps_neither_the_others_nor_the_end_of_the_child_waiting(office: Office) -> None:
    office.store.gone = {"credit"}
    office.pardons.grant("gift", "credit", {"1-0": 1})
    office.pardons.grant("gift", "mail", {"2-0": 1})
    office.wait_idle()
    assert office.store.given == {"2-0": 1}
    office.store.gone = set()  # it was made again
    with gevent.Timeout(5):
        while not office.store.given["1-0"]:
            gevent.sleep(0.001)


@pytest.mark.parametrize("error", [Conflict("fenced"), TypeError("a bug")])
def test_what_can_never_be_written_is_dropped_and_ends_nothing(office: Office, error: Exception) -> None:
    office.store.fail = [error]
    office.pardons.grant("gift", "credit", {"1-0": 1})
    office.wait_idle()
    office.pardons.grant("gift", "mail", {"2-0": 1})
    office.wait_idle()
    assert office.store.given == {"2-0": 1}
