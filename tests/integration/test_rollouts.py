"""New code: a canary first, the others after it one by one, and nothing lost where it is broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.test_crews import FAST, become, code, crew, indexes, outlive, plan
from tests.support.bus import Bus, BusFactory
from tests.support.idle_bus import ROOT, IdleBus, IdleFactory, role
from tests.support.waiting import until

GOOD = {"jobs": 5}
"""New code whose processes finish five jobs at once."""


def stage(bus: IdleBus) -> str:
    return str(bus.status()["topics"][0]["rollout"].get("stage", ""))


def rolled(bus: IdleBus, expected: str = "none", timeout_s: float = 15) -> dict[str, Any]:
    until(lambda: stage(bus) == expected, timeout_s, lambda: f"the roll-out is {expected}, not {stage(bus)}")
    topic: dict[str, Any] = bus.status()["topics"][0]
    return topic


def change(bus: IdleBus, life: dict[str, Any], teller: int = 0) -> None:
    """New code, and the consumer of that index notices."""
    code(bus, life)
    bus.say("changed", teller, role="consumer", files=["jobs.py"])


# -- the master with idle roles ---------------------------------------------------------------------


def test_good_code_reaches_everybody_one_by_one_and_never_fewer_work(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=3)
    old = bus.pids("consumer")
    change(bus, GOOD)
    until(lambda: stage(bus) == "none" and not set(bus.pids("consumer")) & set(old), 15, "everybody is new")
    assert len(indexes(bus)) == 3
    assert highest(bus) <= 4
    assert lowest(bus) == 3
    names = [event["event"] for event in bus.events("") if event["event"].startswith("rollout.")]
    assert names == ["rollout.begun", "rollout.canary_is_good", "rollout.done"]
    assert [row["restarts"] for row in bus.status()["processes"] if row["role"] == "consumer"] == [0, 0, 0]


@pytest.mark.parametrize(("life", "reason"), [
    ({"exit": 3}, "exit status 3"),
    ({"fail": ["no module named jobs", 1]}, "no module named jobs"),
    ({"crash": "syntax error"}, "syntax error"),
], ids=["dies", "says that it cannot start", "raises"])
def test_bad_code_leaves_the_old_processes_where_they_are(
    idle_bus: IdleFactory, life: dict[str, Any], reason: str
) -> None:
    bus = crew(idle_bus, count=2)
    old = bus.pids("consumer")
    change(bus, life)
    topic = rolled(bus, "failed")
    become(bus, [0, 1])
    assert bus.pids("consumer") == old
    assert (topic["state"], topic["rollout"]["old"]) == ("rollout-failed", 2)
    [problem] = bus.status()["problems"]
    assert problem.startswith("gift/credit rollout-failed: ")
    assert reason in problem
    assert "(changed: jobs.py)" in problem
    assert bus.status()["state"] == "degraded"
    change(bus, GOOD)
    until(lambda: stage(bus) == "none" and not set(bus.pids("consumer")) & set(old), 15, "repaired code goes its way")
    assert bus.status()["problems"] == []


def test_bad_code_that_comes_again_and_again_gives_nobody_up(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=2)
    old = bus.pids("consumer")
    for number in range(1, 5):
        change(bus, {"fail": ["no module named jobs", 1]})
        until(lambda number=number: len(bus.events("rollout.failed")) == number, 10, f"failure {number}")
    assert bus.status()["topics"][0]["state"] == "rollout-failed"
    assert bus.pids("consumer") == old
    assert bus.events("child.fatal") == []


def test_those_with_old_code_have_nothing_to_say_once_there_is_newer(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=2)
    change(bus, {})
    until(lambda: indexes(bus) == [0, 1, 2], 10, "the canary is ready")
    bus.say("changed", 0, role="consumer", files=["jobs.py"])
    bus.say("problem", 0, role="consumer", name="said", text="it was heard")
    until(lambda: "it was heard" in bus.status()["problems"], 10, "the old one was heard")
    assert [event["code"] for event in bus.events("rollout.begun")] == [1]


def test_bad_code_that_is_put_back_is_no_problem_any_more(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=2)
    old = bus.pids("consumer")
    change(bus, {"exit": 3})
    rolled(bus, "failed")
    bus.say("changed", 0, role="consumer", files=[])
    rolled(bus)
    assert bus.status()["state"] == "running"
    assert bus.pids("consumer") == old


def test_another_change_begins_again_and_the_canary_of_the_first_goes(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=2)
    old = bus.pids("consumer")
    change(bus, {})
    until(lambda: indexes(bus) == [0, 1, 2], 10, "the canary is ready, and has not done a thing")
    change(bus, GOOD, 2)
    until(lambda: stage(bus) == "none" and not set(bus.pids("consumer")) & set(old), 15, "everybody is new")
    assert [event["code"] for event in bus.events("rollout.begun")] == [1, 2]
    become(bus, indexes(bus))
    assert len(indexes(bus)) == 2


def test_plan_that_changes_meanwhile_is_followed(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=4)
    old = bus.pids("consumer")
    change(bus, {})
    until(lambda: len(indexes(bus)) == 5, 10, "the canary is there")
    [canary] = set(bus.pids("consumer")) - set(old)
    plan(bus, 2)
    until(lambda: len(indexes(bus)) == 3, 10, "two old ones have gone")
    assert canary in bus.pids("consumer")


def test_old_process_that_dies_beside_bad_code_gets_the_bad_code_and_that_is_said(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=2)
    outlive(bus)
    change(bus, {"fail": ["no module named jobs", 1]})
    rolled(bus, "failed")
    code(bus, {})
    os.kill(bus.pids("consumer")[0], signal.SIGKILL)
    until(lambda: bus.events("rollout.in_by_death"), 10, "another one is born")
    become(bus, [0, 1])
    assert "the old processes go on (1 of 2 were born after the change)" in bus.status()["problems"][0]


def test_restart_of_a_topic_that_was_given_up_tries_again(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus, count=2)
    outlive(bus)
    code(bus, {"exit": 3})
    for pid in bus.pids("consumer"):
        os.kill(pid, signal.SIGKILL)
    status = bus.wait_for(lambda status: status["topics"][0]["state"] == "fatal", "the topic is given up")
    assert "'pbus topic restart gift/credit'" in status["problems"][0]
    again = pbus(bus, "topic", "restart", "gift/credit", "--wait")
    assert (again.returncode, result_of(again)) == (1, ["failed"])
    code(bus, {})
    well = pbus(bus, "topic", "restart", "gift/*", "--wait")
    assert (well.returncode, result_of(well)) == (0, ["done"])
    become(bus, [0, 1])


def test_restart_answers_what_it_can_do(idle_bus: IdleFactory) -> None:
    bus = crew(idle_bus)
    bus.signal(signal.SIGTERM)
    bus.ended()
    bus.plan["topics"].append({"queue": "mail", "topic": "send", "at_least": 1, "at_most": 1})
    bus.start()
    both = pbus(bus, "topic", "restart", "*")
    assert (both.returncode, result_of(both)) == (0, ["restarting", "nothing"])
    nobody = pbus(bus, "topic", "restart", "gift/debit")
    assert nobody.returncode == 5
    assert "there are: gift/credit, mail/send" in nobody.stderr


def test_programs_are_restarted_one_at_a_time_and_never_two_at_one_place(idle_bus: IdleFactory) -> None:
    program = role(
        "program", path="mailer", title="program mailer {index}", count=2, own_group=True, alone=True, needed=False,
        args={"hold_s": 0.3},
    )
    bus = idle_bus(program, backoff=FAST)
    old = bus.pids("program")
    restarted = pbus(bus, "program", "restart", "mailer", "--wait")
    assert restarted.returncode == 0, restarted.stderr
    assert not set(bus.pids("program")) & set(old)
    life = [(event["event"], event["child"]) for event in bus.events("") if event.get("child", "").startswith("prog")]
    after = [entry for entry in life if entry[0] != "child.ready"][2:]
    assert after == [
        ("child.exited", "program mailer 0"), ("child.born", "program mailer 0"),
        ("child.exited", "program mailer 1"), ("child.born", "program mailer 1"),
    ]
    [row] = bus.status()["programs"]
    assert (row["state"], row["running"], row["wanted"], row["restarts"]) == ("running", 2, 2, 0)


def highest(bus: IdleBus) -> int:
    """The most consumers that ever lived at once."""
    return max(counts(bus, "child.born"))


def lowest(bus: IdleBus) -> int:
    """The fewest that were ready at once, from the moment when all three were."""
    ready = counts(bus, "child.ready")
    return min(ready[ready.index(3):])


def counts(bus: IdleBus, since: str) -> list[int]:
    """How many consumers there were after each event of one: those after their *since*, and not at their end yet."""
    here: set[int] = set()
    seen = []
    for event in bus.events(""):
        if event.get("child", "").startswith("consumer"):
            if event["event"] == since:
                here.add(event["child_pid"])
            elif event["event"] == "child.exited":
                here.discard(event["child_pid"])
            seen.append(len(here))
    return seen


def pbus(bus: IdleBus, *arguments: str) -> subprocess.CompletedProcess[str]:
    conf = bus.folder / "conf.d"
    conf.mkdir(exist_ok=True)
    (conf / "pbus.toml").write_text('[node]\nname = "idle"\nrun_dir = "var"\n')
    return subprocess.run(
        [sys.executable, "-m", "pbus", *arguments, "-c", str(conf), "-o", "json"], cwd=ROOT, capture_output=True,
        text=True, timeout=60, check=False,
    )


def result_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    told = json.loads(done.stdout)
    return [row["result"] for row in told.get("topics", told.get("programs"))]


# -- a real bus -------------------------------------------------------------------------------------


HANDLER = """
import os
WHO = "{who}"
def credit(job):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{{job.text}} {{WHO}} {{os.getpid()}}\\n")
"""


@pytest.fixture
def gift(bus_factory: BusFactory, tmp_path: Path) -> Callable[..., Bus]:
    """A bus with three consumers of a handler that notes the jobs it ran, and who it is."""

    def make(more: str = "") -> Bus:
        site = tmp_path / "site"
        site.mkdir()
        (site / "jobs.py").write_text(HANDLER.format(who="first"))
        topic = f"[queue.gift.topic.credit]\npython = {{ call = 'jobs:credit', path = '{site}' }}\nconcurrency = 3\n"
        return bus_factory(topic + more, environment={"NOTES": str(tmp_path / "notes")})

    return make


def test_broken_code_loses_nothing_and_repaired_code_goes_its_way(gift: Callable[..., Bus], tmp_path: Path) -> None:
    bus = gift()
    old = bus.topic("gift", "credit")["consumers"]
    client, pushed = redis.Redis(port=bus.port), 0

    def push_until(what: str, state: str) -> None:
        nonlocal pushed

        def reached() -> bool:
            nonlocal pushed
            for _ in range(20):
                client.lpush("gift", str(pushed))
                pushed += 1
            topic = bus.topic("gift", "credit")
            return bool((topic["state"], topic["rollout"].get("stage")) == (state, what))

        until(reached, 40, f"the topic is {state}, its roll-out {what}")

    (tmp_path / "site" / "jobs.py").write_text("def credit(job:\n")
    push_until("failed", "rollout-failed")
    assert sorted(bus.topic("gift", "credit")["consumers"]) == sorted(old)
    [problem] = [problem for problem in bus.status()["problems"] if "rollout-failed" in problem]
    assert "jobs.py" in problem
    (tmp_path / "site" / "jobs.py").write_text(HANDLER.format(who="second"))
    push_until("none", "running")
    until(lambda: len(notes(tmp_path)) >= pushed, 20, "every job has run")
    assert sorted(int(note[0]) for note in notes(tmp_path)) == list(range(pushed))
    assert {note[1] for note in notes(tmp_path)} == {"first", "second"}
    assert not set(bus.topic("gift", "credit")["consumers"]) & set(old)


def test_canary_that_hangs_in_its_job_is_ended_and_the_old_processes_go_on(
    gift: Callable[..., Bus], tmp_path: Path
) -> None:
    bus = gift('timeout = "1s"')
    old = bus.topic("gift", "credit")["consumers"]
    client = redis.Redis(port=bus.port)
    hangs = HANDLER.format(who="second") + "    import time\n    time.sleep(600)\n"
    (tmp_path / "site" / "jobs.py").write_text(hangs)

    def failed() -> bool:
        client.lpush("gift", "x")
        return bool(bus.topic("gift", "credit")["state"] == "rollout-failed")

    until(failed, 40, "the roll-out has failed")
    assert "out of time" in bus.topic("gift", "credit")["reason"]
    assert sorted(bus.topic("gift", "credit")["consumers"]) == sorted(old)


def notes(folder: Path) -> list[list[str]]:
    path = folder / "notes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
