"""``/-/livez`` and ``/-/readyz`` of a running bus."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import Bus, BusFactory, bus_factory, free_port
from tests.support.redis_server import RedisServer
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

__all__ = ["bus_factory"]

TOPICS = {"gift": {"topic": {"credit": {"pull": {}}}}}


def configuration(**sections: Any) -> dict[str, Any]:
    return {"dashboard": {"listen": f"127.0.0.1:{free_port()}"}, "queue": TOPICS, **sections}


def ask(bus: Bus, what: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{bus.web_port}/-/{what}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


def test_running_bus_is_alive_and_ready(bus_factory: BusFactory) -> None:
    bus = bus_factory(configuration())
    assert ask(bus, "livez") == (200, {"status": "ok"})
    assert ask(bus, "readyz") == (200, {"status": "ok"})
    assert ask(bus, "nothing")[0] == 404


def test_bus_whose_store_is_away_is_alive_but_not_ready(bus_factory: BusFactory, store: RedisServer) -> None:
    bus = bus_factory(configuration(storage={"main": {"url": store.url, "call_timeout": "500ms"}}))
    assert ask(bus, "readyz")[0] == 200
    store.kill()
    _, body = until(lambda: (got := ask(bus, "readyz"))[0] == 503 and got, 10, "the bus is not ready")
    assert body["reasons"][0].startswith("storage main: ")
    assert ask(bus, "livez")[0] == 200
    store.start()
    until(lambda: ask(bus, "readyz")[0] == 200, 10, "the bus is ready again")


def test_store_that_hangs_holds_nobody_up(bus_factory: BusFactory, store: RedisServer) -> None:
    bus = bus_factory(configuration(storage={"main": {"url": store.url, "call_timeout": "500ms"}}))
    store.freeze()
    try:
        until(lambda: ask(bus, "readyz")[0] == 503, 10, "the bus is not ready")
        with Stopwatch() as watch:
            assert ask(bus, "livez")[0] == 200
        assert watch.worked_s < 2
    finally:
        store.resume()


def test_killed_child_comes_back_before_the_bus_counts_as_dead(bus_factory: BusFactory) -> None:
    bus = bus_factory(configuration())
    (old,) = bus.kill("scheduler")
    until(lambda: bus.pids("scheduler") not in ([], [old]), 10, "the scheduler is back")
    assert ask(bus, "livez") == (200, {"status": "ok"})
