"""Every refusal is counted by its first word, every connection that is ended by its reason, every limit that is met."""

from __future__ import annotations

import contextlib

import gevent
import pytest

from pbus.config.schema import Ingest, Limits
from pbus.errors import MaybeStored, Unavailable
from pbus.ingest.tally import WORDS_MOST, Tally
from tests.unit.ingest.door import Client, Door, encode


def refused(door: Door) -> dict[str, int]:
    return dict(door.server.tally.refused)


def closed(door: Door) -> dict[str, int]:
    return dict(door.server.tally.closed)


def test_errors_are_counted_by_their_first_word(door: Door, client: Client) -> None:
    for words in (
        ("LPUSH", "nope", "a"), ("RPOP", "nope/t"), ("LPUSH", "safe", "a"), ("NOSUCH",), ("LLEN", "gift/none"),
        ("XADD", "gift", "*"), ("AUTH", "safe", "wrong"), ("LPUSH", "old/x", "a"), ("LPUSH", "gift", "a"),
    ):
        client.ask(*words)

    assert refused(door) == {"NOQUEUE": 2, "NOAUTH": 1, "ERR": 1, "NOTOPIC": 1, "BADVALUE": 1, "WRONGPASS": 1}
    assert closed(door) == {}


def test_refusal_in_the_old_contract_is_counted_by_the_word_inside(door: Door) -> None:
    stranger = door.client(local=False)
    stranger.ask("LPUSH", "old/x", "a")

    assert refused(door) == {"NOAUTH": 1}


def test_refusals_of_the_store_are_counted_a_command_each(door: Door, client: Client) -> None:
    door.driver.refuse = "jobs"
    client.send(b"".join(encode("LPUSH", "gift", body) for body in ("small", "large", "large")))
    assert isinstance(client.read(), int)
    client.read(), client.read()
    client.ask("LPUSH", "gift", "large", "large", "large")
    assert refused(door) == {"QUEUEFULL": 3}

    door.driver.refuse, door.driver.fail_append = "", MaybeStored("cut")
    client.ask("LPUSH", "gift", "a")
    door.driver.fail_append = door.driver.fail = Unavailable("gone")
    client.ask("LPUSH", "gift", "a", "b")
    assert refused(door) == {"QUEUEFULL": 3, "MAYBESTORED": 1, "UNAVAILABLE": 1}


