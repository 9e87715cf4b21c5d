"""
A21: php-fpm whose processes leave after two requests, under load; then twenty are killed in the middle of a call.

The first costs nothing: a connection that php-fpm has closed carries no call. A killed process costs the call
that it had: whether the work was done nobody can know, so it runs again, once.

A php-fpm process costs about 2.8 ms of processor time from its birth to its end, whoever asks it: 10,000 jobs take
15 to 20 s on two cores that do other things, too, and belong to the nightly run; 3,000 are 1,500 processes that leave.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter

from tests.support.ledger import Run
from tests.support.nightly import figure
from tests.support.php_fpm import PhpFpm
from tests.support.scenario import Scenario
from tests.support.waiting import until

JOBS = figure(3_000, nightly=10_000)
KILLS = 20
PROCESSES = 4
LINGER_S = 0.1


def _start(scenario: Scenario) -> PhpFpm:
    fpm = scenario.fpm(pool={"pm.max_requests": "2", "pm.max_children": str(PROCESSES)})
    fpm.start()
    more = 'crash_limit = 50\nretry = { first = "10ms" }'  # the kills may meet a job again and again
    scenario.start({"credit": scenario.fastcgi(fpm.address, PROCESSES, more)})
    return fpm


def test_processes_that_leave_after_two_requests_fail_no_job_and_repeat_none(scenario: Scenario) -> None:
    _start(scenario)
    begun_s = time.monotonic()
    with scenario.pushing(count=JOBS, threads=2, pipeline=50) as producers:
        producers.finish(figure(60, nightly=300))
    scenario.settled(figure(100, nightly=400))
    runs = list(scenario.ledger.runs("gift", "credit"))
    processes = len({run.pid for run in runs})
    print(f"{JOBS} jobs by {processes} processes in {time.monotonic() - begun_s:.1f} s")
    scenario.expect(dup=0)
    assert scenario.bus.topic("gift", "credit")["failed_total"] == 0, scenario.bus.tail()
    assert {run.attempt for run in runs} == {1}
    assert processes >= JOBS / 2 - PROCESSES, "php-fpm did not do what this test is about"


def test_processes_killed_in_the_middle_of_a_call_cost_that_call_only(scenario: Scenario) -> None:
    fpm = _start(scenario)
    with scenario.pushing(threads=2, pause_s=0.01, orders=f"linger={LINGER_S * 1000:.0f}") as producers:
        for number in range(KILLS):
            _kill_one_that_has_not_answered(scenario, fpm, 1 + number % 2)
        producers.stop()
    scenario.settled()
    runs = list(scenario.ledger.runs("gift", "credit"))
    again = sum(run.attempt > 1 for run in runs)
    dup = len(runs) - len({run.id for run in runs})
    print(f"{KILLS} killed: {again} counted as an attempt, {dup - again} sent again on a fresh connection")
    scenario.expect(dup=KILLS)
    assert dup == KILLS, "each was killed before it answered, so nobody could know that its job was done"


def _kill_one_that_has_not_answered(scenario: Scenario, fpm: PhpFpm, call: int) -> None:
    """Kill a process that has done the work of its *call*-th job and lingers before it answers."""

    def lingering() -> int:
        runs = list(scenario.ledger.runs("gift", "credit"))
        calls = Counter(run.pid for run in runs)
        alive = fpm.children()
        fresh = (run.pid for run in runs if _is_fresh(run) and calls[run.pid] == call)
        return next((pid for pid in fresh if pid in alive), 0)

    def killed() -> int:
        pid = until(lingering, 10, f"a process lingers in its call number {call}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            last = [run for run in scenario.ledger.runs("gift", "credit") if run.pid == pid][-1]
            if _is_fresh(last):
                os.kill(pid, signal.SIGKILL)
                return pid
            os.kill(pid, signal.SIGCONT)
        return 0

    pid = until(killed, 20, "one was stopped in time")
    until(lambda: pid not in (now := fpm.children()) and len(now) == PROCESSES, 10, "php-fpm has replaced it")


def _is_fresh(run: Run) -> bool:
    return time.time() < run.end_s + LINGER_S
