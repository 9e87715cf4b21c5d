"""Connections: bounded in time and memory, whatever the client does; and how they end."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tracemalloc

import gevent
import pytest

from pbus.config.schema import Ingest, Limits
from pbus.ingest.connection import COMMANDS_A_TURN
from pbus.ingest.server import _is_here
from tests.unit.ingest.door import Client, Door, encode


def closed(client: Client) -> bool:
    """The server has closed, after whatever it still had to say."""
    try:
        while True:
            client.read(1.0)
    except (EOFError, ConnectionError):
        return True


@pytest.mark.parametrize(
    "garbage",
    [
        b"*1000000000\r\n", b"*2\r\n$4\r\nECHO\r\n$2147483647\r\n", b"*-5\r\n", b"*1\r\n$9223372036854775808\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n", b"\x00\x00\x00\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\n", bytes.fromhex("1603010200010001fc0303"), b"x" * 5000,
    ],
)
def test_garbage_gets_one_error_and_the_end(door: Door, garbage: bytes) -> None:
    client, honest = door.client(), door.client()
    client.send(garbage)

    assert client.read(1.0).startswith("ERR ")
    with pytest.raises(EOFError):
        client.read(1.0)
    assert honest.ask("PING") == "PONG"
    client.close()
    door.until(lambda: len(door.server.connections) == 1)


def test_garbage_behind_commands_does_not_cost_their_replies(client: Client) -> None:
    client.send(encode("LPUSH", "gift", "a") * 3 + b"*x\r\n" + encode("LPUSH", "gift", "b"))

    assert [client.read() for _ in range(3)] == [3, 3, 3]
    assert client.read() == "ERR Protocol error: invalid multibulk length: not stored, this connection ends"
    assert closed(client)


def test_refused_client_that_does_not_close_is_closed(door: Door, client: Client) -> None:
    client.send(b"*x\r\n").read()

    door.later(1.1)

    assert not door.server.connections


def test_command_that_does_not_end_does_not_answer_for_the_one_before(door: Door, client: Client) -> None:
    door.driver.held_back = True
    client.send(encode("LPUSH", "gift", "a") + b"*3\r\n$5\r\nLPUSH\r\n")
    door.until(lambda: door.server._watched)
    door.later(11.0)
    assert client.silent()
    door.driver.go.set()

    assert client.read() == 1, "it is stored, so nothing else may be said first"
    door.later(11.0)
    assert client.read() == "ERR the command was not complete after 10 s: not stored"


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::1234", False),
     ("::1:2", False), ("::102:304", False), ("::ffff:10.0.0.1", False), ("10.0.0.127", False)],
)
def test_only_loopback_is_this_machine(host: str, here: bool) -> None:
    assert _is_here(host) is here


def test_command_that_does_not_end_is_closed_after_its_time(door: Door, client: Client) -> None:
    honest = door.client()
    client.send(b"*3\r\n$5\r\nLPUSH\r\n")
    door.until(lambda: door.server._watched)
    door.later(9.0)
    client.send(b"$4\r\n")                            # a drip does not help
    honest.ask("PING")
    door.later(1.5)

    assert client.read() == "ERR the command was not complete after 10 s: not stored"
    assert closed(client)
    assert honest.ask("PING") == "PONG"


def test_idle_connection_is_never_cut(door: Door, client: Client) -> None:
    client.ask("PING")

    door.later(1_000_000)

    assert client.ask("PING") == "PONG"


def test_time_of_a_command_starts_with_the_command(door: Door, client: Client) -> None:
    client.ask("PING")
    door.later(100)
    client.send(b"*1\r\n$4\r\nPI")
    door.until(lambda: door.server._watched)
    door.later(5)

    assert client.send(b"NG\r\n").read() == "PONG"
    door.later(100)
    assert client.ask("PING") == "PONG"


def test_client_that_never_reads_is_paused_then_closed() -> None:
    door = Door(Ingest(limits=Limits(unread_bytes=64 * 1024)))
    rude, honest = door.client(), door.client()
    connection = min(door.server.connections, key=lambda connection: connection.id)
    rude.socket.setblocking(False)
    asks, sent = encode("ECHO", "x" * 10_000) * 500, 0
    while connection._reading:
        with contextlib.suppress(BlockingIOError):
            sent += rude.socket.send(asks[sent:sent + 65_536])
        assert honest.ask("PING") == "PONG"
    assert sent < len(asks)
    assert len(connection._unsent or b"") < 64 * 1024 + 64 * 10_100

    door.later(29)
    assert connection in door.server.connections
    door.later(2)

    assert connection not in door.server.connections
    assert honest.ask("PING") == "PONG"
    door.close()


def test_client_that_reads_late_gets_everything() -> None:
    door = Door(Ingest(limits=Limits(unread_bytes=64 * 1024)))
    client = door.client()
    client.socket.setblocking(True)
    for _ in range(20):
        client.send(encode("ECHO", "x" * 9_000))
    for _ in range(20):
        assert client.read() == "x" * 9_000
    door.close()


# -- floods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b" \t\r\n", b"*0\r\n", b"*0\r\n\r\n"])
def test_flood_of_blanks_starves_nobody(door: Door, client: Client, blank: bytes) -> None:
    turns = []
    later = door.server.later
    door.server.later = lambda connection: (turns.append(1), later(connection))  # type: ignore[method-assign]
    count = 60_000 // len(blank)
    client.send(blank * count + encode("PING"))

    assert client.read() == "PONG"
    assert len(turns) >= (count // COMMANDS_A_TURN - 8 if b"*0" in blank else 0), "64 a turn"


def test_blank_lines_before_a_command_cost_nothing(client: Client) -> None:
    assert client.send(b"\r\n \n\r\nPING\r\n").read() == "PONG"
    assert client.send(b"*0\r\n" * 130 + encode("PING")).read() == "PONG"


def test_costly_command_is_the_last_of_its_turn(door: Door, client: Client) -> None:
    turns = []
    later = door.server.later
    door.server.later = lambda connection: (turns.append(1), later(connection))  # type: ignore[method-assign]
    client.send(encode("CLIENT", "LIST") * 10 + encode("LPUSH", "gift", "a") + encode("INFO") + encode("PING"))

    replies = [client.read() for _ in range(13)]

    assert replies[10] == 1
    assert replies[12] == "PONG"
    assert len(turns) == 11


def test_unfinished_commands_of_all_clients_together_are_bounded(door: Door) -> None:
    door.server._most_held = 4_000_000
    clients = [door.client() for _ in range(12)]
    honest = clients.pop()
    half = encode("LPUSH", "gift", "x" * 900_000)[:-100_000]
    for client in clients:
        gevent.spawn(_send, client, half)
    gevent.spawn(_send, honest, encode("LPUSH", "gift", "y" * 1000)[:-1])
    door.until(lambda: any(map(_evicted, clients)), "somebody has to go")

    gevent.sleep(0.05)
    assert door.server.held_bytes <= 4_000_000
    honest.send(b"\n")
    assert honest.read() == 1
    assert "UNAVAILABLE unfinished commands of all clients have more than 3 MiB" in "".join(map(_heard, clients))


def test_unread_replies_are_counted_until_they_are_read(door: Door, client: Client) -> None:
    client.socket.setblocking(True)
    for _ in range(40):
        client.send(encode("ECHO", "x" * 15_000))
    door.until(lambda: door.server.held_bytes > 0)
    for _ in range(40):
        client.read()
    door.until(lambda: door.server.held_bytes == 0)


def test_closed_connection_holds_nothing(door: Door, client: Client) -> None:
    client.send(b"*3\r\n$5\r\nLPUSH\r\n$4\r\ngift\r\n$9000\r\nxxxxxxx")
    door.until(lambda: door.server.held_bytes > 0)
    client.close()
    door.until(lambda: not door.server.connections)

    assert door.server.held_bytes == 0


def _send(client: Client, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(data)


def _evicted(client: Client) -> bool:
    return bool(_heard(client))


def _heard(client: Client) -> str:
    """What it was told last; remembered, because several ask."""
    with contextlib.suppress(gevent.Timeout, EOFError, OSError):
        client.heard = str(client.read(0.001))  # type: ignore[attr-defined]
    return getattr(client, "heard", "")


def test_few_descriptors_are_a_problem_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    used = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 32 + 100, used + 132))
    door = Door()

    assert 90 <= door.server.most_connections <= 100
    text = f"connections fit into {used + 132} descriptors, ingest.limits.connections allows 10000: raise 'ulimit -n'"
    assert text in door.child.problems["descriptors"]
    door.close()


def test_no_descriptor_for_clients_refuses_them_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    door = Door()

    assert door.server.most_connections == 0
    assert door.client().read() == "ERR max number of clients reached"
    assert door.child.problems["descriptors"].startswith("0 connections fit into 20 descriptors")
    door.close()


def test_partial_command_survives_between_two_chunks(client: Client) -> None:
    raw = encode("LPUSH", "gift", "hello\r\nworld")
    for byte in raw[:-1]:
        client.send(bytes([byte]))
    assert client.silent(0.005)

    assert client.send(raw[-1:]).read() == 1


def test_inline_commands_work(client: Client) -> None:
    assert client.send(b'LPUSH gift "two words"\r\n').read() == 1
    assert client.send(b"RPOP gift/credit\n").read() == "two words"


def test_drain_answers_what_has_begun_and_closes_the_idle(door: Door) -> None:
    idle, pushing, blocked, half = (door.client() for _ in range(4))
    idle.ask("PING")
    door.driver.held_back = True
    pushing.send(encode("LPUSH", "gift", "a") * 3)
    blocked.command("BRPOP", "mail/smtp", "0")
    half.send(b"*1\r\n$4\r\nPI")
    door.until(lambda: door.driver.open_appends and door.store.puller._waiting and door.server._watched)

    door.server.drain()

    assert not door.server.idle
    assert closed(idle)
    assert blocked.read() is None
    half.send(b"NG\r\n")
    assert half.read() == "PONG"
    door.driver.go.set()
    assert [pushing.read() for _ in range(3)] == [3, 3, 3]
    door.until(lambda: door.server.idle, "everybody is closed")
    assert all(closed(client) for client in (pushing, blocked, half))


def test_drain_waits_for_the_push_of_a_client_that_is_gone(door: Door) -> None:
    client = door.client()
    door.driver.held_back = True
    client.command("LPUSH", "gift", "a")
    door.until(lambda: door.driver.open_appends)
    next(iter(door.server.connections)).close()       # as a reset does
    door.server.drain()

    assert not door.server.connections
    assert not door.server.idle
    door.driver.go.set()
    door.until(lambda: door.server.idle)
    assert len(door.driver.appends) == 1


def test_scoreboard_shows_connections_and_pushes(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", *"abc")

    door.later(1)

    assert door.child.fields == {"connections": 1, "done": 3, "failed": 0}


def test_idle_connection_costs_little(door: Door) -> None:
    keep = [door.client() for _ in range(50)]
    for client in keep:
        client.ask("PING")
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    more = []
    pairs = [socket.socketpair() for _ in range(200)]
    sockets, _ = tracemalloc.get_traced_memory()
    for ours, theirs in pairs:
        door.greet(ours)
        more.append(theirs)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for theirs in more:
        theirs.close()

    assert (after - sockets) / 200 < 4096, "Python's share; the kernel's is its own"
    assert before < sockets
