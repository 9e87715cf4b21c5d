"""
Links between an old and a new ingest child: everybody passes, and whoever dies, stands still or lies costs nobody else.

Both children are in this process, on one store, with a real door between them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from pbus.codec import handover
from pbus.codec.handover import Record
from pbus.ingest import departures as leaving
from pbus.ingest.arrivals import Arrivals
from pbus.ingest.departures import Departures
from pbus.ingest.link import Link
from pbus.supervisor import process
from tests.unit.ingest.door import Door, encode
from tests.unit.ingest.passing import Gate, only, part, settle_down


class Pair:
    """An old child whose connections go to *new*, and the door between them."""

    def __init__(self, old: Door, new: Door) -> None:
        self.old, self.new = old, new
        self.silent: list[Link] = []                  # ends that say nothing more; open until the test is over
        path = os.path.join(old.folder.name, "handover.sock")
        self.listener = gevent.socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        old.child.doors["handover.0"] = path
        new.child.listeners["handover.0"] = self.listener
        for door, n in ((old, 2), (new, 1)):
            row = door.child.scoreboard.take() if n == 2 else door.child.scoreboard.slot(0)
            assert row is not None
            row.update(n=n, pid=os.getpid(), birth=process.birth(os.getpid()), role="ingest", state="ready",
                       generation=n, index=0)
        self.departures = Departures(old.child, old.server)  # type: ignore[arg-type]
        self.arrivals = Arrivals(new.child, new.server)  # type: ignore[arg-type]
        old.child.acts["handover"]({"to": 0})

    def run(self, seconds: float = 20.0) -> None:
        until_s = self.old.clock.monotonic_s() + seconds
        with gevent.Timeout(15):
            self.departures.run(until_s, lambda: False)

    def close(self) -> None:
        self.arrivals.close()
        self.listener.close()
        for link in self.silent:
            link.close()


@pytest.fixture
def pair(door: Door, new: Door) -> Iterator[Pair]:
    pair = Pair(door, new)
    yield pair
    pair.close()


def test_everybody_passes_by_a_link(pair: Pair) -> None:
    clients = [pair.old.client() for _ in range(200)]
    pair.arrivals.start()
    pair.run()

    assert (pair.departures.passed, len(pair.old.server.connections), len(pair.new.server.connections)) == (200, 0, 200)
    assert [client.ask("PING") for client in clients] == ["PONG"] * 200
    pair.new.until(lambda: pair.arrivals.idle)


def test_without_a_word_of_the_master_nobody_goes(pair: Pair) -> None:
    Departures(pair.old.child, pair.old.server).run(1e9, lambda: True)  # type: ignore[arg-type]

    assert pair.old.server._accepting


def test_claims_pass_by_a_link_in_one_call(pair: Pair) -> None:
    clients = [pair.old.client() for _ in range(10)]
    for number, client in enumerate(clients):
        client.ask("LPUSH", "gift", str(number))
        client.ask("XREADGROUP", "GROUP", "credit", "me", "COUNT", "1", "STREAMS", "gift", ">")
    pair.arrivals.start()
    pair.run()

    assert [len(keys) for _, _, keys in pair.old.driver.reassigned] == [10]
    assert [clients[one].ask("XACK", "gift", "credit", f"1000-{one + 1}") for one in range(10)] == [1] * 10


def test_those_who_wait_pass_in_the_order_in_which_they_wait(pair: Pair) -> None:
    clients = [pair.old.client() for _ in range(40)]
    order = [*range(1, 40, 2), *range(0, 40, 2)]
    for number in order:
        clients[number].command("BRPOP", "gift/credit", "0")
        settle_down(0.001)
    pair.arrivals.start()
    pair.run()
    pair.new.client().ask("LPUSH", "gift", *[str(number) for number in range(40)])

    assert [clients[number].read()[1] for number in order] == [str(number) for number in range(40)]


def test_refusal_at_the_other_end_keeps_a_connection_here(pair: Pair) -> None:
    clients = [pair.old.client() for _ in range(5)]
    pair.new.server.most_connections = 3
    for client in clients:
        client.command("BRPOP", "gift/credit", "0")
    settle_down()
    pair.arrivals.start()
    pair.run(1.0)

    assert (pair.departures.passed, len(pair.old.server.connections)) == (3, 2)
    pair.old.client().ask("LPUSH", "gift", *"12345")
    assert sorted(client.read()[1] for client in clients) == [*"12345"]


def test_store_that_is_away_over_there_keeps_readers_here(pair: Pair) -> None:
    client = pair.old.client()
    client.ask("LPUSH", "gift", "a")
    client.ask("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", ">")
    pair.new.store.away = "away"
    pair.arrivals.start()
    pair.run(1.0)

    assert (pair.departures.passed, len(pair.old.server.connections)) == (0, 1)
    pair.new.store.away = ""
    assert client.ask("XACK", "gift", "credit", "1000-1") == 1


def _bad_child(pair: Pair, *answers: dict[str, Any]) -> None:
    """Somebody at the door who says exactly this, and then nothing."""
    def serve() -> None:
        sock, _ = pair.listener.accept()
        link = Link(sock)
        pair.silent.append(link)
        for answer in answers:
            link.hear()
            link.say(**answer)
    gevent.spawn(serve)


def test_receiver_that_does_not_answer_gives_everybody_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "ANSWER_S", 0.2)
    clients = [pair.old.client() for _ in range(5)]
    _bad_child(pair, {"kind": "welcome", "version": handover.VERSION})
    clients[0].send(encode("PING")[:5])
    pair.run(0.8)

    assert (pair.departures.passed, len(pair.old.server.connections)) == (0, 5)
    assert clients[0].send(encode("PING")[5:]).read() == "PONG"
    assert [client.ask("PING") for client in clients] == ["PONG"] * 5


def test_next_child_takes_whom_the_last_one_gave_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed in the middle, and another one is born in its place."""
    monkeypatch.setattr(leaving, "ANSWER_S", 0.2)
    clients = [pair.old.client() for _ in range(5)]

    def die() -> None:
        sock, _ = pair.listener.accept()
        link = Link(sock)
        link.hear()
        link.say("welcome", version=handover.VERSION)
        link.hear()
        link.close()
        pair.arrivals.start()
    gevent.spawn(die)
    pair.run()

    assert (pair.departures.passed, len(pair.old.server.connections)) == (5, 0)
    assert [client.ask("PING") for client in clients] == ["PONG"] * 5


