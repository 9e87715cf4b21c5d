"""
A23: php-fpm is stopped under load, and started again.

While it is away nothing is spent on it: no attempt is used up, nothing dies, and what was in its hands when it was
stopped comes back marked as redelivered. When it is back, work goes on as soon as the next probe has seen it.

A call that is cut in its middle on a connection that carried nothing before is its handler's crash, for all that
anybody can see. Whether there is such a call in the moment of the stop is chance; nothing is spent after it.
"""

from __future__ import annotations

import os
import signal
import time

from tests.support.nightly import figure
from tests.support.scenario import Scenario
from tests.support.waiting import until

SLOTS = 4
OUTAGE_S = figure(8.0, nightly=30.0)
BACK_S = 3.0


def test_php_fpm_that_is_stopped_uses_up_no_attempt_and_is_found_again(scenario: Scenario) -> None:
    fpm = scenario.fpm(pool={"pm.max_children": str(SLOTS)})
    fpm.start()
    bus = scenario.start({"credit": scenario.fastcgi(fpm.address, SLOTS)})
    with scenario.pushing(threads=2, pause_s=0.1, orders="linger=40") as producers:
        until(lambda: scenario.ran() > 10, 20, "jobs run")
        fpm.stop()
        until(lambda: bus.topic("gift", "credit")["state"] == "down", 5, "its topic is down")
        before, cut = scenario.ran(), scenario.numbers()["credit"].failed_total
        assert cut <= SLOTS
        stopped_s = time.monotonic()
        while time.monotonic() < stopped_s + OUTAGE_S:
            time.sleep(0.5)
            numbers = scenario.numbers()["credit"]
            assert numbers.failed_total == cut, "what waits for php-fpm has not failed"
            assert numbers.delayed <= cut, "what waits for php-fpm is ready, not retried"
        assert scenario.ran() == before
        fpm.start()
        answers_s = time.time()
        until(lambda: scenario.ran() > before, 20, lambda: f"jobs run again\n{bus.tail()}")
        producers.stop()
    scenario.settled()
    runs = list(scenario.ledger.runs("gift", "credit"))
    dup = len(runs) - len({run.id for run in runs})
    first_s = min(run.end_s for run in runs if run.start_s > answers_s - OUTAGE_S / 2)
    back_s = scenario.watch.worked_between_s(answers_s, max(answers_s, first_s))
    scenario.recoveries_s.append(back_s)
    numbers = scenario.numbers()["credit"]
    print(f"{dup} of {SLOTS} calls in hand ran again, {cut} of them were cut on a fresh connection")
    scenario.expect(dup=SLOTS)
    assert sum(run.attempt > 1 for run in runs) <= cut
    assert (numbers.failed_total, numbers.dead) == (cut, 0)
    assert back_s <= BACK_S


def test_php_fpm_is_found_again_though_the_child_that_probes_it_dies(scenario: Scenario) -> None:
    fpm = scenario.fpm(pool={"pm.max_children": str(SLOTS)})
    fpm.start()
    bus = scenario.start({"credit": scenario.fastcgi(fpm.address, SLOTS)}, "[delivery]\nprocesses = 2")
    with scenario.pushing(threads=2, pause_s=0.1) as producers:
        until(lambda: scenario.ran() > 10, 20, "jobs run")
        fpm.stop()
        until(lambda: bus.topic("gift", "credit")["state"] == "down", 5, "its topic is down in both children")
        before, cut = scenario.ran(), scenario.numbers()["credit"].failed_total
        assert cut <= SLOTS
        fpm.start()
        back_s = time.time()
        os.kill(bus.pids("delivery")[0], signal.SIGKILL)
        until(lambda: scenario.ran() > before, 20, lambda: f"jobs run again\n{bus.tail()}")
        producers.stop()
    scenario.settled()
    runs = list(scenario.ledger.runs("gift", "credit"))
    first_s = min(run.end_s for run in runs if run.start_s > back_s)
    scenario.recoveries_s.append(scenario.watch.worked_between_s(back_s, first_s))
    scenario.expect(dup=SLOTS)
    assert scenario.numbers()["credit"].failed_total == cut
    assert scenario.recoveries_s[-1] <= BACK_S
