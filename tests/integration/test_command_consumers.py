"""Topics that a program runs, in Python and in PHP: what each end of a job means, and who survives whose death."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.integration.test_python_consumers import Shop
from tests.support.bus import BusFactory
from tests.support.programs import requires
from tests.support.waiting import until

HANDLERS = Path(__file__).parents[1] / "support" / "handlers"
ARGV = {
    "python": [sys.executable, str(HANDLERS / "lines_jobs.py")],
    "php": ["php", "-d", "memory_limit=64M", "-d", "display_errors=stderr", str(HANDLERS / "lines_jobs.php")],
}

OpenShop = Callable[..., Shop]


@pytest.fixture(params=["python", "php"])
def argv(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "php":
        requires("php")
    return ARGV[request.param]


@pytest.fixture
def shop(bus_factory: BusFactory, tmp_path: Path) -> Any:
    """A bus with one topic whose handler is a program."""
    shops: list[Shop] = []

    def make(
        argv: list[str], *, consumers: int = 1, command: dict[str, Any] | None = None,
        env: dict[str, str] | None = None, states: tuple[str, ...] = ("running",),
        other: dict[str, Any] | None = None, backoff: dict[str, Any] | None = None, deliveries: int = 1, **topic: Any,
    ) -> Shop:
        runs = tmp_path / "runs"
        handler = {"argv": argv, "env": {"RUNS_FILE": str(runs), **(env or {})}, **(command or {})}
        settings = {"command": handler, "concurrency": consumers, "retry": {"first": "50ms", "jitter": 0.0}, **topic}
        tree: dict[str, Any] = {
            "queue": {"gift": {"topic": {"credit": settings, **(other or {})}}}, "delivery": {"processes": deliveries},
        }
        if backoff:
            tree["supervise"] = {"backoff": backoff}
        shops.append(Shop(bus_factory(tree, states=states), runs))
        return shops[-1]

    yield make
    for each in shops:
        each.close()


def problems(here: Shop) -> str:
    return str(here.bus.status()["problems"])


def events_by_verdict(here: Shop) -> dict[str, str]:
    return {event["verdict"]: event["error"] for event in here.bus.events("job.failed")}


# -- how a job ends ------------------------------------------------------------------------------------


def test_answers_are_what_becomes_of_jobs(shop: OpenShop, argv: list[str]) -> None:
    here = shop(argv)
    here.push("ok 1", "fail-once no such user", "retry-once 0.3", "dead no such gift", "ok 2")
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (4, 1)
    runs = Counter(run.text for run in here.runs())
    assert runs == {"ok 1": 1, "fail-once no such user": 2, "retry-once 0.3": 2, "dead no such gift": 1, "ok 2": 1}
    assert "no such user" in events_by_verdict(here)["failed"]
    assert here.bus.events("job.dead")[0]["error"].endswith("no such gift")
    assert here.bus.events("child.exited") == []


def test_an_exit_with_a_status_is_a_failure_and_its_last_words_are_the_error(shop: OpenShop, argv: list[str]) -> None:
    here = shop(argv)
    here.push("exit-once 3", "ok 1", "ok 2")
    assert here.settled()["done_total"] == 3
    (event,) = here.bus.events("job.failed")
    assert event["verdict"] == "failed"
    assert "exited with status 3" in event["error"]
    if "php" not in argv:
        assert "no 3" in event["error"]
    assert Counter(run.text for run in here.runs())["ok 1"] == 1


def test_what_php_cannot_catch_is_the_error_of_its_job(shop: OpenShop) -> None:
    requires("php")
    here = shop(ARGV["php"])
    here.push("memory-once x", "ok 1")
    assert here.settled()["done_total"] == 2
    (event,) = here.bus.events("job.failed")
    assert "exited with status 255" in event["error"]
    assert "Allowed memory size" in event["error"]


def test_a_job_that_kills_its_program_three_times_is_dead_and_the_others_run_once(
    shop: OpenShop, argv: list[str]
) -> None:
    here = shop(argv, consumers=2)
    here.push("kill x", *(f"ok {number}" for number in range(50)))
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (50, 1)
    runs = Counter(run.text for run in here.runs())
    assert runs.pop("kill x") == 3
    assert set(runs.values()) == {1}
    assert here.bus.events("job.dead")[0]["error"].startswith("killed its consumer 3 times")
    assert here.bus.events("child.exited") == []


def test_a_killed_consumer_takes_its_program_with_it_and_costs_its_job_a_crash(shop: OpenShop, argv: list[str]) -> None:
    here = shop(argv)
    here.push("sleep-once 60", *(f"ok {number}" for number in range(20)))
    until(lambda: here.runs(), 10, "it has begun")
    (program,) = [run.pid for run in here.runs()]
    os.kill(here.bus.pids("consumer")[0], signal.SIGKILL)
    assert here.settled()["done_total"] == 21
    assert not psutil.pid_exists(program)
    assert Counter(run.text for run in here.runs()).most_common(1) == [("sleep-once 60", 2)]


def test_a_job_beyond_the_timeout_ends_its_program_and_is_tried_again(shop: OpenShop) -> None:
    requires("php")
    here = shop(ARGV["php"], timeout="500ms")
    here.push("sleep-once 60", "ok 1")
    assert here.settled()["done_total"] == 2
    assert list(events_by_verdict(here)) == ["timeout"]


def test_a_program_that_does_not_listen_to_term_is_killed_when_its_job_is_overdue(shop: OpenShop) -> None:
    here = shop(ARGV["python"], timeout="500ms", env={"IGNORES_TERM": "1"})
    here.push("sleep-once 60", "ok 1")
    assert here.settled()["done_total"] == 2
    assert list(events_by_verdict(here)) == ["timeout"]


def test_output_reaches_the_topics_log_under_its_job(shop: OpenShop) -> None:
    requires("php")
    here = shop(ARGV["php"])
    here.push("say hello")
    here.settled()
    run = here.runs()[0]
    lines = here.bus.topic_log("gift", "credit").splitlines()
    for said, level in (("printed hello", "INFO"), ("without an end", "INFO"), ("complained hello", "ERROR")):
        (line,) = [line for line in lines if line.endswith(said)]
        assert f" {run.pid} {run.id} {level} " in line


# -- programs that misbehave ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "verdict", "said"),
    [
        ("stranger-once", "failed", "answered the unknown job '4711-0'"),
        ("broken-once", "failed", "which is no JSON"),
        ("mute-once", "crashed", "closed its standard output"),
        ("daemon-once 30", "failed", "exited with status 4"),
    ],
)
def test_a_program_that_breaks_the_protocol_fails_its_job_clearly_and_is_replaced(
    shop: OpenShop, word: str, verdict: str, said: str
) -> None:
    here = shop(ARGV["python"])
    here.push(word, *(f"ok {number}" for number in range(10)))
    assert here.settled(timeout_s=10.0)["done_total"] == 11
    assert said in events_by_verdict(here)[verdict]
    assert said in here.bus.topic_log("gift", "credit")
    assert len({run.pid for run in here.runs()}) == 2
    assert here.bus.events("child.exited") == []


def test_a_hundred_megabytes_of_output_grow_nobody_and_hold_up_nobody(shop: OpenShop) -> None:
    here = shop(ARGV["python"])
    (consumer,) = [psutil.Process(pid) for pid in here.bus.pids("consumer")]
    before = consumer.memory_info().rss
    here.push("spill 100", "ok 1")
    assert here.settled(60)["done_total"] == 2
    grown = consumer.memory_info().rss - before
    assert grown < 20 * 1024 * 1024
    log = Path(here.bus.settings.node.log_dir) / "topic" / "gift.credit.log"
    assert log.stat().st_size <= 65 * 1024 * 1024
    assert "gift/credit: its output is dropped, the day's bound is reached" in problems(here)


def test_what_a_program_leaves_behind_ends_with_it(shop: OpenShop) -> None:
    here = shop(ARGV["python"], command={"max_jobs": 1})
    here.push("leaver 60", "leaver 60", "ok 1")
    assert here.settled()["done_total"] == 3
    folder = str(here.bus.folder)

    def sleepers() -> list[int]:
        master = psutil.Process(here.bus.status()["processes"][0]["pid"])
        return [child.pid for child in master.children(recursive=True) if child.name() == "sleep"]

    until(lambda: not sleepers(), 5, lambda: f"nobody is left behind below {folder}: {sleepers()}")


# -- programs that cannot be run ----------------------------------------------------------------------------


def test_a_program_that_does_not_exist_is_named_by_the_check(bus_factory: BusFactory) -> None:
    topic = {"command": {"argv": ["/nowhere/at-all"]}}
    bus = bus_factory({"queue": {"gift": {"topic": {"credit": topic}}}}, start=False)
    answer = bus.cli("config", "check")
    assert answer.returncode == 78
    assert "queue.gift.topic.credit.command.argv: there is no program /nowhere/at-all" in answer.stdout + answer.stderr


def test_a_program_that_is_gone_is_a_problem_that_names_it_and_its_neighbour_runs_on(
    shop: OpenShop, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    runs = {"RUNS_FILE": str(tmp_path / "runs")}
    neighbour = {"command": {"argv": ARGV["python"], "env": runs}, "retry": {"first": "50ms"}}
    here = shop([str(program)], other={"other": neighbour}, states=("running", "degraded"), backoff={"first": "20ms"})
    program.unlink()
    here.push("ok 1")
    until(lambda: str(program) in str(here.bus.status()["problems"]), 15, lambda: f"{here.bus.status()['problems']}")
    until(lambda: here.bus.topic("gift", "other")["done_total"] == 1, 10, "the neighbour runs")
    until(lambda: here.numbers()["state"] == "fatal", 15, lambda: f"{here.numbers()}")
    assert here.numbers()["ready"] == 1
    assert here.runs()
    assert here.bus.events("job.failed") == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no database')", "no database"),
        ("import os, time; os.close(0); time.sleep(60)", "closed its standard input"),
        ("import os, time; os.close(1); time.sleep(60)", "closed its standard output"),
    ],
)
def test_a_program_that_never_takes_a_job_costs_no_attempt_and_is_given_up(
    shop: OpenShop, code: str, said: str
) -> None:
    here = shop([sys.executable, "-c", code], states=("running", "degraded"), backoff={"first": "10ms", "fatal": 4})
    here.push("ok 1", "ok 2")
    until(lambda: here.numbers()["state"] == "fatal", 30, lambda: f"{here.numbers()}")
    assert said in str(here.bus.status()["problems"])
    until(lambda: here.numbers()["ready"] == 2, 10, lambda: f"the jobs wait: {here.numbers()}")
    assert here.bus.events("job.failed") == []
    assert here.numbers()["failed_total"] == 0


# -- recycling, and the end --------------------------------------------------------------------------------


def test_a_program_is_replaced_after_its_jobs_and_no_job_runs_twice(shop: OpenShop) -> None:
    requires("php")
    here = shop(ARGV["php"], command={"max_jobs": 10})
    here.push(*(f"ok {number}" for number in range(100)))
    assert here.settled()["done_total"] == 100
    jobs = Counter(run.pid for run in here.runs())
    assert len(jobs) >= 10
    assert max(jobs.values()) <= 10
    assert len(here.bodies()) == 100
    assert here.bus.events("child.exited") == []


def test_a_program_that_has_grown_is_replaced_between_two_jobs(shop: OpenShop) -> None:
    here = shop(ARGV["python"], command={"max_rss": "60MiB"})
    for number in range(12):
        here.push(f"grow {10 + number % 2}")
        until(lambda mark=number: len(here.bodies()) > mark, 10, "it is done")
    assert here.settled()["done_total"] == 12
    assert len({run.pid for run in here.runs()}) >= 2
    assert "max_rss" in here.bus.topic_log("gift", "credit")
    assert here.bus.events("job.failed") == []


def test_an_idle_program_is_replaced_when_it_is_old(shop: OpenShop) -> None:
    here = shop(ARGV["python"], command={"max_age": "1200ms"})
    until(lambda: here.bus.topic_log("gift", "credit").count("max_age") >= 2, 10, "it is replaced again and again")
    assert [event["why"].partition(":")[0] for event in here.bus.events("consumer.recycled")][:2] == ["max_age"] * 2
    here.push("ok 1")
    assert here.settled()["done_total"] == 1
    assert here.bus.status()["problems"] == []


def test_stop_lets_the_begun_job_finish_and_keeps_the_rest(shop: OpenShop, argv: list[str]) -> None:
    here = shop(argv)
    here.push("sleep 1", *(f"ok {number}" for number in range(20)))
    until(lambda: here.runs(), 10, "the first has begun")
    assert here.bus.stop() == 0
    assert "sleep 1" in here.bodies()
    here.bus.start()
    assert here.settled()["done_total"] == 21
    assert len(here.runs()) == len(here.bodies()) == 21


def test_an_idle_bus_with_programs_stops_at_once(shop: OpenShop) -> None:
    requires("php")
    here = shop(ARGV["php"], consumers=2)
    here.push("ok 1")
    here.settled()
    assert here.bus.stop(timeout_s=2.5) == 0


def test_a_killed_delivery_child_has_no_job_run_twice(shop: OpenShop) -> None:
    requires("php")
    here = shop(ARGV["php"], consumers=2)
    for round_ in range(3):
        here.push(*(f"sleep 0.01 {round_}.{number}" for number in range(100)))
        until(lambda mark=round_ * 100 + 30: len(here.bodies()) >= mark, 10, "work is under way")
        here.bus.kill("delivery")
    assert here.settled(40)["done_total"] == 300
    assert Counter(here.bodies("begin")).most_common(1)[0][1] == 1


@pytest.mark.parametrize("body", ["kill x", "sleep 60"])
def test_with_hold_what_may_have_run_waits_for_a_person(shop: OpenShop, body: str) -> None:
    requires("php")
    here = shop(ARGV["php"], on_unknown="hold", timeout="500ms")
    here.push(body, *(f"ok {number}" for number in range(10)))
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (10, 1)
    assert here.bodies("begin").count(body) == 1
    assert len(here.bus.events("job.unknown")) == 1


# -- as whom, and with what ----------------------------------------------------------------------------------


def test_a_program_runs_as_its_user_with_its_priority_in_its_folder(shop: OpenShop, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start programs as somebody else")
    code = (
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    told = [os.getuid(), os.getgroups(), os.environ['HOME'], os.nice(0), os.getcwd(), os.environ['LEVEL'],"
        "            sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4]]\n"
        "    print(json.dumps(told), flush=True)\n"
        "    print(json.dumps({'id': json.loads(line)['id'], 'ok': True}), flush=True)\n"
    )
    command = {"user": "nobody", "nice": 7, "cwd": "/", "max_jobs": 1}
    here = shop(["/usr/bin/env", "python3", "-c", code], command=command, env={"LEVEL": "debug"})
    here.push("x", "y")  # the second one is another life, started by the same process
    here.settled()
    entry = pwd.getpwnam("nobody")
    lines = here.bus.topic_log("gift", "credit").splitlines()
    told = [line.partition(" INFO ")[2] for line in lines if " INFO [" in line]
    assert len(told) == 2
    for line in told:
        uid, groups, home, nice, cwd, level, fds = json.loads(line)
        assert (uid, home, nice, cwd, level) == (entry.pw_uid, entry.pw_dir, 7, "/", "debug")
        assert 0 not in groups
        assert fds[:3] == [0, 1, 2]
        assert len(fds) <= 4  # what it listed them with


def test_bodies_arrive_as_they_were_pushed(shop: OpenShop, tmp_path: Path) -> None:
    code = (
        "import base64, hashlib, json, sys\n"
        "for line in sys.stdin:\n"
        "    job = json.loads(line)\n"
        "    body = base64.b64decode(job['body']) if job.get('encoding') else job['body'].encode()\n"
        "    print('sha', hashlib.sha256(body).hexdigest())\n"
        "    print(json.dumps({'id': job['id'], 'ok': True}), flush=True)\n"
    )
    here = shop([sys.executable, "-c", code])
    bodies = [b"", b"\n", b"\xff\x00\n\r", "☃ \u2028".encode(), os.urandom(300_000), b"x" * 1_000_000]
    with redis.Redis(port=here.bus.port) as client:
        client.lpush("gift", *bodies)
    assert here.settled()["done_total"] == len(bodies)
    found = [line.split()[-1] for line in here.bus.topic_log("gift", "credit").splitlines() if " sha " in line]
    assert found == [hashlib.sha256(body).hexdigest() for body in bodies]


def test_programs_that_fail_with_every_job_are_told_of_and_do_not_spin(shop: OpenShop) -> None:
    code = "import sys; sys.stdin.readline(); sys.exit('no database')"
    here = shop([sys.executable, "-c", code], retry={"attempts": 1})
    here.push(*(str(number) for number in range(12)))
    until(lambda: "times in a row" in problems(here), 20, lambda: problems(here))
    assert "no database" in problems(here)
    assert here.settled(60)["dead"] == 12
    assert here.bus.topic_log("gift", "credit").count(" starts") <= 14
    assert here.bus.events("child.exited") == []


def test_a_program_that_grows_far_beyond_its_limit_in_one_job_is_killed_and_that_is_a_crash(shop: OpenShop) -> None:
    here = shop(ARGV["python"], command={"max_rss": "64MiB"}, crash_limit=2)
    here.push("hoard 400", "ok 1")
    numbers = here.settled(40)
    assert (numbers["done_total"], numbers["dead"]) == (1, 1)
    assert "killed its consumer 2 times" in here.bus.events("job.dead")[0]["error"]


# -- new code ------------------------------------------------------------------------------------------------


SCRIPT = """<?php
while (($line = fgets(STDIN)) !== false) {
    $job = json_decode($line, true);
    echo "%s\\n", json_encode(['id' => $job['id'], 'ok' => true]), "\\n";
}
"""


def test_a_changed_script_is_rolled_out_and_a_broken_one_is_not(shop: OpenShop, tmp_path: Path) -> None:
    requires("php")
    releases = tmp_path / "releases"
    for name, code in (("one", SCRIPT % "old"), ("two", SCRIPT % "new"), ("three", "<?php this is no code")):
        (releases / name).mkdir(parents=True)
        (releases / name / "run.php").write_text(code)
    current = tmp_path / "current"
    current.symlink_to(releases / "one")
    here = shop(["php", str(current / "run.php")], consumers=2)

    def switch(name: str) -> None:
        (tmp_path / "next").symlink_to(releases / name)
        (tmp_path / "next").rename(current)

    def all_say(word: str) -> bool:
        mark = len(here.bus.topic_log("gift", "credit").splitlines())
        here.push(*map(str, range(20)))
        here.settled()
        said = [line.split()[-1] for line in here.bus.topic_log("gift", "credit").splitlines()[mark:]]
        return set(said) & {"old", "new"} == {word}

    assert all_say("old")
    switch("two")
    until(lambda: all_say("new"), 30, lambda: f"new code runs: {here.numbers()}")
    switch("three")
    until(lambda: here.numbers()["state"] == "rollout-failed", 30, lambda: f"it is told: {here.numbers()}")
    assert all_say("new")
    assert here.numbers()["dead"] == 0
    assert here.bus.events("job.failed") == []
