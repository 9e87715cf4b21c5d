"""
A03: kill -9 the master under load, and start again at once, without cleaning anything.

Its children, and their consumers, finish what runs and leave by themselves; the next life waits
for them. What outlasts the grace is ended by force, and its claims come back at once.
"""

from __future__ import annotations

import time
from collections import Counter

from pbus.core.names import Owner
from tests.support.scenario import Scenario
from tests.support.waiting import until

GRACE_S = 2.0
ORPHANS_S = GRACE_S + 5.0
BACK_S = 2.0
CALLS, CONSUMERS = 4, 2
UNDER_LOAD = 100
NODE = f'[node]\ngrace = "{GRACE_S:g}s"'


def test_the_children_of_a_killed_master_leave_and_the_next_start_needs_no_cleaning(scenario: Scenario) -> None:
    scenario.start({"credit": scenario.http(CALLS), "mail": scenario.python(CONSUMERS)}, NODE)
    with scenario.pushing(threads=4, pause_s=0.01, orders="sleep=2") as producers:
        until(lambda: scenario.ran() >= UNDER_LOAD, 10, "every topic is busy")
        _kill_the_master_and_start_again(scenario)
        _begin_what_outlasts_the_grace(scenario)
        left_behind = _kill_the_master_and_start_again(scenario)
        producers.stop()
    scenario.settled()
    scenario.expect(dup={"credit": 1, "mail": 0})  # all that ran was finished, but for the long job
    assert left_behind, "nothing outlasted the grace, so it is not shown that claims come back"


def _kill_the_master_and_start_again(scenario: Scenario) -> int:
    """One crash of the master in the middle of work; how many claims its children left behind."""
    bus = scenario.bus
    boots = set(_claims(scenario))
    bus.kill_master()
    orphans = set(bus.processes())
    killed_s = time.monotonic()
    bus.launch()
    gone = lambda: not orphans & set(bus.processes())  # noqa: E731
    scenario.within(ORPHANS_S, gone, lambda: f"{orphans} leave by themselves\n{bus.tail()}")
    left_s = time.monotonic()
    left_behind = sum(count for boot, count in _claims(scenario).items() if boot in boots)
    bus.wait()
    running_s = time.monotonic()
    back = lambda: not boots & set(_claims(scenario))  # noqa: E731
    scenario.within(BACK_S, back, lambda: f"claims of {boots} came back\n{bus.tail()}")
    print(
        f"K={CALLS + CONSUMERS} orphans=0 after {left_s - killed_s:.2f} s, running after {running_s - killed_s:.2f} s, "
        f"{left_behind} claims back {time.monotonic() - running_s:.2f} s later"
    )
    return left_behind


def _begin_what_outlasts_the_grace(scenario: Scenario) -> None:
    """A job that runs so long that no drain can wait for it; returns when both handlers are at work on it."""
    job_id = scenario.push("long", f"sleep={2000 * GRACE_S:.0f}")
    until(lambda: _at_work_on(scenario, job_id) == set(scenario.topics), 10, "both handlers work on the long job")


def _at_work_on(scenario: Scenario, job_id: str) -> set[str]:
    """Topics in which somebody's oldest claim is that job: everything before it is done."""
    with scenario.driver() as driver:
        oldest = [claims[0] for owner in driver.owners() if (claims := driver.held(owner))]
    return {claim.topic for claim in oldest if claim.id == job_id}


def _claims(scenario: Scenario) -> Counter[str]:
    """How many claims each boot holds."""
    with scenario.driver() as driver:
        return Counter(Owner.parse(owner).boot for owner in driver.owners() for _ in driver.held(owner))
