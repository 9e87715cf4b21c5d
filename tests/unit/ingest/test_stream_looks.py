"""XRANGE, XPENDING, XINFO: a queue as one looks at a stream; XGROUP, XAUTOCLAIM, XCLAIM: what libraries say first."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.errors import Unavailable
from pbus.ingest import stream_looks
from tests.unit.ingest.door import Client, Door

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def filled(client: Client) -> Client:
    """Jobs 1000-1 to 1000-4; the first is running, read by c1, the second by c2."""
    client.ask("XADD", "gift", "*", "body", "a", "key", "k", "traceparent", TRACE)
    client.ask("LPUSH", "gift", "b", "c", "d")
    client.ask("XREADGROUP", "GROUP", "credit", "c1", "COUNT", "1", "STREAMS", "gift", ">")
    client.ask("XREADGROUP", "GROUP", "credit", "c2", "COUNT", "1", "STREAMS", "gift", ">")
    return client


def ids(entries: list[Any]) -> list[str]:
    return [entry[0] for entry in entries]


def pairs(flat: list[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


# -- XRANGE ---------------------------------------------------------------------------------------


def test_range_shows_entries_as_they_were_added(filled: Client) -> None:
    assert filled.ask("XRANGE", "gift", "-", "+", "COUNT", "2") == [
        ["1000-1", ["body", "a", "key", "k", "traceparent", TRACE]], ["1000-2", ["body", "b"]],
    ]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("-", "+"), [1, 2, 3, 4]),
        (("1000-2", "1000-3"), [2, 3]),
        (("(1000-2", "+"), [3, 4]),
        (("-", "(1000-2"), [1]),
        (("1000", "1000"), [1, 2, 3, 4]),
        (("1000-3", "1000-3"), [3]),
        (("1001", "+"), []),
        (("+", "-"), []),
        (("-", "+", "COUNT", "3"), [1, 2, 3]),
        (("-", "+", "count", "99999"), [1, 2, 3, 4]),
    ],
)
def test_range_is_that_of_its_bounds(filled: Client, words: tuple[str, ...], wanted: list[int]) -> None:
    start, end, *count = words
    names = [f"1000-{number}" for number in wanted]

    assert ids(filled.ask("XRANGE", "gift", *words)) == names
    if "COUNT" not in words:                          # that is counted from the other end
        assert ids(filled.ask("XREVRANGE", "gift", end, start, *count)) == names[::-1]


def test_range_backwards_begins_with_the_newest(filled: Client) -> None:
    assert ids(filled.ask("XREVRANGE", "live:gift:list", "+", "-", "COUNT", "2")) == ["1000-4", "1000-3"]


def test_range_of_one_id_finds_what_the_log_has_dropped(door: Door, filled: Client) -> None:
    door.driver.kept["gift"].clear()

    assert filled.ask("XRANGE", "gift", "1000-1", "1000-1") == [["1000-1", ["body", "a"]]]
    assert ids(filled.ask("XREVRANGE", "gift", "1000-1", "1000-1")) == ["1000-1"]
    assert filled.ask("XRANGE", "gift", "-", "+") == []


@pytest.mark.parametrize("page", [70, 1_000])
def test_range_of_more_than_a_page_is_read_to_its_bound(door: Door, client: Client, page: int) -> None:
    door.driver.page = page
    client.ask("LPUSH", "gift", *["x"] * 1_500)

    assert len(client.ask("XRANGE", "gift", "-", "+")) == stream_looks.MOST_JOBS
    assert len(client.ask("XREVRANGE", "gift", "+", "-", "COUNT", "1400")) == stream_looks.MOST_JOBS
    assert len(client.ask("XRANGE", "gift", "-", "+", "COUNT", "150")) == 150


def test_bodies_of_one_range_are_bounded(door: Door, client: Client) -> None:
    for _ in range(6):
        client.ask("LPUSH", "gift", *["x" * 100_000] * 90)

    door.driver.page = 40
    for words in (("XRANGE", "gift", "-", "+"), ("XREVRANGE", "gift", "+", "-")):
        assert len(client.ask(*words)) == 80


@pytest.mark.parametrize("command", ["XRANGE", "XREVRANGE"])
@pytest.mark.parametrize("count", ["0", "-5"])
def test_range_of_no_count_is_nothing(client: Client, command: str, count: str) -> None:
    assert client.ask(command, "gift", "-", "+", "COUNT", count) is None


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("XRANGE", "gift", "x", "+"), "ERR Invalid stream ID specified as stream command argument"),
        (("XRANGE", "gift", "-", "(0-0"), "ERR invalid end ID for the interval"),
        (("XRANGE", "gift", "-", "+", "COUNT"), "ERR syntax error"),
        (("XRANGE", "gift", "-", "+", "FOO", "1"), "ERR syntax error"),
        (("XRANGE", "gift", "-", "+", "COUNT", "x"), "ERR value is not an integer or out of range"),
        (("XRANGE", "gift", "-", "+", "COUNT", "9" * 19), "ERR value is not an integer or out of range"),
        (("XRANGE", "nope", "-", "+"), "NOQUEUE there is no queue 'nope'"),
        (("XRANGE", "safe", "-", "+"), "NOAUTH safe needs AUTH safe PASSWORD first"),
        (("XRANGE", "gift/credit", "-", "+"), "NOQUEUE there is no queue 'gift/credit'"),
        (("XRANGE", "gift", "-"), "ERR wrong number of arguments for 'xrange' command"),
        (("XPENDING", "gift", "nope"), "NOTOPIC there is no topic 'gift/nope'"),
        (("XPENDING", "nope", "credit"), "NOQUEUE there is no queue 'nope'"),
        (("XPENDING", "safe", "credit"), "NOAUTH safe/credit needs AUTH safe PASSWORD first"),
        (("XPENDING", "safe", "nope"), "NOAUTH safe/nope needs AUTH safe PASSWORD first"),
        (("XPENDING", "gift", "credit", "-"), "ERR syntax error"),
        (("XPENDING", "gift", "credit", "-", "+"), "ERR syntax error"),
        (("XPENDING", "gift", "credit", "IDLE"), "ERR syntax error"),
        (("XPENDING", "gift", "credit", "IDLE", "x", "-", "+", "1"), "ERR value is not an integer or out of range"),
        (("XPENDING", "gift", "credit", "-", "+", "x"), "ERR value is not an integer or out of range"),
        (("XPENDING", "gift", "credit", "x", "+", "1"), "ERR Invalid stream ID specified as stream command argument"),
        (("XINFO", "STREAM", "nope"), "NOQUEUE there is no queue 'nope'"),
        (("XINFO", "STREAM", "safe"), "NOAUTH safe needs AUTH safe PASSWORD first"),
        (("XINFO", "STREAM", "gift", "FOO"), "ERR syntax error"),
        (("XINFO", "STREAM"), "ERR wrong number of arguments for 'xinfo|stream' command"),
        (("XINFO", "GROUPS", "safe"), "NOAUTH safe needs AUTH safe PASSWORD first"),
        (("XINFO", "GROUPS", "nope"), "NOQUEUE there is no queue 'nope'"),
        (("XINFO", "CONSUMERS", "gift", "nope"), "NOTOPIC there is no topic 'gift/nope'"),
        (("XINFO", "FOO", "gift"), "ERR unknown subcommand 'FOO'. Try XINFO HELP."),
        (("XINFO",), "ERR wrong number of arguments for 'xinfo' command"),
    ],
)
def test_refusal_of_a_look(client: Client, words: tuple[str, ...], wanted: str) -> None:
    assert client.ask(*words) == wanted
    assert client.ask("PING") == "PONG"


def test_look_while_the_store_is_away_says_so(door: Door, filled: Client) -> None:
    door.driver.fail = Unavailable("gone")

    for words in (("XRANGE", "gift", "-", "+"), ("XPENDING", "gift", "credit"), ("XINFO", "GROUPS", "gift")):
        assert filled.ask(*words) == "UNAVAILABLE gone: nothing is known, try again in 1 s"


# -- XPENDING -------------------------------------------------------------------------------------


def test_pending_in_sum(filled: Client) -> None:
    assert filled.ask("XPENDING", "gift", "credit") == [2, "1000-1", "1000-2", [["c1", "1"], ["c2", "1"]]]
    assert filled.ask("XPENDING", "gift", "mail") == [0, None, None, None]


def test_pending_one_by_one(door: Door, filled: Client) -> None:
    door.clock.ahead_s += 7.5
    rows = filled.ask("XPENDING", "gift", "credit", "-", "+", "10")

    assert [row[:2] + row[3:] for row in rows] == [["1000-1", "c1", 1], ["1000-2", "c2", 1]]
    assert all(7_500 <= row[2] < 9_500 for row in rows)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("-", "+", "1"), ["1000-1"]),
        (("(1000-1", "+", "9"), ["1000-2"]),
        (("-", "(1000-2", "9"), ["1000-1"]),
        (("-", "+", "9", "c2"), ["1000-2"]),
        (("-", "+", "9", "c3"), []),
        (("-", "+", "0"), []),
        (("-", "+", "-1"), []),
        (("IDLE", "0", "-", "+", "9"), ["1000-1", "1000-2"]),
        (("IDLE", "60000", "-", "+", "9"), []),
        (("idle", "0", "-", "+", "9", "c1"), ["1000-1"]),
    ],
)
def test_pending_of_a_part(filled: Client, words: tuple[str, ...], wanted: list[str]) -> None:
    assert ids(filled.ask("XPENDING", "gift", "credit", *words)) == wanted


def test_pending_is_bounded_and_says_how_many_there_are(door: Door, client: Client) -> None:
    for number in range(stream_looks.MOST_CLAIMS + 50):
        key = ("gift", "credit", f"1000-{number:05}")
        door.driver.claims[key], door.driver.owners_of[key] = b"", "other/b7/3.1"
    client.ask("LPUSH", "gift", "a")

    total, _, _, consumers = client.ask("XPENDING", "gift", "credit")
    assert (total, consumers) == (stream_looks.MOST_CLAIMS + 50, [["other/b7/3.1", str(stream_looks.MOST_CLAIMS)]])
    assert len(client.ask("XPENDING", "gift", "credit", "-", "+", "99999")) == stream_looks.MOST_ROWS


def test_claim_of_another_process_is_that_of_its_owner(door: Door, filled: Client) -> None:
    door.driver.owners_of["gift", "credit", "1000-1"] = "other/b7/3.1"
    door.store.puller.claims.end(("gift", "credit", "1000-1"), 0.0)

    assert filled.ask("XPENDING", "gift", "credit")[3] == [["c2", "1"], ["other/b7/3.1", "1"]]
    (row,) = filled.ask("XPENDING", "gift", "credit", "-", "+", "9", "other/b7/3.1")
    since_push_ms = door.clock.wall_s() * 1000 - 1000
    assert since_push_ms - 5_000 < row[2] <= since_push_ms


def test_claims_that_were_acked_are_not_pending(door: Door, filled: Client) -> None:
    assert filled.ask("XACK", "gift", "credit", "1000-1") == 1

    assert filled.ask("XPENDING", "gift", "credit") == [1, "1000-2", "1000-2", [["c2", "1"]]]


# -- XINFO ----------------------------------------------------------------------------------------


def test_consumers_are_who_holds_claims(filled: Client) -> None:
    rows = [pairs(row) for row in filled.ask("XINFO", "CONSUMERS", "gift", "credit")]

    assert [(row["name"], row["pending"]) for row in rows] == [("c1", 1), ("c2", 1)]
    assert all(0 <= row["idle"] < 5_000 and row["inactive"] == row["idle"] for row in rows)
    assert filled.ask("XINFO", "CONSUMERS", "gift", "mail") == []


def test_groups_are_the_topics(filled: Client) -> None:
    credit, mail = (pairs(row) for row in filled.ask("XINFO", "GROUPS", "gift"))

    assert list(credit) == ["name", "consumers", "pending", "last-delivered-id", "entries-read", "lag"]
    assert (credit["name"], credit["consumers"], credit["pending"], credit["lag"]) == ("credit", 2, 2, 2)
    assert (credit["last-delivered-id"], credit["entries-read"]) == ("1000-2", 2)
    assert (mail["name"], mail["pending"], mail["lag"], mail["last-delivered-id"]) == ("mail", 0, 4, "0-0")


def test_last_id_of_a_group_that_has_taken_everything_is_the_newest(filled: Client) -> None:
    filled.ask("RPOP", "gift/credit", "9")

    assert pairs(filled.ask("XINFO", "GROUPS", "gift")[0])["last-delivered-id"] == "1000-4"


def test_groups_are_those_that_may_be_looked_at(door: Door, client: Client) -> None:
    client.ask("AUTH", "safe/own", "topic-pw")
    assert [pairs(row)["name"] for row in client.ask("XINFO", "GROUPS", "safe")] == ["own"]
    assert client.ask("XPENDING", "safe", "own") == [0, None, None, None]
    assert client.ask("XPENDING", "safe", "credit") == "NOPERM safe/own may not look at safe/credit"
    assert client.ask("XRANGE", "safe", "-", "+") == "NOPERM safe/own may not look at safe"

    other = door.client(local=False)
    other.ask("AUTH", "safe/own", "topic-pw")
    assert other.ask("XINFO", "GROUPS", "gift") == "NOPERM safe/own may not look at gift"


def test_stream_says_what_the_store_has(filled: Client) -> None:
    filled.ask("RPOP", "gift/credit")
    found = pairs(filled.ask("XINFO", "STREAM", "gift"))

    assert (found["length"], found["entries-added"], found["groups"]) == (filled.ask("XLEN", "gift"), 4, 2)
    assert (found["recorded-first-entry-id"], found["last-generated-id"]) == ("1000-1", "1000-4")
    assert (found["first-entry"][0], found["last-entry"]) == ("1000-1", ["1000-4", ["body", "d"]])


def test_stream_of_an_empty_queue(client: Client) -> None:
    found = pairs(client.ask("XINFO", "STREAM", "mail"))

    assert (found["length"], found["last-generated-id"]) == (0, "0-0")
    assert (found["first-entry"], found["last-entry"]) == (None, None)
    assert pairs(client.ask("XINFO", "GROUPS", "mail")[0])["last-delivered-id"] == "0-0"


def test_stream_in_full_lists_claims(door: Door, filled: Client) -> None:
    found = pairs(filled.ask("XINFO", "STREAM", "gift", "FULL", "COUNT", "1"))
    credit, mail = (pairs(group) for group in found["groups"])
    (consumer, _) = credit["consumers"]

    assert ids(found["entries"]) == ["1000-1"]
    assert (credit["name"], credit["pel-count"], credit["lag"], mail["pel-count"]) == ("credit", 2, 2, 0)
    ((job_id, name, at_ms, deliveries),) = credit["pending"]
    assert (job_id, name, deliveries) == ("1000-1", "c1", 1)
    assert abs(at_ms - door.clock.wall_s() * 1000) < 5_000
    assert pairs(consumer)["pending"][0][0] == "1000-1"
    for words in ((), ("COUNT", "0"), ("COUNT", "-1")):
        assert len(pairs(filled.ask("XINFO", "STREAM", "gift", "FULL", *words))["entries"]) == 4


def test_look_in_resp_3_is_of_maps(filled: Client) -> None:
    filled.ask("HELLO", "3")

    assert filled.ask("XINFO", "GROUPS", "gift")[0]["name"] == "credit"
    assert filled.ask("XINFO", "STREAM", "gift")["groups"] == 2
    assert filled.ask("XINFO", "STREAM", "gift", "FULL")["groups"][0]["consumers"][0]["name"] == "c1"
    assert filled.ask("XINFO", "CONSUMERS", "gift", "credit")[1]["name"] == "c2"
    assert filled.ask("XRANGE", "gift", "-", "+")[1] == ["1000-2", ["body", "b"]]


# -- XGROUP, XAUTOCLAIM, XCLAIM -------------------------------------------------------------------

FIXED = ": topics are made and removed in the configuration of the bus: nothing is changed"
INVALID = "ERR Invalid stream ID specified as stream command argument"
ADVICE = ": queues and topics are made in the configuration of the bus, [queue.NAME.topic.NAME] with pull = {}"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("XGROUP", "CREATE", "gift", "credit", "0"), "BUSYGROUP Consumer Group name already exists"),
        (("XGROUP", "create", "gift", "mail", "$", "MKSTREAM"), "BUSYGROUP Consumer Group name already exists"),
        (("XGROUP", "CREATE", "gift", "nope", "0"), f"NOTOPIC there is no topic 'gift/nope'{ADVICE}"),
        (("XGROUP", "CREATE", "nope", "credit", "0", "MKSTREAM"), f"NOQUEUE there is no queue 'nope'{ADVICE}"),
        (("XGROUP", "CREATE", "safe", "own", "0"), "NOAUTH safe/own needs AUTH safe PASSWORD first"),
        (("XGROUP", "CREATE", "gift"), "ERR wrong number of arguments for 'xgroup|create' command"),
        (("XGROUP", "CREATECONSUMER", "gift", "credit", "c1"), 0),
        (("XGROUP", "CREATECONSUMER", "gift", "credit", "c9"), 1),
        (("XGROUP", "DELCONSUMER", "gift", "credit", "c1"), 0),
        (("XGROUP", "DELCONSUMER", "gift", "nope", "c1"), "NOTOPIC there is no topic 'gift/nope'"),
        (("XGROUP", "DESTROY", "gift", "credit"), "BADVALUE XGROUP DESTROY gift credit" + FIXED),
        (("XGROUP", "SETID", "gift", "credit", "0"), "BADVALUE XGROUP SETID gift credit" + FIXED),
        (("XGROUP", "FOO", "gift"), "ERR unknown subcommand 'FOO'. Try XGROUP HELP."),
        (("XGROUP",), "ERR wrong number of arguments for 'xgroup' command"),
        (("XAUTOCLAIM", "gift", "credit", "c2", "0", "0-0"), ["0-0", [], []]),
        (("XAUTOCLAIM", "gift", "credit", "c2", "0", "(0-5", "count", "5", "JUSTID"), ["0-0", [], []]),
        (("XAUTOCLAIM", "gift", "nope", "c2", "0", "0-0"), "NOTOPIC there is no topic 'gift/nope'"),
        (("XAUTOCLAIM", "gift", "credit", "c2", "x", "0-0"), "ERR Invalid min-idle-time argument for XAUTOCLAIM"),
        (("XAUTOCLAIM", "gift", "credit", "c2", "0", "x"), INVALID),
        (("XAUTOCLAIM", "gift", "credit", "c2", "0", "0", "COUNT", "0"), "ERR COUNT must be > 0"),
        (("XAUTOCLAIM", "gift", "credit", "c2", "0", "0", "FOO"), "ERR syntax error"),
        (("XAUTOCLAIM", "gift", "credit", "c2", "0", "0", "COUNT"), "ERR syntax error"),
        (("XCLAIM", "gift", "credit", "c2", "0", "1000-1", "1000-2"), []),
        (("XCLAIM", "gift", "credit", "c2", "0", "1000-1", "IDLE", "5", "FORCE", "JUSTID"), []),
        (("XCLAIM", "gift", "credit", "c2", "x", "1000-1"), "ERR Invalid min-idle-time argument for XCLAIM"),
        (("XCLAIM", "gift", "credit", "c2", "0", "foo"), "ERR Unrecognized XCLAIM option 'foo'"),
        (("XCLAIM", "gift", "credit", "c2", "0", "1x"), "ERR Invalid stream ID specified as stream command argument"),
        (("XCLAIM", "gift", "credit", "c2", "0", "1000-1", "IDLE"), "ERR Unrecognized XCLAIM option 'IDLE'"),
    ],
)
def test_what_libraries_say_about_groups(filled: Client, words: tuple[str, ...], wanted: object) -> None:
    assert filled.ask(*words) == wanted
    assert filled.ask("XPENDING", "gift", "credit")[0] == 2


def test_help_of_a_command_with_subcommands(client: Client) -> None:
    lines = client.ask("XINFO", "HELP")

    assert lines[0] == "XINFO <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    assert "STREAM queue [FULL [COUNT n]]" in lines
