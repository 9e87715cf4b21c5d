"""Statistics of a running bus: what happened is in the store after the drain, once, over a restart too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pbus.app import stores
from pbus.core.statistics import DAY_S, Bucket, total
from pbus.storage.open import make
from tests.support.bus import Bus, BusFactory, bus_factory
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

__all__ = ["bus_factory"]

QUEUES = {"gift": {"topic": {
    "credit": {"python": {"call": "pbus.bench.handlers:empty"}},
    "log": {"pull": {}},
}}}


@pytest.fixture(params=["sqlite", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    if request.param == "sqlite":
        yield {}
        return
    server = RedisServer(tmp_path)
    server.start()
    yield {"url": server.url}
    server.close()


def kept(bus: Bus, topic: str) -> Bucket:
    """Everything that the store has of that topic and of its queue, over all nodes."""
    driver = make(stores(bus.settings)["main"])
    driver.open()
    try:
        now_s = int(time.time())
        found = {span: driver.statistics("gift", topic, now_s - DAY_S, now_s + 1, span) for span in (60, 3600, DAY_S)}
    finally:
        driver.close()
    minutes, hours, days = (total(rows) for rows in found.values())
    assert minutes == hours == days
    return minutes


def test_what_happened_is_kept_once_over_restarts(bus_factory: BusFactory, storage: dict[str, str]) -> None:
    bus = bus_factory({"queue": QUEUES} | ({"storage": {"main": storage}} if storage else {}))
    pushed = []
    for more, done in ((20, 20), (7, 27)):
        client = redis.Redis(port=bus.port)
        client.lpush("gift", *["xyz"] * more)
        assert len(client.rpop("gift/log", more) or ()) == more
        until(lambda wanted=done: bus.topic("gift", "credit")["done_total"] == wanted, 20, "all of them are done")
        bus.stop()

        seen = kept(bus, "credit")
        assert (seen.done, seen.failed, seen.bytes) == (done, 0, 3 * done)
        assert (sum(seen.wait.values()), sum(seen.run.values())) == (done, done)
        assert seen.run_us > 0
        assert kept(bus, "log").done == done
        pushed.append(seen.pushed)
        if done == 20:
            bus.start()
    assert pushed[1] == pushed[0] + 7       # how much of the first twenty depends on when it looked first
