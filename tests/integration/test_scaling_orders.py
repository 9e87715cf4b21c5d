"""Orders of people, and who plans: on the real bus, by the real commands."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import Bus, BusFactory
from tests.support.fastcgi_stub import DONE, FastcgiStub, answering
from tests.support.step_load import Load, decisions
from tests.support.talker import Pause
from tests.support.waiting import until

pytestmark = pytest.mark.alone  # how many there are follows from rates that are measured

HANDLER = "import time\ndef work(job):\n    time.sleep(0.01)\n"


@pytest.fixture
def bus(tmp_path: Path, bus_factory: BusFactory) -> Bus:
    (tmp_path / "quick_work.py").write_text(HANDLER)
    handler = f'python = {{ call = "quick_work:work", path = "{tmp_path}", watch = false }}'
    return bus_factory(
        "[delivery]\nprocesses = 2\n"
        f"[queue.load.topic.t]\n{handler}\nconcurrency = {{ min = 1, max = 8 }}\n"
        f"[queue.seldom.topic.t]\n{handler}\nconcurrency = {{ min = 0, max = 2 }}\n"
    )


def now(bus: Bus, queue: str = "load") -> int:
    return int(bus.topic(queue, "t")["concurrency"]["now"])


def rows(bus: Bus, *arguments: str) -> list[dict[str, Any]]:
    done = bus.cli(*arguments, "-o", "json", check=True)
    document = json.loads(done.stdout)
    return next(value for value in document.values() if isinstance(value, list))


def test_an_order_holds_over_the_deaths_of_whoever_keeps_it_until_it_is_reset(bus: Bus) -> None:
    (ordered,) = rows(bus, "topic", "scale", "load/t", "3", "--for", "1h")
    assert ordered["topic"] == "load/t"
    assert ordered["orders"][0].startswith("3 at once, until ")
    until(lambda: now(bus) == 3, 10, "three consumers run")
    assert rows(bus, "topic", "show", "load/t")[0]["orders"] == ordered["orders"]
    assert "3 at once" in bus.cli("topic", "ls").stdout

    changes = len(decisions(bus, "t"))
    bus.kill("scheduler")
    until(lambda: bus.pids("scheduler"), 10, "another scheduler plans")
    bus.kill("delivery")
    until(lambda: bus.topic("load", "t")["state"] == "running" and len(bus.pids("delivery")) == 2, 20, "they are back")
    assert len(bus.pids("consumer")) == 3
    assert [event for event in decisions(bus, "t")[changes:] if event["queue"] == "load"] == [], "nothing jumped"

    bus.restart()
    until(lambda: now(bus) == 3, 10, "the order has outlived the bus")
    assert rows(bus, "topic", "scale", "load", "--reset")[0]["orders"] == []
    until(lambda: now(bus) == 1, 30, "as configured")


def test_a_topic_with_min_0_has_a_consumer_when_there_is_a_job(bus: Bus) -> None:
    assert (now(bus, "seldom"), bus.topic("seldom", "t")["state"]) == (0, "running")
    with redis.Redis(port=bus.port) as client:
        client.lpush("seldom", "job")
    until(lambda: bus.topic("seldom", "t")["done_total"] == 1, 15, "it is done")


def test_recorded_work_is_simulated_with_other_settings(bus: Bus) -> None:
    with Load(bus, "load", 150.0) as load:
        until(lambda: load.pushed > 600, 20, "some load")
    until(lambda: bus.topic("load", "t")["done_total"] == load.pushed, 20, "all is done")
    time.sleep(1.5)  # the last second is recorded a moment after it

    tried = rows(bus, "autoscale", "simulate", "--topic", "load/*", "--catch-up", "5s,30s", "--max", "1,16")
    assert [row["setting"] for row in tried] == ["configured", *["tried"] * 4]
    assert {(row["max"], row["catch_up_s"]) for row in tried[1:]} == {(1, 5.0), (1, 30.0), (16, 5.0), (16, 30.0)}
    jobs = [row["jobs"] for row in tried]
    # Rates are measured once a second, and the load lasts for a few: a second cut in two is a good part of it.
    assert all(0.8 * load.pushed <= number <= 1.2 * load.pushed for number in jobs), (jobs, load.pushed)
    one, many = (next(row for row in tried[1:] if row["max"] == most) for most in (1, 16))
    assert one["wait_p99_s"] > many["wait_p99_s"]
    assert one["process_hours"] < many["process_hours"]
    assert bus.cli("autoscale", "simulate", "--topic", "nix").returncode == 5


def test_calls_at_once_follow_a_plan_in_every_delivery_child(bus_factory: BusFactory) -> None:
    stub = FastcgiStub(answering(lambda _, __: (Pause(0.2), DONE)))
    try:
        bus = bus_factory(
            "[delivery]\nprocesses = 2\n"
            f'[queue.load.topic.t]\nfastcgi = {{ address = "{stub.address}", script = "/srv/a.php" }}\n'
            "concurrency = { min = 1, max = 2 }\n"
        )
        with redis.Redis(port=bus.port) as client:
            client.lpush("load", *(f"job-{number}" for number in range(200)))
        until(lambda: stub.peak == 2, 20, "two are called at once")
        bus.cli("topic", "scale", "load/t", "7", "--for", "1h", check=True)
        until(lambda: stub.peak == 7 and now(bus) == 7, 10, lambda: f"seven: {stub.peak}")
        bus.cli("topic", "scale", "load/t", "3", "--for", "1h", check=True)
        until(lambda: now(bus) == 3, 10, "three")
        until(lambda: bus.topic("load", "t")["done_total"] == 200, 30, "all are done")
        assert stub.peak == 7
        assert bus.topic("load", "t")["failed_total"] == 0
    finally:
        stub.close()


def test_what_makes_no_sense_is_refused_by_its_exit_status(bus: Bus) -> None:
    for arguments, status, words in (
        (["nix", "3"], 5, "no topic"), (["load/t", "--min", "5", "--max", "3"], 2, "max (3) is less than min (5)"),
        (["load/t", "3", "--to", "2020-01-01 10:00"], 2, "in the past"), (["load/t"], 2, "how many?"),
        (["load/t", "3", "--from", "2037-01-02 10:00", "--to", "2037-01-01 10:00"], 2, "before it begins"),
        (["load/t", "3", "--for", "soon"], 2, "duration"), (["load/t", "3", "--min", "2"], 2, "either"),
    ):
        done = bus.cli("topic", "scale", *arguments)
        assert (done.returncode, words in done.stderr) == (status, True), done.stderr
    bus.stop()
    stopped = bus.cli("topic", "scale", "load/t", "3")
    assert stopped.returncode == 3
    assert "running bus" in stopped.stderr
