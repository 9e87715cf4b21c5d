"""Slow jobs among fast ones: nobody waits behind them who could run elsewhere, and nothing runs twice for that."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.support.shop import OpenShop, Shop
from tests.support.waiting import until

pytestmark = pytest.mark.alone


def warm(here: Shop, count: int = 300) -> None:
    """Consumers that are used to fast jobs are given many at once."""
    here.push(*(f"ok warm {number}" for number in range(count)))
    here.settled()


def finished_in_s(here: Shop, word: str, count: int, timeout_s: float = 10.0) -> float:
    """Seconds from now until *count* jobs of that word have ended."""
    began_s = time.monotonic()
    until(lambda: sum(word in body for body in here.bodies()) >= count, timeout_s, lambda: f"{count} {word} are done")
    return time.monotonic() - began_s


def test_fast_jobs_behind_a_slow_one_are_done_by_others_at_once(shop: OpenShop) -> None:
    here = shop(consumers=2, crash_limit=1)
    for _ in range(3):
        warm(here)
        done = len([body for body in here.bodies() if "fast" in body])
        here.push("sleep 3 slow", *(f"ok fast {number}" for number in range(50)))
        assert finished_in_s(here, "fast", done + 50) < 1.0
        assert here.settled()["failed_total"] == 0
    runs = Counter(run.id for run in here.runs())
    assert set(runs.values()) == {1}
    assert {run.attempt for run in here.runs()} == {1}
    assert not any(run.redelivered for run in here.runs())


def test_jobs_behind_a_handler_that_never_gives_up_the_processor_are_done_by_others(shop: OpenShop) -> None:
    here = shop(consumers=2)
    warm(here)
    here.push("spin 3 slow", *(f"ok fast {number}" for number in range(50)))
    assert finished_in_s(here, "fast", 50) < 2.0
    assert here.settled()["failed_total"] == 0


def test_with_slow_jobs_everywhere_each_is_run_once_and_the_fast_ones_are_not_last(shop: OpenShop) -> None:
    here = shop(consumers=3, deliveries=2)
    warm(here)
    here.push(*(f"sleep 0.4 slow {n}" if n % 25 == 7 else f"ok fast {n}" for n in range(300)))
    here.settled(40)
    bodies = [body for body in here.bodies("begin") if "warm" not in body]
    assert len(bodies) == len(set(bodies)) == 300
    assert here.numbers()["failed_total"] == 0


def test_at_concurrency_one_nothing_is_called_back_and_order_is_kept(shop: OpenShop) -> None:
    here = shop()
    warm(here)
    here.push(*(f"sleep 0.5 {n}" if n == 5 else f"ok {n}" for n in range(100)))
    here.settled()
    order = [int(body.split()[-1]) for body in here.bodies() if "warm" not in body]
    assert order == list(range(100))


def test_a_consumer_that_is_stopped_in_a_long_job_gives_the_rest_to_others_at_once(shop: OpenShop) -> None:
    here = shop(concurrency={"min": 2, "max": 4}, catch_up="1s")
    warm(here)
    here.push("sleep 2 slow", *(f"sleep 0.01 fast {number}" for number in range(60)))
    until(lambda: any("slow" in body for body in here.bodies("begin")), 10, "the slow one has begun")
    assert here.bus.stop() == 0
    begun = Counter(here.bodies("begin"))
    assert begun["sleep 2 slow"] == 1
    here.bus.start()
    here.settled()
    assert Counter(here.bodies("begin")).most_common(1)[0][1] == 1


def test_a_handler_that_patches_its_modules_for_gevent_works_as_any_other(shop: OpenShop) -> None:
    here = shop(consumers=2, call="gevent_jobs:run", timeout="4s", retry={"attempts": 1})
    warm(here)
    here.push("sleep 2 slow", *(f"ok fast {number}" for number in range(50)))
    assert finished_in_s(here, "fast", 50) < 1.0
    here.push("push gift ok", "sleep 60", "fail x")
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (300 + 51 + 2, 2)
    assert {event["verdict"] for event in here.bus.events("job.dead")} == {"timeout", "failed"}
    assert here.bus.stop(timeout_s=2.9) == 0
    assert here.bus.events("child.grace_over") == []
