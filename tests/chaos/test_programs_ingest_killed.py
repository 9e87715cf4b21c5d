"""
kill -9 ingest children while programs take jobs through them by their tokens.

What a program holds is its process', not the child's: whichever child it comes to next finds it. A job that a child
claimed and did not hand over before it died is handed out again; none is taken for done that never ran.
"""

from __future__ import annotations

import os
import signal

from tests.support.scenario import Scenario
from tests.support.seeds import generator
from tests.support.waiting import until

PROGRAMS = 3
KILLS = 5
RESPAWN_S = 5.0


def test_killed_ingest_children_cost_programs_no_job(scenario: Scenario) -> None:
    draw = generator("programs")
    bus = scenario.start({"mail": scenario.program(PROGRAMS)}, "[ingest]\nprocesses = 2")
    with scenario.pushing(threads=2) as producers:
        until(lambda: scenario.ledger.executed_count("gift", "mail") > 50, 20, "programs work")
        for _ in range(KILLS):
            children = bus.pids("ingest")
            os.kill(draw.choice(children), signal.SIGKILL)
            done = scenario.ledger.executed_count("gift", "mail")
            until(lambda: scenario.ledger.executed_count("gift", "mail") > done + 20, 20, "they go on")  # noqa: B023
            until(lambda: len(set(bus.pids("ingest"))) == 2, RESPAWN_S, "both children are there")
        producers.stop()
    scenario.settled()
    scenario.expect(dup=PROGRAMS * KILLS)
    assert not bus.events("job.dead")
    assert not bus.events("job.failed"), "a killed door is no failure of a job"
