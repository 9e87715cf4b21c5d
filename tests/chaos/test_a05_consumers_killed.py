"""
A05: kill -9 consumers in the middle of a job, fifty times, while they are fed in frames: Python ones, processes that
run a PHP program, and the PHP programs themselves.

Results that were written count; the job that had begun counts a crash; the rest of its frame goes back.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass

import psutil

from pbus.storage.driver import Driver
from tests.support.scenario import Scenario
from tests.support.waiting import until

KILLS = 50
RECOVERY_S = 2.0
BACKOFF = '[supervise]\nbackoff = { first = "20ms", max = "100ms", fatal = 1000 }'
MORE = 'crash_limit = 50\nretry = { first = "10ms" }'
VICTIMS = ("mail", "credit", "mail", "program of credit")


@dataclass(frozen=True)
class Kill:
    """When somebody of a topic was killed (wall clock), and every job that had been claimed by then."""

    topic: str
    at_s: float
    held: set[str]


def test_fifty_killed_consumers_lose_nothing_and_repeat_at_most_one_job_each(scenario: Scenario) -> None:
    bus = scenario.start({"mail": scenario.python(2, MORE), "credit": scenario.command(2, MORE)}, BACKOFF)
    victims = list(itertools.islice(itertools.cycle(VICTIMS), KILLS))
    with scenario.pushing(threads=4, pause_s=0.02, orders="sleep=5") as producers:
        with scenario.driver() as driver:
            kills = [_kill_in_the_middle_of_a_job(scenario, driver, victim) for victim in victims]
        producers.stop()
    scenario.settled()
    for topic in scenario.topics:
        scenario.recoveries_s.append(_slowest_recovery_s(scenario, topic, kills))
    scenario.expect(dup=Counter(kill.topic for kill in kills))
    print(f"{KILLS} kills held {sum(len(kill.held) for kill in kills)}")
    assert max(scenario.recoveries_s) <= RECOVERY_S
    assert not _zombies(bus.process.pid if bus.process else 0)
    killed = [event for event in bus.events("child.exited") if event["status"] == -signal.SIGKILL]
    assert len(killed) == sum(not victim.startswith("program") for victim in victims)
    assert bus.status()["problems"] == []


def _kill_in_the_middle_of_a_job(scenario: Scenario, driver: Driver, victim: str) -> Kill:
    topic = victim.rpartition(" ")[2]
    pid = until(lambda: _busy(scenario, topic, victim != topic), 5, f"{victim} is in the middle of a job")
    os.kill(pid, signal.SIGKILL)
    at_s = time.time()
    held = {claim.id for owner in driver.owners() for claim in driver.held(owner) if claim.topic == topic}
    until(lambda: pid not in scenario.bus.pids("consumer") and not psutil.pid_exists(pid), 10, "it was seen to die")
    return Kill(topic, at_s, held)


def _busy(scenario: Scenario, topic: str, program: bool) -> int:
    """Pid of a consumer of *topic* that has a job in hand, or of the *program* that it runs; 0 without one."""
    for row in scenario.bus.status()["processes"]:
        if row["path"] == f"gift/{topic}" and row["running"]:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(row["pid"]).children() if program else []
                return children[0].pid if children else 0 if program else int(row["pid"])
    return 0


def _slowest_recovery_s(scenario: Scenario, topic: str, kills: list[Kill]) -> float:
    """Longest way of a claimed job from the last kill that met it to the end of its next run."""
    met = {job: kill.at_s for kill in kills if kill.topic == topic for job in kill.held}
    ends: dict[str, float] = {}
    for run in scenario.ledger.runs("gift", topic):
        if run.end_s > met.get(run.id, run.end_s):
            ends.setdefault(run.id, run.end_s)
    return max((scenario.watch.worked_between_s(met[job], end_s) for job, end_s in ends.items()), default=0.0)


def _zombies(master: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        everybody = psutil.Process(master).children(recursive=True)
        return [child for child in everybody if child.status() == psutil.STATUS_ZOMBIE]
    return []
