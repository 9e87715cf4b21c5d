"""PBUS.PARENT: pushes belong to the trace of the job that they come from."""

from __future__ import annotations

import json

import pytest

from pbus.core.traceparent import PATTERN, trace_id
from pbus.errors import Unavailable
from pbus.storage.driver import JobRecord, Place
from tests.unit.ingest.door import Client, Door, encode

ID = "1700000000000-3"
OTHER_ID = "1700000000000-4"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
ELSEWHERE = f"00-{'e' * 32}-{'f' * 16}-01"


def pushed(door: Door) -> list[str]:
    """Trace contexts of everything that was pushed."""
    return [push.traceparent for append in door.driver.appends for push in append]


def traces(door: Door) -> list[str]:
    """Trace ids of the same; empty: none."""
    return [trace_id(each, "") if each else "" for each in pushed(door)]


def keep(door: Door, queue: str, traceparent: str, state: str = "ready") -> None:
    """The store has a job ID in *queue*."""
    door.driver.kept[queue].append(JobRecord(ID, queue, b"", traceparent, "", "", 0, {"credit": Place(state)}))


def test_later_pushes_are_children_of_the_job(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "before")

    assert client.ask("PBUS.PARENT", ID, TRACEPARENT) == "OK"
    for words in (
        ("LPUSH", "gift", "a"), ("LPUSH", "gift", "a"), ("RPUSH", "gift", "b", "c"), ("XADD", "gift", "*", "body", "d"),
        ("PBUS.ADD", "mail", "e"), ("PUBLISH", "gift", "f"),
    ):
        assert client.ask(*words)

    assert traces(door) == ["", *[TRACE] * 7]
    children = pushed(door)[1:]
    assert all(PATTERN.match(each) and each.endswith("-01") for each in children)
    assert len({each.split("-")[2] for each in children}) == 7, "each push has a span of its own"
    assert "b7ad6b7169203331" not in "".join(children)


def test_children_name_the_span_of_the_job_where_spans_are_exported(door: Door, client: Client) -> None:
    door.server.exports_spans = True
    client.ask("PBUS.PARENT", ID, TRACEPARENT)
    client.ask("RPUSH", "gift", "b", "c")
    client.ask("PBUS.PARENT", ID, TRACEPARENT[:-2] + "00")
    client.ask("LPUSH", "gift", "d")
    assert pushed(door)[:2] == [TRACEPARENT] * 2
    assert traces(door)[2] == TRACE
    assert "b7ad6b7169203331" not in pushed(door)[2], "nobody exports the span of that one"


def test_trace_of_their_own_is_kept(door: Door, client: Client) -> None:
    client.ask("PBUS.PARENT", ID, TRACEPARENT)

    client.ask("PBUS.ADD", "gift", "a", "TRACEPARENT", ELSEWHERE)
    client.ask("XADD", "gift", "*", "body", "a", "traceparent", "not of w3c")

    assert pushed(door) == [ELSEWHERE, "not of w3c"]


def test_job_without_a_trace_has_the_one_made_of_its_id(door: Door, client: Client) -> None:
    client.ask("PBUS.PARENT", ID, "")
    client.ask("LPUSH", "gift", "a")
    client.ask("PBUS.PARENT", ID, "nothing a trace could be")
    client.ask("LPUSH", "gift", "a")

    assert traces(door) == [trace_id("", ID)] * 2
    assert pushed(door)[0].endswith("-00")


@pytest.mark.parametrize(
    "ending", [("PBUS.PARENT", ""), ("RESET",), ("AUTH", "gift", ""), ("HELLO", "2", "AUTH", "gift", "")]
)
def test_it_ends(door: Door, client: Client, ending: tuple[str, ...]) -> None:
    client.ask("LPUSH", "gift", "a")
    client.ask("PBUS.PARENT", ID, TRACEPARENT)
    assert not isinstance(client.ask(*ending), Exception)

    client.send(encode("LPUSH", "gift", "a") * 2)

    assert [client.read(), client.read()] == [3, 3]
    assert traces(door) == ["", "", ""]


def test_other_commands_do_not_end_it(door: Door, client: Client) -> None:
    client.ask("PBUS.PARENT", ID, TRACEPARENT)
    client.ask("HELLO", "3")
    client.ask("PING")
    client.ask("LPUSH", "gift", "a")

    assert traces(door) == [TRACE]


