"""XDEL and LREM: cancelling what has not begun."""

from __future__ import annotations

import pytest

from pbus.errors import Unavailable
from tests.unit.ingest.door import Client, Door


def test_jobs_are_cancelled_for_every_topic(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a", "b", "c")

    assert client.ask("XDEL", "gift", "1000-1", "1000-3", "1000-9") == 2

    for topic in ("credit", "mail"):
        assert [entry[0] for entry in door.driver.ready["gift", topic]] == ["1000-2"]


def test_job_that_runs_everywhere_is_not_cancelled(client: Client) -> None:
    client.ask("LPUSH", "mail", "a")
    client.ask("XREADGROUP", "GROUP", "smtp", "c", "STREAMS", "mail", ">")

    assert client.ask("XDEL", "mail", "1000-1") == 0
    assert client.ask("XACK", "mail", "smtp", "1000-1") == 1


def test_job_is_cancelled_for_one_topic(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")

    assert client.ask("LREM", "gift/credit", "0", "1000-1") == 1
    assert client.ask("LREM", "gift/credit", "-1", "1000-1") == 0
    assert client.ask("LREM", "live:gift:list/mail", "1", "1000-1") == 1
    assert not any(door.driver.ready.values())


def test_cancelling_waits_for_the_pushes_before_it(door: Door, client: Client) -> None:
    client.command("LPUSH", "gift", "a").command("XDEL", "gift", "1000-1")

    assert [client.read(), client.read()] == [1, 1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("XDEL", "gift", "1000-1", "foo"), "ERR Invalid stream ID specified as stream command argument"),
        (("XDEL", "nope", "1000-1"), "NOQUEUE there is no queue 'nope': nothing is cancelled"),
        (("XDEL", "gift/credit", "1000-1"), "NOQUEUE there is no queue 'gift/credit': nothing is cancelled"),
        (("XDEL", "safe", "1000-1"), "NOAUTH safe needs AUTH safe PASSWORD first: nothing is cancelled"),
        (("XDEL", "gift"), "ERR wrong number of arguments for 'xdel' command"),
        (("LREM", "gift/credit", "x", "1000-1"), "ERR value is not an integer or out of range"),
        (("LREM", "gift/credit", "0", "the body"), "BADVALUE 'the body' is no job id; LREM takes the id that XADD "
                                                   "answered: nothing is cancelled"),
        (("LREM", "gift", "0", "1000-1"), "NOTOPIC 'gift' is a queue; LREM takes queue/topic, XDEL takes the queue: "
                                          "nothing is cancelled"),
        (("LREM", "gift/nope", "0", "1000-1"), "NOTOPIC there is no topic 'gift/nope': nothing is cancelled"),
        (("LREM", "nope/credit", "0", "1000-1"), "NOQUEUE there is no queue 'nope/credit': nothing is cancelled"),
        (("LREM", "safe/own", "0", "1000-1"), "NOAUTH safe needs AUTH safe PASSWORD first: nothing is cancelled"),
        (("LREM", "safe/nope", "0", "1000-1"), "NOAUTH safe needs AUTH safe PASSWORD first: nothing is cancelled"),
    ],
)
def test_refusal_of_a_cancel(door: Door, client: Client, words: tuple[str, ...], wanted: str) -> None:
    client.ask("LPUSH", "gift", "a")

    assert client.ask(*words) == wanted
    assert len(door.driver.ready["gift", "credit"]) == 1


def test_who_may_push_may_cancel_and_nobody_else(client: Client) -> None:
    client.ask("AUTH", "live", "live-pw")
    client.ask("LPUSH", "safe", "a", "b")
    assert client.ask("XDEL", "safe", "1000-1") == 1

    client.ask("AUTH", "safe/own", "topic-pw")
    assert client.ask("XDEL", "safe", "1000-2") == "NOPERM safe/own may not cancel jobs of safe: nothing is cancelled"
    assert client.ask("LREM", "safe/own", "0", "1000-2") == (
        "NOPERM safe/own may not cancel jobs of safe: nothing is cancelled"
    )

    client.ask("AUTH", "safe", "pw")
    assert client.ask("LREM", "safe/own", "0", "1000-2") == 1


def test_cancel_while_the_store_is_away_says_what_is_known(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    door.driver.fail = Unavailable("gone")

    in_the_middle = client.ask("XDEL", "gift", "1000-1")
    refused = client.ask("LREM", "gift/credit", "0", "1000-1")

    assert in_the_middle == "UNAVAILABLE gone: what is cancelled is not known, say it again in 1 s"
    assert refused == "UNAVAILABLE gone: nothing is cancelled, try again in 1 s"
