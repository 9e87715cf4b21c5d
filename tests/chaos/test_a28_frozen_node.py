"""
A28: every process of one of two nodes is stopped until the other one has declared it dead, and then goes on.

It wakes in the middle of jobs that somebody else has run meanwhile. What it says about them changes
nothing any more; it takes a new boot and works on.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from pbus.core.names import Owner
from tests.support.bus import Bus
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

HEARTBEAT_S, LOST_AFTER_S = 0.3, 1.0
INTERVALS = f'heartbeat = "{HEARTBEAT_S * 1000:.0f}ms"\nlost_after = "{LOST_AFTER_S * 1000:.0f}ms"'
CALLS, CONSUMERS = 4, 2
UNDER_LOAD = 60
PATIENCE_S = 10.0
"""For each step; what is measured is printed."""


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
def test_what_a_frozen_node_says_when_it_thaws_changes_nothing(scenario: Scenario) -> None:
    topics = {"credit": scenario.http(CALLS), "mail": scenario.python(CONSUMERS)}
    frozen, other = (scenario.start(topics, f'[node]\nname = "{name}"\n{INTERVALS}', name=name)
                     for name in ("frozen", "other"))
    with scenario.pushing(threads=4, pause_s=0.02, orders="sleep=20") as producers:
        until(lambda: scenario.ran() >= UNDER_LOAD and _held(scenario, "frozen").keys() == topics.keys(), PATIENCE_S,
              lambda: f"the node that will be frozen is busy\n{frozen.tail()}")
        boots = _boots(scenario, "frozen")
        pids = _signal(frozen, signal.SIGSTOP)
        frozen_s = time.time()
        running = {topic: len(ids) for topic, ids in _held(scenario, "frozen").items()}
        until(lambda: other.events("node.lost") and not _held(scenario, "frozen"), PATIENCE_S,
              lambda: f"the frozen node is declared dead, its claims go back\n{other.tail()}")
        scenario.recoveries_s.append(time.time() - frozen_s)
        scenario.resumed(time.time(), PATIENCE_S)  # what it held has been run by now: it was oldest
        _signal(frozen, signal.SIGCONT, pids)
        thawed_s = time.time()
        until(lambda: frozen.events("master.fenced") and _boots(scenario, "frozen") - boots, PATIENCE_S,
              lambda: f"it holds claims under a new boot\n{frozen.tail()}")
        until(lambda: _runs_of(scenario, frozen, thawed_s), PATIENCE_S, lambda: f"it runs jobs\n{frozen.tail()}")
        print(f"K={running}, working again {time.time() - thawed_s:.2f} s after it went on")
        producers.stop()
    scenario.settled()
    scenario.expect(dup=running)
    pushed = len({push.key for push in scenario.ledger.pushed()})
    for topic, numbers in scenario.numbers().items():
        assert (numbers.done_total, numbers.dead_total, numbers.failed_total) == (pushed, 0, 0), f"{topic}: {numbers}"
    assert not other.events("master.fenced")
    assert len(frozen.events("master.fenced")) == 1


def _signal(bus: Bus, signum: int, pids: list[int] | None = None) -> list[int]:
    """Send *signum* to every process of *bus*, the master first; to whom."""
    assert bus.process is not None
    pids = pids or sorted(bus.processes(), key=lambda pid: pid != bus.process.pid)
    for pid in pids:
        os.kill(pid, signum)
    return pids


def _held(scenario: Scenario, node: str) -> dict[str, set[str]]:
    """Ids of the deliveries that processes of *node* hold, by topic."""
    found: dict[str, set[str]] = {}
    with scenario.driver() as driver:
        for owner in driver.owners():
            if Owner.parse(owner).node == node:
                for claim in driver.held(owner):
                    found.setdefault(claim.topic, set()).add(claim.id)
    return found


def _boots(scenario: Scenario, node: str) -> set[str]:
    """Boots of *node* that hold claims."""
    with scenario.driver() as driver:
        return {owner.boot for owner in map(Owner.parse, driver.owners()) if owner.node == node}


def _runs_of(scenario: Scenario, bus: Bus, since_s: float) -> bool:
    """Whether a consumer that *bus* has now has run something since."""
    consumers = set(bus.pids("consumer"))
    return any(run.pid in consumers and run.start_s > since_s for run in scenario.ledger.runs(QUEUE, "mail"))
