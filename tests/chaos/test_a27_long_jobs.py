"""
A27: a handler that runs ten times longer than heartbeat and lost_after, without a timeout, runs once.

A claim belongs to the process that runs it, however long that takes: there is no lease to run out.
On Redis a second node looks on, which would give the job to itself if it took the first for dead.
"""

from __future__ import annotations

from tests.support.ledger import Run
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

LOST_AFTER_S = 0.5
LONG_S = 10 * LOST_AFTER_S
INTERVALS = f'heartbeat = "100ms"\nlost_after = "{LOST_AFTER_S * 1000:.0f}ms"'
NO_TIMEOUT = 'timeout = "0s"'


def test_a_job_is_not_run_again_because_it_is_long(scenario: Scenario) -> None:
    fpm = scenario.fpm()
    fpm.start()
    topics = {
        "credit": scenario.fastcgi(fpm.address, concurrency=2, more=NO_TIMEOUT),
        "mail": scenario.python(concurrency=2, more=NO_TIMEOUT),
    }
    nodes = ["one", "two"] if scenario.redis is not None else ["one"]
    buses = [scenario.start(topics, f'[node]\nname = "{name}"\n{INTERVALS}', name=name) for name in nodes]
    with scenario.pushing(threads=1, pause_s=0.05) as producers:
        job_id = scenario.push("long", f"sleep={LONG_S * 1000:.0f}")
        until(lambda: all(_runs(scenario, topic, job_id) for topic in topics), 2 * LONG_S, "the long job has run")
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)
    ran_s = [[round(run.end_s - run.start_s, 2) for run in _runs(scenario, topic, job_id)] for topic in topics]
    print(f"{len(buses)} nodes, lost_after {LOST_AFTER_S:g} s, it ran for {ran_s} s")
    assert all(len(runs) == 1 and runs[0] >= LONG_S for runs in ran_s)
    assert not [event for bus in buses for event in bus.events() if "fenced" in event["event"]]


def _runs(scenario: Scenario, topic: str, job_id: str) -> list[Run]:
    """Every attempt at that job which a handler finished."""
    return [run for run in scenario.ledger.runs(QUEUE, topic) if run.id == job_id]
