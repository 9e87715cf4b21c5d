"""When descriptors run out: nobody who is there feels it, nobody who comes is lost, and the log says so."""

from __future__ import annotations

import os
import resource
import socket
from typing import Any

import psutil

from tests.support.bus import BusFactory
from tests.support.waiting import until

QUEUES: dict[str, Any] = {"gift": {"topic": {"credit": {"pull": {}}}}}


def test_door_without_descriptors_pauses_says_so_and_goes_on(bus_factory: BusFactory) -> None:
    bus = bus_factory({"queue": QUEUES})
    [ingest] = bus.pids("ingest")
    old = socket.create_connection(("127.0.0.1", bus.port), 5.0)
    kept = resource.prlimit(ingest, resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir(f"/proc/{ingest}/fd")))
    resource.prlimit(ingest, resource.RLIMIT_NOFILE, (highest + 4, kept[1]))
    new = [socket.create_connection(("127.0.0.1", bus.port), 5.0) for _ in range(30)]
    until(lambda: bus.events("accept.paused"), 5, "it says why nobody is let in")
    assert _answer(old, b"LPUSH gift hi\r\n") == b":1\r\n"
    times = psutil.Process(ingest).cpu_times()
    until(lambda: len(bus.events("accept.paused")) == 1, 1, "once")
    resource.prlimit(ingest, resource.RLIMIT_NOFILE, kept)
    assert [_answer(sock, b"PING\r\n") for sock in new] == [b"+PONG\r\n"] * 30
    after = psutil.Process(ingest).cpu_times()
    assert after.user + after.system - times.user - times.system < 0.5, "waiting costs nothing"
    for sock in [old, *new]:
        sock.close()


def _answer(sock: socket.socket, command: bytes) -> bytes:
    sock.settimeout(5.0)
    sock.sendall(command)
    return sock.recv(64)
