"""``/metrics`` of a running bus: jobs of every kind are counted, children may die, and no store is asked."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from pbus.telemetry.metrics import COUNTER, METRICS
from tests.support.bus import Bus, BusFactory, bus_factory, free_port
from tests.support.redis_server import RedisServer
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

__all__ = ["bus_factory"]

CREDIT = {"queue": "gift", "topic": "credit"}
QUEUES = {"gift": {"topic": {
    "credit": {"python": {"call": "pbus.bench.handlers:empty"}},
    "log": {"pull": {}},
}}}


def scrape(bus: Bus, accept: str = "") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{bus.web_port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def value(bus: Bus, name: str, **labels: str) -> float:
    """Of that sample; nothing counted is 0."""
    families = text_string_to_metric_families(scrape(bus))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


def start(bus_factory: BusFactory, **sections: Any) -> Bus:
    listen = {"dashboard": {"listen": f"127.0.0.1:{free_port()}"}}
    return bus_factory({**listen, "queue": QUEUES, **sections})


def test_jobs_are_counted_whoever_takes_them_and_over_the_death_of_who_counted(bus_factory: BusFactory) -> None:
    bus = start(bus_factory)
    client = redis.Redis(port=bus.port)
    client.lpush("gift", *["x"] * 20)
    assert len(client.rpop("gift/log", 10) or ()) == 10
    until(lambda: value(bus, "pbus_job_run_seconds_count", **CREDIT) == 20, 10, "the runs of consumers are counted")
    until(lambda: value(bus, "pbus_job_wait_seconds_count", topic="log") == 10, 10, "what was popped is counted")
    assert value(bus, "pbus_job_attempts_total", **CREDIT, reason="done") == 20
    assert value(bus, "pbus_job_body_bytes_total", **CREDIT) == 20

    (old,) = bus.kill("delivery")
    until(lambda: bus.pids("delivery") not in ([], [old]), 10, "the delivery child is replaced")
    client.lpush("gift", "y")
    until(lambda: value(bus, "pbus_job_attempts_total", **CREDIT, reason="done") == 21, 10, "its successor goes on")
    assert value(bus, "pbus_process_restarts_total", role="delivery", reason="signal") == 1
    until(lambda: value(bus, "pbus_jobs_finished_total", **CREDIT, result="done") == 21, 10, "the store says the same")
    until(lambda: value(bus, "pbus_jobs_accepted_total", queue="gift") == 21, 10, "and what came in")
    assert {family.name for family in text_string_to_metric_families(scrape(bus))} == {
        metric.name.removesuffix("_total") if metric.kind == COUNTER else metric.name for metric in METRICS
    }
    assert list(open_metrics(scrape(bus, "application/openmetrics-text; version=1.0.0")))


def test_failed_attempts_and_dead_letters_are_counted(bus_factory: BusFactory, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def work(job):\n    raise ValueError('no')\n")
    handler = {"call": "bad:work", "path": str(tmp_path)}
    retry = {"attempts": 2, "first": "50ms", "jitter": 0.0}
    bus = start(bus_factory, queue={"gift": {"topic": {"credit": {"python": handler, "retry": retry}}}})
    redis.Redis(port=bus.port).lpush("gift", "x")
    until(lambda: value(bus, "pbus_jobs_finished_total", **CREDIT, result="dead") == 1, 10, "the job is dead")
    until(lambda: value(bus, "pbus_job_run_seconds_count", **CREDIT) == 2, 10, "both attempts are counted")
    assert value(bus, "pbus_job_attempts_total", **CREDIT, reason="failed") == 2
    assert value(bus, "pbus_job_attempts_total", **CREDIT, reason="done") == 0
    assert value(bus, "pbus_job_wait_seconds_count", **CREDIT) == 1  # of first attempts
    assert value(bus, "pbus_jobs_failed_total", **CREDIT) == 2


def test_a_store_that_hangs_is_told_and_does_not_hold_the_page_up(bus_factory: BusFactory, store: RedisServer) -> None:
    bus = start(bus_factory, storage={"main": {"url": store.url, "call_timeout": "500ms"}})
    redis.Redis(port=bus.port).lpush("gift", "x")
    until(lambda: value(bus, "pbus_topic_ready", topic="log") == 1, 10, "its numbers are known")
    store.freeze()
    try:
        until(lambda: value(bus, "pbus_storage_up", storage="main") == 0, 10, "it is said to be away")
        with Stopwatch() as watch:
            assert value(bus, "pbus_topic_ready", topic="log") == 1
        assert watch.worked_s < 1.5
        assert value(bus, "pbus_degraded") == 1
        assert value(bus, "pbus_storage_failures_total", storage="main") > 0
    finally:
        store.resume()
    until(lambda: value(bus, "pbus_storage_up", storage="main") == 1, 10, "it is back")
