"""Children come back, are given up, and are stopped: a real master with roles that do nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pbus.errors import Exit
from pbus.supervisor.control import call
from tests.support.idle_bus import IdleBus, IdleFactory, role
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

pytestmark = pytest.mark.alone

FAST_BACKOFF = {"first_s": 0.02, "factor": 1.5, "max_s": 0.1}


def new_pid(bus: IdleBus, name: str, old: int) -> int:
    def ready(status: dict[str, Any]) -> list[int]:
        rows = [row for row in status["processes"] if row["role"] == name and row["state"] == "ready"]
        return [row["pid"] for row in rows if row["pid"] != old]

    return ready(bus.wait_for(lambda status: bool(ready(status)), f"a new {name}"))[0]


# -- coming back ----------------------------------------------------------------------------------


def test_killed_child_is_back_within_a_second(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    [old] = bus.pids("delivery")
    with Stopwatch() as watch:
        os.kill(old, signal.SIGKILL)
        new_pid(bus, "delivery", old)
    print(f"respawned after {watch.s * 1000:.0f} ms")
    assert watch.worked_s <= 1.0
    assert next(row["restarts"] for row in bus.status()["processes"] if row["role"] == "delivery") == 1


def test_crash_loop_ends_after_exactly_the_configured_number_of_lives(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("delivery"), role("scheduler", hears=["numbers"], args={"numbers": {"topics": []}}),
        role("consumer", path="gift/credit", title="consumer gift/credit", needed=False, args={"exit": 3}),
        backoff=FAST_BACKOFF,
        topics=[{"queue": "gift", "topic": "credit", "at_least": 1, "at_most": 1, "has_consumers": True}],
        states=("running", "degraded"),
    )
    status = bus.wait_for(lambda status: status["topics"][0]["state"] == "fatal", "the topic is fatal")
    assert len([born for born in bus.events("child.born") if born["child"].startswith("consumer")]) == 10
    [problem] = status["problems"]
    assert problem.startswith("consumer gift/credit: ended 10 times")
    assert "exit status 3" in problem
    assert bus.pids("consumer") == []
    assert len(bus.pids("delivery")) == 1


def test_failed_boot_is_tried_three_times_and_its_reason_is_shown(idle_bus: IdleFactory) -> None:
    moody = role("delivery", args={"fail": ["the moon is full", 1]})
    bus = idle_bus(moody, backoff=FAST_BACKOFF, states=("degraded",))
    assert len(bus.events("child.born")) == 3
    [problem] = bus.status()["problems"]
    assert "did not start 3 times" in problem
    assert "the moon is full" in problem


def test_uncaught_exception_is_logged_with_its_traceback_and_shown(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("delivery", args={"crash": "no such table"}), backoff=FAST_BACKOFF, states=("degraded",))
    assert "RuntimeError: no such table" in bus.status()["problems"][0]
    assert "idle_role.py" in bus.events("child.crashed")[0]["traceback"]


@pytest.mark.parametrize("status", [Exit.TEMPORARY, Exit.NO_PERMISSION, Exit.CONFIG])
def test_needed_role_that_can_never_work_ends_the_first_start(idle_bus: IdleFactory, status: int) -> None:
    bus = idle_bus(role("ingest"), role("scheduler", args={"fail": ["eviction policy", int(status)]}), start=False)
    bus.launch()
    assert bus.ended() == status
    assert "failed: scheduler 0: eviction policy" in bus.out.read_text()
    assert bus.processes() == []


def test_problem_of_a_child_makes_the_bus_degraded(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role(args={"problem": "storage main is away"}), states=("degraded",))
    assert bus.status()["problems"] == ["storage main is away"]


def test_fenced_boot_gives_everybody_a_new_one(idle_bus: IdleFactory) -> None:
    holder = role("consumer", path="gift/credit", own_group=True, holds_claims=True)
    bus = idle_bus(role("scheduler", args={"fence": True}), holder)
    status = bus.wait_for(
        lambda status: (status["generation"], [row["state"] for row in status["processes"]][1:]) == (2, ["ready"] * 2),
        "all children are of generation 2",
    )
    assert status["state"] == "running"
    [fenced] = bus.events("master.fenced")
    assert fenced["old_boot"] != fenced["new_boot"]


def test_reaped_children_leave_no_zombies_and_no_offspring(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("delivery", count=3),
        role("consumer", path="gift/credit", own_group=True, args={"offspring": ["sleep", "600"]}),
    )
    [consumer] = bus.pids("consumer")
    until(lambda: psutil.Process(consumer).children(), 10, "the offspring runs")
    [offspring] = psutil.Process(consumer).children()
    killed = {*bus.pids("delivery"), consumer}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    def all_are_back(status: dict[str, Any]) -> bool:
        living = {row["pid"] for row in status["processes"]}
        return len(living) == 5 and not living & killed

    bus.wait_for(all_are_back, "all are back")  # so all four have been reaped: a place is lived in once at a time
    until(lambda: not offspring.is_running() or offspring.status() == psutil.STATUS_ZOMBIE, 5, "the offspring is gone")
    assert [child for child in psutil.Process(bus.pid).children() if child.status() == psutil.STATUS_ZOMBIE] == []


# -- stopping -------------------------------------------------------------------------------------


def test_stop_drains_stage_after_stage(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("ingest", drain_stage=0, args={"hold_s": 0.2}), role("delivery", drain_stage=1, args={"hold_s": 0.2}),
        role("scheduler", drain_stage=2, args={"gevent": True}),
    )
    bus.signal(signal.SIGTERM)
    assert bus.ended() == 0
    assert [event["child"] for event in bus.events("child.exited")] == ["ingest 0", "delivery 0", "scheduler 0"]
    assert bus.processes() == []


def test_stuck_child_does_not_outlive_the_grace(idle_bus: IdleFactory) -> None:
    spinning = role("consumer", path="gift/credit", own_group=True, args={"spin": True})
    bus = idle_bus(role("delivery", args={"deaf": True}), spinning, grace_s=1.0)
    with Stopwatch() as watch:
        bus.signal(signal.SIGTERM)
        assert bus.ended() == 0
    print(f"stopped after {watch.s:.2f} s with a grace of 1 s")
    assert watch.s >= 0.9
    assert watch.worked_s <= 3.0
    assert len(bus.events("child.grace_over")) == 2


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_makes_the_stop_fast(idle_bus: IdleFactory, second: signal.Signals) -> None:
    bus = idle_bus(role(args={"deaf": True}), grace_s=30.0)
    bus.signal(signal.SIGTERM)
    bus.wait(("stopping",))
    with Stopwatch() as watch:
        bus.signal(second)
        assert bus.ended() == 0
    assert watch.worked_s <= 3.0


def test_quit_stops_fast_and_dumps_the_stacks_of_the_children(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role(args={"deaf": True}), grace_s=30.0)
    with Stopwatch() as watch:
        bus.signal(signal.SIGQUIT)
        assert bus.ended() == 0
    assert watch.worked_s <= 3.0
    assert 'idle_role.py", line' in bus.out.read_text()


def test_storm_of_hups_changes_nothing_and_a_stop_still_works(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    before = bus.pids("delivery")
    for _ in range(500):
        bus.signal(signal.SIGHUP)
    until(lambda: bool(bus.events("reload.refused")), 5, "the log tells of it")
    assert bus.pids("delivery") == before
    assert "without configuration files" in bus.events("reload.refused")[0]["reason"]
    bus.signal(signal.SIGTERM)
    assert bus.ended() == 0


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.2])
def test_stop_in_the_middle_of_a_start_is_clean(idle_bus: IdleFactory, delay_s: float) -> None:
    bus = idle_bus(role(count=4), start=False)
    bus.launch()
    time.sleep(delay_s)
    bus.signal(signal.SIGTERM)
    assert bus.ended(10) in (0, -signal.SIGTERM)  # before Python has installed its handlers, the default ends it
    until(lambda: bus.processes() == [], 2, "nobody is left")


def test_signals_of_the_terminal_do_not_reach_children(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("ingest"), role("consumer", path="gift/credit", own_group=True))
    pids = bus.pids("ingest") + bus.pids("consumer")
    for pid in pids:
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, signum)
    assert bus.pids("ingest") + bus.pids("consumer") == pids
    assert bus.status()["state"] == "running"


def test_child_that_is_sent_term_drains_and_is_replaced(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role(args={"gevent": True, "job": "1-1"}))
    [old] = bus.pids("delivery")
    os.kill(old, signal.SIGTERM)
    new_pid(bus, "delivery", old)
    [exited] = [event for event in bus.events("child.exited") if event["child_pid"] == old]
    assert exited["status"] == 0


def test_usr1_makes_everybody_reopen_the_log(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("delivery"))
    aside = bus.log.with_suffix(".aside")
    bus.log.rename(aside)
    bus.signal(signal.SIGUSR1)
    until(lambda: bus.log.exists() and bool(bus.events("log.reopened")), 5, "a new log")
    size = aside.stat().st_size
    os.kill(bus.pids("delivery")[0], signal.SIGKILL)
    until(lambda: bool(bus.events("child.exited")), 5, "the new file has the news")
    assert aside.stat().st_size == size


# -- the master dies ------------------------------------------------------------------------------


def test_nobody_survives_a_killed_master(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("ingest", drain_stage=0, args={"gevent": True}),
        role("delivery", drain_stage=1, args={"gevent": True, "hold_s": 0.5}),
        role("consumer", drain_stage=1, path="gift/credit", own_group=True, args={"offspring": ["sleep", "600"]}),
        role("scheduler", drain_stage=2, args={"gevent": True}), grace_s=2.0,
    )
    assert len(bus.processes()) >= 5
    with Stopwatch() as watch:
        bus.signal(signal.SIGKILL)
        bus.ended()
        until(lambda: bus.processes() == [], 20.0, "orphans are gone")
    print(f"orphans gone {watch.s:.2f} s after the master, grace 2 s")
    assert watch.worked_s <= 7.0


def test_stuck_orphans_are_gone_after_the_grace_and_five_seconds(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("delivery", drain_stage=1, args={"deaf": True, "gevent": True}),
        role("consumer", drain_stage=1, path="gift/credit", own_group=True, args={"spin": True}),
        role("scheduler", drain_stage=2, args={"gevent": True, "deaf": True}), grace_s=1.0,
    )
    with Stopwatch() as watch:
        bus.signal(signal.SIGKILL)
        bus.ended()
        until(lambda: bus.processes() == [], 20.0, "orphans are gone")
    print(f"stuck orphans gone {watch.s:.2f} s after the master, grace 1 s")
    assert watch.worked_s <= 6.5


def test_offspring_of_a_killed_consumer_does_not_survive_a_killed_master(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("consumer", drain_stage=1, path="gift/credit", own_group=True, args={"offspring": ["sleep", "600"]}),
        role("scheduler", drain_stage=2, args={"gevent": True}), grace_s=1.0,
    )
    [consumer] = bus.pids("consumer")
    until(lambda: psutil.Process(consumer).children(), 5, "the offspring runs")
    os.kill(bus.pid, signal.SIGSTOP)  # so that it cannot bury the consumer itself
    os.kill(consumer, signal.SIGKILL)
    with Stopwatch() as watch:
        bus.signal(signal.SIGKILL)
        bus.ended()
        until(lambda: bus.processes() == [], 20.0, "orphans are gone")
    assert watch.worked_s <= 6.0


def test_scheduler_outlives_the_others_when_the_master_dies(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("consumer", drain_stage=1, path="gift/credit", own_group=True, args={"hold_s": 0.7}),
        role("scheduler", drain_stage=2, args={"gevent": True}), grace_s=3.0,
    )
    [consumer], [scheduler] = bus.pids("consumer"), bus.pids("scheduler")
    bus.signal(signal.SIGKILL)
    bus.ended()
    until(lambda: not _lives(scheduler), 8, "the scheduler is gone")
    assert not _lives(consumer)


def test_start_after_a_killed_master_waits_for_its_children_and_says_so(idle_bus: IdleFactory) -> None:
    holder = role("consumer", path="gift/credit", own_group=True, holds_claims=True)
    bus = idle_bus(holder, role("scheduler", hears=["boots"], args={}), grace_s=10.0)
    [old] = bus.pids("consumer")
    os.kill(old, signal.SIGSTOP)  # it cannot leave before it is told to go on
    bus.signal(signal.SIGKILL)
    bus.ended()
    bus.launch()
    until(lambda: "waiting: processes of an earlier life" in bus.out.read_text(), 20, "it waits")
    assert f"pid {old}" in bus.out.read_text()
    assert _lives(old)
    os.kill(old, signal.SIGCONT)
    bus.wait(("running",))
    assert not _lives(old)


# -- what children ask for ------------------------------------------------------------------------


def test_condemned_consumer_is_killed_and_back_at_once_without_counting_as_a_crash(idle_bus: IdleFactory) -> None:
    consumer = role("consumer", path="gift/credit", own_group=True, args={"job": "1-1", "deaf": True})
    bus = idle_bus(consumer, role("delivery", args={"condemn": "gift/credit", "gevent": True}), backoff={"fatal": 1})
    condemned = until(lambda: bus.events("child.condemned"), 5, "the consumer is condemned")
    assert condemned[0]["by"] == "delivery 0"
    bus.wait_for(
        lambda status: [row["restarts"] for row in status["processes"] if row["path"]] == [1], "it is back"
    )
    [exited] = [event for event in bus.events("child.exited") if event["child"].startswith("consumer")]
    assert exited["how"] == "killed by SIGKILL"


# -- requests -------------------------------------------------------------------------------------


def test_stop_request_is_answered_before_the_bus_is_gone(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    answer = call(str(bus.run_dir), "stop", 5.0, fast=False)
    assert answer["pid"] == bus.pid
    assert bus.ended() == 0
    assert not (bus.run_dir / "pbus.pid").exists()
    assert [path.name for path in bus.run_dir.glob("*.sock")] == []


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
