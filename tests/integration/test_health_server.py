"""The server behind the health endpoints cannot be pinned by its clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from pbus.dashboard.main import application
from pbus.dashboard.server import CONNECTIONS, REQUEST_BYTES, Server
from pbus.telemetry import log


@pytest.fixture
def server() -> Iterator[Server]:
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    server = Server(listener, application({"/-/livez": list}), log.get(), request_s=0.5)
    server.start()
    yield server
    server.drain()


def connect(server: Server) -> Any:
    client = gevent.socket.create_connection(listener_address(server), timeout=5)
    client.settimeout(5)
    return client


def listener_address(server: Server) -> tuple[str, int]:
    host, port = server.socket.getsockname()
    return host, port


def probe(server: Server) -> bytes:
    client = connect(server)
    with client:
        client.sendall(b"GET /-/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return read_all(client)


def read_all(client: Any) -> bytes:
    parts = []
    while part := client.recv(4096):
        parts.append(part)
    return b"".join(parts)


def test_probe_is_answered(server: Server) -> None:
    assert probe(server).startswith(b"HTTP/1.1 200 OK")


def test_kept_connection_is_answered_again(server: Server) -> None:
    with connect(server) as client:
        for _ in range(3):
            client.sendall(b"GET /-/livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}\n"):
                answer += client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 OK")


def test_client_that_drips_its_request_is_cut_off(server: Server) -> None:
    request = b"GET /-/livez HTTP/1.1\r\n" * 10
    taken = 0
    with connect(server) as client, contextlib.suppress(OSError):
        for byte in request:  # it would take 4 s, each byte within the time limit
            client.sendall(bytes([byte]))
            taken += 1
            gevent.sleep(0.02)
    assert taken < len(request)


def test_endless_head_is_cut_off(server: Server) -> None:
    taken = 0
    with connect(server) as client, contextlib.suppress(OSError):
        client.sendall(b"GET /-/livez HTTP/1.1\r\n")
        for _ in range(100):
            client.sendall(b"X-Noise: " + b"x" * (REQUEST_BYTES // 8) + b"\r\n")
            taken += REQUEST_BYTES // 8
            gevent.sleep(0.005)
    assert taken < 4 * REQUEST_BYTES


def test_flood_of_silent_clients_does_not_pin_it(server: Server) -> None:
    server.request_s = 60.0  # no request of theirs ends by itself in time
    silent = [connect(server) for _ in range(CONNECTIONS + 50)]
    assert probe(server).startswith(b"HTTP/1.1 200 OK")
    for client in silent:
        client.close()


def test_drain_answers_what_runs_and_takes_nothing_new(server: Server) -> None:
    address = listener_address(server)
    server.drain()
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset
        gevent.socket.create_connection(address, timeout=1).recv(1)
