"""Programs of the old contract that take their jobs themselves: what each end of theirs does to the job they held."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_python_consumers import Shop
from tests.support.bus import BusFactory
from tests.support.programs import requires, requires_php_redis
from tests.support.waiting import until

PROGRAM = Path(__file__).parents[1] / "support" / "handlers" / "pepper_program.php"

OpenShop = Callable[..., Shop]


@pytest.fixture
def shop(bus_factory: BusFactory, tmp_path: Path) -> Any:
    """A bus with one topic whose program pulls by its token."""
    requires("php")
    requires_php_redis()
    shops: list[Shop] = []

    def make(
        *, consumers: int = 1, command: dict[str, Any] | None = None, env: dict[str, str] | None = None,
        grace: str = "10s", **topic: Any,
    ) -> Shop:
        runs = tmp_path / "runs"
        handler = {
            "argv": ["php", "-d", "display_errors=stderr", str(PROGRAM)], "protocol": "pepper", "entry": "Gift,credit",
            "env": {"RUNS_FILE": str(runs), **(env or {})}, **(command or {}),
        }
        settings = {"command": handler, "concurrency": consumers, "retry": {"first": "50ms", "jitter": 0.0}, **topic}
        tree = {"node": {"grace": grace}, "queue": {"gift": {"topic": {"credit": settings}}}}
        shops.append(Shop(bus_factory(tree), runs))
        return shops[-1]

    yield make
    for each in shops:
        each.close()


def verdicts(here: Shop) -> dict[str, str]:
    return {event["verdict"]: event["error"] for event in here.bus.events("job.failed")}


def test_jobs_are_taken_and_done_and_what_is_pushed_back_is_the_same_job_again(shop: OpenShop) -> None:
    here = shop(consumers=2)
    here.push("throw-once x", *(f"ok {number}" for number in range(20)))
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (21, 0)
    runs = here.runs()
    assert [run.attempt for run in runs if run.text == "throw-once x"] == [1, 2]
    assert len({run.id for run in runs}) == 21
    assert Counter(run.text for run in runs).most_common(2)[1][1] == 1
    assert "entry Gift,credit, 2147483647 jobs" in here.bus.topic_log("gift", "credit")
    assert here.bus.status()["problems"] == []


def test_a_program_that_has_done_its_jobs_is_followed_by_another(shop: OpenShop) -> None:
    here = shop(command={"max_jobs": 5})
    here.push(*(f"ok {number}" for number in range(20)))
    assert here.settled()["done_total"] == 20
    assert len({run.pid for run in here.runs()}) >= 4
    assert here.bus.events("child.exited") == []
    assert here.bus.events("job.failed") == []


@pytest.mark.parametrize(
    ("body", "verdict", "said"),
    [
        ("exit-once 3", "failed", "exited with status 3"),
        ("fatal-once x", "failed", "undefined function no_such_function"),
        ("sleep-once 60", "timeout", "no answer within 1 s"),
    ],
)
def test_the_end_of_a_program_is_the_end_of_the_job_it_held(
    shop: OpenShop, body: str, verdict: str, said: str
) -> None:
    here = shop(timeout="1s")
    here.push(body, "ok 1", "ok 2")
    assert here.settled()["done_total"] == 3
    assert said in verdicts(here)[verdict]
    assert Counter(run.text for run in here.runs()) == {body: 2, "ok 1": 1, "ok 2": 1}


def test_a_job_that_kills_its_program_three_times_is_dead(shop: OpenShop) -> None:
    here = shop(consumers=2)
    here.push("kill x", *(f"ok {number}" for number in range(20)))
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (20, 1)
    runs = Counter(run.text for run in here.runs())
    assert runs.pop("kill x") == 3
    assert set(runs.values()) == {1}
    assert here.bus.events("job.dead")[0]["error"].startswith("killed its consumer 3 times")


def test_a_killed_consumer_costs_the_job_its_program_held_a_crash(shop: OpenShop) -> None:
    here = shop()
    here.push("sleep-once 60", "ok 1")
    until(lambda: here.runs(), 10, "it has begun")
    os.kill(here.bus.pids("consumer")[0], signal.SIGKILL)
    assert here.settled()["done_total"] == 2
    assert Counter(run.text for run in here.runs()) == {"sleep-once 60": 2, "ok 1": 1}


def test_stop_lets_the_program_finish_its_job(shop: OpenShop) -> None:
    here = shop()
    here.push("sleep 1", "ok 1", "ok 2")
    until(lambda: here.runs(), 10, "the first has begun")
    assert here.bus.stop() == 0
    assert here.bodies() == ["sleep 1"]
    here.bus.start()
    assert here.settled()["done_total"] == 3
    assert len(here.runs()) == 3
    assert here.bus.events("job.failed") == []


def test_a_program_that_dies_of_being_stopped_uses_up_no_attempt(shop: OpenShop) -> None:
    here = shop(env={"DEAF_TO_INT": "1"})
    here.push("sleep-once 30", "ok 1")
    until(lambda: here.runs(), 10, "the first has begun")
    assert here.bus.stop() == 0
    here.bus.start()
    until(lambda: len(here.runs()) >= 2, 10, "it has begun again")
    assert [(run.attempt, run.text) for run in here.runs()][:2] in (
        [(1, "sleep-once 30"), (1, "sleep-once 30")], [(1, "sleep-once 30"), (2, "sleep-once 30")],
    )
    assert here.bus.events("job.failed") == []


def test_the_token_stands_in_no_log(shop: OpenShop) -> None:
    here = shop()
    here.push("ok 1", "exit-once 4")
    here.settled()
    logs = Path(here.bus.settings.node.log_dir)
    for log in [logs / "pbus.log", *logs.glob("*/*.log")]:
        assert "pepper:" not in log.read_text(), log


def test_a_program_that_waits_for_a_job_is_replaced_when_it_is_old_and_ends_with_the_bus(shop: OpenShop) -> None:
    here = shop(command={"max_age": "500ms"})
    until(lambda: here.bus.topic_log("gift", "credit").count("max_age") >= 1, 10, "it is asked to finish")
    here.push("ok 1")
    assert here.settled()["done_total"] == 1
    begun_s = time.monotonic()
    assert here.bus.stop(timeout_s=15) == 0
    print(f"stopped within {time.monotonic() - begun_s:.1f} s")
    assert here.bus.events("child.grace_over") == []
    assert here.bus.events("job.failed") == []


@pytest.mark.parametrize("command", [{"max_age": "300ms"}, {"max_rss": "1MiB"}])
def test_a_job_that_takes_longer_than_its_program_may_live_is_finished_once(
    shop: OpenShop, command: dict[str, Any]
) -> None:
    here = shop(command={"stop_timeout": "500ms", **command})
    here.push("sleep-through 3", "ok 1")
    assert here.settled()["done_total"] == 2
    assert Counter(run.text for run in here.runs()) == {"sleep-through 3": 1, "ok 1": 1}
    assert here.bus.events("job.failed") == []


def test_a_program_with_a_job_in_hand_is_seen_at_work(shop: OpenShop) -> None:
    here = shop(consumers=2)
    here.push("sleep 3")

    def at_work() -> list[int]:
        return sorted(row["running"] for row in here.bus.status()["processes"] if row["role"] == "consumer")

    until(lambda: at_work() == [0, 1], 3, lambda: f"one of them works: {at_work()}")
    here.settled()
    until(lambda: at_work() == [0, 0], 3, lambda: f"none of them works: {at_work()}")


def test_an_overdue_job_is_never_taken_for_done(shop: OpenShop) -> None:
    """Its sleep ends early, by the signal; the program then exits with 0."""
    here = shop(timeout="300ms", retry={"attempts": 2, "first": "10ms"}, consumers=2)
    here.push(*(f"sleep 60 {number}" for number in range(6)))
    numbers = here.settled(60)
    assert (numbers["done_total"], numbers["dead"]) == (0, 6)


def test_a_program_that_is_one_too_many_finishes_its_job_however_long_that_takes(shop: OpenShop) -> None:
    here = shop(grace="2s", concurrency={"min": 2, "max": 4})
    here.push("sleep-through 7", "sleep-through 7")
    until(lambda: len(here.runs()) == 2, 10, "both have begun")
    here.bus.cli("topic", "scale", "gift/credit", "1", check=True)
    assert here.settled(40)["done_total"] == 2
    assert len(here.runs()) == 2
    until(lambda: len(here.bus.pids("consumer")) == 1, 20, "one has gone")


def test_a_job_whose_end_the_bus_does_not_take_has_not_failed(shop: OpenShop) -> None:
    here = shop(command={"max_jobs": 1}, retry={"attempts": 1})
    here.push("sleep 1")
    until(lambda: here.runs(), 10, "it has begun")
    here.bus.kill("ingest", signal.SIGSTOP)
    until(lambda: "does not take the end" in here.bus.topic_log("gift", "credit"), 30, "nobody listens")
    here.bus.kill("ingest", signal.SIGCONT)
    assert here.settled()["done_total"] == 1
    assert here.bus.events("job.dead") == []
