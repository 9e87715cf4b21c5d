"""
A18: a Redis that neither answers nor closes, for longer than a node may be silent: behind a black hole in the
network, then stopped itself. Two nodes work on it under load.

Producers get an error in time, nobody waits for ever. Nobody is declared dead: the one who looks at the beats can
say so only while its own calls succeed. When Redis answers again, everything goes on by itself, nothing twice.
"""

from __future__ import annotations

import time

import pytest

from tests.support.bus import Bus
from tests.support.ledger import OK
from tests.support.nightly import figure
from tests.support.producers import RedisPy
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

OUTAGE_S = figure(8.0, nightly=30.0)
CALL_S = 5.0
RESUME_S = 2.0
NODES = ("one", "two")
UNDER_LOAD = 40


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
@pytest.mark.parametrize("fault", ["black hole", "stopped"])
def test_a_redis_that_is_silent_for_a_while_costs_no_job_and_no_node(scenario: Scenario, fault: str) -> None:
    proxy = scenario.behind_a_proxy()
    assert scenario.redis is not None
    topics = {"credit": scenario.http(2), "mail": scenario.python(2)}
    buses = [scenario.start(topics, f'[node]\nname = "{name}"', name=name) for name in NODES]
    assert buses[0].settings.node.lost_after_s * 2 < OUTAGE_S
    load = {"threads": 2, "pause_s": 0.02, "orders": "sleep=10"}
    with (
        RedisPy(scenario.ledger, buses[0].port, QUEUE, name="one", **load) as one,
        RedisPy(scenario.ledger, buses[1].port, QUEUE, name="two", **load) as two,
    ):
        until(lambda: scenario.ran() >= UNDER_LOAD and all(scenario.claims().values()), 10, "every topic is busy")
        (proxy.blackhole if fault == "black hole" else scenario.redis.freeze)()
        time.sleep(OUTAGE_S)  # the outage itself
        healed_s = time.time()
        (proxy.heal if fault == "black hole" else scenario.redis.resume)()
        resume_s = scenario.resumed(healed_s, RESUME_S + 3)
        until(lambda: len(_accepted(scenario, healed_s)) == len(NODES), 5, "both nodes take pushes again")
        one.stop()
        two.stop()
    scenario.settled()
    scenario.expect(dup=0)  # nobody who ran a job died
    longest_s, accepted_s = scenario.ledger.longest_call_s(), max(_accepted(scenario, healed_s).values())
    print(f"{fault} for {OUTAGE_S:g} s: longest push {longest_s:.2f} s, accepts after {accepted_s:.2f} s")
    assert longest_s <= CALL_S
    assert max(resume_s, accepted_s) <= RESUME_S
    for bus in buses:
        _nobody_was_declared_dead(bus)


def _accepted(scenario: Scenario, since_s: float) -> dict[str, float]:
    """Node -> seconds from *since_s* to the first positive reply to something that was sent later."""
    pushed = [push for push in scenario.ledger.pushed() if push.result == OK and push.sent_s > since_s]
    firsts: dict[str, float] = {}
    for push in sorted(pushed, key=lambda push: push.replied_s):
        firsts.setdefault(push.key.partition(".")[0], push.replied_s - since_s)
    return firsts


def _nobody_was_declared_dead(bus: Bus) -> None:
    found = [event for event in bus.events() if "fenced" in event["event"] or event["event"] == "child.exited"]
    assert not found, bus.tail()
