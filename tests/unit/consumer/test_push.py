"""job.push against a door that does what the test says: what is certainly not stored, and what nobody knows."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

import pbus
from pbus.config.values import Address
from pbus.consumer import push
from pbus.consumer.push import PushClient

OK = b"+OK\r\n"
ID = b"$3\r\n7-0\r\n"
Script = Callable[[socket.socket, list[bytes]], None]


class DoorStub:
    """Accepts connections one after the other; each command of a connection is answered by the script."""

    def __init__(self, path: Path) -> None:
        self.address = Address(path=str(path))
        self.said: list[list[bytes]] = []
        self.connections: list[socket.socket] = []
        self.script: Script = lambda sock, words: sock.sendall(OK if words[0] == b"AUTH" else ID)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections.append(sock)
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        reader = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    self.said.append(words)
                    self.script(sock, words)

    def hang_up(self) -> None:
        for sock in self.connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(5)
        for sock in self.connections:
            sock.close()

    @property
    def pushed(self) -> list[list[bytes]]:
        return [words for words in self.said if words[0] == b"PBUS.ADD"]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[DoorStub]:
    made = DoorStub(tmp_path / "door")
    yield made
    made.close()


@pytest.fixture
def client(door: DoorStub) -> Iterator[PushClient]:
    made = PushClient(door.address, "push:me:mac")
    yield made
    made.close()


def answering(reply: bytes) -> Script:
    return lambda sock, words: sock.sendall(OK if words[0] == b"AUTH" else reply)


def test_who_pushes_says_who_it_is_once_and_gets_the_id(door: DoorStub, client: PushClient) -> None:
    assert [client.add("mail", b"x", ["DELAY", 50]), client.add("mail", b"\r\n\x00", [])] == ["7-0", "7-0"]
    assert door.said == [
        [b"AUTH", b"push:me:mac"], [b"PBUS.ADD", b"mail", b"x", b"DELAY", b"50"], [b"PBUS.ADD", b"mail", b"\r\n\x00"],
    ]


def test_nothing_is_opened_before_the_first_push(door: DoorStub, client: PushClient) -> None:
    assert door.connections == []


@pytest.mark.parametrize(
    ("reply", "code", "temporary"),
    [
        (b"-NOQUEUE no queue 'x': not stored\r\n", "NOQUEUE", False),
        (b"-TOOBIG 2 MiB: not stored\r\n", "TOOBIG", False),
        (b"-QUEUEFULL gift holds 10 of 10 jobs: not stored\r\n", "QUEUEFULL", True),
        (b"-UNAVAILABLE the store is away: not stored\r\n", "UNAVAILABLE", True),
    ],
)
def test_a_refusal_says_what_the_bus_said(
    door: DoorStub, client: PushClient, reply: bytes, code: str, temporary: bool
) -> None:
    door.script = answering(reply)
    with pytest.raises(pbus.PushRefused, match="not stored") as caught:
        client.add("x", b"", [])
    assert (caught.value.code, caught.value.temporary) == (code, temporary)
    door.script = answering(ID)
    assert client.add("x", b"", []) == "7-0"
    assert len(door.connections) == 1


def test_maybe_stored_is_told_apart(door: DoorStub, client: PushClient) -> None:
    door.script = answering(b"-MAYBESTORED the store went away\r\n")
    with pytest.raises(pbus.MaybeStored) as caught:
        client.add("x", b"", [])
    assert caught.value.code == "MAYBESTORED"


def test_a_connection_that_ended_in_between_is_made_again_unnoticed(door: DoorStub, client: PushClient) -> None:
    client.add("x", b"1", [])
    door.hang_up()
    assert client.add("x", b"2", []) == "7-0"
    assert [words[2] for words in door.pushed] == [b"1", b"2"]


def test_no_answer_means_maybe_stored_and_nothing_is_sent_twice(door: DoorStub, client: PushClient) -> None:
    def hang_up(sock: socket.socket, words: list[bytes]) -> None:
        sock.sendall(OK) if words[0] == b"AUTH" else sock.shutdown(socket.SHUT_RDWR)

    client.add("x", b"1", [])
    door.script = hang_up
    with pytest.raises(pbus.MaybeStored):
        client.add("x", b"2", [])
    assert [words[2] for words in door.pushed] == [b"1", b"2"]


def test_an_answer_that_makes_no_sense_is_maybe_stored(door: DoorStub, client: PushClient) -> None:
    door.script = answering(b":3\r\n")
    with pytest.raises(pbus.MaybeStored):
        client.add("x", b"", [])


def test_a_silent_bus_is_not_waited_for_for_ever(
    door: DoorStub, client: PushClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "ANSWER_S", 0.2)
    door.script = lambda sock, words: sock.sendall(OK) if words[0] == b"AUTH" else None
    with pytest.raises(pbus.MaybeStored, match=r"nothing moved for 0\.2 s"):
        client.add("x", b"", [])


def test_a_bus_that_cannot_be_reached_or_does_not_know_us_has_stored_nothing(door: DoorStub, tmp_path: Path) -> None:
    with pytest.raises(pbus.PushRefused, match="cannot be reached") as caught:
        PushClient(Address(path=str(tmp_path / "nobody")), "secret").add("x", b"", [])
    assert caught.value.temporary
    door.script = answering(b"")
    door.script = lambda sock, words: sock.sendall(b"-WRONGPASS no\r\n")
    client = PushClient(door.address, "secret")
    with pytest.raises(pbus.PushRefused, match="WRONGPASS") as caught:
        client.add("x", b"", [])
    assert "secret" not in str(caught.value)
    client.close()


def test_what_the_bus_says_about_a_command_that_it_does_not_read_to_its_end_is_told(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "door"))
    listener.listen()

    def refuse() -> None:
        sock, _ = listener.accept()
        sock.recv(100)
        sock.sendall(OK)
        sock.recv(1000)
        sock.sendall(b"-TOOBIG 64 MiB: not stored\r\n")
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    client = PushClient(Address(path=str(tmp_path / "door")), "t")
    with pytest.raises(pbus.PushRefused, match="TOOBIG"):
        client.add("x", b"x" * (64 << 20), [])
    thread.join()
    listener.close()
    client.close()


def test_threads_take_turns(door: DoorStub, client: PushClient) -> None:
    def work() -> None:
        for _ in range(50):
            assert client.add("x", b"y" * 1000, []) == "7-0"

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(door.pushed) == 200
    assert len(door.connections) == 1


def test_a_forked_process_has_a_connection_of_its_own_even_when_the_parents_lock_was_held(
    door: DoorStub, client: PushClient
) -> None:
    client.add("x", b"parent", [])
    client._lock.acquire()
    child = os.fork()
    if child == 0:
        os._exit(0 if client.add("x", b"child", []) == "7-0" else 1)
    client._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    client.add("x", b"parent again", [])
    assert [words[2] for words in door.pushed] == [b"parent", b"child", b"parent again"]
    assert len(door.connections) == 2


def test_a_file_that_got_the_number_of_our_connection_is_neither_written_nor_closed(
    door: DoorStub, client: PushClient, tmp_path: Path
) -> None:
    client.add("x", b"1", [])
    assert client._sock is not None
    number = client._sock.fileno()
    file = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT)
    os.dup2(file, number)
    os.close(file)
    assert client.add("x", b"2", []) == "7-0"
    os.write(number, b"still theirs")
    os.close(number)
    assert (tmp_path / "theirs").read_bytes() == b"still theirs"


def test_a_signal_handler_that_raises_in_the_middle_leaves_no_half_conversation(
    door: DoorStub, client: PushClient
) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: Any) -> None:
        raise Alarm

    import signal

    door.script = lambda sock, words: sock.sendall(OK) if words[0] == b"AUTH" else None
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Alarm):
            client.add("x", b"1", [])
    finally:
        signal.signal(signal.SIGALRM, before)
    door.script = answering(b"$3\r\n8-0\r\n")
    assert client.add("x", b"2", []) == "8-0"
