"""The pause of a deploy ends when nobody renews it, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pbus.cli.pauses import set_paused
from pbus.clock import FakeClock
from pbus.scheduler.leases import Leases
from pbus.scheduler.roster import Store
from pbus.storage.driver import Driver
from pbus.storage.leases import KIND, Lease
from pbus.storage.open import StoreTarget, make
from tests.unit.scheduler.store import QUEUES

HELD = Lease("root on bus-1", "token", 4.0)
PATH = "gift/credit"


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = make(StoreTarget("main", f"sqlite:{tmp_path}/queue.db", "", 5.0, "bus-1"))
    driver.open()
    driver.declare(QUEUES)
    yield driver
    driver.close()


def store(driver: Driver) -> Store:
    return Store("main", driver, QUEUES)


def is_paused(driver: Driver) -> bool:
    return bool(driver.numbers(["gift"])["gift", "credit"].paused_ms)


def leased(driver: Driver) -> int:
    version = driver.write_document(KIND, PATH, HELD.text(), 0)
    set_paused(driver, "gift", "credit", True, "bus-1", leased=True)
    return version


def test_hold_that_is_renewed_stays_and_one_that_is_not_ends(driver: Driver) -> None:
    clock, version = FakeClock(), leased(driver)
    duty = Leases(store(driver), clock, structlog.get_logger())
    for turn in range(1, 4):
        duty.turn()
        clock.advance(3.9)
        version = driver.write_document(KIND, PATH, HELD.text(turn), version)
    duty.turn()
    clock.advance(3.9)
    duty.turn()
    assert is_paused(driver)
    clock.advance(0.2)
    duty.turn()
    assert not is_paused(driver)
    assert driver.documents(KIND) == []


def test_time_in_which_the_store_was_away_does_not_count(driver: Driver) -> None:
    clock = FakeClock()
    leased(driver)
    duty = Leases(store(driver), clock, structlog.get_logger())
    duty.turn()
    clock.advance(100.0)
    duty.interrupted()
    duty.turn()
    assert is_paused(driver)


@pytest.mark.parametrize("paused", [True, False])
def test_word_of_a_person_outlives_the_hold(driver: Driver, paused: bool) -> None:
    clock = FakeClock()
    leased(driver)
    duty = Leases(store(driver), clock, structlog.get_logger())
    duty.turn()
    set_paused(driver, "gift", "credit", paused, "bus-1")
    clock.advance(100.0)
    duty.turn()
    assert is_paused(driver) is paused


@pytest.mark.parametrize("name", ["gift/gone", "no topic"])
def test_note_about_a_topic_that_is_gone_is_dropped(driver: Driver, name: str) -> None:
    clock = FakeClock()
    driver.write_document(KIND, name, HELD.text(), 0)
    duty = Leases(store(driver), clock, structlog.get_logger())
    duty.turn()
    clock.advance(5.0)
    duty.turn()
    assert driver.documents(KIND) == []
