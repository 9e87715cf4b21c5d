"""Python handlers on a real bus: what each way to end an attempt means, and what survives whose death."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import BusFactory
from tests.support.redis_server import RedisServer
from tests.support.shop import OpenShop, Shop
from tests.support.waiting import until

@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server that forgets nothing it has acknowledged."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", appendonly="yes", appendfsync="always")
    server.start()
    yield server
    server.close()


# -- how an attempt ends ---------------------------------------------------------------------------


def test_a_job_that_returns_is_done_and_one_that_raises_is_tried_again(shop: OpenShop) -> None:
    here = shop()
    here.push("ok 1", "fail-once no such user")
    numbers = here.settled()
    assert (numbers["done_total"], numbers["failed_total"], numbers["dead"]) == (2, 1, 0)
    assert [run.attempt for run in here.runs() if "user" in run.text] == [1, 2]
    (event,) = here.bus.events("job.failed")
    assert (event["attempt"], event["verdict"]) == (1, "failed")
    assert "ValueError: no such user" in event["error"]
    assert "ValueError: no such user" in here.bus.topic_log("gift", "credit")


def test_retry_waits_as_long_as_the_handler_asked(shop: OpenShop) -> None:
    here = shop(retry={"first": "10ms"})
    here.push("retry-once 1.0")
    until(lambda: here.numbers()["delayed"] == 1, 5, "it waits")
    assert here.settled()["done_total"] == 1


def test_dead_is_a_dead_letter_after_one_attempt(shop: OpenShop) -> None:
    here = shop()
    here.push("dead no such gift")
    assert here.settled()["dead"] == 1
    assert len(here.runs()) == 1
    until(lambda: here.bus.events("job.dead"), 5, "it is told")
    assert here.bus.events("job.dead")[0]["error"] == "no such gift"


def test_attempts_end_in_the_dead_letters(shop: OpenShop) -> None:
    here = shop(retry={"attempts": 3, "first": "10ms"})
    here.push("fail always")
    assert here.settled()["dead"] == 1
    assert [run.attempt for run in here.runs()] == [1, 2, 3]


def test_a_coroutine_is_run_too(shop: OpenShop) -> None:
    here = shop(call="consumer_jobs:act_async")
    here.push("ok 1", "fail-once x")
    assert here.settled()["done_total"] == 2


def test_output_reaches_the_topics_log_under_its_job(shop: OpenShop) -> None:
    here = shop()
    here.push("say hello")
    here.settled()
    job_id = here.runs()[0].id
    lines = here.bus.topic_log("gift", "credit").splitlines()
    for said, level in (("printed hello", "INFO"), ("complained hello", "ERROR"), ("logged hello", "WARNING")):
        (line,) = [line for line in lines if line.endswith(said)]
        assert f" {job_id} {level} " in line
    assert "written past Python" in lines


# -- deaths of a consumer ------------------------------------------------------------------------------


def test_a_killed_consumer_costs_its_job_a_crash_and_nobody_else_anything(shop: OpenShop) -> None:
    here = shop()
    here.push("kill-once x", *(f"ok {number}" for number in range(50)))
    assert here.settled()["done_total"] == 51
    runs = Counter(run.text for run in here.runs())
    assert runs.pop("kill-once x") == 2
    assert set(runs.values()) == {1}
    assert here.bus.events("job.failed")[0]["verdict"] == "crashed"
    again = [run for run in here.runs() if run.text == "kill-once x"][-1]
    assert again.redelivered


def test_a_dead_consumer_is_noticed_although_its_daemon_holds_its_connection(shop: OpenShop) -> None:
    here = shop()
    here.push("daemon-kill-once 12", "ok 1")
    assert here.settled(timeout_s=8.0)["done_total"] == 2
    assert Counter(run.text for run in here.runs()) == {"daemon-kill-once 12": 2, "ok 1": 1}


def test_a_job_that_kills_its_consumer_three_times_is_dead(shop: OpenShop) -> None:
    here = shop(consumers=2)
    here.push("kill x", *(f"ok {number}" for number in range(50)))
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (50, 1)
    assert len([run for run in here.runs() if run.text == "kill x"]) == 3
    assert here.bus.events("job.dead")[0]["error"].startswith("killed its consumer 3 times")


def test_jobs_that_kill_their_process_one_after_the_other_do_not_stop_their_topic(shop: OpenShop) -> None:
    """Twelve fast ends, two more than a crash loop may have: but it was the jobs."""
    here = shop(crash_limit=1, backoff={"first": "20ms", "max": "50ms", "fatal": 10})
    here.push(*(f"kill {number}" for number in range(12)), "ok 1")
    numbers = here.settled(40)
    assert (numbers["done_total"], numbers["dead"]) == (1, 12)
    assert here.bus.events("child.fatal") == []


@pytest.mark.parametrize("word", ["exit-once", "sys-exit-once"])
def test_an_exit_with_a_status_is_an_ordinary_failure(shop: OpenShop, word: str) -> None:
    here = shop()
    here.push(f"{word} 3", "ok 1", "ok 2")
    assert here.settled()["done_total"] == 3
    (event,) = here.bus.events("job.failed")
    assert event["verdict"] == "failed"
    assert "3" in event["error"]
    assert len(here.bodies("begin")) == 4


def test_a_job_beyond_the_timeout_is_killed_and_tried_again(shop: OpenShop) -> None:
    here = shop(timeout="500ms")
    here.push("sleep-once 60", "ok 1")
    assert here.settled()["done_total"] == 2
    assert here.bus.events("job.failed")[0]["verdict"] == "timeout"


# -- jobs that must not run twice ------------------------------------------------------------------------


def unknown(here: Shop) -> list[str]:
    """Bodies of the jobs of which nobody knows whether they ran."""
    ids = {event["job"] for event in here.bus.events("job.unknown")}
    return [run.text for run in here.runs() if run.id in ids]


@pytest.mark.parametrize(("body", "topic"), [("kill x", {}), ("sleep 60", {"timeout": "300ms"})])
def test_with_hold_what_may_have_run_waits_for_a_person(shop: OpenShop, body: str, topic: dict[str, Any]) -> None:
    here = shop(on_unknown="hold", **topic)
    here.push(body, *(f"ok {number}" for number in range(20)))
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (20, 1)
    assert unknown(here) == [body]
    assert here.bodies("begin").count(body) == 1
    told = "gift/credit: nobody knows whether 1 of its jobs ran"
    until(lambda: told in str(here.bus.status()["problems"]), 15, lambda: f"{told}: {here.bus.status()['problems']}")
    job_id = here.bus.events("job.unknown")[0]["job"]
    here.bus.cli("job", "done", "gift/credit", job_id, check=True)
    until(lambda: told not in str(here.bus.status()["problems"]), 15, "a person has settled it")
    assert here.numbers()["done_total"] == 21


def test_with_hold_nothing_runs_twice_whoever_is_killed(shop: OpenShop) -> None:
    here = shop(on_unknown="hold", consumers=2, backoff={"first": "20ms", "max": "100ms", "fatal": 1000})
    here.push(*(f"sleep 0.01 {number}" for number in range(300)))
    for round_ in range(6):
        until(lambda mark=30 * round_: len(here.bodies()) >= mark, 20, "work is under way")
        for role in (("consumer",), ("delivery",), ("delivery", "consumer"))[round_ % 3]:
            here.bus.kill(role)
    numbers = here.settled(40)
    runs = Counter(here.bodies("begin"))
    held = Counter(unknown(here)).total()
    print(f"{numbers['dead']} of 300 are unknown, {held} of them had begun")
    assert runs.most_common(1)[0][1] == 1
    assert numbers["done_total"] + numbers["dead"] == 300
    assert numbers["dead"] <= 6 * 2 * 2


def test_without_a_timeout_a_long_job_is_run_once(shop: OpenShop) -> None:
    here = shop(timeout="0s")
    here.push("sleep 4")
    assert here.settled()["done_total"] == 1
    assert len(here.runs()) == 1


def test_a_handler_that_closes_every_descriptor_is_run_once(shop: OpenShop) -> None:
    here = shop()
    here.push("close x", "ok 1")
    assert here.settled()["done_total"] == 2
    assert sorted(here.bodies("begin")) == ["close x", "ok 1"]


# -- deaths of others ----------------------------------------------------------------------------------


def test_a_killed_delivery_child_has_no_consumers_job_run_twice(shop: OpenShop) -> None:
    here = shop(consumers=2)
    for round_ in range(5):
        here.push(*(f"sleep 0.01 {round_}.{number}" for number in range(100)))
        until(lambda mark=round_ * 100 + 30: len(here.bodies()) >= mark, 10, "work is under way")
        here.bus.kill("delivery")
    assert here.settled(40)["done_total"] == 500
    assert Counter(here.bodies("begin")).most_common(1)[0][1] == 1
    assert len(here.bodies()) == 500


def test_a_consumer_that_dies_without_a_delivery_child_loses_nothing(shop: OpenShop) -> None:
    here = shop()
    here.push("sleep 1 first", *(f"ok {number}" for number in range(20)))
    until(lambda: here.bodies("begin"), 10, "the first has begun")
    (consumer,) = here.bus.pids("consumer")
    for pid in here.bus.kill("delivery", signal.SIGSTOP):
        os.kill(pid, signal.SIGKILL)
    os.kill(consumer, signal.SIGKILL)
    assert here.settled()["done_total"] == 21
    assert max(Counter(here.bodies("begin")).values()) <= 2


def test_order_is_kept_at_concurrency_one_whoever_dies(shop: OpenShop) -> None:
    here = shop()
    for number in range(400):
        here.push(f"sleep 0.002 {number}")
        if number % 100 == 50:
            here.bus.kill("delivery")
    assert here.settled(40)["done_total"] == 400
    assert [int(body.split()[2]) for body in here.bodies()] == list(range(400))


def test_at_concurrency_one_jobs_begin_in_order_and_a_retry_goes_before_what_still_waits(shop: OpenShop) -> None:
    here = shop()
    here.push("fail-once 0", *(f"sleep 0.02 {number}" for number in range(1, 100)))
    assert here.settled()["done_total"] == 100
    begun = here.bodies("begin")
    first = list(dict.fromkeys(begun))
    assert [int(body.split()[-1]) for body in first] == list(range(100))
    assert 0 < begun.index("fail-once 0", 1) < len(begun) - 1


def test_consumers_are_shared_by_all_delivery_children(shop: OpenShop) -> None:
    here = shop(consumers=3, deliveries=2)
    here.push(*(f"sleep 0.005 {number}" for number in range(300)))
    until(lambda: len(here.bodies()) > 50, 10, "work is under way")
    os.kill(here.bus.pids("delivery")[1], signal.SIGKILL)
    assert here.settled()["done_total"] == 300
    runs = here.runs()
    assert len(runs) == 300
    assert len({run.pid for run in runs}) == 3


def test_results_wait_for_a_store_that_is_away(shop: OpenShop, redis_server: RedisServer) -> None:
    here = shop(consumers=2, store=redis_server.url)
    here.push(*(f"sleep 0.01 {number}" for number in range(300)))
    until(lambda: len(here.bodies()) > 50, 10, "work is under way")
    redis_server.kill()
    begun = len(here.bodies("begin"))
    until(lambda: "storage main" in str(here.bus.status()["problems"]), 10, "it is said")
    redis_server.start()
    assert here.settled()["done_total"] == 300
    assert Counter(here.bodies("begin")).most_common(1)[0][1] == 1
    assert begun < 300


# -- the end, and a bad beginning --------------------------------------------------------------------------


def test_stop_lets_the_begun_job_finish_and_keeps_the_rest(shop: OpenShop) -> None:
    here = shop()
    here.push("sleep 1 first", *(f"ok {number}" for number in range(20)))
    until(lambda: here.bodies("begin"), 10, "the first has begun")
    assert here.bus.stop() == 0
    assert "sleep 1 first" in here.bodies()
    done_before = len(here.bodies())
    here.bus.start()
    assert here.settled()["done_total"] == 21
    assert len(here.bodies("begin")) == len(here.bodies()) == 21
    assert done_before >= 1
    assert here.bus.events("job.failed") == []


def test_an_idle_bus_stops_at_once(shop: OpenShop) -> None:
    here = shop(consumers=2)
    here.push("ok 1")
    here.settled()
    assert here.bus.stop(timeout_s=2.5) == 0


def test_a_handler_that_does_not_import_is_a_problem_with_its_reason(
    bus_factory: BusFactory, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    bus = bus_factory(
        {"queue": {"gift": {"topic": {"credit": {"python": {"call": "broken:run", "path": str(tmp_path)}}}}}},
        states=("degraded", "running"),
    )
    until(lambda: "no_such_module" in str(bus.status()["problems"]), 10, lambda: f"a problem: {bus.status()}")
    client = redis.Redis(port=bus.port)
    assert client.lpush("gift", "kept") == 1
    client.close()
    assert bus.topic("gift", "credit")["ready"] == 1
    assert "no_such_module" in bus.topic_log("gift", "credit")