def test_pushes_before_it_in_a_pipeline_are_nobodys_children(door: Door, client: Client) -> None:
    client.send(
        encode("LPUSH", "gift", "a") * 3 + encode("PBUS.PARENT", ID, TRACEPARENT) + encode("LPUSH", "gift", "b") * 3
        + encode("PBUS.PARENT", "") + encode("LPUSH", "gift", "c")
    )

    assert [client.read() for _ in range(9)] == [3, 3, 3, "OK", 6, 6, 6, "OK", 7]
    assert traces(door) == ["", "", "", TRACE, TRACE, TRACE, ""]


def test_connections_have_parents_of_their_own(door: Door, client: Client) -> None:
    other = door.client()
    client.ask("PBUS.PARENT", ID, TRACEPARENT)

    other.ask("LPUSH", "gift", "a")
    client.ask("LPUSH", "gift", "a")

    assert traces(door) == ["", TRACE]


def test_json_of_the_old_contract_names_the_trace_of_the_parent(door: Door, client: Client) -> None:
    client.ask("PBUS.PARENT", ID, TRACEPARENT)

    answer = json.loads(client.ask("LPUSH", "old/any", "a", "b"))

    assert answer["inTraceId"] == TRACE
    assert traces(door) == [TRACE, TRACE]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("x",), "BADVALUE PBUS.PARENT takes the id of a job, not 'x': nothing is changed"),
        ((f"{ID} ",), f"BADVALUE PBUS.PARENT takes the id of a job, not '{ID} ': nothing is changed"),
        ((ID, "x" * 257), "BADVALUE traceparent must be at most 256 printable ASCII bytes: nothing is changed"),
        ((ID, "a", "b"), "BADVALUE PBUS.PARENT takes the id of a job, and a traceparent: nothing is changed"),
        ((), "ERR wrong number of arguments for 'pbus.parent' command"),
    ],
)
def test_wrong_words_change_nothing(door: Door, client: Client, words: tuple[str, ...], answer: str) -> None:
    client.ask("PBUS.PARENT", ID, TRACEPARENT)

    assert client.ask("PBUS.PARENT", *words) == answer
    client.ask("LPUSH", "gift", "a")
    assert traces(door) == [TRACE]


def test_strangers_have_no_parents(door: Door) -> None:
    assert door.client(local=False).ask("PBUS.PARENT", ID) == "NOAUTH Authentication required."


# -- looking it up ----------------------------------------------------------------------------


def test_trace_of_the_job_is_looked_up(door: Door, client: Client) -> None:
    keep(door, "gift", TRACEPARENT)

    client.send(encode("PBUS.PARENT", ID) + encode("LPUSH", "gift", "a"))

    assert [client.read(), client.read()] == ["OK", 1]
    assert traces(door) == [TRACE]


def test_job_that_nobody_finds_has_the_trace_made_of_its_id(door: Door, client: Client) -> None:
    assert client.ask("PBUS.PARENT", ID) == "OK"
    client.ask("LPUSH", "gift", "a")

    assert traces(door) == [trace_id("", ID)]


