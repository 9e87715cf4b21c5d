"""
A01: kill -9 a delivery child, five times, with its consumers busy.

Its own claims (FastCGI) go back at once; its consumers live on with theirs.
"""

from __future__ import annotations

import time

from tests.support.scenario import Scenario
from tests.support.waiting import until

ROUNDS = 5
CALLS = 4
RECOVERY_S = 3.0


def test_a_killed_delivery_child_costs_no_job_and_no_consumer_its_work(scenario: Scenario) -> None:
    fpm = scenario.fpm()
    fpm.start()
    bus = scenario.start({"credit": scenario.fastcgi(fpm.address, CALLS), "mail": scenario.python(2)})
    with scenario.pushing(threads=2, pause_s=0.005, orders="sleep=3") as producers:
        running = sum(_kill_one_in_the_middle_of_its_work(scenario, number) for number in range(ROUNDS))
        producers.stop()
    scenario.settled()
    scenario.expect(dup={"credit": running, "mail": 0})
    exits = [event["child"] for event in bus.events("child.exited")]
    assert exits == ["delivery 0"] * ROUNDS, bus.tail()


def _kill_one_in_the_middle_of_its_work(scenario: Scenario, number: int) -> int:
    """Kill it, and wait until everything it held has run; how many deliveries of its own it held (K)."""
    bus, ledger = scenario.bus, scenario.ledger
    until(lambda: bus.pids("delivery") and bus.topic("gift", "credit")["running"], 10, "a delivery child is busy")
    consumers = bus.pids("consumer")
    [old] = bus.kill("delivery")
    killed_s = time.time()
    with scenario.driver() as driver:
        held = {claim.id for owner in driver.owners() for claim in driver.held(owner) if claim.topic == "credit"}
    until(lambda: bus.pids("delivery") not in ([], [old]), 20, "another delivery child is there")
    ran = lambda: {run.id for run in ledger.runs("gift", "credit")}  # noqa: E731
    scenario.recoveries_s.append(scenario.since(killed_s, RECOVERY_S, lambda: held <= ran(), "what it held has run"))
    print(f"round {number}: K={len(held)} recovered after {scenario.recoveries_s[-1]:.2f} s")
    assert bus.pids("consumer") == consumers
    return len(held)
