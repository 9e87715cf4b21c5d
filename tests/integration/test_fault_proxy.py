"""The fault proxy itself: each fault does what it says to open and to new connections, and heals."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.support import seeds
from tests.support.fault_proxy import FaultProxy
from tests.support.talker import Talker
from tests.support.waiting import until

SOON_S = 0.15
LONG_S = 5.0


@pytest.fixture
def server() -> Iterator[Talker[bytes]]:
    """Answers each line with the same line; ``requests`` are those that it has executed."""
    echo = lambda line, _: [b"done " + line]  # noqa: E731
    talker: Talker[bytes] = Talker(lambda stream: stream.readline() or None, echo, tcp=True)
    yield talker
    talker.close()


@pytest.fixture
def proxy(server: Talker[bytes]) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", int(server.address.rpartition(":")[2]))) as standing:
        yield standing


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with _connect(proxy) as sock:
        yield sock


def _connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), LONG_S)


def _ask(sock: socket.socket, word: bytes = b"x", within_s: float = LONG_S) -> bytes:
    """The whole answer to a line, or what came until the connection ended."""
    sock.settimeout(within_s)
    sock.sendall(word + b"\n")
    said = b""
    while not said.endswith(b"\n"):
        piece = sock.recv(100)
        if not piece:
            break
        said += piece
    return said


def _is_silent(sock: socket.socket) -> bool:
    """Asks, and hears nothing while the connection stays open."""
    try:
        return _ask(sock, within_s=SOON_S) is None
    except TimeoutError:
        return True


def test_without_a_fault_everything_passes(proxy: FaultProxy, client: socket.socket) -> None:
    assert [_ask(client, word) for word in (b"a", b"b")] == [b"done a\n", b"done b\n"]
    assert (proxy.connections, proxy.cuts, proxy.replies) == (1, 0, 2)


def test_black_hole_delivers_late_what_it_swallowed(
    proxy: FaultProxy, client: socket.socket, server: Talker[bytes]
) -> None:
    proxy.blackhole()
    assert _is_silent(client)
    with _connect(proxy) as other:
        assert _is_silent(other)
        assert server.requests == []
        proxy.heal()
        assert [client.recv(100), other.recv(100)] == [b"done x\n"] * 2


def test_muted_requests_are_executed_and_never_answered(
    proxy: FaultProxy, client: socket.socket, server: Talker[bytes]
) -> None:
    proxy.mute()
    assert _is_silent(client)
    assert server.requests == [b"x\n"]
    proxy.heal()
    assert _ask(client, b"y") == b"done y\n"


def test_refused_connections_are_refused_and_open_ones_closed(proxy: FaultProxy, client: socket.socket) -> None:
    assert _ask(client) == b"done x\n"
    proxy.refuse()
    assert client.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        _connect(proxy)
    proxy.heal()
    with _connect(proxy) as other:
        assert _ask(other) == b"done x\n"


def test_half_open_connection_is_gone_for_the_server_only(
    proxy: FaultProxy, client: socket.socket, server: Talker[bytes]
) -> None:
    assert _ask(client) == b"done x\n"
    proxy.half_open()
    until(lambda: server.open == 0, LONG_S, "the server has seen it go")
    assert _is_silent(client)
    with _connect(proxy) as other:
        assert _ask(other, b"y") == b"done y\n"
    proxy.heal()
    assert _is_silent(client)
    assert server.requests == [b"x\n", b"y\n"]


def test_cut_reply_was_executed(proxy: FaultProxy, client: socket.socket, server: Talker[bytes]) -> None:
    proxy.cut_replies(1)
    assert _ask(client) == b""
    assert (server.requests, proxy.cuts) == ([b"x\n"], 1)
    with _connect(proxy) as other:
        assert _ask(other, b"y") == b"done y\n"


def test_reply_is_cut_after_so_many_bytes(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.cut_after(4)
    assert _ask(client) == b"done"


def test_closed_connections_are_closed_and_new_ones_work(proxy: FaultProxy, client: socket.socket) -> None:
    assert _ask(client) == b"done x\n"
    proxy.disconnect()
    assert client.recv(100) == b""
    with _connect(proxy) as other:
        assert _ask(other) == b"done x\n"


@pytest.mark.parametrize("fault", ["delay", "drip"])
def test_late_replies_come_whole(proxy: FaultProxy, client: socket.socket, fault: str) -> None:
    getattr(proxy, fault)(SOON_S / 5)
    begun_s = time.monotonic()
    assert _ask(client) == b"done x\n"
    assert time.monotonic() - begun_s >= SOON_S / 5 * (len(b"done x") if fault == "drip" else 1)


def _cuts(proxy: FaultProxy, count: int) -> list[bool]:
    proxy.cut_share(0.3)
    cuts = []
    for _ in range(count):
        with _connect(proxy) as sock:
            cuts.append(_ask(sock) == b"")
    return cuts


def test_share_of_cut_replies_follows_the_seed(server: Talker[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    target = ("127.0.0.1", int(server.address.rpartition(":")[2]))
    runs = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv(seeds.VARIABLE, seed)
        with FaultProxy(target) as proxy:
            runs.append(_cuts(proxy, 40))
            assert proxy.cuts == sum(runs[-1])
    assert runs[0] == runs[1] != runs[2]
    assert 0 < sum(runs[0]) < 40
