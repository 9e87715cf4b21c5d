"""
A30: one job that kills whoever runs it, among a thousand good ones, for a Python function and for a PHP program.

It is dead after exactly three of them, apart from ordinary failures; the good ones each run once.
"""

from __future__ import annotations

from collections import Counter

from tests.support.scenario import Scenario
from tests.support.waiting import until

GOOD = 1_000
CRASHES = 3
BACKOFF = '[supervise]\nbackoff = { first = "20ms", max = "100ms" }'
MORE = 'retry = { first = "50ms", max = "50ms" }'


def test_a_job_that_kills_its_consumer_is_dead_after_three_and_a_thousand_others_run_once(scenario: Scenario) -> None:
    bus = scenario.start({"mail": scenario.python(2, MORE), "credit": scenario.command(2, MORE)}, BACKOFF)
    with scenario.pushing(threads=2, count=GOOD, pipeline=50) as producers:
        poison = scenario.push("poison", "die=1000000")
        producers.finish()
    scenario.settled()
    scenario.expect(dup=0)
    until(lambda: len(bus.events("job.dead")) == len(scenario.topics), 10, "both deaths are told")
    for topic in scenario.topics:
        crashes = [event["verdict"] for event in bus.events("job.failed") if event["topic"] == topic]
        (death,) = [event for event in bus.events("job.dead") if event["topic"] == topic]
        assert (death["job"], death["attempt"]) == (poison, CRASHES)
        assert death["error"].startswith(f"killed its consumer {CRASHES} times")
        assert crashes == ["crashed"] * (CRASHES - 1)
        runs = Counter(run.key for run in scenario.ledger.runs("gift", topic))
        assert len(runs) >= GOOD
        assert set(runs.values()) == {1}
        print(f"{topic}: {len(runs)} good jobs ran once each, the other was dead after {death['attempt']}")
    # The topic's consumers were in trouble, which status says until one of them has lived for a while.
    until(lambda: bus.status()["state"] == "running", 10, lambda: f"all is well again: {bus.status()['problems']}")
