"""
A32: 10,000 connections in one ingest child that say nothing any more.

None is ever cut, and what each costs is little, whatever its client did before: it has only greeted, or has proved who
it is, or waits for jobs, or holds one. The full figures (10,000 of them, ten minutes) are nightly.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
from collections.abc import Iterator

import hiredis
import psutil
import pytest
import redis

from pbus.codec.resp import encode_command
from tests.support.bus import BusFactory
from tests.support.nightly import figure

CONNECTIONS = figure(600, nightly=10_000)
IDLE_S = figure(1.0, nightly=600.0)
EACH_BYTES = 12 * 1024
WARM = 50
"""Connections that have come and gone before: what the first ones make stays for all."""
KINDS = {
    "has greeted": [[b"PING"]],
    "is known": [
        [b"HELLO", b"3", b"AUTH", b"safe/credit", b"pw", b"SETNAME", b"worker-17"],
        [b"CLIENT", b"SETINFO", b"LIB-NAME", b"redis-py"], [b"CLIENT", b"SETINFO", b"LIB-VER", b"5.2.1"],
    ],
    "has pushed": [[b"LPUSH", b"gift", b"x" * 50_000]] * 2,
    "holds a job": [[b"XREADGROUP", b"GROUP", b"credit", b"worker-17", b"COUNT", b"1", b"STREAMS", b"held", b">"]],
    "waits to pop": [[b"BRPOP", b"quiet/credit", b"0"]],
    "waits to read": [[b"XREADGROUP", b"GROUP", b"credit", b"worker-17", b"BLOCK", b"0", b"STREAMS", b"quiet", b">"]],
}
CONFIG = """
[queue.gift]
max_backlog = 100000000
[queue.gift.topic.credit]
pull = {}
[queue.held.topic.credit]
pull = { max_open = 100000 }
timeout = "0s"
[queue.quiet.topic.credit]
pull = {}
[queue.safe]
password = "pw"
[queue.safe.topic.credit]
pull = {}
"""


@pytest.mark.timeout(1800)
def test_idle_connections_are_kept_and_cost_little(bus_factory: BusFactory) -> None:
    bus = bus_factory(CONFIG)
    (pid,) = bus.pids("ingest")
    process = psutil.Process(pid)
    each, costs, poll = CONNECTIONS // len(KINDS), {}, select.poll()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_descriptors(CONNECTIONS + 500))
        _push(bus.port, "held", each + WARM)
        for kind, said in KINDS.items():
            with contextlib.ExitStack() as warm:
                _connect(bus.port, said, WARM, warm)
            before = process.memory_info().rss
            for sock in _connect(bus.port, said, each, stack):
                poll.register(sock, select.POLLIN)
            costs[kind] = (process.memory_info().rss - before) / each
        print(f"{CONNECTIONS}: " + ", ".join(f"{kind} {cost / 1024:.1f} KiB" for kind, cost in costs.items()))
        assert poll.poll(IDLE_S * 1000) == [], "somebody was cut"
        assert _connected(bus.port) == each * len(KINDS) + 1
        rows = [row for row in bus.status()["processes"] if row["role"] == "ingest"]
        assert [row["pid"] for row in rows] == [pid]
    assert max(costs.values()) <= EACH_BYTES


def _connect(port: int, said: list[list[bytes]], count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """So many connections that have said that and have heard the answers, if they do not wait for them from now on."""
    raw = b"".join(map(encode_command, said))
    answers = 0 if b"0" in said[0] else len(said)
    socks = []
    for _ in range(count):
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        sock.sendall(raw)
        reader = hiredis.Reader()
        for _ in range(answers):
            while (reply := reader.gets()) is False:
                reader.feed(sock.recv(65_536))
            assert reply is not None
            assert not isinstance(reply, hiredis.ReplyError), reply
        socks.append(sock)
    return socks


def _connected(port: int) -> int:
    with redis.Redis(port=port) as client:
        return int(client.info("clients")["connected_clients"])


def _push(port: int, queue: str, count: int) -> None:
    with redis.Redis(port=port) as client:
        for begin in range(0, count, 1000):
            client.lpush(queue, *["x" * 200] * min(1000, count - begin))


@contextlib.contextmanager
def _descriptors(count: int) -> Iterator[None]:
    """So many descriptors for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
