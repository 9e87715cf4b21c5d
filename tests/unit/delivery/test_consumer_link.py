"""The delivery child's end of a consumer's connection, over a socket pair."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from pbus.codec.frames import FrameReader, encode
from pbus.delivery.consumer_link import Door, Link

NAME = f"\0pbus-door-{os.getpid()}"  # an abstract name: no file to clean up, no path to be too long


class Listener:
    """A Guest that keeps what it heard."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.is_gone = False

    def heard(self, frames: list[dict[str, Any]]) -> float:
        self.frames += frames
        return 0.0

    def gone(self) -> None:
        self.is_gone = True


class Pair:
    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.link = Link(ours)
        self.guest = Listener()
        self.greenlet = gevent.spawn(self.link.serve, self.guest)

    def end(self) -> None:
        self.link.close()
        self.greenlet.join(2)
        self.link.release()
        self.peer.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.end()


def test_everything_sent_before_the_end_is_heard_before_gone(pair: Pair) -> None:
    pair.peer.sendall(b"".join(encode("result", id=str(number)) for number in range(1000)))
    pair.peer.close()
    pair.greenlet.join(2)
    assert [frame["id"] for frame in pair.guest.frames] == [str(number) for number in range(1000)]
    assert pair.guest.is_gone


def test_what_was_sent_before_we_hang_up_is_heard(pair: Pair) -> None:
    pair.peer.sendall(encode("result", id="1"))
    pair.link.close()
    pair.greenlet.join(2)
    assert [frame["id"] for frame in pair.guest.frames] == ["1"]
    assert pair.guest.is_gone


def test_sending_never_waits_for_a_consumer_that_does_not_read(pair: Pair) -> None:
    large = encode("jobs", jobs=[b"x" * 1_000_000])
    with gevent.Timeout(2):
        for _ in range(20):
            pair.link.send(large)
    got = 0
    with gevent.Timeout(5):
        while got < 20 * len(large):
            got += len(pair.peer.recv(1 << 20))
    assert got == 20 * len(large)


def test_results_are_heard_while_a_large_frame_is_still_going_out(pair: Pair) -> None:
    pair.link.send(encode("jobs", jobs=[b"x" * 5_000_000]))
    gevent.sleep(0)
    pair.peer.sendall(encode("result", id="1"))
    with gevent.Timeout(2):
        while not pair.guest.frames:
            gevent.sleep(0.001)
    assert pair.guest.frames[0]["id"] == "1"


def test_bytes_that_are_no_frames_end_the_connection(pair: Pair) -> None:
    pair.peer.sendall(encode("result", id="1") + b"\xff\xff\xff\xff")
    pair.greenlet.join(2)
    assert pair.guest.is_gone


@pytest.fixture
def listener() -> Iterator[Any]:
    made = socket.socket(socket.AF_UNIX)
    made.bind(NAME)
    made.listen(8)
    yield made
    made.close()


def call() -> Any:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(NAME)
    return sock


def test_the_door_hands_a_consumer_to_who_listens(listener: Any) -> None:
    guest = Listener()
    admitted: list[dict[str, Any]] = []

    def admit(link: Link, frame: dict[str, Any]) -> Listener:
        admitted.append(frame)
        link.send(encode("attached", link=3))
        return guest

    door = Door(listener, admit)
    door.open()
    with call() as sock:
        sock.sendall(encode("attach", owner="n/b/1.1") + encode("result", id="1"))
        assert FrameReader().feed(sock.recv(100)) == [{"kind": "attached", "link": 3}]
    with gevent.Timeout(2):
        while not guest.is_gone:
            gevent.sleep(0.001)
    door.close()
    assert admitted == [{"kind": "attach", "owner": "n/b/1.1"}]
    assert guest.frames == [{"kind": "result", "id": "1"}]


@pytest.mark.parametrize("said", [encode("result", id="1"), b"GET / HTTP/1.1\r\n\r\n", encode("attach")])
def test_the_door_closes_on_whoever_is_not_admitted(listener: Any, said: bytes) -> None:
    door = Door(listener, lambda link, frame: None)
    door.open()
    with call() as sock, gevent.Timeout(2):
        sock.sendall(said)
        assert sock.recv(100) == b""
    door.close()
