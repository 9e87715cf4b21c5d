"""
A43: a deploy after which every job fails, then its repair (thirty times faster than with the defaults).

The topic is braked: one job at a time is tried, no attempt is used up, and what had died before it was noticed lives
again. After the repair it is soon at its full rate.
"""

from __future__ import annotations

import time

from pbus.storage.driver import TopicNumbers
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

SCALE = 30
BRAKE = 'brake = { window = "1s", min_jobs = 20, probe_first = "34ms", probe_max = "1s" }'
RETRY = 'retry = { attempts = 3, first = "20ms", max = "50ms", jitter = 0.0 }'
POISONED_S = 4.0
RECOVERY_S = 40.0 / SCALE + 5.0
"""Forty seconds unscaled; what else it takes does not scale: two processors run all of this."""
TOPICS = ("mail", "web")


def test_a_poisoned_deploy_costs_no_job_and_the_rate_is_soon_back(scenario: Scenario) -> None:
    settings = f"{BRAKE}\n{RETRY}"
    bus = scenario.start({"mail": scenario.python(2, settings), "web": scenario.http(4, settings)})
    with scenario.pushing(threads=2, pause_s=0.01) as producers:
        until(lambda: scenario.ran() > 100, 10, "jobs run")
        scenario.ledger.poison(True)
        began_s = time.time()
        until(lambda: _states(scenario) == {"braked"}, 10, lambda: f"both topics are braked: {_states(scenario)}")
        until(lambda: time.time() > began_s + POISONED_S, 2 * POISONED_S, "it goes on failing")
        tried = {topic: _failed(scenario, topic, time.time() - 2.0) for topic in TOPICS}
        until(lambda: not _dead(scenario), 5, lambda: f"what died before the brake lives again: {scenario.numbers()}")
        scenario.ledger.poison(False)
        repaired_s = time.time()
        running, said = (lambda: _states(scenario) == {"running"}), (lambda: f"running again: {_states(scenario)}")
        scenario.recoveries_s.append(scenario.since(repaired_s, RECOVERY_S, running, said))
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)
    print(f"attempts in the last 2 s before the repair: {tried}")
    assert all(count <= 2 * 4 for count in tried.values()), "one probe a second, and no more"
    assert not _dead(scenario)
    tripped = bus.events("brake.tripped")
    assert {event["topic"] for event in tripped} == set(TOPICS)
    assert all(event["forgiven"] > 0 for event in tripped)
    assert {event["topic"] for event in bus.events("brake.released")} == set(TOPICS)


def _states(scenario: Scenario) -> set[str]:
    return {row["state"] for row in scenario.bus.status()["topics"]}


def _dead(scenario: Scenario) -> dict[str, TopicNumbers]:
    return {topic: numbers for topic, numbers in scenario.numbers().items() if numbers.dead}


def _failed(scenario: Scenario, topic: str, since_s: float) -> int:
    """Attempts that failed after that time."""
    return sum(run.end_s > since_s and not run.ok for run in scenario.ledger.runs(QUEUE, topic))
