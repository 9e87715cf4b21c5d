"""
A connection in every state it can be in leaves one child and goes on in another; and what links between the two may do.

Both children are in this process, on one store: what passes is a record, read from its bytes, and a descriptor.
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
from pbus.config.schema import Ingest, Limits, PullHandler, Queue, Topic
from pbus.core.job import Move
from pbus.ingest import departures as leaving
from pbus.ingest.arrivals import Arrivals
from pbus.ingest.carried import cargo_of
from pbus.ingest.departures import Departures
from pbus.ingest.link import Link
from pbus.ingest.portable import Portable
from pbus.ingest.settling import Arrival
from pbus.supervisor import process
from tests.unit.ingest.door import QUEUES, Client, Door, encode

PULL = Topic(pull=PullHandler())


class Gate:
    """Takes connections elsewhere, one at a time."""

    def __init__(self) -> None:
        self.gone: list[Portable] = []

    def parted(self, connection: Portable) -> None:
        if connection not in self.gone:
            self.gone.append(connection)


def only(door: Door) -> Portable:
    (connection,) = door.server.connections
    return connection


def part(door: Door, *, now: bool = True) -> Gate:
    """Its one connection is to leave; *now*: nothing is in flight."""
    gate = Gate()
    only(door).part(gate)
    if now:
        door.until(lambda: gate.gone, "it has parted")
    return gate


def arrive(old: Door, new: Door) -> Record:
    """The connection that has parted goes on in *new*."""
    (connection,) = old.server.connections
    record = handover.decode(handover.encode(connection.record()))
    sock = socket.socket(fileno=os.dup(connection.descriptor))
    sock.setblocking(False)
    cargo = cargo_of(new.server, record)
    arrival = Arrival(old.server.owner, list(cargo.coming))
    new.store.puller.arrive(arrival)
    assert arrival.done.wait(5)
    cargo.keep(lambda claim: claim.key in (arrival.ours or ()))
    connection.pass_on(cargo.lost)
    new.server.carry_on(sock, record, cargo)
    return record


def move(old: Door, new: Door) -> Record:
    part(old)
    return arrive(old, new)


@pytest.fixture
def new(door: Door) -> Iterator[Door]:
    """The next generation."""
    new = Door(beside=door)
    yield new
    new.close()


@pytest.fixture
def few() -> Iterator[tuple[Door, Door]]:
    """Two children whose commands have at most 8 elements."""
    old = Door(Ingest(limits=Limits(elements=8)))
    new = Door(Ingest(limits=Limits(elements=8)), beside=old)
    yield old, new
    new.close()
    old.close()


def settle_down(seconds: float = 0.02) -> None:
    gevent.sleep(seconds)


# -- states -----------------------------------------------------------------------------------------------------------


def test_idle_connection_goes_on_in_the_other_child(door: Door, new: Door, client: Client) -> None:
    client.ask("CLIENT", "SETNAME", "me")
    move(door, new)

    assert client.ask("CLIENT", "GETNAME") == "me"
    assert not door.server.connections
    assert (door.server.connections_now, new.server.connections_now, door.server.held_bytes) == (0, 1, 0)


@pytest.mark.parametrize("cut", range(1, len(encode("LPUSH", "gift", "a body"))))
def test_half_a_command_is_completed_in_the_other_child(door: Door, new: Door, client: Client, cut: int) -> None:
    whole = encode("LPUSH", "gift", "a body")
    client.send(whole[:cut])
    settle_down(0.002)
    move(door, new)

    assert client.send(whole[cut:]).read() == 1
    assert door.driver.appends[0][0].body == b"a body"


def test_push_in_flight_is_answered_before_its_connection_parts(door: Door, new: Door, client: Client) -> None:
    door.driver.held_back = True
    client.command("LPUSH", "gift", "a")
    door.until(lambda: door.driver.open_appends)
    gate = part(door, now=False)
    client.command("LPUSH", "gift", "b")
    settle_down()
    assert not gate.gone

    door.driver.held_back = False
    door.driver.go.set()
    door.until(lambda: gate.gone)
    arrive(door, new)

    assert [client.read(), client.read()] == [1, 2]


def test_parsed_commands_wait_in_order_in_the_other_child(few: tuple[Door, Door]) -> None:
    door, new = few
    client = door.client()
    door.driver.held_back = True
    client.send(b"".join([encode("LPUSH", "gift", "a"), encode("PING", "1"), encode("LPUSH", "gift", "b"),
                          encode("LPUSH", "gift", "c"), encode("ECHO", *"123456789"), encode("PING", "2")]))
    door.until(lambda: door.driver.open_appends)
    settle_down()
    gate = part(door, now=False)
    door.driver.held_back = False
    door.driver.go.set()
    door.until(lambda: gate.gone)
    record = arrive(door, new)

    assert [one.kind for one in record.said] == ["command", "command", "run", "too_big", "command"]
    replies = [client.read() for _ in range(6)]
    assert replies[:4] == [1, "1", 3, 3]
    assert replies[4].startswith("TOOBIG")
    assert replies[5] == "2"


def test_garbage_that_was_parsed_still_ends_it(door: Door, new: Door, client: Client) -> None:
    door.driver.held_back = True
    client.send(encode("LPUSH", "gift", "a") + b"*1\r\nrubbish\r\n")
    door.until(lambda: door.driver.open_appends)
    gate = part(door, now=False)
    door.driver.held_back = False
    door.driver.go.set()
    door.until(lambda: gate.gone)
    arrive(door, new)

    assert client.read() == 1
    assert "Protocol error" in client.read()
    with pytest.raises(EOFError):
        client.read()


def test_transaction_is_carried_on(door: Door, new: Door, client: Client) -> None:
    client.ask("MULTI")
    client.ask("LPUSH", "gift", "a")
    client.ask("LLEN", "gift")
    client.ask("PBUS.PARENT", "1-1", "")
    move(door, new)
    assert client.ask("LPUSH", "gift", "b") == "QUEUED"

    assert client.ask("EXEC") == [2, 2, "OK", 2]
    assert len(door.driver.appends) == 1


def test_transaction_with_a_refusal_stays_refused(door: Door, new: Door, client: Client) -> None:
    client.ask("MULTI")
    client.ask("LPUSH", "nowhere", "a")
    move(door, new)

    assert client.ask("EXEC").startswith("EXECABORT")


def test_transaction_for_a_queue_that_is_gone_is_aborted(door: Door, client: Client) -> None:
    new = Door(beside=door, queues={name: queue for name, queue in QUEUES.items() if name != "mail"})
    client.ask("MULTI")
    client.ask("LPUSH", "mail", "a")
    move(door, new)

    assert client.ask("EXEC").startswith("EXECABORT")
    assert client.ask("PING") == "PONG"
    new.close()


def test_parent_is_carried_on(door: Door, new: Door, client: Client) -> None:
    client.ask("PBUS.PARENT", "1-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    move(door, new)
    client.ask("LPUSH", "gift", "a")

    assert "0af7651916cd43dd8448eb211c80319c" in door.driver.appends[0][0].traceparent


def test_blocked_pop_waits_on_until_its_moment(door: Door, new: Door, client: Client) -> None:
    client.command("BRPOP", "mail/smtp", "gift/credit", "60")
    settle_down()
    record = move(door, new)

    assert record.blocked is not None
    assert 59 < record.blocked.deadline_s - door.clock.monotonic_s() < 60
    assert client.silent()
    producer = new.client()
    producer.ask("LPUSH", "gift", "a")
    assert client.read() == ["gift/credit", "a"]
    new.until(lambda: (Move.ACK, "1000-1") in door.driver.settled)


def test_blocked_pop_ends_in_the_other_child_when_its_time_is_over(door: Door, new: Door, client: Client) -> None:
    client.command("BRPOP", "gift/credit", "0.1")
    settle_down()
    move(door, new)

    assert client.read() is None


def test_job_that_is_being_claimed_for_a_leaving_pop_is_its(door: Door, new: Door, client: Client) -> None:
    """Else it would go back, and another one would be handed out before it."""
    client.command("BRPOP", "gift/credit", "0")
    settle_down()
    door.driver.claim_go.clear()
    door.client().ask("LPUSH", "gift", "a")
    settle_down()
    gate = Gate()
    first = next(iter(door.server.connections))
    first.part(gate)
    settle_down()
    assert not gate.gone

    door.driver.claim_go.set()
    assert client.read() == ["gift/credit", "a"]
    door.until(lambda: gate.gone)
    assert not any(move is Move.RELEASE for move, _ in door.driver.settled)


def test_blocked_pop_of_a_topic_that_is_gone_is_told_so(door: Door, client: Client) -> None:
    queues = {**QUEUES, "mail": Queue(topic={"other": PULL})}
    new = Door(beside=door, queues=queues)
    client.command("BRPOP", "mail/smtp", "0")
    settle_down()
    move(door, new)

    assert client.read().startswith("NOTOPIC 'mail/smtp' is no topic")
    assert client.ask("PING") == "PONG"
    new.close()


def test_pop_of_a_program_waits_on_under_its_token(door: Door, new: Door, client: Client) -> None:
    door.child.scoreboard.take()                      # a place that is the new child's over there
    token, slot = door.token("pepper", "php/credit")
    twin = new.child.scoreboard.take()
    assert twin is not None
    twin.update(n=7, state="ready", role="consumer")
    assert twin.slot == slot.slot
    assert client.ask("AUTH", token) == "OK"
    client.command("RPOP", "php/credit")
    settle_down()
    record = move(door, new)

    assert record.blocked is not None
    assert (record.blocked.kind, record.blocked.prepared) == ("token", True)
    assert client.silent()
    new.client().ask("LPUSH", "php", "a")
    assert '"content":"a"' in client.read()
    assert list(door.driver.owners_of.values()) == [f"node/boot/{slot.slot}.7"]


def test_open_claims_change_their_owner_in_one_call(door: Door, new: Door, client: Client) -> None:
    for body in "abc":
        client.ask("LPUSH", "gift", body)
    reply = client.ask("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", ">")
    ids = [entry[0] for entry in reply[0][1]]
    move(door, new)

    (call,) = door.driver.reassigned
    assert call[:2] == ("node/boot/0.1", "node/boot/1.2")
    assert [key[2] for key in call[2]] == ids
    assert door.store.puller.idle
    assert client.ask("XACK", "gift", "credit", *ids) == 3
    assert client.ask("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", "0") == [["gift", []]]


def test_reader_that_goes_after_it_has_passed_has_crashed_there(door: Door, new: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    client.ask("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", ">")
    move(door, new)
    client.close()

    new.until(lambda: door.driver.crashes[("gift", "credit", "1000-1")] == 1)


def test_time_of_a_claim_goes_on(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    client.ask("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", ">")
    new = Door(beside=door)
    record = move(door, new)
    reader = only(new).reader

    assert reader is not None
    assert (record.oldest_s, [claim.since_s for claim in reader.claims.values()]) == (
        reader.oldest_s, [record.claims[0].since_s])
    new.close()


def test_claims_of_a_topic_that_is_gone_go_back(door: Door, client: Client) -> None:
    client.ask("LPUSH", "mail", "a")
    client.ask("XREADGROUP", "GROUP", "smtp", "me", "STREAMS", "mail", ">")
    new = Door(beside=door, queues={name: queue for name, queue in QUEUES.items() if name != "mail"})
    move(door, new)

    door.until(lambda: door.driver.settled)
    assert not door.driver.claims
    assert client.ask("PING") == "PONG"
    new.close()


def test_ack_elsewhere_of_a_claim_on_its_way_counts(door: Door, new: Door, client: Client) -> None:
    """The store has given it to the new child, the old one does not know yet: an ack there finds the holder."""
    client.ask("LPUSH", "gift", "a")
    client.ask("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", ">")
    door.driver.reassign(door.server.owner, new.server.owner, [("gift", "credit", "1000-1")])

    assert door.client().ask("XACK", "gift", "credit", "1000-1") == 1
    assert not door.driver.claims


def test_unsent_replies_pass(door: Door, new: Door) -> None:
    client = door.client()
    for number in range(3):
        client.command("ECHO", str(number) * 300_000)
    settle_down()
    record = move(door, new)

    assert record.unsent
    assert [client.read() for _ in range(3)] == [str(number) * 300_000 for number in range(3)]


def test_nothing_is_sent_by_the_old_child_once_it_has_parted(door: Door, new: Door) -> None:
    """Its client reads on meanwhile: what it gets then comes from the new child, and once."""
    client = door.client()
    for number in range(3):
        client.command("ECHO", str(number) * 300_000)
    settle_down()
    part(door)
    unsent = len(only(door)._unsent or b"")
    first = client.socket.recv(1 << 20)
    settle_down()

    assert len(only(door)._unsent or b"") == unsent
    arrive(door, new)
    client._reader.feed(first)
    assert [client.read() for _ in range(3)] == [str(number) * 300_000 for number in range(3)]


def test_connection_that_rejoins_sends_the_rest(door: Door) -> None:
    client = door.client()
    for number in range(3):
        client.command("ECHO", str(number) * 300_000)
    settle_down()
    part(door)
    only(door).rejoin()

    assert [client.read() for _ in range(3)] == [str(number) * 300_000 for number in range(3)]


def test_popped_job_in_an_unsent_reply_is_done_when_it_has_left(door: Door, new: Door) -> None:
    client = door.client()
    client.ask("LPUSH", "gift", "x" * 900_000)
    client.ask("LPUSH", "gift", "x" * 900_000)
    client.command("RPOP", "gift/credit", "2")
    door.until(lambda: only(door)._on_sent)
    record = move(door, new)

    assert [sending.kind for sending in record.sendings] == ["popped"]
    assert not door.driver.settled
    assert client.read() == ["x" * 900_000] * 2
    new.until(lambda: [how for how, _ in door.driver.settled] == [Move.ACK, Move.ACK])
    assert door.store.puller.idle


def test_read_job_in_an_unsent_reply_is_its_readers_when_it_has_left(door: Door, new: Door) -> None:
    client = door.client()
    client.ask("LPUSH", "gift", "x" * 900_000)
    client.ask("LPUSH", "gift", "x" * 900_000)
    client.command("XREADGROUP", "GROUP", "credit", "me", "STREAMS", "gift", ">")
    door.until(lambda: only(door)._on_sent)
    move(door, new)
    client.read()

    assert client.ask("XACK", "gift", "credit", "1000-1", "1000-2") == 2


def test_client_that_has_ended_gets_what_is_owed(door: Door, new: Door, client: Client) -> None:
    door.driver.held_back = True
    client.command("LPUSH", "gift", "a").command("PING")
    client.socket.shutdown(socket.SHUT_WR)
    door.until(lambda: door.driver.open_appends)
    gate = part(door, now=False)
    door.driver.held_back = False
    door.driver.go.set()
    door.until(lambda: gate.gone)
    record = arrive(door, new)

    assert record.ended
    assert [client.read(), client.read()] == [1, "PONG"]
    with pytest.raises(EOFError):
        client.read()
    new.until(lambda: not new.server.connections)


def test_refused_command_is_read_to_its_end_first(door: Door, client: Client) -> None:
    client.send(b"*2\r\n$4\r\nECHO\r\n$2000000\r\n" + b"x" * 1000)
    settle_down()
    assert not only(door).portable

    client.send(b"x" * 1_999_000 + b"\r\n")
    assert client.read().startswith("TOOBIG")
    assert only(door).portable


def test_connection_that_rejoins_goes_on_where_it_was(door: Door, client: Client) -> None:
    client.command("BRPOP", "gift/credit", "0")
    settle_down()
    part(door)
    client.send(encode("PING")[:7])
    settle_down()
    only(door).rejoin()
    door.client().ask("LPUSH", "gift", "a")

    assert client.read() == ["gift/credit", "a"]
    assert client.send(encode("PING")[7:]).read() == "PONG"


def test_incomplete_command_keeps_its_time(door: Door, new: Door, client: Client) -> None:
    client.send(b"*1\r\n$4\r\nPI")
    settle_down()
    record = move(door, new)
    new.later(11)

    assert record.started_s is not None
    assert not new.server.connections or only(new).gone


# -- who it is --------------------------------------------------------------------------------------------------------


def _identity_after(door: Door, client: Client, queues: dict[str, Queue]) -> Any:
    new = Door(beside=door, queues=queues)
    try:
        move(door, new)
        return client.ask("LPUSH", "safe", "a")
    finally:
        new.close()


SAFE = QUEUES["safe"]


@pytest.mark.parametrize(("password", "reply"), [
    ("pw", 1), ("new\npw", 1), ("new", "NOAUTH safe needs AUTH safe PASSWORD first: not stored"),
])
def test_identity_counts_as_long_as_its_password_does(door: Door, password: str, reply: Any) -> None:
    client = door.client(local=False)
    assert client.ask("AUTH", "safe", "pw") == "OK"

    answer = _identity_after(door, client, {**QUEUES, "safe": Queue(topic=SAFE.topic, password=password)})

    assert answer == reply or (isinstance(reply, str) and answer.startswith("NOAUTH"))


def test_identity_of_a_queue_that_is_gone_is_nobody(door: Door) -> None:
    client = door.client(local=False)
    client.ask("AUTH", "safe", "pw")

    answer = _identity_after(door, client, {name: queue for name, queue in QUEUES.items() if name != "safe"})

    assert answer.startswith("NOAUTH")


def test_identity_that_needed_no_password_is_nobody_once_there_is_one(door: Door, client: Client) -> None:
    assert client.ask("AUTH", "gift", "") == "OK"
    new = Door(beside=door, queues={**QUEUES, "gift": Queue(topic=QUEUES["gift"].topic, password="pw")})
    move(door, new)

    assert client.ask("LPUSH", "gift", "a").startswith("NOAUTH")
    new.close()


def test_identity_of_a_system_passes(door: Door, new: Door) -> None:
    client = door.client(local=False)
    client.ask("AUTH", "live", "live-pw")
    move(door, new)

    assert client.ask("LPUSH", "safe", "a") == 1


# -- links ------------------------------------------------------------------------------------------------------------


class Pair:
    """An old child whose connections go to *new*, and the door between them."""

    def __init__(self, old: Door, new: Door) -> None:
        self.old, self.new = old, new
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
        for answer in answers:
            link.hear()
            link.say(**answer)
        gevent.sleep(30)
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


def test_limits_of_the_new_configuration_count(door: Door, client: Client) -> None:
    new = Door(Ingest(limits=Limits(inline_bytes=16)), beside=door)
    move(door, new)

    assert "too big inline request" in client.send(b"PING " + b"x" * 50 + b"\r\n").read()
    new.close()


