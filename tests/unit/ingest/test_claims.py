"""What a connection has read and not acked: where it goes when the connection, its time or the child is over."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import gevent
import pytest

from pbus.config.schema import PullHandler, Queue, Retry, Topic
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Rules, Verdict, judge
from pbus.core.retry import RetryPolicy
from pbus.errors import Unavailable
from pbus.ingest.access import TopicEntry
from pbus.ingest.claims import Claim, Left
from pbus.ingest.puller import Puller
from pbus.storage.driver import Held
from tests.unit.ingest.door import Client, Door, encode
from tests.unit.ingest.reading import ids, push, read


def test_closed_connection_gives_back_what_it_has_read(door: Door, client: Client) -> None:
    reader = door.client()
    push(client, "a", "b", "c")
    got = ids(read(reader))

    reader.close()

    door.until(lambda: len(door.driver.settled) == 3)
    assert door.driver.settled == [(Move.RETRY, got[0]), (Move.RELEASE, got[1]), (Move.RELEASE, got[2])]
    first, *others = door.driver.settlements
    assert (first.crash, first.counts, first.delay_s, first.error) == (
        True, True, 0.0, "its connection closed before the ack"
    )
    assert {(one.crash, one.counts, one.redelivered) for one in others} == {(False, False, True)}


def test_thousands_of_claims_go_back_in_several_calls() -> None:
    """One would keep everybody else waiting for the store."""
    door = Door(queues={"gift": Queue(topic={"credit": Topic(pull=PullHandler(max_open=5000))})})
    client, reader = door.client(), door.client()
    push(client, *["x"] * 2500)
    assert len(read(reader, "COUNT", "2500")) == 2500
    settle, sizes = door.driver.settle, []

    def counting(settlements: Sequence[Settlement]) -> list[bool]:
        sizes.append(len(settlements))
        return settle(settlements)

    door.driver.settle = counting

    reader.close()

    door.until(lambda: len(door.driver.settled) == 2500)
    assert sizes == [1000, 1000, 500]
    door.close()


def test_claims_of_a_closed_connection_are_somebody_elses_at_once(door: Door, client: Client) -> None:
    reader = door.client()
    push(client, "a", "b")
    read(reader)
    waiting = door.client().command("XREADGROUP", "GROUP", "credit", "d", "BLOCK", "0", "STREAMS", "gift", ">")
    assert waiting.silent()

    reader.close()

    got = {fields[1]: fields[3:6:2] for _, fields in waiting.read(1.0)[0][1]}
    if len(got) < 2:
        got |= {fields[1]: fields[3:6:2] for _, fields in read(client, "BLOCK", "1000")}
    assert got == {"a": ["2", "1"], "b": ["1", "1"]}


def test_job_that_kills_its_readers_is_dead_after_three(door: Door, client: Client) -> None:
    push(client, "a")
    door.driver.first_ms["gift", "credit", "1000-1"] = int(door.clock.wall_s() * 1000)
    for number in range(1, 4):
        reader = door.client()
        assert read(reader, "BLOCK", "1000")[0][1][3] == str(number)
        reader.close()
        door.until(lambda: len(door.driver.settled) == number)  # noqa: B023

    assert [move for move, _ in door.driver.settled] == [Move.RETRY, Move.RETRY, Move.BURY]
    last = door.driver.settlements[-1]
    assert (last.reason, last.error) == (
        "killed its consumer", "killed its consumer 3 times: its connection closed before the ack"
    )


def test_crash_is_that_of_the_oldest_claim_that_is_still_open(door: Door, client: Client) -> None:
    reader = door.client()
    push(client, "a", "b", "c")
    got = ids(read(reader))
    ours = str(door.child.owner)
    door.driver.settle([Settlement(owner=ours, queue="gift", topic="credit", id=got[0], move=Move.ACK)])

    reader.close()

    door.until(lambda: len(door.driver.settled) == 3)
    assert door.driver.settled == [(Move.ACK, got[0]), (Move.RETRY, got[1]), (Move.RELEASE, got[2])]


def test_job_that_came_back_by_way_of_another_child_has_a_new_reader(door: Door, client: Client) -> None:
    first = door.client()
    push(client, "a", "b")
    got = ids(read(first))
    ours = str(door.child.owner)
    door.driver.settle([Settlement(owner=ours, queue="gift", topic="credit", id=got[0], move=Move.RELEASE)])

    assert ids(read(client)) == [got[0]]

    assert door.store.puller.claims.count("gift", "credit") == 2
    assert ids(read(first, start="0")) == [got[1]]
    first.close()
    door.until(lambda: len(door.driver.settled) == 2)
    assert door.driver.settled == [(Move.RELEASE, got[0]), (Move.RETRY, got[1])]
    assert client.ask("XACK", "gift", "credit", got[0]) == 1


def test_claims_left_behind_while_the_store_is_away_go_back_later(door: Door, client: Client) -> None:
    reader = door.client()
    push(client, "a", "b")
    read(reader)
    door.driver.fail = Unavailable("gone")
    read(client)
    reader.close()
    door.until(lambda: len(door.server.connections) == 1)
    assert door.driver.settled == []

    door.driver.fail = None

    door.until(lambda: len(door.driver.settled) == 2)
    assert [move for move, _ in door.driver.settled] == [Move.RETRY, Move.RELEASE]
    door.until(lambda: door.store.puller.idle)


def test_topic_that_holds_keeps_what_a_closed_connection_had_read() -> None:
    door = Door(queues={"gift": Queue(topic={"credit": Topic(pull=PullHandler(), on_unknown="hold")})})
    client, reader = door.client(), door.client()
    push(client, "a", "b")
    read(reader)

    reader.close()

    door.until(lambda: len(door.driver.settled) == 2)
    assert [(one.move, one.reason) for one in door.driver.settlements] == [(Move.BURY, "unknown")] * 2
    door.close()


def test_connection_that_we_close_is_no_crash(door: Door, client: Client) -> None:
    push(client, "a", "b")
    read(client)

    door.server.close()

    door.until(lambda: len(door.driver.settled) == 2)
    assert [(one.move, one.crash, one.redelivered) for one in door.driver.settlements] == [
        (Move.RELEASE, False, True)
    ] * 2


def test_ack_meets_the_end_of_its_reader(door: Door, client: Client) -> None:
    reader = door.client()
    push(client, "a", "b")
    got = ids(read(reader))
    client.send(encode("XACK", "gift", "credit", *got))
    reader.close()

    acked = client.read()

    door.until(lambda: len(door.driver.settled) == 2)
    assert acked == 2, "what was said before the end of the reader counts"
    assert [move for move, _ in door.driver.settled] == [Move.ACK, Move.ACK]
    door.until(lambda: not len(door.store.puller.claims))


# -- time is over -------------------------------------------------------------------------------


def slow_door(timeout_s: float = 5.0, **more: Any) -> Door:
    topic = Topic(pull=PullHandler(), timeout_s=timeout_s, retry=Retry(first_s=1.0, jitter=0.0), **more)
    return Door(queues={"gift": Queue(topic={"credit": topic})})


def test_reader_that_does_not_ack_in_time_is_closed() -> None:
    door = slow_door()
    client, reader = door.client(), door.client()
    push(client, "a", "b")
    got = ids(read(reader))

    door.later(6.0)

    with pytest.raises(EOFError):
        reader.read()
    door.until(lambda: len(door.driver.settled) == 2)
    assert door.server.tally.closed == {"timeout": 1}
    first, second = door.driver.settlements
    assert (first.id, first.move, first.counts, first.crash, first.error) == (
        got[0], Move.RETRY, True, False, "no ack within 5 s"
    )
    assert (second.move, second.counts, second.redelivered) == (Move.RELEASE, False, True)
    assert client.ask("XACK", "gift", "credit", got[0]) == 0
    door.close()


def test_time_counts_from_when_a_claim_is_the_oldest() -> None:
    door = slow_door()
    client = door.client()
    push(client, "a", "b")
    got = ids(read(client))
    door.later(4.0)
    client.ask("XACK", "gift", "credit", got[0])

    door.later(4.0)

    assert client.ask("PING") == "PONG"
    assert client.ask("XACK", "gift", "credit", got[1]) == 1
    door.close()


def test_ack_elsewhere_saves_a_reader_whose_time_seems_over() -> None:
    door = slow_door(timeout_s=2.0)
    client = door.client()
    push(client, "a")
    got = ids(read(client))
    door.driver.settle([
        Settlement(owner=str(door.child.owner), queue="gift", topic="credit", id=got[0], move=Move.ACK)
    ])

    door.later(3.0)                                   # sooner than the next comparison

    door.until(lambda: not len(door.store.puller.claims))
    assert client.ask("PING") == "PONG"
    door.close()


def test_ack_in_time_saves_a_reader_while_the_store_is_slow() -> None:
    door = slow_door(timeout_s=2.0)
    client, other = door.client(), door.client()
    push(client, "a", "b")
    got = ids(read(client))
    door.driver.claim_go.clear()
    other.command("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">")
    push(client, "c")
    door.until(lambda: door.store.puller._waiting)
    client.command("XACK", "gift", "credit", got[0])
    door.until(lambda: door.store.puller._settling._asks)

    door.later(3.0)
    door.driver.claim_go.set()

    assert client.read() == 1
    assert client.ask("XACK", "gift", "credit", got[1]) == 1
    door.close()


def test_ack_that_was_on_its_way_saves_a_reader_of_a_child_that_stood_still() -> None:
    door = slow_door(timeout_s=2.0)
    client = door.client()
    push(client, "a", "b")
    got = ids(read(client))
    client.command("XACK", "gift", "credit", got[0])  # nobody has read it yet
    held = door.driver.held

    def yielding(owner: str) -> list[Held]:
        found = held(owner)
        gevent.sleep(0.01)                            # as every store does
        return found

    door.driver.held = yielding                       # type: ignore[method-assign]

    door.later(3.0)

    assert client.read() == 1
    assert client.ask("XACK", "gift", "credit", got[1]) == 1
    door.close()


@pytest.mark.parametrize(
    ("verdict", "gone", "rests"),
    [
        (Verdict.CRASHED, True, [False, False]),      # nobody runs it any more
        (Verdict.TIMEOUT, False, [True, True]),
        (Verdict.UNSURE, False, [True, True]),        # we have cut it off: it may go on
    ],
)
def test_key_rests_where_a_reader_may_be_at_it_still(verdict: Verdict, gone: bool, rests: list[bool]) -> None:
    rules = Rules(timeout_s=33.0, killable=False, retry=RetryPolicy(first_s=1.0, jitter=0.0))
    topic = TopicEntry("gift", "credit", True, 10, True, rules.retry, rules=rules)
    left = Left([], verdict, "over", gone)
    found = []
    for first in (True, False):
        delivery = Delivery("1000-1", "gift", "credit", b"", 1, 0, False, "", "", 0, "n/b/1.1", key="k")
        outcome = left.outcome(Claim(delivery, topic, Puller.__new__(Puller), 0.0), first=first, now_s=1.0)
        settlement = judge(delivery, outcome, left.rules(topic), 1000, 0.0)
        found.append(settlement.move is Move.RETRY and settlement.delay_s >= 33.0)

    assert found == rests


def test_topic_without_timeout_waits_for_ever() -> None:
    door = slow_door(timeout_s=0.0)
    client = door.client()
    push(client, "a")
    got = ids(read(client))

    door.later(1_000_000.0)

    assert client.ask("XACK", "gift", "credit", *got) == 1
    door.close()


def test_only_readers_with_claims_are_watched(door: Door, client: Client) -> None:
    push(client, "a")
    (connection,) = door.server.connections
    assert connection not in door.server._watched
    got = ids(read(client))
    assert connection in door.server._watched
    client.ask("XACK", "gift", "credit", *got)

    door.later(1.0)

    assert connection not in door.server._watched


def test_death_of_a_reader_is_looked_for_sooner(door: Door) -> None:
    client = door.tcp_client()
    push(client, "a")
    (connection,) = door.server.connections

    def idle_s() -> tuple[int, int]:
        sock = connection._socket
        return tuple(  # type: ignore[return-value]
            sock.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        )

    got = ids(read(client))
    assert idle_s() == (5, 5)
    assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    client.ask("XACK", "gift", "credit", *got)
    door.later(1.0)
    assert idle_s() == (60, 60)


# -- the child drains ---------------------------------------------------------------------------


def test_draining_child_waits_for_the_acks_of_its_readers(door: Door, client: Client) -> None:
    push(client, "a", "b")
    got = ids(read(client))
    door.server.drain()
    assert not door.server.idle

    assert client.ask("XACK", "gift", "credit", got[0]) == 1
    assert not door.server.idle
    assert client.ask("XACK", "gift", "credit", got[1]) == 1

    door.until(lambda: door.server.idle)
    assert [move for move, _ in door.driver.settled] == [Move.ACK, Move.ACK]


def test_draining_child_hears_soon_of_acks_by_way_of_others(door: Door, client: Client) -> None:
    push(client, "a")
    got = ids(read(client))
    ours = str(door.child.owner)
    door.server.drain()
    door.driver.settle([Settlement(owner=ours, queue="gift", topic="credit", id=got[0], move=Move.ACK)])

    door.until(lambda: door.server.idle, "it can go long before the usual comparison")


def test_draining_child_hands_out_nothing_that_has_to_be_acked(door: Door, client: Client) -> None:
    push(client, "a", "b")
    read(client, "COUNT", "1")
    door.server.drain()

    assert read(client) is None
    assert read(client, "BLOCK", "20") is None
    client.command("XREADGROUP", "GROUP", "credit", "c", "BLOCK", "0", "STREAMS", "gift", ">")
    assert client.silent(0.1), "a loop of a client must not run hot"
    assert client.read(1.0) is None


def test_readers_that_wait_for_nothing_are_let_go_by_a_drain(door: Door) -> None:
    waiting = door.client().command("XREADGROUP", "GROUP", "credit", "c", "BLOCK", "0", "STREAMS", "gift", ">")
    door.until(lambda: not door.store.puller.idle)

    door.server.drain()

    assert waiting.read(1.0) is None
    door.until(lambda: door.server.idle)
