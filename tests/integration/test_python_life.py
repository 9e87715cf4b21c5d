"""The life of a consumer process: too long in a job, replaced between jobs, asked to stop, new code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.shop import HANDLERS, OpenShop
from tests.support.waiting import until

MIB = 1 << 20


def test_the_stack_of_a_job_out_of_time_is_in_its_log_line_and_in_its_dead_letter(shop: OpenShop) -> None:
    here = shop(timeout="500ms", retry={"attempts": 1})
    here.push("sleep 60", "ok 1")
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (1, 1)
    [event] = here.bus.events("job.dead")
    assert event["verdict"] == "timeout"
    first, *stack = event["error"].splitlines()
    assert "no answer within 0.5 s, its consumer was killed in _sleep (consumer_jobs.py:" in first
    assert "time.sleep(float(rest.split()[0]))" in stack[-1]
    assert "pbus/consumer" not in event["error"]
    assert "time.sleep(float" in here.bus.topic_log("gift", "credit")
    said = here.bus.cli("dead", "show", "gift/credit", event["job"], "-o", "json", check=True).stdout
    assert "in _sleep" in said


def test_push_and_wait_shows_where_a_job_was_stuck(shop: OpenShop) -> None:
    here = shop(timeout="500ms", retry={"attempts": 1})
    said = here.bus.cli("push", "gift", "sleep 60", "--wait")
    assert said.returncode == 1
    assert "time.sleep(float" in said.stdout


def test_where_a_coroutine_waits_is_told_too(shop: OpenShop) -> None:
    here = shop(call="async_jobs:act", timeout="500ms", retry={"attempts": 1})
    here.push("x")
    here.settled()
    [event] = here.bus.events("job.dead")
    assert "killed in _inner (async_jobs.py:" in event["error"].splitlines()[0]
    assert "await asyncio.sleep(60)" in event["error"]


def test_an_answer_after_the_timeout_changes_nothing(shop: OpenShop) -> None:
    """The handler hears TERM, gives up, and answers within the grace: it is a timeout all the same, once."""
    here = shop(timeout="500ms", retry={"attempts": 1}, python={"stop_timeout": "2s"}, call="late_jobs:act")
    here.push("x", "y")
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (0, 2)
    assert {event["verdict"] for event in here.bus.events("job.dead")} == {"timeout"}
    assert here.bus.topic_log("gift", "credit").count("INFO gave up") == 2  # the stack may show the line that says it


def test_processes_are_replaced_after_max_jobs_and_nothing_is_lost_or_cut_off(shop: OpenShop) -> None:
    here = shop(consumers=2, python={"max_jobs": 20})
    here.push(*(f"sleep 0.001 {number}" for number in range(300)))
    numbers = here.settled(40)
    assert (numbers["done_total"], numbers["failed_total"]) == (300, 0)
    by_process: dict[int, int] = {}
    for run in here.runs():
        by_process[run.pid] = by_process.get(run.pid, 0) + 1
    assert max(by_process.values()) <= 20
    recycled = here.bus.events("consumer.recycled")
    assert len(recycled) >= 300 // 20 - 2
    assert {event["why"].partition(":")[0] for event in recycled} == {"max_jobs"}
    assert len(here.bodies("begin")) == len(here.bodies()) == 300
    assert {event["status"] for event in here.bus.events("child.exited")} == {0}
    assert here.bus.status()["problems"] == []


def test_a_process_that_grew_is_replaced_after_its_job(shop: OpenShop) -> None:
    here = shop(python={"max_rss": "100MiB"})
    here.push(*(f"leak 40 {number}" for number in range(8)))
    numbers = here.settled(40)
    assert (numbers["done_total"], numbers["failed_total"]) == (8, 0)
    recycled = here.bus.events("consumer.recycled")
    assert len(recycled) >= 2
    assert all(100 * MIB < event["rss_bytes"] < 190 * MIB for event in recycled)


def test_an_idle_process_is_replaced_when_it_is_old(shop: OpenShop) -> None:
    here = shop(python={"max_age": "1s"})
    [first] = here.bus.pids("consumer")
    until(lambda: here.bus.pids("consumer") not in ([first], []), 15, "another one lives there")
    assert here.bus.events("consumer.recycled")[0]["why"].startswith("max_age")


def test_a_handler_that_listens_for_the_stop_signal_hears_it_in_the_middle_of_its_job(
    shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELL_BY", "SIGUSR1")
    here = shop(python={"stop_signal": "USR1"}, retry={"first": "0s"})
    here.push("wait-for-signal 30 x")
    until(lambda: here.bodies("begin"), 10, "it has begun")
    assert here.bus.stop(timeout_s=2.9) == 0  # before the grace is over
    monkeypatch.delenv("TELL_BY")
    assert [run.text for run in here.runs("begin")] == ["wait-for-signal 30 x"]
    assert here.bus.events("job.failed")[0]["verdict"] == "retry"


def test_a_handler_that_does_not_listen_is_let_finish(shop: OpenShop) -> None:
    here = shop(python={"stop_signal": "USR1"})
    here.push("sleep 1 x")
    until(lambda: here.bodies("begin"), 10, "it has begun")
    assert here.bus.stop() == 0
    assert here.bodies() == ["sleep 1 x"]


def test_new_code_behind_a_switched_symlink_is_rolled_out_and_old_processes_keep_theirs(
    shop: OpenShop, tmp_path: Path
) -> None:
    for number in (1, 2):
        release = tmp_path / f"release-{number}"
        release.mkdir()
        (release / "shop_jobs.py").write_text(
            f"import os, consumer_jobs\ndef act(job):\n    import later_{number}\n    consumer_jobs.act(job)\n"
            f"    print('release {number}')\n"
        )
        (release / f"later_{number}.py").write_text("")
        os.link(HANDLERS / "consumer_jobs.py", release / "consumer_jobs.py")
    current = tmp_path / "current"
    current.symlink_to("release-1")
    here = shop(consumers=2, call="shop_jobs:act", path=current)
    (tmp_path / "next").symlink_to("release-2")
    os.replace(tmp_path / "next", current)
    here.push("ok 0")  # before anybody has looked: by old code, whose later module is in the old release
    here.settled()
    assert "release 1" in here.bus.topic_log("gift", "credit")

    def all_new() -> bool:
        before = len(here.runs())
        here.push(*(f"sleep 0.05 {number}" for number in range(10)))
        here.settled()
        return {run.pid for run in here.runs()[before:]}.isdisjoint(old)

    old = set(here.bus.pids("consumer"))
    until(all_new, 60, lambda: f"the new code has taken over: {here.bus.status()['topics']}")
    assert here.bus.topic_log("gift", "credit").rstrip().endswith("release 2")
    assert here.numbers()["failed_total"] == 0


def test_the_end_of_a_process_is_not_held_up_by_threads_of_the_handler(shop: OpenShop) -> None:
    here = shop()
    here.push("leave-thread 60", "ok 1")
    here.settled()
    assert here.bus.stop(timeout_s=2.9) == 0
    assert here.bus.events("child.grace_over") == []


def test_a_killed_consumer_is_no_replacement(shop: OpenShop) -> None:
    here = shop(python={"max_jobs": 1000})
    here.push("ok 1")
    here.settled()
    here.bus.kill("consumer", signal.SIGKILL)
    until(lambda: here.bus.events("child.exited"), 10, "it is dead")
    assert here.bus.events("consumer.recycled") == []
