"""
``pbus deploy`` under load: a real php-fpm is reloaded, which would kill what runs, and nothing of it is harmed; a
deploy that is killed leaves a pause that ends by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

SLOTS = 4


def begun(scenario: Scenario, *arguments: str) -> subprocess.Popen[bytes]:
    """``pbus deploy ..`` in the background."""
    line = [sys.executable, "-m", "pbus", "deploy", "-c", str(scenario.bus.conf), *arguments]
    return subprocess.Popen(line, env=scenario.bus.environment, cwd=scenario.bus.folder)


def test_no_running_job_is_harmed_by_a_reload_of_php_fpm(scenario: Scenario) -> None:
    fpm = scenario.fpm(pool={"pm.max_children": str(SLOTS)})
    fpm.start()
    scenario.start({"credit": scenario.fastcgi(fpm.address, SLOTS)})
    with scenario.pushing(threads=2, pause_s=0.01, orders="linger=50") as producers:
        until(lambda: scenario.ran() > 20, 20, "jobs run")
        for _ in range(2):
            before = set(fpm.children())
            deploy = begun(scenario, "--backend", fpm.address, "--", "kill", "-USR2", str(fpm.pid))
            assert deploy.wait(30) == 0, scenario.bus.tail()
            ran = scenario.ran()
            until(lambda ran=ran: scenario.ran() > ran + 20, 20, "jobs run again")
            assert not before & set(fpm.children()), "php-fpm was not reloaded"
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)
    assert max(Counter(run.id for run in scenario.ledger.runs(QUEUE, "credit")).values()) == 1
    assert scenario.bus.topic(QUEUE, "credit")["failed_total"] == 0, scenario.bus.tail()
    marks = scenario.bus.events("deploy.done")
    assert [(mark["topics"], mark["status"]) for mark in marks] == [([f"{QUEUE}/credit"], 0)] * 2
    assert marks[0]["command"] == f"kill -USR2 {fpm.pid}"


def test_pause_of_a_killed_deploy_ends_by_itself(scenario: Scenario) -> None:
    scenario.start({"credit": scenario.python()})
    deploy = begun(scenario, "--lease", "2s", "--", "sleep", "60")
    until(lambda: scenario.bus.topic(QUEUE, "credit")["state"] == "paused", 10, "it is paused")
    scenario.push("while")
    os.kill(deploy.pid, signal.SIGKILL)
    deploy.wait()
    killed_s = time.monotonic()
    until(lambda: scenario.ran() == 1, 12, lambda: f"the pause ends\n{scenario.bus.tail()}")
    print(f"resumed {time.monotonic() - killed_s:.1f} s after its death")
    assert [event["topic"] for event in scenario.bus.events("deploy.expired")] == ["credit"]


def test_term_in_the_middle_resumes_at_once_and_ends_the_command(scenario: Scenario) -> None:
    scenario.start({"credit": scenario.python()})
    deploy = begun(scenario, "--topic", f"{QUEUE}/*", "--", "sleep", "60")
    until(lambda: scenario.bus.topic(QUEUE, "credit")["state"] == "paused", 10, "it is paused")
    scenario.push("while")
    deploy.terminate()
    assert deploy.wait(10) == 128 + signal.SIGTERM
    until(lambda: scenario.ran() == 1, 5, lambda: f"resumed\n{scenario.bus.tail()}")
    assert scenario.bus.events("deploy.done") == []
