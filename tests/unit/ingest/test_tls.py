"""Doors that speak TLS: shaking hands in the loop, and connections that know nothing of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pbus.codec.tls import Tls, TlsError
from pbus.config.schema import Ingest, Limits
from pbus.config.schema import Tls as Settings
from pbus.config.tls import client_context
from pbus.consumer.sealed import Sealed
from pbus.errors import Exit
from pbus.ingest.tls import LINGER_S, LOOK_S, Certificates, Reception, TlsSocket, certificates_of
from tests.support.certificates import Authority, authority
from tests.unit.ingest.door import Client, Door, encode


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates"))


class TlsDoor(Door):
    """A door whose ``sealed`` clients speak TLS."""

    def __init__(self, files: Settings, **more: Any) -> None:
        super().__init__(**more)
        self.settings = files
        self.server.reception = Reception(self.server, Certificates(files))

    def raw(self) -> Any:
        """A connection to the TLS port that has said nothing yet."""
        ours, theirs = gevent.socket.socketpair()
        sock = socket.socket(fileno=ours.detach())
        sock.setblocking(False)
        self.server.welcome(sock, "192.0.2.1:5", True, self.server.reception)
        self._clients.append(Client(theirs))
        return theirs

    def sealed(self) -> Client:
        client = Client(Sealed(self.raw(), self.settings))
        self._clients.append(client)
        return client

    @property
    def shaking(self) -> int:
        assert self.server.reception is not None
        return len(self.server.reception)


@pytest.fixture
def door(ours: Authority) -> Iterator[TlsDoor]:
    door = TlsDoor(Settings(**ours.issue("door").setting))
    yield door
    door.close()


def test_client_pushes_and_pulls(door: TlsDoor) -> None:
    client = door.sealed()

    assert client.ask("LPUSH", "gift", "a", "b") == 2
    assert client.ask("RPOP", "gift/credit") == "a"
    assert client.ask("HELLO", "3")["proto"] == 3


def test_large_bodies_and_pipelines_go_both_ways(door: TlsDoor) -> None:
    client, body = door.sealed(), "x" * 300_000
    client.send(encode("ECHO", body) * 5 + encode("PING"))

    assert [client.read() for _ in range(6)] == [body] * 5 + ["PONG"]


def test_replies_that_the_client_reads_late_come_whole_and_in_order(door: TlsDoor) -> None:
    client = door.sealed()
    bodies = [f"{number:06}" * 20_000 for number in range(8)]
    sender = gevent.spawn(client.send, b"".join(encode("ECHO", body) for body in bodies))
    door.until(lambda: any(connection._unsent is not None for connection in door.server.connections))

    assert [client.read() for _ in bodies] == bodies
    sender.join(5)


def greeted(door: TlsDoor) -> tuple[Any, Tls]:
    """A connection whose last message of the handshake is not sent yet."""
    raw, tls = door.raw(), Tls(client_context(door.settings), server=False)
    tls.begin()
    raw.sendall(tls.outgoing())
    while not tls.ready:
        tls.received(raw.recv(65_536))
    return raw, tls


def heard(raw: Any, tls: Tls) -> bytes:
    """Everything until the server says that nothing more comes."""
    said = b""
    with gevent.Timeout(5):
        while not tls.ended:
            data = raw.recv(65_536)
            assert data, "the stream was cut"
            said += tls.received(data)
    return said


def test_what_comes_with_the_end_of_the_handshake_is_answered(door: TlsDoor) -> None:
    """The last message of the handshake and the first command are one packet with most clients."""
    raw, tls = greeted(door)
    tls.seal(encode("PING") + encode("QUIT"))
    raw.sendall(tls.outgoing())

    assert heard(raw, tls) == b"+PONG\r\n+OK\r\n"


def test_client_that_says_its_last_and_waits_is_answered_and_closed(door: TlsDoor) -> None:
    raw, tls = greeted(door)
    raw.sendall(tls.outgoing())
    door.until(lambda: bool(door.server.connections))
    tls.seal(encode("PING"))
    tls.end()
    raw.sendall(tls.outgoing())

    assert heard(raw, tls) == b"+PONG\r\n"
    door.until(lambda: not door.server.connections)


def test_connection_that_is_closed_by_us_is_told_that_nothing_more_comes(door: TlsDoor) -> None:
    raw, tls = greeted(door)
    raw.sendall(tls.outgoing())
    door.until(lambda: bool(door.server.connections))
    door.server.drain()

    assert heard(raw, tls) == b""


@pytest.mark.parametrize("data", [encode("PING"), b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x00"])
def test_client_without_tls_gets_one_error_and_the_end(door: TlsDoor, data: bytes) -> None:
    client = Client(door.raw())
    client.send(data)

    assert client.read(1.0).startswith("ERR this port speaks TLS (redis-cli --tls, rediss://): not stored")
    with pytest.raises(EOFError):
        client.read(1.0)
    assert door.server.tally.closed == {"garbage": 1}
    client.close()
    door.until(lambda: not door.shaking)


def test_client_that_was_refused_and_stays_is_closed(door: TlsDoor) -> None:
    client = Client(door.raw())
    client.send(b"PING\r\n").read()
    assert door.shaking == 1
    door.later(LINGER_S + 0.1)

    assert door.shaking == 0


def test_greeting_that_makes_no_sense_is_counted_and_answered_with_an_alert(door: TlsDoor) -> None:
    raw = door.raw()
    raw.sendall(b"\x16\x03\x01\x00\x05hello")

    with gevent.Timeout(5):
        assert raw.recv(100)[:1] == b"\x15", "an alert"
    assert door.server.tally.closed == {"tls": 1}


def test_handshake_has_a_deadline(door: TlsDoor) -> None:
    raw, honest = door.raw(), door.sealed()
    raw.sendall(b"\x16\x03\x01")
    assert honest.ask("PING") == "PONG"
    door.later(9.9)
    assert door.shaking == 1
    door.later(0.2)

    with gevent.Timeout(5):
        assert raw.recv(100) == b""
    assert (door.shaking, door.server.tally.closed) == (0, {"command_time": 1})
    assert honest.ask("PING") == "PONG"


def test_who_has_not_shaken_hands_counts_as_a_connection(ours: Authority) -> None:
    ingest = Ingest(limits=Limits(connections=3))
    door = TlsDoor(Settings(**ours.issue("door").setting), ingest=ingest)
    waiting = [door.raw() for _ in range(3)]
    fourth = door.raw()

    with gevent.Timeout(5):
        assert fourth.recv(100) == b""
    assert door.server.tally.closed == {"connections": 1}
    waiting[0].close()
    door.until(lambda: door.shaking == 2)
    assert door.sealed().ask("PING") == "PONG"
    door.close()


def test_client_that_breaks_off_in_the_handshake_is_forgotten(door: TlsDoor) -> None:
    raw = door.raw()
    raw.sendall(b"\x16\x03\x01\x02\x00\x01")
    raw.close()

    door.until(lambda: not door.shaking)
    assert door.server.tally.closed == {}


def test_connection_ends_in_good_order(door: TlsDoor) -> None:
    client = door.sealed()

    assert client.ask("QUIT") == "OK"
    with pytest.raises(EOFError):
        client.read()
    client.close()
    door.until(lambda: not door.server.connections)
    assert door.server.tally.closed == {}


def test_tampered_stream_ends_the_connection_and_is_counted(door: TlsDoor) -> None:
    client = door.sealed()
    client.ask("PING")
    client.socket._sock.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)

    door.until(lambda: not door.server.connections)
    assert door.server.tally.closed == {"tls": 1}


def test_drain_closes_who_has_not_shaken_hands(door: TlsDoor) -> None:
    raw = door.raw()
    door.server.drain()

    with gevent.Timeout(5):
        assert raw.recv(100) == b""


def test_job_popped_by_a_client_that_does_not_read_goes_back(door: TlsDoor) -> None:
    """Handed to the kernel counts, not encrypted."""
    client = door.sealed()
    client.ask("LPUSH", "gift", "x" * 900_000)
    client.command("RPOP", "gift/credit")
    door.until(lambda: any(connection._unsent is not None for connection in door.server.connections))
    assert door.driver.settled == []
    client.close()
    door.until(lambda: bool(door.driver.settled))

    assert [move.name for move, _ in door.driver.settled] == ["RELEASE"]


class Babbler(Tls):
    """TLS that has something to say to whatever comes, as to a client that asks for new keys without end."""

    ready, ended = True, False

    def __init__(self) -> None:
        """No handshake, no keys."""

    def received(self, data: bytes) -> bytes:
        return b""

    def outgoing(self) -> bytes:
        return b"x" * 10_000


def test_client_that_makes_tls_talk_and_reads_nothing_is_ended() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    said: list[str] = []
    sock = TlsSocket(ours, Babbler(), b"", said.append)
    with theirs, pytest.raises(TlsError):
        _ask_without_end(sock, theirs)
    ours.close()

    assert said == ["asks for new keys again and again, and reads nothing"]


def _ask_without_end(sock: TlsSocket, client: socket.socket) -> None:
    for _ in range(1000):
        client.sendall(b"more")
        with contextlib.suppress(BlockingIOError):
            sock.recv(65_536)


# -- strangers ------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=600), hello=st.booleans(), cut=st.integers(1, 600))
def test_any_bytes_end_one_handshake_and_nothing_else(door: TlsDoor, data: bytes, hello: bool, cut: int) -> None:
    raw = door.raw()
    sent = (b"\x16\x03\x01" if hello else b"") + data
    with contextlib.suppress(OSError):
        for begin in range(0, len(sent), cut):
            raw.sendall(sent[begin:begin + cut])
            gevent.sleep(0)
    raw.close()

    door.until(lambda: not door.shaking)
    assert not door.server.connections


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 3000), flip=st.integers(1, 255))
def test_bit_that_was_flipped_anywhere_is_no_crash_and_no_command(door: TlsDoor, at: int, flip: int) -> None:
    """From the greeting to the first command: whatever was changed on the way, no other command comes out of it."""
    raw, tls = door.raw(), Tls(client_context(door.settings), server=False)
    sent = 0

    def say(data: bytes) -> None:
        nonlocal sent
        place = at - sent
        sent += len(data)
        raw.sendall(data[:place] + bytes([data[place] ^ flip]) + data[place + 1:] if 0 <= place < len(data) else data)

    heard = b""
    with contextlib.suppress(OSError), gevent.Timeout(0.1, False):  # a longer record is waited for
        tls.begin()
        say(tls.outgoing())
        while not tls.ready:
            tls.received(raw.recv(65_536) or b"")
            say(tls.outgoing())
        tls.seal(encode("LPUSH", "gift", "x" * 1500))
        say(tls.outgoing())
        while not heard and (data := raw.recv(65_536)):
            heard = tls.received(data)
    raw.close()
    door.until(lambda: not door.server.connections and not door.shaking)

    assert all(len(push.body) == 1500 for pushes in door.driver.appends for push in pushes)
    assert heard == b"" or heard.startswith(b":")


# -- the age of a certificate ---------------------------------------------------------------------


@pytest.mark.parametrize(("days", "left_days", "said"), [
    (90, 8, ""), (90, 6.6, "expires in 7 d: renew it"), (90, 1, "expires in 24 h"), (90, -1, "has expired"),
    (2, 1.5, ""), (2, 0.1, "expires in 2 h"),
])
def test_certificate_that_ought_to_have_been_renewed_is_a_problem(
    ours: Authority, days: int, left_days: float, said: str
) -> None:
    certificates = Certificates(Settings(**ours.issue("ageing", days).setting))
    begin_s, end_s = certificates._validity_s
    assert end_s - begin_s == days * 86_400
    certificates.look(end_s - left_days * 86_400)

    assert said in certificates.problem
    assert bool(said) is bool(certificates.problem)


def test_certificate_that_has_expired_already_serves_and_is_a_problem(ours: Authority) -> None:
    certificates = Certificates(Settings(**ours.issue("old", 0).setting))
    certificates.look(2_000_000_000.0)

    assert "has expired" in certificates.problem


def test_certificate_of_a_door_that_asks_for_one_has_an_age_too(ours: Authority) -> None:
    certificates = Certificates(Settings(**ours.issue("asks").setting, client_ca=str(ours.cert)))
    begin_s, end_s = certificates._validity_s

    assert end_s - begin_s == 2 * 86_400


# -- renewed files --------------------------------------------------------------------------------


def test_renewed_files_count_for_whoever_comes_next(ours: Authority, door: TlsDoor) -> None:
    before = door.sealed()
    ours.issue("door")
    door.later(LOOK_S + 0.1)

    assert door.sealed().ask("PING") == "PONG", "our own clients read the new certificate"
    assert before.ask("PING") == "PONG"
    assert door.child.problems["tls"] == ""


def test_files_that_do_not_fit_are_a_problem_and_the_old_ones_go_on(ours: Authority, door: TlsDoor) -> None:
    key = ours.folder / "door.key"
    fits = key.read_bytes()
    key.write_bytes(ours.issue("other").key.read_bytes())

    door.later(LOOK_S + 0.1)
    assert door.child.problems["tls"] == "", "one file is renewed before the other"
    door.later(LOOK_S + 0.1)
    assert door.child.problems["tls"].startswith(f"ingest.tls: key {key} is not the key of the certificate in cert")
    assert door.sealed().ask("PING") == "PONG"
    key.write_bytes(fits)
    door.later(LOOK_S + 0.1)
    assert door.child.problems["tls"] == ""


def test_files_that_cannot_be_used_end_a_start_that_says_why(ours: Authority) -> None:
    """The master may have read them: children run as ``node.user``."""

    class Failed(Exception):
        pass

    class Child:
        def fail(self, text: str, exit_status: int) -> None:
            raise Failed(text, exit_status)

    files = Settings(cert=ours.issue("door").setting["cert"], key="/no/key")
    with pytest.raises(Failed) as caught:
        certificates_of(Child(), Ingest(tls=files))  # type: ignore[arg-type]

    assert caught.value.args == ("ingest.tls: key /no/key cannot be read: No such file or directory", Exit.CONFIG)
    assert certificates_of(Child(), Ingest()) is None  # type: ignore[arg-type]
