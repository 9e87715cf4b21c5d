"""
A12: Redis is at its maxmemory, under load, and every fifth job fails at first; then it is given more.

Pushes are refused, and what was answered with OK is stored. Everything else goes on: what waits is claimed, what
fails is put off and tried again, what ends is settled, until nothing is left, with Redis as full as before.
"""

from __future__ import annotations

import time

import pytest

from tests.support.ledger import ERR
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

UNDER_LOAD = 40
WAITING = 200
"""So much is there to do when the memory ends."""
RESUME_S = 2.0
FAILING = {"failing": 0.2}
RETRY = 'retry = { attempts = 10, first = "300ms", factor = 1.0, jitter = 0.5 }'


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
def test_a_full_redis_costs_pushes_that_are_told_so_and_no_retry(scenario: Scenario) -> None:
    topics = {"credit": scenario.http(2, RETRY), "mail": scenario.python(2, RETRY)}
    bus = scenario.start(topics, queue='retention = "0s"')
    processes = set(bus.processes())
    with scenario.pushing(threads=8, pause_s=0.005, orders="sleep=20", mix=FAILING) as producers:
        until(lambda: scenario.ran() >= UNDER_LOAD and _waiting(scenario) >= WAITING, 10, "more comes than is run")
        failed_before = _failed(scenario)
        full_s = time.time()
        _limit(scenario, below=True)
        until(lambda: _refused(scenario, full_s) >= UNDER_LOAD, 10, "pushes are refused")
        scenario.settled()  # while it is full
        assert _refused(scenario, full_s) > UNDER_LOAD, "pushes were still tried"
        failed = {topic: count - failed_before[topic] for topic, count in _failed(scenario).items()}
        freed_s = time.time()
        _limit(scenario, below=False)
        resume_s = scenario.resumed(freed_s, RESUME_S + 3)
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)  # false OK: would be lost
    print(f"full for {freed_s - full_s:.1f} s: {_refused(scenario, full_s)} pushes refused, retried {failed}")
    assert min(failed.values()) > 0, "nothing failed while it was full"
    assert all(numbers.dead == 0 for numbers in scenario.numbers().values())
    assert resume_s <= RESUME_S
    assert set(bus.processes()) == processes, bus.tail()


def _limit(scenario: Scenario, *, below: bool) -> None:
    """Let Redis use less than it does, or as much as it likes."""
    assert scenario.redis is not None
    with scenario.redis.client() as client:
        most = client.info("memory")["used_memory"] - (1 << 20) if below else 0
        client.config_set("maxmemory", max(1, most) if below else 0)


def _waiting(scenario: Scenario) -> int:
    return min(numbers.ready for numbers in scenario.numbers().values())


def _failed(scenario: Scenario) -> dict[str, int]:
    """Attempts that failed so far, by topic."""
    return {topic: sum(not run.ok for run in scenario.ledger.runs(QUEUE, topic)) for topic in scenario.topics}


def _refused(scenario: Scenario, since_s: float) -> int:
    return sum(push.result == ERR and push.sent_s >= since_s for push in scenario.ledger.pushed())
