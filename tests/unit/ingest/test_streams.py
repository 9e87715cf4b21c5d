"""XREADGROUP, XACK, PBUS.NACK: at least once, the connection's until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gevent
import hiredis
import pytest

from pbus.config.schema import PullHandler, Queue, Topic
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.names import Owner
from pbus.errors import Unavailable
from pbus.storage.driver import Held, Want
from tests.unit.ingest.door import Client, Door, encode
from tests.unit.ingest.reading import ids, push, read

OTHER = str(Owner("node", "boot", 1, 2))
"""Another ingest child."""


def taken_elsewhere(door: Door, count: int = 1) -> list[str]:
    """Another child claims jobs of gift/credit; their ids."""
    return [each.id for each in door.driver.claim([Want(OTHER, "gift", "credit", count)])]


# -- reading ----------------------------------------------------------------------------------


def test_read_answers_as_redis_does(client: Client) -> None:
    push(client, "a")

    assert client.ask("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">") == [
        ["gift", [["1000-1", ["body", "a", "attempt", "1", "redelivered", "0", "traceparent", ""]]]]
    ]


def test_read_answers_a_map_in_resp3(client: Client) -> None:
    push(client, "a")
    client.ask("HELLO", "3")

    command = ("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">")

    assert client.ask(*command) == {
        "gift": [["1000-1", ["body", "a", "attempt", "1", "redelivered", "0", "traceparent", ""]]]
    }
    assert client.ask(*command) is None


def test_read_of_nothing_is_nil(client: Client) -> None:
    assert read(client) is None
    assert client.ask("XREADGROUP", "GROUP", "credit", "c", "BLOCK", "20", "STREAMS", "gift", ">") is None


def test_read_takes_sixteen_unless_told_otherwise(client: Client) -> None:
    push(client, *[str(number) for number in range(40)])

    assert len(read(client)) == 16
    assert len(read(client, "COUNT", "3")) == 3
    assert len(read(client, "COUNT", "0")) == 16
    assert len(read(client, "COUNT", "100")) == 5


def test_read_of_several_queues_counts_each_for_itself(client: Client) -> None:
    push(client, "a", "b", "c")
    client.ask("LPUSH", "old", "x", "y", "z")
    command = ("XREADGROUP", "GROUP", "credit", "c", "COUNT", "2", "STREAMS", "live:gift:list", "old", ">", ">")

    assert bodies(client.ask(*command)) == [("live:gift:list", ["a", "b"]), ("old", ["x", "y"])]
    client.ask("RPOP", "gift/credit")
    assert bodies(client.ask(*command)) == [("old", ["z"])], "what has nothing is left out"


def bodies(reply: Any) -> list[tuple[str, list[str]]]:
    return [(key, [fields[1] for _, fields in entries]) for key, entries in reply]


def test_blocked_read_is_woken_by_a_push(door: Door, client: Client) -> None:
    waiting = door.client().command("XREADGROUP", "GROUP", "credit", "c", "BLOCK", "0", "STREAMS", "gift", ">")
    assert waiting.silent()

    push(client, "a")

    assert waiting.read(1.0)[0][1][0][1][1] == "a"


def test_read_may_say_its_options_in_any_order(client: Client) -> None:
    push(client, "a")

    reply = client.ask("xreadgroup", "count", "1", "block", "5", "group", "credit", "c", "streams", "gift", ">")

    assert ids(reply[0][1]) == ["1000-1"]


def test_read_without_acks_is_settled_when_its_reply_has_left(door: Door, client: Client) -> None:
    push(client, "a")

    assert ids(read(client, "NOACK")) == ["1000-1"]

    door.until(lambda: door.driver.settled == [(Move.ACK, "1000-1")])
    assert client.ask("XACK", "gift", "credit", "1000-1") == 0


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("GROUP credit c STREAMS gift", "ERR wrong number of arguments for 'xreadgroup' command"),
        ("GROUP credit c STREAMS gift mail >", "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an "
                                               "ID or '>' must be specified."),
        ("GROUP credit c COUNT x STREAMS gift >", "ERR value is not an integer or out of range"),
        ("GROUP credit c BLOCK x STREAMS gift >", "ERR timeout is not an integer or out of range"),
        ("GROUP credit c BLOCK -1 STREAMS gift >", "ERR timeout is negative"),
        ("GROUP credit c BLOCK 9999999999999999999 STREAMS gift >", "ERR timeout is not an integer or out of range"),
        ("GROUP credit c FROM gift STREAMS gift >", "ERR syntax error"),
        ("GROUP credit c COUNT 5 BLOCK 0", "ERR syntax error"),
        ("COUNT 5 BLOCK 0 STREAMS gift >", "ERR Missing GROUP option for XREADGROUP"),
        ("GROUP credit c STREAMS gift nonsense", "ERR Invalid stream ID specified as stream command argument"),
        ("GROUP credit c STREAMS gift 1-18446744073709551616",
         "ERR Invalid stream ID specified as stream command argument"),
        ("GROUP credit c STREAMS gift $", "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read "
         "the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would "
         "just return an empty result set."),
        ("GROUP credit c STREAMS nope >", "NOQUEUE there is no queue 'nope/credit': nothing taken"),
        ("GROUP nope c STREAMS gift >", "NOTOPIC 'gift/nope' is no topic (topics of gift that can be pulled: "
         "gift/credit): nothing taken"),
        ("GROUP mail c STREAMS gift >", "BADVALUE gift/mail has a handler; only topics with pull are taken from: "
         "nothing taken"),
        (f"GROUP credit {257 * 'c'} STREAMS gift >", "BADVALUE the name of a consumer has at most 256 bytes: "
         "nothing taken"),
        ("GROUP own c STREAMS safe >", "NOAUTH safe/own needs AUTH safe/own PASSWORD first: nothing taken"),
    ],
)
def test_refusal_of_a_read(client: Client, words: str, wanted: str) -> None:
    assert client.ask("XREADGROUP", *words.split()) == wanted
    assert client.ask("PING") == "PONG"


def test_identity_of_another_topic_may_not_read(client: Client) -> None:
    client.ask("AUTH", "safe/credit", "pw")

    reply = client.ask("XREADGROUP", "GROUP", "own", "c", "STREAMS", "safe", ">")

    assert reply == "NOPERM safe/credit may not take from safe/own: nothing taken"


def test_read_while_the_store_is_away_says_so(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("gone")

    assert read(client) == "UNAVAILABLE the store 'main' is away (gone): nothing taken, try again in 1 s"


def test_claims_of_a_reply_that_never_leaves_go_back_untouched(door: Door, client: Client) -> None:
    reader = door.client()
    connection = max(door.server.connections, key=lambda connection: connection.id)
    push(client, "a")
    door.driver.claim_go.clear()
    reader.command("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">")
    door.until(lambda: connection.pop is not None)
    reader.close()
    door.until(lambda: connection.gone)
    door.driver.claim_go.set()

    door.until(lambda: door.driver.settled == [(Move.RELEASE, "1000-1")])

    assert read(client)[0][1][3:6:2] == ["1", "0"], "it is no attempt and nobody ran it"


# -- what was read before ---------------------------------------------------------------------


def test_past_of_a_consumer_is_what_it_has_read_and_not_acked(client: Client) -> None:
    push(client, "a", "b", "c")
    got = ids(read(client))
    client.ask("XACK", "gift", "credit", got[1])

    past = read(client, start="0")

    assert [(job_id, fields[:2]) for job_id, fields in past] == [(got[0], ["body", "a"]), (got[2], ["body", "c"])]
    assert ids(read(client, start=got[0])) == [got[2]]
    assert ids(read(client, "COUNT", "1", start="0-0")) == [got[0]]


def test_past_of_another_consumer_or_connection_is_empty(door: Door, client: Client) -> None:
    push(client, "a")
    read(client)

    assert read(client, consumer="d", start="0") == []
    assert read(door.client(), start="0") == []


def test_past_claims_nothing_and_does_not_block(client: Client) -> None:
    push(client, "a")

    assert read(client, "BLOCK", "0", start="0") == []
    assert client.ask("LLEN", "gift/credit") == 1


def test_past_and_news_may_be_asked_for_together(client: Client) -> None:
    push(client, "a")
    read(client)
    push(client, "b")
    client.ask("LPUSH", "old", "x")

    reply = client.ask("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", "old", "0", ">")

    assert bodies(reply) == [("gift", ["a"]), ("old", ["x"])]


def test_past_is_bounded_as_every_reply_is(client: Client) -> None:
    for _ in range(20):
        push(client, "x" * 1_000_000)
    got = ids(read(client, "COUNT", "100")) + ids(read(client, "COUNT", "100"))
    assert len(got) == 20

    assert 16 <= len(read(client, "COUNT", "100", start="0")) <= 17


def test_past_leaves_out_what_somebody_else_holds_now(door: Door, client: Client) -> None:
    push(client, "a", "b")
    got = ids(read(client))
    ours = str(door.child.owner)
    door.driver.settle([Settlement(owner=ours, queue="gift", topic="credit", id=got[0], move=Move.RELEASE)])
    taken_elsewhere(door)

    assert ids(read(client, start="0")) == [got[1]]


def test_past_that_the_store_cannot_show_is_an_error(door: Door, client: Client) -> None:
    push(client, "a")
    read(client)
    door.driver.fail = Unavailable("gone")

    assert read(client, start="0").startswith("UNAVAILABLE gone: nothing taken")


# -- acks -------------------------------------------------------------------------------------


def test_read_is_settled_by_its_ack_only(door: Door, client: Client) -> None:
    push(client, "a", "b")
    got = ids(read(client))

    assert door.driver.settled == []
    assert client.ask("XACK", "gift", "credit", *got) == 2
    assert door.driver.settled == [(Move.ACK, got[0]), (Move.ACK, got[1])]
    assert door.store.puller.idle


def test_ack_comes_from_any_connection(door: Door, client: Client) -> None:
    push(client, "a")
    got = ids(read(client))

    assert door.client().ask("XACK", "live:gift:list", "credit", *got) == 1
    client.close()
    door.until(lambda: len(door.server.connections) == 1)
    assert door.driver.settled == [(Move.ACK, got[0])]


def test_ack_may_come_before_the_reply_has_left(door: Door, client: Client) -> None:
    for _ in range(8):
        push(client, "x" * 1_000_000)
    reader = door.client().command("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">")
    door.until(lambda: len(door.driver.claims) == 8)

    assert client.ask("XACK", "gift", "credit", *[f"1000-{number}" for number in range(1, 9)]) == 8

    assert len(reader.read()[0][1]) == 8
    assert read(reader, start="0") == []
    assert not len(door.store.puller.claims)


def test_ack_counts_what_was_open(client: Client) -> None:
    push(client, "a")
    got = ids(read(client))

    assert client.ask("XACK", "gift", "credit", got[0], got[0], "77-7", "5") == 1
    assert client.ask("XACK", "gift", "credit", got[0]) == 0


@pytest.mark.parametrize("text", ["x", "1-", "-1", "1-2-3", "1-18446744073709551616", "18446744073709551616-0", "é"])
def test_malformed_id_is_refused_as_redis_does(client: Client, text: str) -> None:
    push(client, "a")
    got = ids(read(client))

    for command in (("XACK", "gift", "credit", got[0], text), ("PBUS.NACK", "gift", "credit", text)):
        assert client.ask(*command) == "ERR Invalid stream ID specified as stream command argument"
    assert client.ask("XACK", "gift", "credit", got[0]) == 1


@pytest.mark.parametrize("command", ["XACK", "PBUS.NACK"])
def test_settling_needs_the_rights_of_a_pull(client: Client, command: str) -> None:
    assert client.ask(command, "safe", "own", "1-1") == (
        "NOAUTH safe/own needs AUTH safe/own PASSWORD first: nothing acked"
    )
    client.ask("AUTH", "safe/credit", "pw")
    assert client.ask(command, "safe", "own", "1-1") == "NOPERM safe/credit may not take from safe/own: nothing acked"
    assert client.ask(command, "nope", "own", "1-1") == "NOQUEUE there is no queue 'nope/own': nothing acked"


def test_ack_while_the_store_is_away_says_so_and_is_not_kept(door: Door, client: Client) -> None:
    push(client, "a")
    got = ids(read(client))
    door.driver.fail = Unavailable("gone")

    first = client.ask("XACK", "gift", "credit", *got)
    assert first == "UNAVAILABLE gone: maybe not all are acked, try again in 1 s"
    assert client.ask("XACK", "gift", "credit", *got) == (
        "UNAVAILABLE the store 'main' is away (gone): nothing is acked, try again in 1 s"
    )
    door.driver.fail = None
    door.until(lambda: not door.store.away)
    assert door.driver.settled == []
    assert client.ask("XACK", "gift", "credit", *got) == 1


def test_ack_that_meets_a_bug_is_answered(door: Door, client: Client) -> None:
    push(client, "a")
    got = ids(read(client))
    settle = door.driver.settle

    def broken(settlements: Sequence[Settlement]) -> list[bool]:
        door.driver.settle = settle                   # type: ignore[method-assign]
        raise RuntimeError(len(settlements))

    door.driver.settle = broken                       # type: ignore[method-assign]

    assert str(client.ask("XACK", "gift", "credit", *got)).startswith("ERR internal error")
    assert client.ask("XACK", "gift", "credit", *got) == 1


def test_acks_of_many_connections_are_one_call(door: Door, client: Client) -> None:
    push(client, *[str(number) for number in range(32)])
    readers = [door.client() for _ in range(4)]
    got = [ids(read(reader, "COUNT", "8")) for reader in readers]
    calls: list[int] = []
    settle = door.driver.settle

    def counted(settlements: Sequence[Settlement]) -> list[bool]:
        calls.append(len(settlements))
        return settle(settlements)

    door.driver.settle = counted                      # type: ignore[method-assign]
    for reader, mine in zip(readers, got, strict=True):
        reader.command("XACK", "gift", "credit", *mine)

    assert [reader.read() for reader in readers] == [8] * 4
    assert len(calls) < 4, calls
    assert sum(calls) == 32


def test_pipelined_acks_are_one_call_and_answered_in_order(door: Door, client: Client) -> None:
    push(client, "a", "b", "c")
    got = ids(read(client))
    calls: list[int] = []
    settle = door.driver.settle

    def counted(settlements: Sequence[Settlement]) -> list[bool]:
        calls.append(len(settlements))
        return settle(settlements)

    door.driver.settle = counted                      # type: ignore[method-assign]
    commands = [("XACK", "gift", "credit", one) for one in (got[0], got[1], got[0], "nonsense")]
    commands += [("XACK", "gift"), ("PBUS.NACK", "gift", "credit", got[2]), ("LPUSH", "gift", "d"), ("PING",)]
    client.send(b"".join(encode(*words) for words in commands))

    assert [client.read() for _ in commands] == [
        1, 1, 0, "ERR Invalid stream ID specified as stream command argument",
        "ERR wrong number of arguments for 'xack' command", 1, 4, "PONG",
    ]
    assert calls == [4]


def test_push_behind_an_ack_is_stored_after_it(door: Door, client: Client) -> None:
    push(client, "a")
    got = ids(read(client))
    before: list[int] = []
    settle = door.driver.settle

    def slow(settlements: Sequence[Settlement]) -> list[bool]:
        gevent.sleep(0.02)
        before.append(len(door.driver.appends))
        return settle(settlements)

    door.driver.settle = slow                         # type: ignore[method-assign]
    client.send(encode("XACK", "gift", "credit", *got) + encode("LPUSH", "gift", "b"))

    assert [client.read(), client.read()] == [1, 2]
    assert before == [1]
    assert len(door.driver.appends) == 2


# -- acks of what another child holds -----------------------------------------------------------


def test_ack_of_what_another_child_holds_takes_effect(door: Door, client: Client) -> None:
    push(client, "a", "b")
    (elsewhere,) = taken_elsewhere(door)
    (here,) = ids(read(client))

    assert client.ask("XACK", "gift", "credit", elsewhere, here) == 2
    assert sorted(door.driver.settled) == [(Move.ACK, elsewhere), (Move.ACK, here)]
    assert {(one.id, one.owner) for one in door.driver.settlements} == {
        (elsewhere, OTHER), (here, str(door.child.owner))
    }


def test_nack_of_what_another_child_holds_is_judged_by_its_attempts(client: Client, door: Door) -> None:
    push(client, "a")
    key = ("gift", "credit", "1000-1")
    door.driver.attempts[key] = 9
    (elsewhere,) = taken_elsewhere(door)

    assert client.ask("PBUS.NACK", "gift", "credit", elsewhere, "REASON", "no") == 1

    (settlement,) = door.driver.settlements
    assert (settlement.move, settlement.owner) == (Move.BURY, OTHER)
    assert settlement.error.endswith("no")


def test_list_of_another_child_is_read_once_for_many_nacks(client: Client, door: Door) -> None:
    push(client, "a", "b", "c")
    for number in range(1, 4):
        door.driver.attempts["gift", "credit", f"1000-{number}"] = 1
    elsewhere = taken_elsewhere(door, 3)
    held, asked = door.driver.held, []

    def counting(owner: str) -> list[Held]:
        asked.append(owner)
        return held(owner)

    door.driver.held = counting                       # type: ignore[method-assign]

    client.send(b"".join(encode("PBUS.NACK", "gift", "credit", job_id) for job_id in elsewhere))

    assert [client.read() for _ in elsewhere] == [1, 1, 1]
    assert asked.count(OTHER) == 1


def test_foreign_ack_that_cannot_be_written_is_an_error(door: Door, client: Client) -> None:
    push(client, "a")
    (elsewhere,) = taken_elsewhere(door)

    def away(owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        raise Unavailable("gone in the middle")

    door.driver.give_back = away                      # type: ignore[method-assign]

    reply = client.ask("XACK", "gift", "credit", elsewhere)
    assert reply == "UNAVAILABLE gone in the middle: maybe not all are acked, try again in 1 s"


def crowded_door() -> Door:
    return Door(queues={"gift": Queue(topic={"credit": Topic(pull=PullHandler(max_open=2))})})


def test_room_made_by_another_child_is_noticed_while_somebody_waits() -> None:
    door = crowded_door()
    client, reader = door.client(), door.client()
    push(client, "a", "b", "c")
    got = ids(read(reader))
    assert len(got) == 2
    waiting = door.client().command("XREADGROUP", "GROUP", "credit", "d", "BLOCK", "0", "STREAMS", "gift", ">")
    assert waiting.silent()
    ours = str(door.child.owner)

    acked = [Settlement(owner=ours, queue="gift", topic="credit", id=one, move=Move.ACK) for one in got]
    door.driver.give_back(ours, acked)

    assert ids(waiting.read(2.0)[0][1]) == ["1000-3"]
    assert door.store.puller.claims.count("gift", "credit") == 1
    door.close()


def test_list_of_claims_is_compared_every_few_seconds(door: Door, client: Client) -> None:
    push(client, "a", "b")
    got = ids(read(client))
    ours = str(door.child.owner)
    door.driver.settle([Settlement(owner=ours, queue="gift", topic="credit", id=got[0], move=Move.ACK)])
    assert len(door.store.puller.claims) == 2

    door.clock.ahead_s += 5.0
    read(client)

    door.until(lambda: len(door.store.puller.claims) == 1)
    assert ids(read(client, start="0")) == [got[1]]


def test_claims_whose_answer_was_lost_go_back(door: Door, client: Client) -> None:
    push(client, "a", "b")
    claim = door.driver.claim

    def cut(wants: Sequence[Want]) -> list[Delivery]:
        door.driver.claim = claim                     # type: ignore[method-assign]
        claim(wants)
        raise Unavailable("gone after it was done")

    door.driver.claim = cut                           # type: ignore[method-assign]

    assert read(client).startswith("UNAVAILABLE ")
    door.until(lambda: len(door.driver.settled) == 2)
    assert {move for move, _ in door.driver.settled} == {Move.RELEASE}
    assert len(read(client)) == 2


# -- nacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "move", "delay_s", "error"),
    [
        ((), Move.RETRY, None, "its consumer gave it back"),
        (("DELAY", "2500"), Move.RETRY, 2.5, "its consumer gave it back"),
        (("reason", "no such user", "delay", "0"), Move.RETRY, 0.0, "no such user"),
        (("DEAD",), Move.BURY, 0.0, "its consumer gave it back"),
        (("DEAD", "REASON", "bad body"), Move.BURY, 0.0, "bad body"),
    ],
)
def test_nack_is_a_failure(
    door: Door, client: Client, options: tuple[str, ...], move: Move, delay_s: float | None, error: str
) -> None:
    push(client, "a")
    got = ids(read(client))

    assert client.ask("PBUS.NACK", "gift", "credit", *got, *options) == 1

    (settlement,) = door.driver.settlements
    assert (settlement.move, settlement.counts, settlement.error) == (move, True, error)
    assert delay_s is None or settlement.delay_s == delay_s
    assert client.ask("PBUS.NACK", "gift", "credit", *got, *options) == 0


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("DELAY", "x"), "BADVALUE DELAY is a number of milliseconds: nothing acked"),
        (("DELAY", "-1"), "BADVALUE DELAY is 0 to 315360000000 ms: nothing acked"),
        (("DELAY",), "BADVALUE PBUS.NACK takes DELAY ms, REASON text and DEAD, not 'DELAY': nothing acked"),
        (("LATER",), "BADVALUE PBUS.NACK takes DELAY ms, REASON text and DEAD, not 'LATER': nothing acked"),
    ],
)
def test_refusal_of_a_nack(door: Door, client: Client, options: tuple[str, ...], wanted: str) -> None:
    push(client, "a")
    got = ids(read(client))

    assert client.ask("PBUS.NACK", "gift", "credit", *got, *options) == wanted
    assert door.driver.settled == []


def test_nack_without_delay_is_ready_at_once(door: Door, client: Client) -> None:
    push(client, "a")
    got = ids(read(client))

    client.ask("PBUS.NACK", "gift", "credit", *got, "DELAY", "0")

    assert read(client, "BLOCK", "1000")[0][1][3:6:2] == ["2", "1"]


def test_nack_with_a_short_delay_is_told_to_the_scheduler(door: Door, client: Client) -> None:
    push(client, "a")
    got = ids(read(client))

    client.ask("PBUS.NACK", "gift", "credit", *got, "DELAY", "200")

    ((kind, fields),) = [told for told in door.child.told if told[0] == "delayed"]
    assert (kind, fields["store"]) == ("delayed", "main")
    assert 0.1 < fields["in_s"] <= 0.2


def test_ends_are_told_to_who_follows(door: Door, client: Client) -> None:
    push(client, "a", "b")
    got = ids(read(client))
    door.child.watched = True

    client.ask("XACK", "gift", "credit", got[0])
    client.ask("PBUS.NACK", "gift", "credit", got[1], "REASON", "no")

    told = [(event["event"], event["id"], event["attempt"], event["error"]) for event in door.child.published]
    assert told == [("job.done", got[0], 1, ""), ("job.retry", got[1], 1, "no")]


def test_reply_is_what_hiredis_understands(client: Client) -> None:
    push(client, "a\x00b")
    client.command("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">")
    reader = hiredis.Reader()
    while (reply := reader.gets()) is False:
        reader.feed(client.socket.recv(65536))

    assert reply[0][1][0][1][1] == b"a\x00b"
