"""
Pulls at least once on a real bus with two ingest children, on each store: where a claim goes that nobody acks.

Every test has a queue of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import Bus, write_config
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

QUEUES = ("plain", "small", "poison", "ordered", "nacked", "slow", "many", "held", "noack")
TOPIC = {"pull": {}, "retry": {"first": "50ms", "jitter": 0.0}}
WITH_ANOTHER_S = 1.0


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def bus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    folder = tmp_path_factory.mktemp(f"claims-{request.param}")
    config: dict[str, Any] = {"ingest": {"processes": 2}, "queue": {name: {"topic": {"t": TOPIC}} for name in QUEUES}}
    config["queue"]["small"] = {"topic": {"t": TOPIC | {"pull": {"max_open": 4}}}}
    config["queue"]["slow"] = {"topic": {"t": TOPIC | {"timeout": "1s"}}}
    config["queue"]["held"] = {"topic": {"t": TOPIC | {"on_unknown": "hold"}}}
    config["queue"]["many"] = {"topic": {"t": TOPIC | {"pull": {"max_open": 20_000}}}}
    with contextlib.ExitStack() as stack:
        if request.param == "redis":
            server = RedisServer(folder)
            stack.callback(server.close)
            server.start()
            config["storage"] = {"main": {"url": server.url}}
        bus = Bus(folder)
        stack.callback(bus.clean_up)
        write_config(folder, config)
        yield bus.start()


class Client:
    """One connection, and the ingest child that serves it."""

    def __init__(self, bus: Bus, queue: str) -> None:
        self._queue = queue
        self._connection = redis.Connection(port=bus.port, protocol=2, decode_responses=True, socket_timeout=10)
        self.child = int(self.ask("INFO").partition("process_id:")[2].split()[0])

    def push(self, *bodies: str, **options: str) -> list[str]:
        words = [word for pair in options.items() for word in pair]
        return [self.ask("XADD", self._queue, "*", "body", body, *words) for body in bodies]

    def read(self, count: int = 16, block_ms: int = 0) -> list[tuple[str, dict[str, str]]]:
        """Ids and fields."""
        block = ["BLOCK", str(block_ms)] if block_ms else []
        reply = self.ask("XREADGROUP", "GROUP", "t", "c", "COUNT", str(count), *block, "STREAMS", self._queue, ">")
        entries = reply[0][1] if reply else []
        return [(job_id, dict(zip(fields[::2], fields[1::2], strict=True))) for job_id, fields in entries]

    def read_until(self, count: int, timeout_s: float = 5.0) -> dict[str, dict[str, str]]:
        """Jobs by id, as soon as there are so many."""
        found: dict[str, dict[str, str]] = {}
        deadline_s = time.monotonic() + timeout_s
        while len(found) < count and time.monotonic() < deadline_s:
            found |= dict(self.read(block_ms=200))
        assert len(found) == count, found
        return found

    def ack(self, *ids: str) -> int:
        answer: int = self.ask("XACK", self._queue, "t", *ids)
        return answer

    def ask(self, *words: str) -> Any:
        self._connection.send_command(*words)  # type: ignore[no-untyped-call]
        return self._connection.read_response()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._connection.disconnect()


def pair(bus: Bus, queue: str) -> tuple[Client, Client]:
    """Connections to both ingest children."""
    first = Client(bus, queue)
    for _ in range(200):
        second = Client(bus, queue)
        if second.child != first.child:
            return first, second
        second.close()
    raise AssertionError("every connection came to one child")


def test_ack_by_way_of_another_child_takes_effect(bus: Bus) -> None:
    reader, acker = pair(bus, "plain")
    reader.push("a", "b", "c")
    got = [job_id for job_id, _ in reader.read()]

    assert acker.ack(*got[:2]) == 2
    assert reader.ack(*got) == 1
    assert acker.ack(*got) == 0
    reader.close()
    assert acker.read(block_ms=300) == []


def test_acks_by_way_of_another_child_make_room(bus: Bus) -> None:
    reader, acker = pair(bus, "small")
    reader.push(*[str(number) for number in range(40)])
    begun_s = time.monotonic()
    seen: list[str] = []
    while len(seen) < 40:
        batch = [job_id for job_id, _ in reader.read(block_ms=3000)]
        assert batch, f"no room was made after {len(seen)} jobs"
        assert len(batch) <= 4
        seen += batch
        assert acker.ack(*batch) == len(batch)

    took_s = time.monotonic() - begun_s
    print(f"40 jobs, 4 at once, acked at another child: {took_s:.2f} s")
    assert took_s < 5.0
    assert seen == sorted(seen)


def test_job_whose_readers_close_is_dead_after_three(bus: Bus) -> None:
    client = Client(bus, "poison")
    client.push("bad")
    for attempt in ("1", "2", "3"):
        reader = Client(bus, "poison")
        ((_, fields),) = reader.read_until(1).items()
        assert fields["attempt"] == attempt
        assert fields["redelivered"] == str(int(attempt != "1"))
        reader.close()

    until(lambda: bus.topic("poison", "t")["dead"] == 1, 5, "it is a dead letter")
    letters = bus.cli("dead", "ls", "poison/t", "-o", "json", check=True).stdout
    assert "killed its consumer" in letters


def test_key_keeps_its_order_when_a_reader_closes(bus: Bus) -> None:
    first, second = pair(bus, "ordered")
    first.push("1", "2", "3", key="k")
    ((held, _),) = first.read()
    assert second.read(block_ms=300) == [], "a key runs one after the other"

    first.close()

    ((again, fields),) = second.read_until(1, WITH_ANOTHER_S).items()
    assert (again, fields["body"], fields["redelivered"]) == (held, "1", "1")
    order = []
    while again:
        assert second.ack(again) == 1
        again, fields = next(iter(second.read(block_ms=300)), ("", {}))
        order.append(fields.get("body"))
    assert order == ["2", "3", None]


def test_nack_comes_back_when_it_said(bus: Bus) -> None:
    client, other = pair(bus, "nacked")
    client.push("a")
    ((job_id, _),) = client.read()
    assert client.ask("PBUS.NACK", "nacked", "t", job_id, "DELAY", "0") == 1
    ((again, fields),) = other.read_until(1, WITH_ANOTHER_S).items()
    assert (again, fields["attempt"], fields["redelivered"]) == (job_id, "2", "1")
    begun_s = time.monotonic()
    assert client.ask("PBUS.NACK", "nacked", "t", job_id, "DELAY", "300", "REASON", "later") == 1, "held elsewhere"
    ((again, fields),) = client.read_until(1).items()
    assert 0.25 <= time.monotonic() - begun_s < 1.3
    assert (again, fields["attempt"]) == (job_id, "3")
    assert client.ask("PBUS.NACK", "nacked", "t", job_id, "DEAD", "REASON", "no such user") == 1
    until(lambda: bus.topic("nacked", "t")["dead"] == 1, 5, "it is a dead letter")


def test_reader_that_is_too_slow_loses_its_connection(bus: Bus) -> None:
    reader, heir = pair(bus, "slow")
    reader.push("a", "b")
    got = [job_id for job_id, _ in reader.read()]

    again = heir.read_until(2, 5.0)

    assert list(again) == got or set(again) == set(got)
    assert (again[got[0]]["attempt"], again[got[1]]["attempt"]) == ("2", "1")
    with pytest.raises(redis.ConnectionError):
        reader.ask("PING")
    assert heir.ack(*got) == 2
    assert [event["job"] for event in bus.events("client.timeout")] == [got[0]]


def test_thousands_of_acks_in_one_command_take_effect(bus: Bus) -> None:
    client, other = pair(bus, "many")
    count = 9_000
    for start in range(0, count, 3_000):
        client.ask("LPUSH", "many", *[str(number) for number in range(start, start + 3_000)])
    got = [job_id for job_id, _ in client.read(count)]
    assert len(got) == count

    assert client.ack(*got[:4_500]) == 4_500
    assert other.ack(*got) == 4_500
    assert client.ack(*got) == 0


def test_topic_that_holds_keeps_what_a_closed_reader_had(bus: Bus) -> None:
    reader = Client(bus, "held")
    reader.push("a", "b")
    assert len(reader.read()) == 2

    reader.close()

    until(lambda: bus.topic("held", "t")["dead"] == 2, 5, "both are dead letters")
    assert '"unknown"' in bus.cli("dead", "ls", "held/t", "-o", "json", check=True).stdout


def test_read_without_acks_is_done(bus: Bus) -> None:
    client = Client(bus, "noack")
    client.push("a")
    client.ask("XREADGROUP", "GROUP", "t", "c", "NOACK", "STREAMS", "noack", ">")

    until(lambda: bus.topic("noack", "t")["done_total"] == 1, 5, "it is done")


def test_stop_waits_for_the_acks_of_readers(tmp_path: Path) -> None:
    bus = Bus(tmp_path)
    write_config(tmp_path, {"queue": {"plain": {"topic": {"t": TOPIC}}}, "node": {"grace": "10s"}})
    try:
        bus.start()
        client = Client(bus, "plain")
        client.push("a", "b")
        got = [job_id for job_id, _ in client.read()]
        os.kill(bus.process.pid, signal.SIGTERM)
        until(lambda: bus.status()["state"] == "stopping", 5, "it stops")
        until(lambda: any(row["role"] == "ingest" for row in bus.status()["processes"]), 5, "the door is there")

        assert client.ack(got[0]) == 1
        assert client.read() == []
        assert client.ack(got[1]) == 1

        assert bus.process.wait(8) == 0
        bus.start()
        assert bus.topic("plain", "t")["done_total"] == 2
    finally:
        bus.clean_up()


def test_stop_gives_back_what_readers_keep(tmp_path: Path) -> None:
    bus = Bus(tmp_path)
    write_config(tmp_path, {"queue": {"plain": {"topic": {"t": TOPIC}}}, "node": {"grace": "1s"}})
    try:
        bus.start()
        client = Client(bus, "plain")
        client.push("a")
        ((job_id, _),) = client.read()
        assert bus.stop() == 0

        bus.start()
        ((again, fields),) = Client(bus, "plain").read_until(1).items()
        assert (again, fields["attempt"], fields["redelivered"]) == (job_id, "1", "1")
    finally:
        bus.clean_up()


def test_ack_by_way_of_another_node_takes_effect(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = RedisServer(tmp_path)
        stack.callback(server.close)
        server.start()
        buses = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            buses.append(Bus(folder))
            stack.callback(buses[-1].clean_up)
            topic = TOPIC | {"pull": {"max_open": 2}}
            write_config(folder, {
                "node": {"name": name}, "storage": {"main": {"url": server.url}},
                "queue": {"plain": {"topic": {"t": topic}}},
            })
            buses[-1].launch()
        for bus in buses:
            bus.wait()
        reader, acker = (Client(bus, "plain") for bus in buses)
        reader.push("a", "b", "c")
        got = [job_id for job_id, _ in reader.read()]
        assert len(got) == 2

        assert acker.ack(*got) == 2
        assert [fields["body"] for _, fields in reader.read(block_ms=2000)] == ["c"]
        assert reader.ack(*got) == 0
