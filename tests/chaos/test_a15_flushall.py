"""
A15: somebody deletes from Redis what pbus keeps there, under load: everything, the cursors of a queue, its log.

What was in there is gone, and that is said loudly. Nobody crashes, and whatever is pushed from then on is run: a
cursor is made again where this node last saw it, a queue from the start of what is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

UNDER_LOAD = 40
RESUME_S = 2.0
ROUNDS = 2
LOAD = {"threads": 4, "pause_s": 0.01, "orders": "sleep=10"}

FAULTS: dict[str, Callable[..., object]] = {
    "everything": lambda client: client.flushall(),
    "cursors": lambda client: client.delete(f"pbus:{{{QUEUE}}}:cursors"),
    "log": lambda client: client.delete(f"pbus:{{{QUEUE}}}:log"),
}


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
@pytest.mark.parametrize("fault", list(FAULTS))
def test_what_is_pushed_after_something_was_deleted_is_run(scenario: Scenario, fault: str) -> None:
    bus = scenario.start({"credit": scenario.http(2), "mail": scenario.python(2)})
    processes = set(bus.processes())
    over_s: list[float] = []
    with scenario.pushing(**LOAD) as producers:
        for _ in range(ROUNDS):
            ran = scenario.ran()
            until(lambda enough=ran + UNDER_LOAD: scenario.ran() >= enough, 10, "both topics work")
            over_s.append(_delete(scenario, fault))
            scenario.resumed(over_s[-1], RESUME_S + 3)
        producers.stop()
    scenario.settled()
    _expect(scenario, fault, over_s[-1])
    print(f"{fault} deleted {ROUNDS} times")
    assert max(scenario.recoveries_s) <= RESUME_S
    until(lambda: len(bus.events("store.forgot")) >= ROUNDS, 5, lambda: f"it is told\n{bus.tail()}")
    assert {event["level"] for event in bus.events("store.forgot")} == {"critical"}
    assert set(bus.processes()) == processes, bus.tail()
    assert not bus.events("child.exited")


def _delete(scenario: Scenario, fault: str) -> float:
    """When it was over."""
    assert scenario.redis is not None
    with scenario.redis.client() as client:
        FAULTS[fault](client)
        return time.time()


def _expect(scenario: Scenario, fault: str, over_s: float) -> None:
    """Only what was pushed before the last fault may be lost, and with the cursors nothing at all."""
    sent_s = {push.key: push.sent_s for push in scenario.ledger.pushed()}
    for topic, verdict in scenario.ledger.verdict(QUEUE, scenario.topics).items():
        after = [key for key in verdict.lost if sent_s[key] > over_s]
        print(f"{topic}: lost={len(verdict.lost)} after the last fault={len(after)} dup={verdict.dup}")
        assert not after, f"pushed after it, and lost: {after}"
        assert not verdict.phantom
        assert fault != "cursors" or not verdict.lost
