"""How many consumers there are, how they end, and what becomes of what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import psutil

from pbus.supervisor.process import birth
from tests.support.idle_bus import IdleBus, IdleFactory, role
from tests.support.waiting import until

TOPIC = {"queue": "gift", "topic": "credit", "at_least": 1, "at_most": 8, "has_consumers": True}
FAST = {"first_s": 0.05, "max_s": 0.2}


def crew(idle_bus: IdleFactory, *others: dict[str, Any], count: int = 1, **args: Any) -> IdleBus:
    """A bus with a scheduler and *count* consumers, both of which say what the test puts into their files."""
    bus = idle_bus(start=False, topics=[TOPIC], backoff=FAST)
    spec = args.pop("spec", {})
    bus.plan["roles"] = [
        role("scheduler", hears=["machine", "numbers"], args={
            "sayings": bus.sayings("scheduler"), "numbers": {"topics": []}, "listens": ["machine"],
            "heard": str(bus.folder / "machine"),
        }),
        role("delivery", hears=["expected", "shares"], args={
            "listens": ["expected", "shares"], "heard": str(bus.folder / "told"), "sayings": bus.sayings("delivery"),
        }),
        consumer(count, **spec, args={"sayings": bus.sayings("consumer"), "code": code(bus, {}), **args}),
        *others,
    ]
    bus.start()
    become(bus, list(range(count)), 30)  # nobody has yet to read how its life goes
    return bus


def consumer(count: int, **fields: Any) -> dict[str, Any]:
    return role(
        "consumer", path="gift/credit", title="consumer gift/credit {index}", count=count, most=8, own_group=True,
        needed=False, **fields,
    )


def code(bus: IdleBus, life: dict[str, Any]) -> str:
    """How lives go that begin from now on."""
    path = bus.folder / "code"
    path.write_text(json.dumps(life))
    return str(path)


def plan(bus: IdleBus, wanted: int, path: str = "gift/credit") -> None:
    bus.say("plan", topics={path: {"wanted": wanted, "surplus": 0, "limited_by": "none", "reason": f"{wanted} it is"}})


def indexes(bus: IdleBus) -> list[int]:
    """Of the consumers that are ready."""
    return sorted(
        row["index"] for row in bus.status()["processes"] if row["role"] == "consumer" and row["state"] == "ready"
    )


def become(bus: IdleBus, expected: list[int], timeout_s: float = 15) -> None:
    until(lambda: indexes(bus) == expected, timeout_s, lambda: f"consumers are {expected}, not {indexes(bus)}")


def outlive(bus: IdleBus) -> None:
    """Wait until every consumer has lived for longer than its own start; its end is no sign of bad code then."""
    until(
        lambda: all(row["uptime_s"] > 1.5 for row in bus.status()["processes"] if row["role"] == "consumer"),
        30, "all have lived for a while",
    )


def heard(bus: IdleBus, file: str, kind: str) -> list[dict[str, Any]]:
    path = bus.folder / file
    lines = path.read_text().splitlines() if path.exists() else []
    return [frame for frame in map(json.loads, lines) if frame["kind"] == kind]


# -- counts ---------------------------------------------------------------------------------------


def test_consumers_follow_the_plan_and_delivery_children_know_how_many_come(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    plan(bus, 5)
    become(bus, [0, 1, 2, 3, 4])
    plan(bus, 2)
    become(bus, [0, 1])
    plan(bus, 3, "mail/send")
    until(lambda: heard(bus, "told", "shares")[-1]["topics"] == {"mail/send": 3}, 5, "calls are shared out")
    assert [frame["topics"] for frame in heard(bus, "told", "expected")] == [
        {"gift/credit": [1, 1]}, {"gift/credit": [5, 5]}, {"gift/credit": [2, 2]},
    ]
    [topic] = bus.status()["topics"]
    assert (topic["concurrency"]["now"], topic["scaling"]["wanted"]) == (2, 2)
    assert {exited["status"] for exited in bus.events("child.exited")} == {0}


def test_scheduler_is_told_what_the_machine_and_the_processes_of_each_topic_take(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    plan(bus, 3)
    become(bus, [0, 1, 2])

    def measured() -> dict[str, Any] | None:
        frames = heard(bus, "machine", "machine")
        return frames[-1] if frames and frames[-1]["topics"].get("gift/credit", {}).get("places") == 3 else None

    frame = until(measured, 10, "the machine was measured")
    credit = frame["topics"]["gift/credit"]
    assert (credit["wanted"], credit["starting"]) == (3, 0)
    assert credit["rss_bytes"] > 3 * (5 << 20)
    assert 0 < frame["cores"] <= os.cpu_count()  # type: ignore[operator]
    assert 0 < frame["memory_free_bytes"] < frame["memory_bytes"]


def test_idle_consumers_go_first_and_one_at_work_only_when_no_other_is_left(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=2)
    code(bus, {"job": "1-1"})
    plan(bus, 4)
    become(bus, [0, 1, 2, 3])
    plan(bus, 2)
    become(bus, [2, 3])
    plan(bus, 1)
    become(bus, [2])
    plan(bus, 2)
    become(bus, [0, 2])


def test_last_plan_holds_without_a_scheduler(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    plan(bus, 3)
    become(bus, [0, 1, 2])
    [scheduler] = bus.pids("scheduler")
    os.kill(scheduler, signal.SIGKILL)
    os.kill(bus.pids("consumer")[0], signal.SIGKILL)
    until(lambda: bus.pids("scheduler") not in ([], [scheduler]), 10, "another scheduler is there")
    become(bus, [0, 1, 2])


def test_topic_that_dies_young_is_not_given_more_places_to_die_at(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    outlive(bus)
    healthy = bus.pids("consumer")  # before the plan: those that it adds die by themselves, at any moment
    code(bus, {"exit": 3})
    plan(bus, 6)
    for pid in healthy:
        os.kill(pid, signal.SIGKILL)
    bus.wait_for(lambda status: status["topics"][0]["state"] == "fatal", "the topic is given up")
    exits = [event for event in bus.events("child.exited") if event["status"] == 3]
    assert len(exits) == 10


def test_more_than_there_is_room_for_is_a_problem_and_ends_nothing(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    plan(bus, 200)  # the scoreboard has 141 rows: what was configured, twice, and 128
    bus.wait_for(lambda status: any("no room for more" in problem for problem in status["problems"]), "a problem", 60)
    plan(bus, 1)
    until(lambda: len(indexes(bus)) == 1, 30, "one is left")
    bus.wait_for(lambda status: status["state"] == "running", "it is over")


def test_user_code_has_the_file_limit_that_the_bus_was_started_with(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert psutil.Process(bus.pids("consumer")[0]).rlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    assert psutil.Process(bus.pid).rlimit(resource.RLIMIT_NOFILE) == (hard, hard)


# -- ends -----------------------------------------------------------------------------------------


def test_consumer_that_leaves_as_it_should_is_replaced_at_once_and_counts_as_no_accident(
    idle_bus: IdleFactory,
) -> None:
    bus = crew(idle_bus, jobs=1)
    [old] = bus.pids("consumer")
    bus.say("leaving", 0, role="consumer", why="it has done 1 job")
    until(lambda: len(bus.pids("consumer")) == 2, 10, "another one is there before it has gone")
    os.kill(old, signal.SIGTERM)
    until(lambda: bus.events("child.exited"), 10, "the old one has gone")
    become(bus, [0])
    born, left = bus.events("child.born"), bus.events("child.exited")
    assert (left[0]["child_pid"], left[0]["level"]) == (old, "info")
    assert [row["restarts"] for row in bus.status()["processes"] if row["role"] == "consumer"] == [0]
    assert bus.status()["problems"] == []
    assert len(born) == 4


def test_consumer_that_leaves_again_and_again_without_a_job_is_a_crash_loop(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    code(bus, {"exit": 0})
    os.kill(bus.pids("consumer")[0], signal.SIGKILL)
    bus.wait_for(lambda status: status["topics"][0]["state"] == "fatal", "the topic is given up")


def test_overdue_consumer_is_told_then_writes_its_stacks_and_then_is_killed_with_what_it_started(
    idle_bus: IdleFactory,
) -> None:
    bus = crew(idle_bus, spec={"dumps": True}, deaf=True, job="1-1")
    [old] = bus.pids("consumer")
    [row] = [row for row in bus.status()["processes"] if row["role"] == "consumer"]
    bus.say("kill", role="delivery", owner=owner_of(bus, row))
    until(lambda: old not in bus.pids("consumer"), 10, "it is gone")
    [told], [killed] = bus.events("child.condemned"), bus.events("child.overdue")
    waited_s = seconds(killed["ts"]) - seconds(told["ts"])
    assert waited_s >= 1.0
    assert "idle_role.py" in bus.out.read_text()  # where it stood
    assert bus.events("child.exited")[-1]["how"] == "killed by SIGKILL"


def test_process_far_above_its_max_rss_is_killed_and_says_so(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, spec={"max_rss_bytes": 60 << 20})
    code(bus, {"eat": 160, "job": "7-7"})
    plan(bus, 2)
    [event] = until(lambda: bus.events("consumer.too_big"), 15, "it is too big")[:1]
    assert (event["job"], event["bound_bytes"]) == ("7-7", 92 << 20)
    [exited] = until(lambda: [event for event in bus.events("child.exited") if event["status"] == -9], 10, "killed")[:1]
    assert "far above max_rss = 60 MiB" in exited["how"]


# -- leftovers ------------------------------------------------------------------------------------


def test_daemons_that_user_code_leaves_behind_end_with_their_consumer_and_not_before(idle_bus: IdleFactory) -> None:
    note = Path(str(idle_bus(start=False).folder)) / "daemons"
    note.parent.mkdir(parents=True, exist_ok=True)
    bus = crew(idle_bus, count=3, daemon=str(note))
    daemons = until(lambda: pids if len(pids := noted(note)) == 3 else [], 10, "each has left a daemon")
    until(lambda: {psutil.Process(pid).ppid() for pid in daemons} == {bus.pid}, 5, "the master has adopted them")
    assert len({os.getsid(pid) for pid in daemons}) == 3
    plan(bus, 1)
    become(bus, [0])
    until(lambda: len(living(daemons)) == 1, 10, "two have ended with their consumers")
    os.kill(bus.pids("consumer")[0], signal.SIGKILL)
    until(lambda: not living(daemons), 10, "the last one too")
    until(lambda: len(noted(note)) == 4, 10, "the next consumer has left one, too")
    bus.signal(signal.SIGTERM)
    assert bus.ended() == 0
    assert not living(noted(note))
    assert zombies(bus) == []


def test_processes_that_bear_no_mark_are_left_alone(idle_bus: IdleFactory) -> None:
    """Somebody execs into ``pbus start`` with children of his own; they are his."""
    bus = crew(idle_bus)
    strangers = psutil.Process(bus.pid).children()
    assert {child.pid for child in strangers} == {row["pid"] for row in bus.status()["processes"]} - {bus.pid}


def test_many_that_die_at_once_are_all_reaped_and_replaced(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=30)
    become(bus, list(range(30)), 30)
    outlive(bus)
    before = bus.pids("consumer")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(bus.pids("consumer")) & set(before), 10, "all are gone")
    become(bus, list(range(30)), 30)
    assert zombies(bus) == []


def owner_of(bus: IdleBus, row: dict[str, Any]) -> str:
    """As it claims jobs; there is one boot, and slots are given out in the order of birth."""
    born = next(event for event in bus.events("child.born") if event["child_pid"] == row["pid"])
    [boot] = [path.name for path in (bus.run_dir / "boot").iterdir()]
    return f"idle/{boot.removesuffix('.lock')}/{born['n'] - 1}.{born['n']}"


def seconds(ts: str) -> float:
    hours, minutes, rest = ts.split("T")[1].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def noted(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if birth(pid)]


def zombies(bus: IdleBus) -> list[int]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(bus.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child.pid] if child.status() == psutil.STATUS_ZOMBIE else []
    return found
