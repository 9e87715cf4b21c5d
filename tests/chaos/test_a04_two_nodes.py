"""
A04: two nodes on one Redis; kill -9 every process of one of them, in the middle of its work.

The other one notices that the beat counter stands still, declares the boot dead, and finishes what it had
begun. Nobody cleans anything, nobody comes back.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

from pbus.core.names import Owner
from tests.support.nightly import figure
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

HEARTBEAT_S = figure(1.0, nightly=5.0)
LOST_AFTER_S = 3 * HEARTBEAT_S
FINISHED_S = 5 * HEARTBEAT_S
"""25 s with the intervals that an operator has."""
CALLS, CONSUMERS = 4, 2
UNDER_LOAD = 60
INTERVALS = f'heartbeat = "{HEARTBEAT_S * 1000:.0f}ms"\nlost_after = "{LOST_AFTER_S * 1000:.0f}ms"'


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
def test_the_other_node_finishes_what_a_killed_node_had_begun(scenario: Scenario) -> None:
    topics = {"credit": scenario.http(CALLS), "mail": scenario.python(CONSUMERS)}
    killed, other = (scenario.start(topics, f'[node]\nname = "{name}"\n{INTERVALS}', name=name)
                     for name in ("killed", "other"))
    with scenario.pushing(threads=4, pause_s=0.02, orders="sleep=20") as producers:
        until(lambda: scenario.ran() >= UNDER_LOAD and _held(scenario, "killed").keys() == topics.keys(), 15,
              lambda: f"the node that will be killed is busy\n{killed.tail()}")
        killed.kill_everything()
        killed_s = time.time()
        left = _held(scenario, "killed")
        until(lambda: not _unfinished(scenario, left, killed_s), 2 * FINISHED_S,
              lambda: f"the other node finishes {_unfinished(scenario, left, killed_s)}\n{other.tail()}")
        scenario.recoveries_s.append(scenario.watch.worked_between_s(killed_s, _last_end_s(scenario, left, killed_s)))
        producers.stop()
    scenario.settled()
    running = {topic: len(ids) for topic, ids in left.items()}
    print(f"K={running}, lost_after {LOST_AFTER_S:g} s, promised {FINISHED_S:g} s")
    scenario.expect(dup=running)
    assert left.keys() == topics.keys(), "the killed node held nothing, so nothing was shown"
    assert scenario.recoveries_s[-1] <= FINISHED_S
    assert not _held(scenario, "killed")
    assert Counter(event["event"] for event in other.events())["node.lost"] == 1


def _held(scenario: Scenario, node: str) -> dict[str, set[str]]:
    """Ids of the deliveries that processes of *node* hold, by topic."""
    found: dict[str, set[str]] = {}
    with scenario.driver() as driver:
        for owner in driver.owners():
            if Owner.parse(owner).node == node:
                for claim in driver.held(owner):
                    found.setdefault(claim.topic, set()).add(claim.id)
    return found


def _ends_s(scenario: Scenario, topic: str, since_s: float) -> dict[str, float]:
    """When each job was first finished again after *since_s*, by id."""
    ends: dict[str, float] = {}
    for run in scenario.ledger.runs(QUEUE, topic):
        if run.start_s > since_s:
            ends.setdefault(run.id, run.end_s)
    return ends


def _unfinished(scenario: Scenario, left: dict[str, set[str]], since_s: float) -> dict[str, set[str]]:
    """Of *left*, what nobody has run to its end since."""
    unfinished = {topic: ids - _ends_s(scenario, topic, since_s).keys() for topic, ids in left.items()}
    return {topic: ids for topic, ids in unfinished.items() if ids}


def _last_end_s(scenario: Scenario, left: dict[str, set[str]], since_s: float) -> float:
    """When the last of *left* was finished."""
    return max(_ends_s(scenario, topic, since_s)[job_id] for topic, ids in left.items() for job_id in ids)