def test_answer_that_came_later_is_counted_too(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("gone")
    client.ask("LLEN", "gift")

    assert refused(door) == {"UNAVAILABLE": 1}


def test_positive_replies_are_not_counted(door: Door, client: Client) -> None:
    for words in (("LPUSH", "gift", "-NOAUTH x"), ("ECHO", "-NOAUTH x"), ("RPOP", "gift/credit"), ("LLEN", "gift")):
        client.ask(*words)

    assert refused(door) == {}
    assert door.server.tally.news() == {}


@pytest.mark.parametrize(("limit", "words"), [
    ("bulk", ("LPUSH", "gift", "x" * 2000)), ("elements", ("LPUSH", "gift", *"x" * 20)),
])
def test_limits_that_refuse_a_command_are_counted_and_the_connection_lives(limit: str, words: tuple[str, ...]) -> None:
    door = Door(Ingest(max_body_bytes=1024, limits=Limits(elements=16)))
    client = door.client()

    assert client.ask(*words).startswith("TOOBIG")
    assert dict(door.server.tally.limited) == {limit: 1}
    assert (refused(door), closed(door), client.ask("PING")) == ({"TOOBIG": 1}, {}, "PONG")
    door.close()


def _ends(client: Client) -> None:
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            client.read(5)


@pytest.mark.parametrize(("reason", "data"), [
    ("inline", b"x" * 9000), ("garbage", b"GET / HTTP/1.1\r\n"), ("garbage", b"*1\r\n$x\r\n"),
    ("garbage", b"\x16\x03\x01\x02\x00"),
])
def test_clients_that_speak_something_else_are_counted(door: Door, client: Client, reason: str, data: bytes) -> None:
    client.send(data)
    assert client.read().startswith("ERR")
    client.close()

    assert closed(door) == {reason: 1}


def test_command_that_is_never_complete_is_counted(door: Door, client: Client) -> None:
    client.send(b"*2\r\n$4\r\nECHO\r\n")
    door.until(lambda: bool(door.server._watched))
    door.clock.ahead_s += 11
    door.server._sweep()
    _ends(client)

    assert closed(door) == {"command_time": 1}


def test_client_that_does_not_read_is_counted_when_it_is_not_read_from_and_when_it_is_closed() -> None:
    door = Door(Ingest(limits=Limits(unread_bytes=64 * 1024)))
    client = door.client()
    sender = gevent.spawn(client.send, encode("ECHO", "x" * 60_000) * 20)
    door.until(lambda: door.server.tally.limited["unread"] == 1)
    sender.kill()
    door.clock.ahead_s += 31
    door.server._sweep()

    assert closed(door) == {"unread_time": 1}
    door.close()


def test_clients_that_keep_too_much_are_counted(door: Door, client: Client) -> None:
    client.send(b"*2\r\n$4\r\nECHO\r\n$1000000\r\n" + b"x" * 100_000)
    door.until(lambda: door.server.held_bytes > 50_000)
    next(iter(door.server.connections)).evict(1 << 20)
    _ends(client)

    assert closed(door) == {"memory": 1}


def test_one_connection_too_many_is_counted() -> None:
    door = Door(Ingest(limits=Limits(connections=1)))
    door.client().ask("PING")
    _ends(door.client())

    assert closed(door) == {"connections": 1}
    door.close()


def test_news_are_what_came_since_the_last_look() -> None:
    tally = Tally()
    tally.refuse("NOAUTH x", 3)
    tally.close("garbage")
    assert tally.news() == {"refused": {"NOAUTH": 3}, "closed": {"garbage": 1}, "limited": {}}
    tally.refuse("NOAUTH x")
    tally.error(b"-QUEUEFULL x\r\n")
    assert tally.news() == {"refused": {"NOAUTH": 1, "QUEUEFULL": 1}, "closed": {}, "limited": {}}
    assert tally.news() == {}


def test_words_are_bounded() -> None:
    tally = Tally()
    for number in range(1000):
        tally.close(f"reason {number}")

    assert len(tally.closed) == WORDS_MOST


def test_info_shows_the_counters(door: Door, client: Client) -> None:
    client.ask("LPUSH", "nope", "a")
    client.ask("NOSUCH")
    door.client().send(b"GET / HTTP/1.1\r\n").read()

    client.ask("LPUSH", "gift", *"x" * 20_000)

    text = client.ask("INFO", "stats")
    assert "limited_elements:1\r\n" in text
    assert "total_error_replies:3\r\n" in text
    assert "closed_garbage:1\r\n" in text
    assert "errorstat_NOQUEUE:count=1\r\n" in client.ask("INFO", "errorstats")




def test_errors_inside_a_transaction_are_counted_once_each(client: Client, door: Door) -> None:
    client.ask("MULTI")
    for words in (("LPUSH", "gift", "a"), ("CLIENT", "NONSENSE"), ("CLIENT", "NONSENSE")):
        assert client.ask(*words) == "QUEUED"
    assert len(client.ask("EXEC")) == 3
    assert refused(door) == {"ERR": 2}

    client.ask("MULTI")
    client.ask("LPUSH", "nope", "a")
    client.ask("LLEN", "nope")
    client.ask("EXEC")
    assert refused(door) == {"ERR": 2, "NOQUEUE": 2, "EXECABORT": 1}


@pytest.mark.parametrize(
    ("failure", "counts"),
    [(MaybeStored("cut"), {"MAYBESTORED": 1}), (Unavailable("gone"), {"UNAVAILABLE": 1, "EXECABORT": 1})],
)
def test_transaction_that_the_store_refuses_is_counted_once_a_word(
    client: Client, door: Door, failure: Exception, counts: dict[str, int]
) -> None:
    door.driver.fail_append = failure
    for words in (("MULTI",), ("LPUSH", "gift", "a"), ("LPUSH", "gift", "b"), ("EXEC",)):
        client.ask(*words)

    assert {word: count for word, count in refused(door).items() if count} == counts


def test_job_that_a_program_does_not_hold_is_a_refusal(door: Door) -> None:
    token, _ = door.token("pepper", "php/credit")
    program = door.client()
    program.ask("AUTH", token)
    program.ask("LPUSH", "php/credit", '{"jobs":[{"id":"1000-1"}]}')

    assert refused(door) == {"BADVALUE": 1}


def test_ack_that_is_refused_later_is_counted_once(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("gone")
    client.ask("XACK", "gift", "credit", "1000-1")

    assert refused(door) == {"UNAVAILABLE": 1}
