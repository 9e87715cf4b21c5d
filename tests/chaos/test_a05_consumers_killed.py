"""
A05: kill -9 a Python consumer in the middle of a job, fifty times, while it is fed in frames.

Results it has written count; the job that it had begun counts a crash; the rest of its frame goes back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

import psutil

from pbus.storage.driver import Driver
from tests.support.scenario import Scenario
from tests.support.waiting import until

KILLS = 50
RECOVERY_S = 2.0
BACKOFF = '[supervise]\nbackoff = { first = "20ms", max = "100ms", fatal = 1000 }'


@dataclass(frozen=True)
class Kill:
    """When one was killed (wall clock), and every job that had been claimed by then."""

    at_s: float
    held: set[str]


def test_fifty_killed_consumers_lose_nothing_and_repeat_at_most_one_job_each(scenario: Scenario) -> None:
    bus = scenario.start({"mail": scenario.python(2, 'crash_limit = 50\nretry = { first = "10ms" }')}, BACKOFF)
    with scenario.pushing(threads=4, pause_s=0.02, orders="sleep=5") as producers:
        with scenario.driver() as driver:
            kills = [_kill_a_busy_consumer(scenario, driver) for _ in range(KILLS)]
        producers.stop()
    scenario.settled()
    slowest_s = _slowest_recovery_s(scenario, kills)
    scenario.recoveries_s.append(slowest_s)
    scenario.expect(dup=KILLS)
    print(f"{KILLS} kills held {sum(len(kill.held) for kill in kills)}, slowest recovery {slowest_s:.2f} s")
    assert slowest_s <= RECOVERY_S
    assert not _zombies(bus.process.pid if bus.process else 0)
    assert [event["status"] for event in bus.events("child.exited")] == [-signal.SIGKILL] * KILLS


def _kill_a_busy_consumer(scenario: Scenario, driver: Driver) -> Kill:
    pid = until(lambda: _busy(scenario), 5, "a consumer is in the middle of a job")
    os.kill(pid, signal.SIGKILL)
    at_s = time.time()
    held = {claim.id for owner in driver.owners() for claim in driver.held(owner)}
    until(lambda: pid not in scenario.bus.pids("consumer"), 10, "the master has seen it die")
    return Kill(at_s, held)


def _busy(scenario: Scenario) -> int:
    """Pid of a consumer that has a job in hand, 0 without one."""
    rows = scenario.bus.status()["processes"]
    return next((row["pid"] for row in rows if row["role"] == "consumer" and row["running"]), 0)


def _slowest_recovery_s(scenario: Scenario, kills: list[Kill]) -> float:
    """Longest way of a claimed job from the last kill that met it to the end of its next run."""
    met = {job: kill.at_s for kill in kills for job in kill.held}
    ends: dict[str, float] = {}
    for run in scenario.ledger.runs("gift", "mail"):
        if run.end_s > met.get(run.id, run.end_s):
            ends.setdefault(run.id, run.end_s)
    return max((scenario.watch.worked_between_s(met[job], end_s) for job, end_s in ends.items()), default=0.0)


def _zombies(master: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(master).children() if child.status() == psutil.STATUS_ZOMBIE]
    return []
