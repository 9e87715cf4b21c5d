"""Producers and pull consumers while a Redis store is gone: told within 5 s, served again within 2 s."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.support.bus import BusFactory
from tests.support.redis_server import RedisServer, running
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

pytestmark = pytest.mark.alone


def test_pushes_are_refused_while_redis_is_gone_and_go_on_when_it_is_back(
    bus_factory: BusFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running(folder, appendonly="yes") as server:
        _gone_and_back(bus_factory, server)


def _gone_and_back(bus_factory: BusFactory, server: RedisServer) -> None:
    bus = bus_factory({"storage": {"main": {"url": server.url}}, "queue": {"gift": {"topic": {"t": {"pull": {}}}}}})
    with redis.Redis(port=bus.port) as client:
        assert client.lpush("gift", "a", "b") == 2
        assert client.rpop("gift/t") == b"a"
        server.kill()
        for _ in range(3):
            assert _refused_within(client, 5.5) == "UNAVAILABLE"
        server.start()
        with Stopwatch() as watch:
            until(lambda: _pushed(client), 10, "pushes go on")
        assert watch.worked_s < 2.0
        assert client.ping()


def test_silent_redis_holds_nobody_longer_than_a_call(bus_factory: BusFactory, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running(folder) as server:
        store = {"url": server.url, "call_timeout": "1s"}
        bus = bus_factory({"storage": {"main": store}, "queue": {"gift": {"topic": {"t": {"pull": {}}}}}})
        with redis.Redis(port=bus.port) as client:
            assert client.lpush("gift", "a") == 1
            server.freeze()
            words = [_refused_within(client, 1.5) for _ in range(4)]
            server.resume()
            until(lambda: _pushed(client), 5, "pushes go on")

    assert words[0] == "MAYBESTORED", "it was on its way"
    assert words[1:] == ["UNAVAILABLE"] * 3


def _refused_within(client: redis.Redis, seconds: float) -> str:
    """First word of the refusal of a push."""
    with Stopwatch() as watch, pytest.raises(redis.ResponseError) as refused:
        client.lpush("gift", "c")
    assert watch.worked_s < seconds
    return str(refused.value).partition(" ")[0]


def _pushed(client: redis.Redis) -> bool:
    try:
        return bool(client.lpush("gift", "d"))
    except redis.ResponseError:
        return False
