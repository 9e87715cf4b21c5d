"""Clients that break the protocol or its manners: an error, an end, and nobody else feels it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pbus.codec.resp import encode_command
from tests.support.bus import STOP_S, Bus, BusFactory
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

VECTORS = sorted((Path(__file__).parents[1] / "resp" / "broken").glob("*.resp"))
BROKEN = [path for path in VECTORS if "limits" not in path.with_suffix(".json").read_text()]


def connect(bus: Bus, timeout_s: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", bus.port), timeout=timeout_s)


def everything(sock: socket.socket) -> bytes:
    """What the server says until it closes."""
    data = b""
    while chunk := sock.recv(65_536):
        data += chunk
    return data


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_input_gets_its_error_and_the_end_within_a_second(bus: Bus, path: Path) -> None:
    # The queue of the vectors is not declared here, which costs those pushes a refusal each.
    with connect(bus) as sock, Stopwatch() as watch:
        sock.sendall(path.read_bytes())
        said = everything(sock)

    assert watch.worked_s < 1.0
    assert said.splitlines()[-1].startswith(b"-ERR ")


def test_random_bytes_do_no_harm(bus: Bus) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    pid = bus.pids("ingest")[0]
    with redis.Redis(port=bus.port) as honest:
        honest.lpush("wire", "warm")
        before = psutil.Process(pid).memory_info().rss
        for _ in range(400):
            with connect(bus) as sock:
                size = dice.choice([3, 30, 300, 3000])
                sock.sendall(dice.choice([b"", b"*", b"*3\r\n$5\r\nLPUSH\r\n$"]) + dice.randbytes(size))
        assert honest.lpush("wire", "x") >= 1
        assert bus.pids("ingest") == [pid]
        until(lambda: honest.info("clients")["connected_clients"] == 1, 15, "the rude ones are gone")
        assert psutil.Process(pid).memory_info().rss - before < 10 * 1024 * 1024


def test_hundred_thousand_pushes_in_one_pipeline_are_answered_in_order(bus: Bus) -> None:
    count = 100_000
    raw = b"".join([encode_command([b"PBUS.ADD", b"flood", b"%06d" % number]) for number in range(count)])
    with connect(bus, 30.0) as sock:
        sock.settimeout(None)
        sender = _Sender(sock, raw)
        sender.start()
        data = bytearray()
        while data.count(b"\r\n") < 2 * count:
            data += sock.recv(1 << 20)
        sender.join()

    ids = [tuple(map(int, line.split(b"-"))) for line in bytes(data).split(b"\r\n")[1::2]]
    assert len(ids) == count
    assert ids == sorted(ids)
    assert len(set(ids)) == count


class _Sender:
    """Writes everything while somebody else reads."""

    def __init__(self, sock: socket.socket, raw: bytes) -> None:
        self._thread = threading.Thread(target=sock.sendall, args=(raw,))
        self.start = self._thread.start
        self.join = self._thread.join


def test_slow_and_silent_clients_are_closed_and_honest_ones_go_on(bus_factory: BusFactory) -> None:
    bus = bus_factory({
        "ingest": {"limits": {"command_time": "500ms", "unread": "64KiB", "unread_time": "500ms"}},
        "queue": {"gift": {"topic": {"t": {"pull": {}}}}},
    })
    slow = [connect(bus) for _ in range(8)]
    for sock in slow:
        sock.sendall(b"*3\r\n$5\r\nLPUSH\r\n")
    silent = connect(bus)
    silent.setblocking(False)
    asks, sent, stuck_s = encode_command([b"ECHO", b"x" * 10_000]) * 3000, 0, 0.0
    deadline = time.monotonic() + 20
    with redis.Redis(port=bus.port) as honest:
        while time.monotonic() < deadline:
            try:
                sent += silent.send(asks[sent:sent + 65_536])
            except BlockingIOError:
                begin = time.monotonic()
                assert honest.lpush("gift", "x") >= 1
                stuck_s = max(stuck_s, time.monotonic() - begin)
            except (ConnectionResetError, BrokenPipeError):
                break
        for sock in slow:
            assert everything(sock) == b"-ERR the command was not complete after 0.5 s: not stored\r\n"
            sock.close()
        until(lambda: honest.info("clients")["connected_clients"] == 1, 5, "the rude ones are gone")
    silent.close()

    assert sent < len(asks), "it was not read from for ever"
    assert stuck_s < 2.0
    assert {event["reason"] for event in bus.events("client.slow")} == {
        "did not complete its command", "does not read its replies"
    }


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
