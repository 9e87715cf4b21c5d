"""
kill -9 consumers that pull by XREADGROUP, in the middle of a batch; and the ingest children that hold their claims.

What a killed consumer had read is with another one within a second: the job that was the oldest counts a crash, the
others nothing. What it had run and not acked runs once more. A killed ingest child is no crash of anybody: its clients
connect again, and what they had read is acked by way of the other child or goes back.
"""

from __future__ import annotations

import os
import signal
import time

import psutil

from tests.support.pullers import Puller
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

BATCH = 16
ROUNDS = 3
WITH_ANOTHER_S = 1.0
SLEEP_MS = 20
READERS = 4
FEW = 4
KILLS = 3
RECLAIMED_S = 3.0


def test_what_a_killed_puller_had_read_is_with_another_one_within_a_second(scenario: Scenario) -> None:
    scenario.start({"credit": scenario.pulled()})
    crashes = 0
    with (
        scenario.pushing(threads=1, pipeline=20, orders=f"sleep={SLEEP_MS}", pause_s=0.1) as producers,
        scenario.pulling("credit", connections=2, count=4, name="witness") as witness,
    ):
        for number in range(ROUNDS):
            with scenario.pulling("credit", count=BATCH, name=f"victim{number}") as victim:
                crashes += _kill_in_the_middle(scenario, victim, witness)
        producers.stop()
        scenario.settled()
        witness.stop()
    scenario.expect(dup=ROUNDS)
    assert scenario.numbers()["credit"].failed_total == crashes == ROUNDS, "each death is one crash"


def test_killed_ingest_children_cost_pullers_no_job(scenario: Scenario) -> None:
    bus = scenario.start({"credit": scenario.pulled()}, "[ingest]\nprocesses = 2")
    with (
        scenario.pushing(threads=1, pipeline=20, orders=f"sleep={SLEEP_MS}", pause_s=0.1) as producers,
        scenario.pulling("credit", connections=READERS, count=FEW) as puller,
        scenario.driver() as driver,
    ):
        for _ in range(KILLS):
            known = len(list(puller.taken()))
            until(lambda: len(list(puller.taken())) > known + READERS * FEW, 20, "they work")  # noqa: B023
            door = _door_of(puller, bus.pids("ingest"))
            (born,) = [event["n"] for event in bus.events("child.born") if event["child_pid"] == door]
            os.kill(door, signal.SIGKILL)
            over = lambda: not any(owner.endswith(f".{born}") for owner in driver.owners())  # noqa: B023, E731
            scenario.recoveries_s.append(scenario.within(RECLAIMED_S, over, "it holds nothing any more"))
            until(lambda: len(set(bus.pids("ingest"))) == 2, RECLAIMED_S, "both children are there")
        producers.stop()
        scenario.settled()
        puller.stop()
    scenario.expect(dup=KILLS * READERS * FEW)
    assert scenario.numbers()["credit"].failed_total == 0, "a killed door is no failure of a job"


def _door_of(puller: Puller, children: list[int]) -> int:
    """The ingest child that serves most connections of *puller*."""
    ports = {each.laddr.port for each in psutil.Process(puller.pid).net_connections("tcp")}
    served = {
        pid: sum(bool(each.raddr) and each.raddr.port in ports for each in psutil.Process(pid).net_connections("tcp"))
        for pid in children
    }
    return max(served, key=lambda pid: served[pid])


def _kill_in_the_middle(scenario: Scenario, victim: Puller, witness: Puller) -> int:
    """Kill *victim* while it has a batch in hand, wait until all of it is with *witness*; crashes of jobs: one."""
    until(lambda: len(_open(scenario, victim)) >= BATCH // 2, 20, "it is in the middle of a batch")
    victim.kill()
    killed_s = time.time()
    left = _open(scenario, victim)
    assert len(left) >= 2

    def found() -> bool:
        again = {taken.key: taken for taken in witness.taken() if taken.at_s > killed_s}
        return left <= again.keys() and all(again[key].redelivered for key in left)

    took_s = scenario.since(killed_s, WITH_ANOTHER_S, found, f"{len(left)} jobs are with somebody else")
    scenario.recoveries_s.append(took_s)
    return 1


def _open(scenario: Scenario, puller: Puller) -> set[str]:
    """Keys of what it has read and not run."""
    ran = {run.key for run in scenario.ledger.runs(QUEUE, "credit") if run.pid == puller.pid}
    return {taken.key for taken in puller.taken()} - ran
