"""Limits that are configured are the ones that hold."""

from __future__ import annotations

import socket

import pytest

from pbus.config.schema import Ingest, Limits
from pbus.ingest import wire
from tests.unit.ingest.door import Door


@pytest.mark.parametrize("words", [
    ("XADD", "gift", "*", "body", "b", "dedupe", "{}"), ("PBUS.ADD", "gift", "b", "KEY", "{}"),
    ("PBUS.ADD", "gift", "b", "TRACEPARENT", "{}"), ("PBUS.PARENT", "1-1", "{}"),
])
def test_options_are_as_long_as_configured(words: tuple[str, ...]) -> None:
    door = Door(Ingest(limits=Limits(option_bytes=300)))
    client = door.client()

    assert not str(client.ask(*(word.format("k" * 300) for word in words))).startswith("BADVALUE")
    assert client.ask(*(word.format("k" * 301) for word in words)).startswith("BADVALUE ")
    door.close()


def test_elements_before_auth_are_as_many_as_configured() -> None:
    door = Door(Ingest(limits=Limits(elements_before_auth=20)))
    stranger = door.client(local=False)

    assert stranger.ask("LPUSH", "safe", *"x" * 18).startswith("NOAUTH LPUSH needs AUTH")
    assert stranger.ask("LPUSH", "safe", *"x" * 19).startswith("NOAUTH the command has 21 elements, 20 is the most")
    door.close()


def test_memory_of_all_clients_is_as_much_as_configured() -> None:
    door = Door(Ingest(max_body_bytes=1024 * 1024, limits=Limits(memory_bytes=1024 * 1024)))

    assert door.server._most_held == 4 * 64 * 1024 * 1024, "four commands find room"
    door.close()
    small = Door(Ingest(limits=Limits(memory_bytes=512 * 1024 * 1024)))
    assert small.server._most_held == 512 * 1024 * 1024
    small.close()


@pytest.mark.parametrize(("keen", "every_s"), [(False, 90), (True, 7)])
def test_silent_clients_are_asked_as_often_as_configured(keen: bool, every_s: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        wire.look_for_death(sock, every_s, keen=keen)

        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == every_s
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == every_s
        assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)) is keen
