"""
A18: a Redis that neither answers nor closes, for longer than a node may be silent: behind a black hole in the
network, then stopped itself. Two nodes work on it under load.

Producers get an error in time, nobody waits for ever. Nobody is declared dead: who looks at the beats can say so
only of the time in which its own calls succeeded. That matters when the network comes back for one node first: it
sees a counter that has not moved for long. When Redis answers again, everything goes on by itself, nothing twice.
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
LOST_AFTER_S = 5.0
APART_S = 1.0
"""The second node has its network back so much later."""
CALL_S = 5.0
RESUME_S = 2.0
NODES = ("one", "two")
UNDER_LOAD = 40
LOAD = {"threads": 2, "pause_s": 0.02, "orders": "sleep=10"}


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
@pytest.mark.parametrize("fault", ["black hole", "stopped"])
def test_a_redis_that_is_silent_for_a_while_costs_no_job_and_no_node(scenario: Scenario, fault: str) -> None:
    topics = {"credit": scenario.http(2), "mail": scenario.python(2)}
    buses, proxies = [], []
    for name in NODES:
        proxies.append(scenario.behind_a_proxy(name))
        more = f'[node]\nname = "{name}"\nlost_after = "{LOST_AFTER_S:g}s"'
        buses.append(scenario.start(topics, more, name=name))
    redis = scenario.redis
    assert redis is not None
    starts = [proxy.blackhole for proxy in proxies] if fault == "black hole" else [redis.freeze]
    ends = [proxy.heal for proxy in proxies] if fault == "black hole" else [redis.resume]
    with _pushing(scenario, buses[0], "one") as one, _pushing(scenario, buses[1], "two") as two:
        until(lambda: scenario.ran() >= UNDER_LOAD and all(scenario.claims().values()), 10, "every topic is busy")
        for start in starts:
            start()
        time.sleep(OUTAGE_S)  # the outage itself
        for end in ends:
            end()
            healed_s = time.time()
            resume_s = scenario.resumed(healed_s, RESUME_S + 3)
            time.sleep(max(0.0, healed_s + APART_S - time.time()))
        until(lambda: len(_accepted(scenario, healed_s)) == len(NODES), 5, "both nodes take pushes again")
        one.stop()
        two.stop()
    scenario.settled()
    scenario.expect(dup=0)  # nobody who ran a job died
    longest_s, accepted_s = _longest_push_s(scenario), max(_accepted(scenario, healed_s).values())
    print(f"{fault} for {OUTAGE_S:g} s: longest push {longest_s:.2f} s, accepts after {accepted_s:.2f} s")
    assert longest_s <= CALL_S
    assert max(resume_s, accepted_s) <= RESUME_S
    for bus in buses:
        found = [event for event in bus.events() if event["event"] in ("node.lost", "master.fenced", "child.exited")]
        assert not found, found


def _pushing(scenario: Scenario, bus: Bus, name: str) -> RedisPy:
    return RedisPy(scenario.ledger, bus.port, QUEUE, name=name, **LOAD)  # type: ignore[arg-type]


def _longest_push_s(scenario: Scenario) -> float:
    """From the push to its reply or error, pauses of the machine apart."""
    pushed = sorted(scenario.ledger.pushed(), key=lambda push: push.replied_s - push.sent_s)
    return max(scenario.watch.worked_between_s(push.sent_s, push.replied_s) for push in pushed[-100:])


def _accepted(scenario: Scenario, since_s: float) -> dict[str, float]:
    """Node -> seconds from *since_s* to the first positive reply to something that was sent later."""
    pushed = [push for push in scenario.ledger.pushed() if push.result == OK and push.sent_s > since_s]
    firsts: dict[str, float] = {}
    for push in sorted(pushed, key=lambda push: push.replied_s):
        firsts.setdefault(push.key.partition(".")[0], push.replied_s - since_s)
    return firsts
