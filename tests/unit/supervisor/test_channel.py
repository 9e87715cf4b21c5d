"""Connections of the master: bounded in both directions, never waiting."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbus.codec import frames
from pbus.supervisor import listeners
from pbus.supervisor.channel import Channel, Switchboard

Pair = tuple[Channel, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, send_bytes=100_000, receive_bytes=1000)
    yield channel, theirs
    channel.release()
    theirs.close()


def test_frames_arrive_whole_however_they_are_cut(pair: Pair) -> None:
    channel, peer = pair
    data = frames.encode("a", x=1) + frames.encode("b", y="z")
    got: list[dict[str, Any]] = []
    for byte in data:
        peer.send(bytes([byte]))
        got += channel.receive()
    assert got == [{"kind": "a", "x": 1}, {"kind": "b", "y": "z"}]
    assert channel.receive() == []
    assert not channel.closed


def test_peer_that_does_not_read_costs_no_more_than_the_bound(pair: Pair) -> None:
    channel, peer = pair
    data = frames.encode("x", text="y" * 1000)
    while channel.send(data):
        assert channel.waiting_bytes <= 100_000
    assert channel.lost == 1
    assert not channel.closed
    peer.setblocking(False)
    received = b""
    while True:
        try:
            received += peer.recv(1 << 20)
        except BlockingIOError:
            if not channel.waiting_bytes:
                break
            channel.flush()
    assert len(received) % len(data) == 0, "what was taken arrives whole"


def test_announced_giant_is_hung_up_on_before_it_is_kept(pair: Pair) -> None:
    channel, peer = pair
    peer.send(frames.encode("x", text="y" * 5000)[:2000])
    assert channel.receive() == []
    assert channel.closed


def test_garbage_is_hung_up_on(pair: Pair) -> None:
    channel, peer = pair
    peer.send(b"\xff\xff\xff\xff hello")
    assert channel.receive() == []
    assert channel.closed


def test_end_of_file_closes(pair: Pair) -> None:
    channel, peer = pair
    peer.close()
    assert channel.receive() == []
    assert channel.closed
    assert not channel.send(b"x")


def test_switchboard_tells_once_that_a_channel_is_over(pair: Pair) -> None:
    channel, peer = pair
    board, told = Switchboard(), []
    board.connect(channel, told.append, lambda: told.append({"kind": "over"}))
    peer.send(frames.encode("last"))
    peer.close()
    for _ in range(4):
        board.turn(0.1)
    assert told == [{"kind": "last"}, {"kind": "over"}]
    assert channel.fileno() == -1
    board.close()


def test_switchboard_sends_the_rest_when_the_peer_reads_again(pair: Pair) -> None:
    channel, peer = pair
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    board = Switchboard()
    board.connect(channel, lambda _: None, lambda: None)
    sent = 0
    while not channel.waiting_bytes:
        channel.send(frames.encode("x", text="y" * 1000))
        sent += 1
    reader, got = frames.FrameReader(), 0
    peer.settimeout(1)
    while got < sent:
        board.turn(0)
        got += len(reader.feed(peer.recv(65536)))
    assert got == sent
    board.close()


def test_peer_that_asks_much_has_its_turn_like_everybody(pair: Pair) -> None:
    channel, peer = pair
    other, asker = socket.socketpair()
    second = Channel(other, send_bytes=1000, receive_bytes=1000)
    board = Switchboard()
    heard: list[tuple[str, int]] = []
    board.connect(channel, lambda frame: heard.append(("much", frame["n"])), lambda: heard.append(("gone", 0)), 2)
    board.connect(second, lambda frame: heard.append(("little", frame["n"])), lambda: None, 2)
    peer.sendall(b"".join(frames.encode("ask", n=n) for n in range(5)))
    board.turn(0.0)
    assert heard == [("much", 0), ("much", 1)]
    asker.sendall(frames.encode("ask", n=0))
    peer.close()
    while len(heard) < 7:
        board.turn(60.0)  # and none of them waits while something is left to do
    assert heard[2:5] in ([("little", 0), ("much", 2), ("much", 3)], [("much", 2), ("much", 3), ("little", 0)])
    assert heard[5:] == [("much", 4), ("gone", 0)]
    board.close()
    asker.close()


def test_peer_that_is_hung_up_on_is_not_heard_to_the_end(pair: Pair) -> None:
    channel, peer = pair
    board = Switchboard()
    heard: list[int] = []

    def last(frame: dict[str, Any]) -> None:
        heard.append(frame["n"])
        channel.close()

    board.connect(channel, last, lambda: heard.append(-1), 4)
    peer.sendall(b"".join(frames.encode("ask", n=n) for n in range(8)))
    board.turn(0.0)
    assert heard == [0, -1]
    board.close()


def test_descriptor_of_a_closed_channel_is_not_given_out_before_it_is_forgotten() -> None:
    board, first = Switchboard(), socket.socketpair()
    channel = Channel(first[0], send_bytes=10, receive_bytes=10)
    board.connect(channel, lambda _: None, lambda: None)
    channel.close()
    second = socket.socketpair()
    other = Channel(second[0], send_bytes=1000, receive_bytes=1000)
    board.connect(other, lambda _: None, lambda: None)
    board.turn(0)
    assert other.send(b"still here")
    assert second[1].recv(100) == b"still here"
    board.close()
    for sock in (*first, *second):
        sock.close()


def test_caller_is_hung_up_on_when_no_descriptor_is_left(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    listener = listeners.bind_unix(path, 0o600)
    callers = [listeners.connect_unix(path, 5.0) for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            switchboard = Switchboard()
            accepted: list[socket.socket] = []
            switchboard.listen(listener, accepted.append)
            _use_up_descriptors()
            for _ in callers:
                switchboard.turn(5.0)
            switchboard.turn(0.0)
            status = len(accepted) + 10
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10, "nobody was let in"
    assert [caller.recv(1) for caller in callers] == [b"", b"", b""]
    for sock in [listener, *callers]:
        sock.close()


def _use_up_descriptors() -> None:
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            os.dup(0)
