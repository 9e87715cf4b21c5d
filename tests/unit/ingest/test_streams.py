"""XREADGROUP, XACK, PBUS.NACK: at least once, the connection's until it is settled."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.core.job import Move
from pbus.errors import Unavailable
from tests.unit.ingest.door import Client, Door, encode


def read(client: Client, *more: str, topic: str = "credit", consumer: str = "c", queue: str = "gift") -> Any:
    """The entries of one queue; None: nil."""
    reply = client.ask("XREADGROUP", "GROUP", topic, consumer, *more, "STREAMS", queue, ">")
    return reply if reply is None or isinstance(reply, str) else reply[0][1]


def ids(entries: Any) -> list[str]:
    return [entry[0] for entry in entries or []]


def test_read_answers_as_redis_does(client: Client) -> None:
    client.ask("LPUSH", "gift", "a")

    assert client.ask("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">") == [
        ["gift", [["1000-1", ["body", "a", "attempt", "1", "redelivered", "0", "traceparent", ""]]]]
    ]


def test_read_of_nothing_is_nil(client: Client) -> None:
    assert read(client) is None


def test_read_is_settled_by_its_ack_only(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a", "b")
    got = ids(read(client))

    assert door.driver.settled == []
    assert client.ask("XACK", "gift", "credit", *got) == 2
    assert door.driver.settled == [(Move.ACK, got[0]), (Move.ACK, got[1])]
    assert door.store.puller.idle


def test_closed_connection_gives_back_what_it_has_read(door: Door, client: Client) -> None:
    reader = door.client()
    client.ask("LPUSH", "gift", "a", "b", "c")
    got = ids(read(reader))

    reader.close()

    door.until(lambda: len(door.driver.settled) == 3)
    assert door.driver.settled == [(Move.RETRY, got[0]), (Move.RELEASE, got[1]), (Move.RELEASE, got[2])]
