"""job.push over TLS: one certificate is trusted, a kept connection is used again, what was cut was not said."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import hiredis
import pytest

import pbus
from pbus.config.schema import Tls
from pbus.config.tls import server_context
from pbus.config.values import Address
from pbus.consumer import descriptors
from pbus.consumer.push import PushClient
from pbus.consumer.sealed import Sealed
from tests.support.certificates import Authority, authority


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates"))


class TlsStub:
    """Accepts TLS connections, answers AUTH with OK and everything else with an id."""

    def __init__(self, settings: Tls) -> None:
        self.settings = settings
        self.accepted = 0
        self.said: list[list[bytes]] = []
        self.socks: list[ssl.SSLSocket] = []
        self._context = server_context(settings)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(host="127.0.0.1", port=self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()

    def _serve(self, raw: socket.socket) -> None:
        with raw, contextlib.suppress(OSError), self._context.wrap_socket(raw, server_side=True) as sock:
            self.accepted += 1
            self.socks.append(sock)
            reader = hiredis.Reader()
            while data := sock.recv(65_536):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    self.said.append(words)
                    sock.sendall(b"+OK\r\n" if words[0] == b"AUTH" else b"$3\r\n7-0\r\n")

    def hang_up(self) -> None:
        for sock in self.socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def stub(ours: Authority) -> Iterator[TlsStub]:
    stub = TlsStub(Tls(**ours.issue("door").setting))
    yield stub
    stub.close()


def sealed(stub: TlsStub) -> Sealed:
    raw = socket.create_connection((stub.address.host, stub.address.port), 5)
    return Sealed(descriptors.raised(raw, 5.0, answers=True), stub.settings)


def test_pushes_use_one_connection(stub: TlsStub) -> None:
    client = PushClient(stub.address, "TOKEN", stub.settings)
    for _ in range(3):
        assert client.add("mail", b"x" * 100_000, []) == "7-0"
    client.close()

    assert stub.accepted == 1
    assert [words[0] for words in stub.said] == [b"AUTH", *[b"PBUS.ADD"] * 3]


def test_connection_that_has_ended_is_made_anew(stub: TlsStub) -> None:
    client = PushClient(stub.address, "TOKEN", stub.settings)
    client.add("mail", b"a", [])
    stub.hang_up()

    assert client.add("mail", b"b", []) == "7-0"
    assert [words[2] for words in stub.said if words[0] == b"PBUS.ADD"] == [b"a", b"b"]
    client.close()


def test_door_with_another_certificate_is_not_told_the_token(ours: Authority, stub: TlsStub) -> None:
    client = PushClient(stub.address, "TOKEN", Tls(**ours.issue("other").setting))

    with pytest.raises(pbus.PushRefused, match=r"cannot be reached at .*certificate verify failed") as caught:
        client.add("mail", b"a", [])
    assert caught.value.temporary
    assert stub.said == []


def test_certificate_that_is_gone_is_a_refusal_that_names_it(stub: TlsStub) -> None:
    client = PushClient(stub.address, "TOKEN", Tls(cert="/no/cert", key="/no/key"))

    with pytest.raises(pbus.PushRefused, match=r"ingest\.tls: cert /no/cert cannot be read"):
        client.add("mail", b"a", [])


def test_look_without_waiting_finds_nothing_and_loses_nothing(stub: TlsStub) -> None:
    """The tickets that a server sends behind the handshake are no reply."""
    sock = sealed(stub)
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
    with pytest.raises(BlockingIOError):
        sock.recv(1, flags)

    sock.sendall(b"*1\r\n$4\r\nPING\r\n")
    assert sock.recv(2) == b"$3"
    assert sock.recv(1, flags) == b"\r"
    assert sock.recv(100) == b"\r\n7-0\r\n"
    sock.close()


def test_end_is_an_empty_answer(stub: TlsStub) -> None:
    sock = sealed(stub)
    sock.sendall(b"*1\r\n$4\r\nPING\r\n")
    sock.recv(100)
    stub.hang_up()

    assert sock.recv(1) == b""
    sock.close()


def test_send_counts_whole_records(stub: TlsStub) -> None:
    sock = sealed(stub)

    assert sock.send(memoryview(b"*1\r\n$100000\r\n" + b"x" * 100_000)) == 16_384
    sock.close()


def test_door_without_tls_is_an_error_and_the_socket_is_closed(ours: Authority) -> None:
    here, there = socket.socketpair()
    there.sendall(b"-ERR no\r\n")
    with there, pytest.raises(OSError, match="wrong version number"):
        Sealed(here, Tls(**ours.issue("door").setting))
    assert here.fileno() == -1
