"""A bus that stops while a client pushes: what was answered is stored."""

from __future__ import annotations

import contextlib

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.bus import STOP_S, BusFactory


def test_drain_loses_nothing_that_was_answered(bus_factory: BusFactory) -> None:
    bus = bus_factory({"queue": {"gift": {"topic": {"t": {"pull": {}}}}}})
    assert bus.process is not None
    stored = 0
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=bus.port, retry=once) as client, contextlib.suppress(redis.ConnectionError):
        while client.lpush("gift", "x"):
            stored += 1
            if stored == 200:
                bus.process.terminate()
    assert bus.process.wait(STOP_S) == 0
    bus.restart()
    with redis.Redis(port=bus.port) as client:
        assert client.llen("gift") == stored
