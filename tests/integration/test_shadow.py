"""Shadow topics of a running bus: what differs is told, and whatever a shadow does, nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from pbus.cli.main import main
from tests.support.bus import Bus, BusFactory, bus_factory
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.redis_server import RedisServer
from tests.support.talker import HANG, Plan
from tests.support.waiting import until

__all__ = ["bus_factory"]

JOBS = 40
Answer = Callable[[HttpRequest, int], Plan]
Show = Callable[[Bus], dict[str, Any]]


def old(request: HttpRequest, _: int) -> Plan:
    number = int(request.body)
    return (response(200, json.dumps({"n": number, "at": id(request), "rows": [number, number * 2]}).encode()),)


def new(request: HttpRequest, _: int) -> Plan:
    """The same in another order, but for every tenth body and every seventh outcome."""
    number = int(request.body)
    if number % 7 == 3:
        return (response(500, b"oops"),)
    rows = [number, number * 2 + (number % 10 == 0)]
    return (response(200, json.dumps({"rows": rows, "at": 0, "n": number}, indent=1).encode()),)


DIFFER = [number for number in range(JOBS) if number % 7 == 3 or number % 10 == 0]


@pytest.fixture
def stubs() -> Iterator[Callable[[Answer], HttpStub]]:
    with ExitStack() as stack:
        def open_stub(answer: Answer) -> HttpStub:
            stub = HttpStub(answer)
            stack.callback(stub.close)
            return stub

        yield open_stub


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """What ``pbus topic show gift/new -o json`` says."""
    def asked(bus: Bus) -> dict[str, Any]:
        capsys.readouterr()
        main(["topic", "show", "gift/new", "-c", str(bus.conf), "-o", "json"])
        (row,) = json.loads(capsys.readouterr().out)["topics"]
        return dict(row)

    return asked


def config(real: HttpStub, shadow: HttpStub, storage: str = "sqlite:pbus.db", **more: Any) -> dict[str, Any]:
    topics = {
        "credit": {"http": {"url": real.url}, "concurrency": 4},
        "new": {
            "http": {"url": shadow.url}, "concurrency": 4, "shadow_of": "credit", "shadow": {"ignore": ["$.at"]},
            **more.pop("shadow", {}),
        },
    }
    return {"storage": {"main": {"url": storage}}, "queue": {"gift": {"topic": topics, **more}}}


def push(bus: Bus, *bodies: object) -> None:
    with redis.Redis(port=bus.port) as client:
        client.lpush("gift", *[str(body) for body in bodies])


def finished(bus: Bus) -> int:
    return int(bus.topic("gift", "credit")["done_total"])


def compared(show: Show, bus: Bus, count: int) -> dict[str, Any]:
    last: dict[str, Any] = {}

    def all_of_them() -> bool:
        last.update(show(bus)["shadow"])
        return bool(last["compared"] >= count)

    until(all_of_them, 15, lambda: f"{count} are compared, so far {last} {bus.tail()}")
    return last


def test_what_a_shadow_answers_differently_is_told_and_survives_a_restart(
    bus_factory: BusFactory, stubs: Callable[[Answer], HttpStub], show: Show
) -> None:
    bus = bus_factory(config(stubs(old), stubs(new)))
    push(bus, *range(JOBS))

    told = compared(show, bus, JOBS)
    bodies, failed = sum(n % 10 == 0 and n % 7 != 3 for n in DIFFER), sum(n % 7 == 3 for n in DIFFER)
    assert (told["of"], told["compared"], told["differ"]) == ("credit", JOBS, len(DIFFER))
    assert told["by"] == {"outcome": failed, "code": failed, "body": bodies}
    assert len(told["examples"]) == min(10, len(DIFFER))
    paths = {each["path"] for example in told["examples"] for each in example["differs"]}
    assert paths == {"", "$.rows[1]"}
    assert told["run_ratio_p50"] > 0
    row = show(bus)
    assert (row["dead"], row["delayed"], row["ready"], row["shadow_of"]) == (0, 0, 0, "credit")
    assert bus.topic("gift", "new")["shadow_of"] == "credit"

    bus.restart()
    push(bus, 1, 2)
    assert compared(show, bus, JOBS + 2)["differ"] == len(DIFFER)


def test_two_nodes_on_one_store_add_up(
    bus_factory: BusFactory, stubs: Callable[[Answer], HttpStub], show: Show, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        real, shadow = stubs(old), stubs(new)
        one, two = [
            bus_factory({"node": {"name": name}, **config(real, shadow, server.url)}, name=name)
            for name in ("one", "two")
        ]
        for start in range(0, JOBS, 4):
            push((one, two)[start % 8 // 4], *range(start, start + 4))

        told = compared(show, one, JOBS)
        assert (told["compared"], told["differ"], told["skipped"]) == (JOBS, len(DIFFER), 0)
        assert show(two)["shadow"]["compared"] == JOBS
    finally:
        server.close()


@pytest.mark.parametrize("answer", [(HANG,), (response(500, b"no"),)], ids=["hangs", "fails"])
def test_a_shadow_that_does_not_work_holds_nothing_up(
    bus_factory: BusFactory, stubs: Callable[[Answer], HttpStub], show: Show, answer: Plan
) -> None:
    real = stubs(lambda *_: (response(200, b"{}"),))
    bus = bus_factory(config(real, stubs(lambda *_: answer), max_backlog=20))
    for done in range(20, 101, 20):
        push(bus, *range(20))  # refused, if anything of before counted
        until(lambda upto=done: finished(bus) == upto, 10, "the topic goes on")  # type: ignore[misc]

    row = show(bus)
    assert (row["dead"], row["delayed"]) == (0, 0)
    if answer == (HANG,):
        assert (row["running"], row["ready"]) == (4, 96)
    else:
        told = compared(show, bus, 100)
        assert (told["differ"], told["by"]["outcome"]) == (100, 100)
        assert bus.topic("gift", "new")["state"] == "running"  # not braked
    assert bus.events("alarm.fired") == []
