"""The small duties: due deliveries, the log's cut, checkpoints, fitness."""

from __future__ import annotations

import pytest

from pbus.errors import Conflict, Unavailable
from pbus.scheduler import due, fitness, trim
from pbus.scheduler.roster import SHORTEST_WAIT_S
from pbus.storage.driver import Promoted
from tests.unit.scheduler.store import SchedulerStore, prepared

TOPIC = ("gift", "credit")


@pytest.mark.parametrize(("promoted", "wait_s"), [
    (Promoted(), 1.0),
    (Promoted({TOPIC: 3}, None), 1.0),
    (Promoted({}, 0.25), 0.25),
    (Promoted({}, 600.0), 1.0),
    (Promoted({}, 0.0), SHORTEST_WAIT_S),
    (Promoted({}, -5.0), SHORTEST_WAIT_S),
    (Promoted({TOPIC: due.LIMIT}, 600.0), 0.0),
])
def test_next_look_is_when_the_next_is_due_but_within_a_second(promoted: Promoted, wait_s: float) -> None:
    assert due.next_turn_s(promoted) == wait_s


def test_due_is_one_call_for_all_topics() -> None:
    driver = SchedulerStore()
    driver.promoted = [Promoted({}, 0.5)]
    assert due.Due(prepared(driver)).turn() == 0.5
    assert driver.calls == ["promote_due"]


def test_trim_comes_sooner_while_it_drops_something() -> None:
    driver = SchedulerStore()
    driver.dropped = [10_000, 10, 0]
    duty = trim.Trim(prepared(driver))
    waits = [duty.turn() for _ in range(3)]
    assert waits == sorted(waits)
    assert len(set(waits)) == 3


def test_checkpoint_is_the_drivers() -> None:
    driver = SchedulerStore()
    assert trim.Checkpoint(prepared(driver)).turn() == trim.CHECKPOINT_S
    assert driver.calls == ["checkpoint"]


def test_checkpoint_comes_sooner_while_much_is_written() -> None:
    driver = SchedulerStore()
    duty = trim.Checkpoint(prepared(driver))
    waits = []
    for driver.log_bytes in (30 << 20, 10 << 20, 1 << 20):
        waits.append(duty.turn())
    assert waits == sorted(set(waits))
    assert waits[-1] == trim.CHECKPOINT_S


def test_unfit_store_is_a_problem_and_not_an_interruption() -> None:
    driver, problems = SchedulerStore(), {}
    duty = fitness.Fitness(prepared(driver), problems.__setitem__)
    driver.fail = Unavailable("maxmemory-policy is allkeys-lru")
    assert duty.turn() == fitness.LOOK_S
    assert problems == {"fitness.main": "storage main: maxmemory-policy is allkeys-lru"}
    assert duty.wrong == "maxmemory-policy is allkeys-lru"
    driver.fail = None
    duty.turn()
    assert (problems, duty.wrong) == ({"fitness.main": ""}, "")


def test_fence_met_while_looking_is_a_fence() -> None:
    driver = SchedulerStore()
    duty = fitness.Fitness(prepared(driver), lambda name, text: None)
    driver.fail = Conflict("fenced")
    with pytest.raises(Conflict):
        duty.turn()