def test_what_the_connection_has_read_itself_is_known(door: Door, client: Client) -> None:
    client.ask("XADD", "gift", "*", "body", "a", "traceparent", TRACEPARENT)
    ((_, ((job_id, _),)),) = client.ask("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "gift", ">")
    (claim,) = next(iter(door.server.connections)).reader.claims.values()  # type: ignore[union-attr]
    claim.delivery.traceparent = TRACEPARENT          # the store of these tests forgets it
    door.driver.job = None  # type: ignore[assignment, method-assign] - the store is not asked

    assert client.ask("PBUS.PARENT", job_id) == "OK"
    client.ask("LPUSH", "mail", "b")
    assert traces(door)[-1] == TRACE


def test_one_id_in_two_queues_is_the_job_that_runs(door: Door, client: Client) -> None:
    keep(door, "mail", ELSEWHERE, "ended")
    keep(door, "gift", TRACEPARENT, "running")

    client.ask("PBUS.PARENT", ID)
    client.ask("LPUSH", "gift", "a")

    assert traces(door) == [TRACE]


def test_trace_of_one_of_two_jobs_is_not_guessed(door: Door, client: Client) -> None:
    keep(door, "mail", ELSEWHERE)
    keep(door, "gift", TRACEPARENT)

    client.ask("PBUS.PARENT", ID)
    client.ask("LPUSH", "gift", "a")

    assert traces(door) == [trace_id("", ID)]


def test_queues_of_others_are_not_looked_at(door: Door, client: Client) -> None:
    keep(door, "safe", TRACEPARENT)

    client.ask("PBUS.PARENT", ID)
    client.ask("LPUSH", "gift", "a")
    client.ask("AUTH", "live", "live-pw")
    client.ask("PBUS.PARENT", ID)
    client.ask("LPUSH", "safe", "a")

    assert traces(door) == [trace_id("", ID), TRACE]


def test_topic_looks_at_the_queue_that_it_pulls_from(door: Door) -> None:
    keep(door, "safe", TRACEPARENT)
    client = door.client()
    client.ask("AUTH", "safe/own", "topic-pw")

    client.ask("PBUS.PARENT", ID)
    client.ask("LPUSH", "gift", "a")

    assert traces(door) == [TRACE]


def test_store_that_cannot_be_asked_says_so_and_changes_nothing(door: Door, client: Client) -> None:
    client.ask("PBUS.PARENT", ID, TRACEPARENT)
    door.driver.fail = Unavailable("gone")

    assert client.ask("PBUS.PARENT", OTHER_ID) == "UNAVAILABLE gone: nothing is known, try again in 1 s"

    door.driver.fail = None
    door.until(lambda: not door.store.away)
    client.ask("LPUSH", "gift", "a")
    assert traces(door) == [TRACE]


# -- transactions -----------------------------------------------------------------------------


def test_parent_in_a_transaction_is_that_of_the_pushes_behind_it(door: Door, client: Client) -> None:
    keep(door, "gift", ELSEWHERE)
    client.ask("PBUS.PARENT", OTHER_ID, "")
    for words in (
        ("MULTI",), ("LPUSH", "gift", "a"), ("PBUS.PARENT", ID), ("LPUSH", "gift", "b"), ("LPUSH", "old/any", "c"),
        ("PBUS.PARENT", ""), ("LPUSH", "gift", "d"), ("PBUS.PARENT", ID, TRACEPARENT), ("LPUSH", "gift", "e"),
    ):
        assert client.ask(*words) in ("OK", "QUEUED")

    replies = client.ask("EXEC")
    client.ask("LPUSH", "gift", "after")

    assert [*replies[:3], *replies[4:]] == [4, "OK", 4, "OK", 4, "OK", 4]
    assert json.loads(replies[3])["inTraceId"] == "e" * 32
    assert traces(door) == [trace_id("", OTHER_ID), "e" * 32, "e" * 32, "", TRACE, TRACE]


def test_parent_alone_in_a_transaction(door: Door, client: Client) -> None:
    client.send(
        encode("MULTI") + encode("PBUS.PARENT", ID, TRACEPARENT) + encode("EXEC") + encode("ECHO", "x")
        + encode("LPUSH", "gift", "a") + encode("ECHO", "y") * 70
    )

    assert [client.read() for _ in range(5)] == ["OK", "QUEUED", ["OK"], "x", 1]
    assert [client.read() for _ in range(70)] == ["y"] * 70
    assert traces(door) == [TRACE]


def test_parent_of_a_transaction_that_is_not_stored_is_not_named(door: Door, client: Client) -> None:
    door.driver.refuse = "jobs"
    client.send(
        encode("MULTI") + encode("PBUS.PARENT", ID, TRACEPARENT) + encode("LPUSH", "gift", "a") + encode("EXEC")
        + encode("LPUSH", "gift", "small")
    )

    assert [client.read() for _ in range(3)] == ["OK", "QUEUED", "QUEUED"]
    assert client.read().startswith("EXECABORT QUEUEFULL")
    assert client.read() == 1
    assert traces(door)[-1] == ""


def test_parent_that_cannot_be_looked_up_aborts(door: Door, client: Client) -> None:
    client.send(encode("MULTI") + encode("PBUS.PARENT", ID) + encode("LPUSH", "gift", "a"))
    assert [client.read() for _ in range(3)] == ["OK", "QUEUED", "QUEUED"]
    door.driver.fail = Unavailable("gone")

    answer = "EXECABORT UNAVAILABLE gone: nothing of the transaction is stored, try again in 1 s"
    assert client.ask("EXEC") == answer
    assert client.ask("EXEC") == "ERR EXEC without MULTI"


def test_wrong_parent_in_a_transaction_aborts(door: Door, client: Client) -> None:
    client.ask("MULTI")

    assert client.ask("PBUS.PARENT", "x").startswith("BADVALUE")
    assert client.ask("EXEC").startswith("EXECABORT")


def test_bug_while_looking_up_ends_the_connection(door: Door, client: Client) -> None:
    client.ask("MULTI")
    client.ask("PBUS.PARENT", ID)
    door.driver.job = None  # type: ignore[assignment, method-assign]

    client.command("EXEC")
    with pytest.raises(EOFError):
        client.read()
