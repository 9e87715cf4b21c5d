"""
A09: kill -9 the store under load. For Redis that is the server; for SQLite, which lives in the
processes of the bus, every one of them at once.

What was acknowledged is there when it comes back, and deliveries go on by themselves.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

OUTAGES_S = (0.0, 0.5, 3.0)
KILLS = len(OUTAGES_S)
RESUME_S = 2.0
SETTLED_S = 10.0
"""No claim whose end was forgotten waits for the comparison that is made every 30 s anyway."""
FORGOTTEN_S = 1.0
EVERYSEC_S = 2.0
"""What Redis may forget with appendfsync everysec."""
CALLS, CONSUMERS = 4, 2
UNDER_LOAD = 40
LOAD = {"threads": 4, "pause_s": 0.05, "orders": "sleep=20"}


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
def test_a_killed_redis_that_fsyncs_every_write_loses_nothing(scenario: Scenario) -> None:
    _start(scenario)
    with scenario.pushing(**LOAD) as producers:
        slowest_s = max(_kill_redis(scenario, down_s) for down_s in OUTAGES_S)
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)  # nobody who ran a job died, and what Redis acknowledged it has: not even K
    print(f"{KILLS} kills, K={KILLS * (CALLS + CONSUMERS)}, slowest resume {slowest_s:.2f} s")
    assert slowest_s <= RESUME_S
    assert not scenario.bus.events("child.exited"), scenario.bus.tail()


@pytest.mark.parametrize("scenario", ["redis-everysec"], indirect=True)
def test_a_redis_that_forgot_its_last_second_loses_no_more_than_that(scenario: Scenario) -> None:
    _start(scenario)
    forgotten: list[float] = []
    with scenario.pushing(**LOAD) as producers:
        slowest_s = max(_kill_redis(scenario, down_s, forgotten) for down_s in OUTAGES_S)
        producers.stop()
    scenario.settled(SETTLED_S)
    verdicts = scenario.ledger.verdict(QUEUE, scenario.topics).values()
    gone = frozenset[str]().union(*(verdict.lost for verdict in verdicts))
    outside = [
        push for push in scenario.ledger.pushed() if push.key in gone
        and not any(push.sent_s <= at_s <= push.replied_s + EVERYSEC_S for at_s in forgotten)
    ]
    print(f"everysec: {KILLS} kills lost {len(gone)} acknowledged jobs, slowest resume {slowest_s:.2f} s")
    assert slowest_s <= RESUME_S
    assert not outside, f"killed at {forgotten}, and yet lost: {outside}"
    assert not any(verdict.phantom for verdict in verdicts)
    assert not scenario.bus.events("child.exited"), scenario.bus.tail()


def test_a_bus_killed_as_a_whole_goes_on_where_it_was(scenario: Scenario) -> None:
    _start(scenario)
    running: Counter[str] = Counter()
    with scenario.pushing(**LOAD) as producers:
        slowest_s = max(_kill_everything(scenario, running) for _ in range(KILLS))
        producers.stop()
    scenario.settled()
    scenario.expect(dup=running)
    print(f"{KILLS} kills, K={dict(running)}, slowest resume {slowest_s:.2f} s")
    assert slowest_s <= RESUME_S


def _start(scenario: Scenario) -> None:
    scenario.start({"credit": scenario.http(CALLS), "mail": scenario.python(CONSUMERS)})


def _kill_redis(scenario: Scenario, down_s: float, forgotten: list[float] | None = None) -> float:
    """
    One outage of the server under load; seconds from its first answer until new jobs are run.

    With *forgotten* (when it was killed, unix seconds) its last second is not there any more when it
    comes back: a killed process alone keeps what the kernel has, a machine without power does not.
    """
    assert scenario.redis is not None
    _load(scenario)
    if forgotten is None:
        scenario.redis.kill()
    else:
        written_bytes = scenario.redis.written_bytes()
        time.sleep(FORGOTTEN_S)  # so much is forgotten
        scenario.redis.kill()
        forgotten.append(time.time())
        scenario.redis.forget(written_bytes)
    time.sleep(down_s)  # the outage itself: back-offs grow
    scenario.redis.start()
    return scenario.resumed(time.time(), RESUME_S + 3)


def _kill_everything(scenario: Scenario, running: Counter[str]) -> float:
    """One crash of the whole bus; seconds from *running* until new jobs are run. Adds to *running* what was (K)."""
    bus = scenario.bus
    _load(scenario)
    bus.kill_everything()
    running.update(scenario.claims())
    bus.start()
    return scenario.resumed(time.time(), RESUME_S + 3)


def _load(scenario: Scenario) -> None:
    """Wait until the bus is in the middle of its work."""
    ran = scenario.ran()
    until(lambda: scenario.ran() >= ran + UNDER_LOAD and all(scenario.claims().values()), 10, "every topic is busy")
