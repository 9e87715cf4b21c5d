"""
A34: 100,000 pushes in one pipeline, and clients that ask for much and never read it.

The first is answered in order, each command by its own reply; the others are not read from any more, then closed. What
the bus keeps for either is bounded, and honest clients go on.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

import pytest

from pbus.codec.resp import encode_command
from tests.support.bus import Bus, BusFactory
from tests.support.honest import Honest
from tests.support.memory_use import Memory
from tests.support.nightly import figure
from tests.support.stopwatch import Stopwatch

PUSHES = 100_000
MARK_EVERY = 1000
GROWTH_MB = 12.0
"""4 MiB of pushes that wait for the store, as objects; the same however long the pipeline is."""
UNREAD_S = figure(1.0, nightly=30.0)
SWEEP_S = 1.0
SLACK_S = 1.0
GREEDY = {
    "echoes": encode_command([b"ECHO", b"x" * 10_000]) * 10,
    "documentation": b"COMMAND DOCS\r\n" * 1000,  # 14 bytes for some thousand
    "numbers": b"INFO\r\n" * 1000,
}
"""What they ask for, again and again."""
MOST_BYTES = 32 << 20
"""More than the kernel keeps for both ends of a connection: who may send so much is read from."""
GREEDY_MB = 12.0
"""1 MiB of unread replies a client, and the copy of a part that is offered to the kernel."""


@pytest.fixture
def bus(bus_factory: BusFactory) -> Bus:
    return bus_factory(
        f'[ingest]\nlimits = {{ unread_time = "{UNREAD_S * 1000:g}ms" }}\n'
        "[queue.gift]\nmax_backlog = 100000000\n[queue.gift.topic.credit]\npull = {}\n"
    )


def test_long_pipeline_is_answered_in_order_and_costs_little_memory(bus: Bus) -> None:
    commands = []
    for number in range(PUSHES):
        commands.append([b"PBUS.ADD", b"gift", b"%06d" % number])
        if number % MARK_EVERY == 0:
            commands.append([b"ECHO", b"mark %d" % number])
    raw = b"".join(map(encode_command, commands))
    said, lines = bytearray(), 0
    with (
        socket.create_connection(("127.0.0.1", bus.port), timeout=30) as sock, Stopwatch() as watch,
        Memory(bus.pids("ingest")[0]) as memory,
    ):
        sender = threading.Thread(target=sock.sendall, args=(raw,))
        sender.start()
        while lines < 2 * len(commands):
            part = sock.recv(1 << 20)
            assert part, "the connection was closed"
            said += part
            lines += part.count(b"\n")
        sender.join()
    grown_mb = memory.growth_mb()
    print(f"{PUSHES} pushes in {watch.s:.1f} s, the bus grew by {grown_mb:.1f} MB")
    replies = bytes(said).split(b"\r\n")[1::2]
    assert len(replies) == len(commands)
    ids = []
    for reply, command in zip(replies, commands, strict=True):
        if command[0] == b"ECHO":
            assert reply == command[1]
        else:
            ids.append(tuple(map(int, reply.split(b"-"))))
    assert ids == sorted(set(ids))
    assert grown_mb <= GROWTH_MB


@pytest.mark.timeout(300)
def test_clients_that_never_read_are_closed_and_cost_little_memory(bus: Bus) -> None:
    with Honest(bus.port, "gift", connections=1) as honest, Stopwatch() as watch:
        with Memory(bus.pids("ingest")[0]) as memory:
            before = honest.pushed()
            ends_s = _offer(bus.port)
            pushed = honest.pushed() - before
        grown_mb = memory.growth_mb()
    print(f"closed after {({name: round(s, 1) for name, s in ends_s.items()})} s, the bus grew by {grown_mb:.1f} MB, "
          f"{pushed} honest pushes meanwhile")
    assert set(ends_s) == set(GREEDY), "somebody was read from for ever"
    # What costs a turn of the loop each is answered for a while after its last byte has come.
    assert ends_s["echoes"] <= UNREAD_S + SWEEP_S + SLACK_S + watch.paused_s
    assert grown_mb <= GREEDY_MB
    assert pushed > 0
    slow = [event for event in bus.events("client.slow") if event["reason"] == "does not read its replies"]
    assert len(slow) == len(GREEDY)


def _offer(port: int) -> dict[str, float]:
    """Send what the greedy ones ask for, as far as it is read; seconds from its last byte until each was closed."""
    begun_s, ends_s, poll = time.monotonic(), {}, select.poll()
    with contextlib.ExitStack() as stack:
        clients = {}
        for name in GREEDY:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            sock.setblocking(False)
            clients[sock.fileno()] = (name, sock)
            poll.register(sock, select.POLLOUT)
        sent, sent_s = dict.fromkeys(GREEDY, 0), dict.fromkeys(GREEDY, begun_s)
        while len(ends_s) < len(clients) and time.monotonic() - begun_s < UNREAD_S + 20:
            for descriptor, _ in poll.poll(1000):
                name, sock = clients[descriptor]
                try:
                    sent[name] += sock.send(GREEDY[name][sent[name] % len(GREEDY[name]):])
                    sent_s[name] = time.monotonic()
                    assert sent[name] < MOST_BYTES, f"all {name} were taken"
                except ConnectionError:
                    ends_s[name] = time.monotonic() - sent_s[name]
                    poll.unregister(sock)
    return ends_s