def test_child_that_boots_is_waited_for(pair: Pair) -> None:
    """The one that was named has died; the next one needs its time."""
    client = pair.old.client()
    row = pair.old.child.scoreboard.slot(1)
    row.update(state="boot")
    pair.arrivals.start()
    gevent.spawn_later(leaving.TRIES * leaving.AGAIN_S + 0.5, row.update, state="ready")
    pair.run()

    assert pair.departures.passed == 1
    assert client.ask("PING") == "PONG"


def test_what_was_given_counts_although_the_link_has_ended(pair: Pair) -> None:
    """The receiver stood still: by the time it answers the second frame nobody listens, but the first ones are its."""
    clients = [pair.old.client(), pair.old.client()]
    first, second = list(pair.old.server.connections)
    gate = Gate()
    first.part(gate)
    second.part(gate)
    pair.arrivals.start()
    sock = gevent.socket.socket(socket.AF_UNIX)
    sock.connect(pair.old.child.door("handover.0"))
    link = Link(sock)
    link.say("hello", version=handover.VERSION)
    link.hear()
    link.say("pass", [first.descriptor], items=[(1, handover.encode(first.record()))])
    link.hear()
    link.say("pass", [second.descriptor], items=[(2, handover.encode(second.record()))])
    link.say("yours", ns=[1])
    link.close()
    first.pass_on()
    second.rejoin()

    assert [client.ask("PING") for client in clients] == ["PONG", "PONG"]
    assert (len(pair.old.server.connections), len(pair.new.server.connections)) == (1, 1)


def test_receiver_of_another_version_gets_nobody(pair: Pair) -> None:
    client = pair.old.client()
    _bad_child(pair, {"kind": "refused", "text": "it speaks version 2, not 1", "version": 2})
    pair.run(0.3)

    assert pair.departures.passed == 0
    assert client.ask("PING") == "PONG"


def test_what_was_taken_and_not_given_is_not_served_there(pair: Pair) -> None:
    """The old child takes its connections back: the new one may not touch them, and gives back their claims."""
    client = pair.old.client()
    client.ask("LPUSH", "gift", "a")
    client.ask("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", ">")
    connection = only(pair.old)
    part(pair.old)
    pair.arrivals.start()
    sock = gevent.socket.socket(socket.AF_UNIX)
    sock.connect(pair.old.child.door("handover.0"))
    link = Link(sock)
    link.say("hello", version=handover.VERSION)
    assert link.hear()[0]["kind"] == "welcome"
    link.say("pass", [connection.descriptor], items=[(1, handover.encode(connection.record()))])
    assert link.hear()[0]["ns"] == [1]
    assert list(pair.old.driver.owners_of.values()) == ["node/boot/1.2"]
    link.close()

    pair.new.until(lambda: list(pair.old.driver.owners_of.values()) == ["node/boot/0.1"])
    pair.new.until(lambda: pair.new.store.puller.idle)
    assert not pair.new.server.connections
    connection.rejoin()
    assert client.ask("XACK", "gift", "credit", "1000-1") == 1


def test_garbage_on_a_link_ends_it_and_nothing_else(pair: Pair) -> None:
    pair.arrivals.start()
    for said in (b"\xff" * 100, b"\0\0\0\3abc", b""):
        sock = gevent.socket.socket(socket.AF_UNIX)
        sock.connect(pair.old.child.door("handover.0"))
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
        sock.close()
    client = pair.old.client()
    pair.run()

    assert client.ask("PING") == "PONG"


def test_record_that_makes_no_sense_keeps_its_connection_there(pair: Pair) -> None:
    pair.arrivals.start()
    ours, theirs = socket.socketpair()
    sock = gevent.socket.socket(socket.AF_UNIX)
    sock.connect(pair.old.child.door("handover.0"))
    link = Link(sock)
    link.say("hello", version=handover.VERSION)
    link.hear()
    link.say("pass", [ours.fileno(), ours.fileno()], items=[(1, b"rubbish"), (2, handover.encode(_strange()))])
    (answer,) = link.hear()

    assert (answer["ns"], sorted(answer["back"])) == ([], ["1", "2"])
    link.close()
    ours.close()
    theirs.close()


def _strange() -> Record:
    return Record(
        id=1, peer="unix", protocol=2, name=b"", library=None, began_s=0.0,
        identity=handover.Identity(kind="nobody", name="", local=True), said=[handover.Said(kind="what?")],
    )


def test_stranger_is_sent_away(pair: Pair) -> None:
    rows = pair.new.child.scoreboard
    rows.slot(0).update(state="dead")
    pair.arrivals.start()
    sock = gevent.socket.socket(socket.AF_UNIX)
    sock.connect(pair.old.child.door("handover.0"))

    assert sock.recv(10) == b""
    sock.close()


def test_child_that_drains_takes_nobody(pair: Pair) -> None:
    pair.arrivals.start()
    settle_down()
    pair.arrivals.close()
    client = pair.old.client()
    pair.run(0.3)

    assert pair.departures.passed == 0
    assert client.ask("PING") == "PONG"
