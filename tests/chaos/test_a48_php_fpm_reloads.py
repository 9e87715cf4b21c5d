"""
A48: php-fpm is reloaded every two seconds under load, and the topic says ``on_unknown = "hold"``.

A reload resets what runs (``process_control_timeout`` is 0 by default). With ``hold`` no job runs twice because of
that: what may have run is put aside for a person, who decides; everything else runs once.
"""

from __future__ import annotations

import time
from collections import Counter

from tests.support.nightly import figure
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

SLOTS = 4
RELOADS = figure(3, nightly=30)
EVERY_S = 2.0


def test_no_job_runs_twice_because_php_fpm_is_reloaded(scenario: Scenario) -> None:
    fpm = scenario.fpm(pool={"pm.max_children": str(SLOTS)})
    fpm.start()
    scenario.start({"credit": scenario.fastcgi(fpm.address, SLOTS, 'on_unknown = "hold"')})
    with scenario.pushing(threads=2, pause_s=0.01, orders="linger=20") as producers:
        until(lambda: scenario.ran() > 20, 20, "jobs run")
        for _ in range(RELOADS):
            reloaded_s = time.monotonic()
            fpm.reload()
            time.sleep(max(0.0, reloaded_s + EVERY_S - time.monotonic()))
        producers.stop()
    scenario.settled()
    runs = Counter(run.id for run in scenario.ledger.runs(QUEUE, "credit"))
    with scenario.driver() as driver:
        dead = {letter.id: letter.reason for letter in driver.dead_letters(QUEUE, "credit", 100_000)}
    done = scenario.numbers()["credit"].done_total
    print(f"{RELOADS} reloads: {done} done, {len(dead)} put aside, {len(dead.keys() & runs.keys())} of those had run")
    scenario.expect(dup=0)
    assert max(runs.values()) == 1
    assert set(dead.values()) == {"unknown"}, "no reload met a call, or it was judged otherwise"
    assert len(dead) <= RELOADS * SLOTS
    assert done + len(dead) == len(scenario.ledger.keys("ok")), "each is done or put aside"
