"""RPOP and its relatives: at most once, longest-waiting first, nothing lost on the way."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

import gevent
import pytest

from pbus.config.schema import PullHandler, Queue, Topic
from pbus.core.job import Delivery, Move
from pbus.errors import Unavailable
from pbus.ingest.outlet import State
from pbus.storage.driver import Want
from tests.unit.ingest.door import Client, Door, encode


@pytest.mark.parametrize("command", ["RPOP", "LPOP"])
def test_pop_is_first_in_first_out(client: Client, command: str) -> None:
    client.ask("LPUSH", "gift", "a", "b")
    client.ask("RPUSH", "gift", "c")

    assert [client.ask(command, "gift/credit") for _ in range(4)] == ["a", "b", "c", None]


def test_pop_of_several_answers_a_list(client: Client) -> None:
    client.ask("LPUSH", "gift", *"abc")

    assert client.ask("RPOP", "gift/credit", "2") == ["a", "b"]
    assert client.ask("RPOP", "gift/credit", "99") == ["c"]
    assert client.ask("RPOP", "gift/credit", "99") is None
    assert client.ask("RPOP", "gift/credit", "0") == []


def test_pop_of_more_than_one_claim_gets_them_all(client: Client) -> None:
    client.ask("LPUSH", "gift", *[str(number) for number in range(350)])

    assert client.ask("RPOP", "gift/credit", "1000") == [str(number) for number in range(350)]


def test_pop_is_settled_when_its_reply_has_left(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    assert client.ask("RPOP", "gift/credit") == "a"

    door.until(lambda: door.driver.settled == [(Move.ACK, "1000-1")], "the claim is settled")
    assert door.store.puller.idle


def test_pop_by_alias_takes_from_the_only_pull_topic(client: Client) -> None:
    client.ask("LPUSH", "live:gift:list", "a")

    assert client.ask("RPOP", "live:gift:list") == "a"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("RPOP", "nope/credit"), "NOQUEUE there is no queue 'nope/credit': nothing taken"),
        (("RPOP", "gift/nope"), "NOTOPIC 'gift/nope' is no topic (topics of gift that can be pulled: gift/credit): "
                                "nothing taken"),
        (("RPOP", "safe"), "NOAUTH safe needs AUTH safe PASSWORD first: nothing taken"),
        (("RPOP", "gift/mail"), "BADVALUE gift/mail has a handler; only topics with pull are taken from: "
                                "nothing taken"),
        (("RPOP", "safe/own"), "NOAUTH safe/own needs AUTH safe/own PASSWORD first: nothing taken"),
        (("RPOP", "gift/credit", "-1"), "ERR value is out of range, must be positive"),
        (("RPOP", "gift/credit", "x"), "ERR value is out of range, must be positive"),
        (("RPOP", "gift/credit", "1", "2"), "ERR wrong number of arguments for 'rpop' command"),
        (("BRPOP", "gift/credit", "x"), "ERR timeout is not a float or out of range"),
        (("BRPOP", "gift/credit", "nan"), "ERR timeout is not a float or out of range"),
        (("BRPOP", "gift/credit", "-1"), "ERR timeout is negative"),
    ],
)
def test_refusal_of_a_pop(client: Client, words: tuple[str, ...], wanted: str) -> None:
    assert client.ask(*words) == wanted
    assert client.ask("PING") == "PONG"


def test_blocking_pop_answers_at_once_when_there_is_something(client: Client) -> None:
    client.ask("LPUSH", "mail", "a")

    assert client.ask("BRPOP", "gift/credit", "mail/smtp", "0") == ["mail/smtp", "a"]


def test_blocking_pop_prefers_its_first_key(client: Client) -> None:
    client.ask("LPUSH", "mail", "m")
    client.ask("LPUSH", "gift", "g")

    assert client.ask("BRPOP", "gift/credit", "mail/smtp", "0") == ["gift/credit", "g"]
    assert client.ask("BLPOP", "gift/credit", "mail/smtp", "0") == ["mail/smtp", "m"]


def test_blocking_pop_is_woken_by_a_push(door: Door, client: Client) -> None:
    waiting = door.client().command("BRPOP", "gift/credit", "0")
    assert waiting.silent()

    client.ask("LPUSH", "gift", "a")

    assert waiting.read(1.0) == ["gift/credit", "a"]


def test_longest_waiting_client_is_served_first(door: Door, client: Client) -> None:
    waiting = []
    for _ in range(4):
        waiting.append(door.client().command("BRPOP", "gift/credit", "0"))
        assert waiting[-1].silent(0.005)

    client.ask("LPUSH", "gift", "a", "b", "c", "d")

    assert [each.read()[1] for each in waiting] == ["a", "b", "c", "d"]


def test_blocking_pop_ends_with_nothing_at_its_time(client: Client) -> None:
    assert client.ask("BRPOP", "gift/credit", "0.02") is None
    assert client.ask("PING") == "PONG"


def test_commands_behind_a_blocked_pop_wait_for_it(door: Door, client: Client) -> None:
    client.send(encode("BRPOP", "gift/credit", "0") + encode("PING"))
    assert client.silent()

    door.client().ask("LPUSH", "gift", "a")

    assert [client.read(), client.read()] == [["gift/credit", "a"], "PONG"]


def test_blocked_client_that_goes_takes_nothing_along(door: Door, client: Client) -> None:
    gone = door.client().command("BRPOP", "gift/credit", "0")
    door.until(lambda: door.store.puller._waiting)
    gone.close()
    door.until(lambda: not door.store.puller._waiting, "the end of file is noticed")

    client.ask("LPUSH", "gift", "a")

    assert client.ask("RPOP", "gift/credit") == "a"


@pytest.mark.parametrize("words", [
    ("BRPOP", "gift/credit", "0"),
    ("XREADGROUP", "GROUP", "credit", "c", "BLOCK", "0", "STREAMS", "gift", ">"),
    ("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">"),
])
def test_client_that_has_ended_neither_blocks_nor_reads(door: Door, words: tuple[str, ...]) -> None:
    door.driver.held_back = True
    ended = door.client().send(encode("LPUSH", "gift", "a") + encode(*words))
    ended.socket.shutdown(socket.SHUT_WR)
    door.until(lambda: any(connection._state is State.ENDING for connection in door.server.connections))
    door.driver.go.set()

    assert [ended.read(), ended.read()] == [1, None]

    with pytest.raises(EOFError):
        ended.read()
    assert not door.driver.wants, "nothing is taken for it"


def test_job_goes_back_when_its_taker_is_gone_before_the_reply(door: Door, client: Client) -> None:
    taker = door.client()
    connection = max(door.server.connections, key=lambda connection: connection.id)
    client.ask("LPUSH", "gift", "a")
    door.driver.claim_go.clear()
    taker.command("RPOP", "gift/credit")
    door.until(lambda: connection.pop is not None)
    taker.close()
    door.until(lambda: connection.gone)
    door.driver.claim_go.set()

    door.until(lambda: door.driver.settled == [(Move.RELEASE, "1000-1")])

    assert client.ask("RPOP", "gift/credit") == "a"


def test_claim_ends_only_after_a_large_reply_has_left(door: Door, client: Client) -> None:
    for _ in range(8):
        client.ask("LPUSH", "gift", "x" * 1_000_000)
    taker = door.client().command("RPOP", "gift/credit", "8")
    door.until(lambda: len(door.driver.claims) == 8)
    gevent.sleep(0.02)
    assert door.driver.settled == []                  # the kernel has not taken all of it

    assert [len(body) for body in taker.read()] == [1_000_000] * 8

    door.until(lambda: len(door.driver.settled) == 8)


def test_claims_go_back_when_the_taker_goes_in_the_middle_of_the_reply(door: Door, client: Client) -> None:
    for _ in range(8):
        client.ask("LPUSH", "gift", "x" * 1_000_000)
    taker = door.client().command("RPOP", "gift/credit", "8")
    door.until(lambda: len(door.driver.claims) == 8)
    gevent.sleep(0.02)

    taker.close()

    door.until(lambda: len(door.driver.settled) == 8)
    assert {move for move, _ in door.driver.settled} == {Move.RELEASE}


def test_bodies_of_one_reply_are_bounded(door: Door, client: Client) -> None:
    for _ in range(20):
        client.ask("LPUSH", "gift", "x" * 1_000_000)
    taker = door.client()

    first = len(taker.ask("RPOP", "gift/credit", "1000"))

    assert 16 <= first <= 18
    assert len(taker.ask("RPOP", "gift/credit", "1000")) == 20 - first


def test_max_open_claims_are_not_exceeded() -> None:
    door = Door(queues={"gift": Queue(topic={"credit": Topic(pull=PullHandler(max_open=3))})})
    client = door.client()
    client.ask("LPUSH", "gift", *"abcdef")

    assert client.ask("RPOP", "gift/credit", "6") == ["a", "b", "c"]
    door.close()


def test_pop_while_the_store_is_away_says_so(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("gone")

    assert client.ask("RPOP", "gift/credit") == (
        "UNAVAILABLE the store 'main' is away (gone): nothing taken, try again in 1 s"
    )
    assert client.ask("BRPOP", "gift/credit", "0.05").startswith("UNAVAILABLE")


def test_blocked_pop_outlives_an_absence_of_the_store(door: Door, client: Client) -> None:
    waiting = door.client().command("BRPOP", "gift/credit", "0")
    door.until(lambda: door.store.puller._waiting)
    door.driver.fail = Unavailable("gone")
    client.ask("RPOP", "gift/credit")
    assert waiting.silent()

    door.driver.fail = None
    door.until(lambda: not door.store.away)
    client.ask("LPUSH", "gift", "a")

    assert waiting.read() == ["gift/credit", "a"]


def test_settlement_that_cannot_be_written_is_repeated(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    settle = door.driver.settle

    def away(settlements: object) -> list[bool]:
        door.driver.settle = settle                   # type: ignore[method-assign]
        raise Unavailable("gone")

    door.driver.settle = away                         # type: ignore[assignment, method-assign]

    assert client.ask("RPOP", "gift/credit") == "a"
    door.until(lambda: door.driver.settled == [(Move.ACK, "1000-1")])


def test_pepper_pop_is_json(client: Client) -> None:
    assert client.ask("RPOP", "old/credit") is None
    client.ask("LPUSH", "old/x", "a")

    jobs = json.loads(client.ask("RPOP", "old/credit"))["jobs"]

    assert [(job["id"], job["content"]) for job in jobs] == [("1000-1", "a")]


def test_looks(client: Client) -> None:
    client.ask("LPUSH", "gift", *"abc")
    client.ask("RPOP", "gift/credit")

    assert client.ask("LLEN", "gift") == 3
    assert client.ask("XLEN", "gift") == 3
    assert client.ask("LLEN", "gift/credit") == 2
    assert client.ask("HGETALL", "gift/credit")[:2] == ["ready", "2"]
    assert client.ask("LLEN", "gift/nope") == "NOTOPIC there is no topic 'gift/nope'"
    assert client.ask("LLEN", "nope") == "NOQUEUE there is no queue 'nope'"
    assert client.ask("LLEN", "safe") == "NOAUTH safe needs AUTH safe PASSWORD first"


def test_look_while_the_store_is_away_says_so(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("gone")

    assert client.ask("LLEN", "gift") == "UNAVAILABLE gone: nothing is known, try again in 1 s"


def test_nobody_blocks_again_in_a_draining_door(door: Door, client: Client) -> None:
    client.command("BRPOP", "gift/credit", "0")
    door.until(lambda: not door.server.stores["main"].puller.idle)
    door.server.drain()
    assert client.read() is None
    client.command("BRPOP", "gift/credit", "0")

    door.until(lambda: door.server.idle)


def test_jobs_of_a_reply_that_cannot_be_made_go_back(door: Door, client: Client) -> None:
    client.ask("LPUSH", "old/x", "a")
    door.driver.claim_go.clear()
    client.command("RPOP", "old/credit")
    door.until(lambda: not door.server.stores["main"].puller.idle)
    topics = door.server.directory.queues["old"].topics
    assert isinstance(topics, dict)
    topics.clear()                                    # the reply is made of their settings
    door.driver.claim_go.set()

    door.until(lambda: door.driver.settled == [(Move.RELEASE, "1000-1")])


def test_look_that_meets_a_bug_is_answered(door: Door, client: Client) -> None:
    def broken(queue: str) -> int:
        raise RuntimeError(queue)

    door.driver.backlog = broken                      # type: ignore[method-assign]

    assert str(client.ask("LLEN", "gift")).startswith("ERR internal error")
    assert client.ask("PING") == "PONG"


def test_jobs_of_a_claim_whose_answer_was_lost_go_back(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a", "b")
    claim = door.driver.claim

    def cut(wants: Sequence[Want]) -> list[Delivery]:
        door.driver.claim = claim                     # type: ignore[method-assign]
        claim(wants)
        raise Unavailable("gone after it was done")

    door.driver.claim = cut                           # type: ignore[method-assign]

    assert str(client.ask("RPOP", "gift/credit")).startswith("UNAVAILABLE ")
    door.until(lambda: door.driver.settled == [(Move.RELEASE, "1000-1")])
    assert [client.ask("RPOP", "gift/credit") for _ in range(3)] == ["a", "b", None]
    door.until(lambda: door.server.stores["main"].puller.idle)
