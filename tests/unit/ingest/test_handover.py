"""
A connection in every state it can be in leaves one child and goes on in another.

Both children are in this process, on one store: what passes is a record, read from its bytes, and a descriptor.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pbus.config.schema import Ingest, Limits, PullHandler, Queue, Topic
from pbus.core.job import Move
from tests.unit.ingest.door import QUEUES, Client, Door, encode
from tests.unit.ingest.passing import Gate, arrive, move, only, part, settle_down

PULL = Topic(pull=PullHandler())


@pytest.fixture
def few() -> Iterator[tuple[Door, Door]]:
    """Two children whose commands have at most 8 elements."""
    old = Door(Ingest(limits=Limits(elements=8)))
    new = Door(Ingest(limits=Limits(elements=8)), beside=old)
    yield old, new
    new.close()
    old.close()


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


def test_limits_of_the_new_configuration_count(door: Door, client: Client) -> None:
    new = Door(Ingest(limits=Limits(inline_bytes=16)), beside=door)
    move(door, new)

    assert "too big inline request" in client.send(b"PING " + b"x" * 50 + b"\r\n").read()
    new.close()
