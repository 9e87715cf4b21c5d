"""One command from an id to every hop of a job, whatever was killed on its way and on whichever node it ran."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import ROOT, Bus, BusFactory, bus_factory
from tests.support.php_fpm import PhpFpm
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

__all__ = ["bus_factory"]

NO_CREDIT = """
if (($_POST['type'] ?? '') === 'ping') { header('Code: 200'); exit; }
throw new RuntimeException('no credit for uid 88123');
"""


@pytest.fixture
def fpm(tmp_path: Path) -> Iterator[PhpFpm]:
    made = PhpFpm(tmp_path, ini={"display_errors": "0", "log_errors": "1"})
    made.start()
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.close()


def hops(bus: Bus, job: str) -> list[dict[str, Any]]:
    """What ``pbus job trace`` tells; nothing while it knows nothing."""
    answer = bus.cli("job", "trace", "-o", "json", job)
    return json.loads(answer.stdout)["hops"] if answer.returncode == 0 else []


def test_story_goes_on_over_a_kill_and_on_another_node(
    bus_factory: BusFactory, fpm: PhpFpm, server: RedisServer
) -> None:
    tree = {
        "storage": {"main": {"url": server.url}}, "backend": {"php": {"fastcgi": [fpm.address]}},
        "queue": {"gift": {"topic": {"credit": {
            "fastcgi": {"backend": "php", "script": fpm.script("credit.php", NO_CREDIT)},
            "retry": {"attempts": 2, "first": "1500ms", "jitter": 0.0},
        }, "mail": {"pull": {}}}}},
    }
    one = bus_factory({**tree, "node": {"name": "one"}}, name="one")
    job = redis.Redis(port=one.port, client_name="shop-7").xadd("gift", {"body": '{"uid":88123}'}).decode()
    until(lambda: len(hops(one, job)) == 2, 20, lambda: f"its first attempt is told\n{one.tail()}")
    one.kill_everything()
    two = bus_factory({**tree, "node": {"name": "two"}}, name="two")
    until(lambda: two.topic("gift", "credit")["dead"] == 1, 20, lambda: f"it is dead\n{two.tail()}")
    two.cli("queue", "purge", "gift/mail", "--yes", check=True)
    two.stop()

    received, first, second, purged = hops(two, job)
    text = two.cli("job", "trace", job).stdout
    assert (received["kind"], received["client"], received["by"]) == ("received", "shop-7", "one/ingest.0")
    assert [(each["attempt"], each["by"]) for each in (first, second)] == [(1, "one/delivery.0"), (2, "two/delivery.0")]
    assert (purged["decision"], purged["topic"]) == ("purge", "mail")
    assert text.count("PHP Fatal error:  Uncaught RuntimeException: no credit for uid 88123") == 2
    assert "mail: cancelled with everything that waited by" in text
    assert "mail: cancelled" in text


def test_story_tells_what_was_killed_and_what_came_of_it(bus_factory: BusFactory) -> None:
    handler = {"call": "tests.support.handlers.trace_jobs:handle", "path": str(ROOT)}
    bus = bus_factory({"queue": {"gift": {"index": ["$.uid"], "topic": {"credit": {
        "python": handler, "retry": {"attempts": 3, "first": "50ms", "jitter": 0.0},
    }}}}})
    client = redis.Redis(port=bus.port)
    job = client.xadd("gift", {"body": '{"uid":7,"stand":true}'}).decode()
    until(lambda: bus.topic("gift", "credit")["running"] == 1, 20, "it runs")
    os.kill(bus.pids("ingest")[0], signal.SIGKILL)
    (consumer,) = bus.pids("consumer")
    os.kill(consumer, signal.SIGKILL)
    until(lambda: any(hop.get("verdict") == "done" for hop in hops(bus, job)), 20, lambda: f"done\n{bus.tail()}")
    os.kill(bus.pids("delivery")[0], signal.SIGKILL)
    bus.stop()

    told = hops(bus, job)
    assert [hop.get("verdict") for hop in told if hop["kind"] == "attempt"] == ["crashed", "done"]
    found = bus.cli("job", "find", "gift", "uid=7", "--since", "1m", "-o", "json")
    assert json.loads(found.stdout)["verdict"] in ("found", "unknown"), "its mark died with the child: not 'never'"
