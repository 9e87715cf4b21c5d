"""Pushes: what is stored, what is answered, and what a refusal says."""

from __future__ import annotations

import json
import socket

import gevent
import pytest

from pbus.config.schema import Ingest, Queue
from pbus.core.job import PushOptions
from pbus.errors import Conflict, MaybeStored, Unavailable
from tests.unit.ingest.door import PULL, Client, Door, encode


MS = "takes whole milliseconds from 0 to 315360000000 (ten years)"
AWAY = "UNAVAILABLE the store 'main' is away (gone): not stored, try again in 1 s"


def bodies(door: Door) -> list[bytes]:
    return [push.body for append in door.driver.appends for push in append]


@pytest.mark.parametrize("command", ["LPUSH", "RPUSH", "lpush", "lPush", "LpUsH"])
def test_push_answers_the_backlog(client: Client, command: str) -> None:
    assert client.ask(command, "gift", "a") == 1
    assert client.ask(command, "gift", "b", "c") == 3


def test_push_of_several_bodies_is_one_append_in_order(door: Door, client: Client) -> None:
    assert client.ask("LPUSH", "gift", "a", "b", "c") == 3

    assert [[push.body for push in append] for append in door.driver.appends] == [[b"a", b"b", b"c"]]


def test_push_by_alias(door: Door, client: Client) -> None:
    assert client.ask("LPUSH", "live:gift:list", "a") == 1

    assert door.driver.appends[0][0].queue == "gift"


def test_empty_body_is_a_job(door: Door, client: Client) -> None:
    assert client.ask("LPUSH", "gift", "") == 1
    assert bodies(door) == [b""]


def test_xadd_answers_the_id_and_keeps_the_traceparent(door: Door, client: Client) -> None:
    assert client.ask("XADD", "gift", "*", "body", "b", "traceparent", "00-aa-bb-01") == "1000-1"

    assert door.driver.appends[0][0].traceparent == "00-aa-bb-01"


def test_pbus_add_answers_the_id(door: Door, client: Client) -> None:
    assert client.ask("PBUS.ADD", "gift", "b") == "1000-1"
    assert client.ask("PBUS.ADD", "gift", "c", "TRACEPARENT", "00-aa-bb-01") == "1000-2"
    assert door.driver.appends[1][0].traceparent == "00-aa-bb-01"


def test_pipeline_of_pbus_add_answers_each_id(client: Client) -> None:
    client.send(encode("PBUS.ADD", "gift", "a") * 4)

    assert [client.read() for _ in range(4)] == ["1000-1", "1000-2", "1000-3", "1000-4"]


def test_publish_answers_the_number_of_topics(client: Client) -> None:
    assert client.ask("PUBLISH", "gift", "b") == 2


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("LPUSH", "gfit", "b"), "NOQUEUE there is no queue 'gfit': not stored, did you mean 'gift'?"),
        (("LPUSH", "zzz", "b"), "NOQUEUE there is no queue 'zzz': not stored, add [queue.zzz] to the configuration"),
        (("LPUSH", "gift/credit", "b"), "NOQUEUE 'gift/credit' is a topic; push to 'gift': not stored"),
        (("LPUSH", "gfit/credit", "b"), "NOQUEUE there is no queue 'gfit/credit': not stored, did you mean 'gift'?"),
        (("LPUSH", "zzz/credit", "b"),
         "NOQUEUE there is no queue 'zzz/credit': not stored, add [queue.zzz] to the configuration"),
        (("LPUSH", "a b", "b"),
         "NOQUEUE there is no queue 'a b': not stored, the name of a queue has letters, digits, '_', '.' and '-'"),
        (("LPUSH", "gift/zzz", "b"),
         "NOQUEUE 'gift/zzz' is no queue; push to 'gift', all of its topics get the job: not stored"),
        (("LPUSH", "empty", "b"), "NOTOPIC empty has no topic, nobody would get the job: not stored, add "
                                  "[queue.empty.topic.NAME] to the configuration"),
        (("LPUSH", "safe", "b"), "NOAUTH safe needs AUTH safe PASSWORD first: not stored"),
        (("LPUSH", "gift"), "BADVALUE wrong number of arguments for 'lpush' command: not stored"),
        (("PUBLISH", "gift"), "BADVALUE wrong number of arguments for 'publish' command: not stored"),
        (("XADD", "gift", "5-1", "body", "b"),
         "BADVALUE XADD takes * as its id, not '5-1' (ids are made here): not stored"),
        (("XADD", "gift", "*", "bdy", "b"),
         "BADVALUE there is no option 'bdy', did you mean 'body'?: not stored"),
        (("PBUS.ADD", "gift", "b", "TRACEPRENT", "5"),
         "BADVALUE there is no option 'TRACEPRENT', did you mean 'traceparent'?: not stored"),
        (("PBUS.ADD", "gift", "b", "zzz", "5"),
         "BADVALUE there is no option 'zzz', there are delay, dedupe, ttl, key, traceparent: not stored"),
        (("XADD", "gift", "*", "traceparent", "b"), "BADVALUE XADD needs the field body: not stored"),
        (("XADD", "gift", "*", "body", "b", "body", "5"), "BADVALUE the option 'body' is given twice: not stored"),
        (("PBUS.ADD", "gift", "b", "DEDUPE"), "BADVALUE the option 'DEDUPE' has no value: not stored"),
        (("PBUS.ADD", "gift", "b", "TRACEPARENT", "x" * 257),
         "BADVALUE traceparent must be at most 256 printable ASCII bytes: not stored"),
        (("PBUS.ADD", "gift", "b", "TRACEPARENT", "a\nb"),
         "BADVALUE traceparent must be at most 256 printable ASCII bytes: not stored"),
    ],
)
def test_refusal_says_what_is_stored(door: Door, client: Client, words: tuple[str, ...], wanted: str) -> None:
    assert client.ask(*words) == wanted
    assert door.driver.appends == []
    assert client.ask("PING") == "PONG"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("delay", "-1", f"delay {MS}, not '-1'"),
        ("delay", "", f"delay {MS}, not ''"),
        ("delay", "1.5", f"delay {MS}, not '1.5'"),
        ("delay", " 1", f"delay {MS}, not ' 1'"),
        ("delay", "5m", f"delay {MS}, not '5m'"),
        ("delay", "315360000001", f"delay {MS}, not '315360000001'"),
        ("Delay", "9" * 40, f"delay {MS}, not '{'9' * 40}'"),
        ("ttl", "-1", f"ttl {MS}, not '-1'"),
        ("TTL", "soon", f"ttl {MS}, not 'soon'"),
        ("dedupe", "", "dedupe is empty, leave it out"),
        ("dedupe", "x" * 257, "dedupe takes at most 256 bytes, this one has 257"),
        ("dedupe", "x" * 10_240, "dedupe takes at most 256 bytes, this one has 10240"),
        ("dedupe", b"a\0b", "dedupe takes printable text, not 'a?b'"),
        ("key", "", "key is empty, leave it out"),
        ("key", b"a\0b", "key takes printable text, not 'a?b'"),
        ("key", b"\0", "key takes printable text, not '?'"),
        ("key", b"\xff", "key takes printable text, not '\ufffd'"),
        ("key", "a\nb", "key takes printable text, not 'a?b'"),
        ("key", "a\u202eb", "key takes printable text, not 'a?b'"),
        ("key", "é" * 129, "key takes at most 256 bytes, this one has 258"),
    ],
)
@pytest.mark.parametrize("form", [("XADD", "gift", "*", "body", "b"), ("PBUS.ADD", "gift", "b")])
def test_wrong_option_is_refused_alone_and_says_why(
    door: Door, client: Client, form: tuple[str, ...], name: str, value: str | bytes, wanted: str
) -> None:
    client.send(encode(*form) + encode(*form, name, value) + encode(*form) + encode("LPUSH", "gift", "c"))

    assert [client.read() for _ in range(4)] == ["1000-1", f"BADVALUE {wanted}: not stored", "1000-2", 3]
    assert bodies(door) == [b"b", b"b", b"c"]


@pytest.mark.parametrize("names", ["delay dedupe ttl key", "DELAY DEDUPE TTL KEY", "Delay DeDupe tTL kEY"])
@pytest.mark.parametrize("form", [("XADD", "gift", "*", "body", "b"), ("PBUS.ADD", "gift", "b")])
def test_options_reach_the_store(door: Door, client: Client, form: tuple[str, ...], names: str) -> None:
    delay, dedupe, ttl, key = names.split()
    assert client.ask(*form, key, "用户 1", delay, "0005", ttl, "315360000000", dedupe, "x" * 256) == "1000-1"

    (push,) = door.driver.appends[0]
    assert push.options == PushOptions(delay_ms=5, dedupe="x" * 256, ttl_ms=315_360_000_000, key="用户 1")
    assert push.span == 1


def test_push_without_options_carries_none(door: Door, client: Client) -> None:
    client.ask("XADD", "gift", "*", "body", "b", "delay", "0", "ttl", "0")
    client.ask("LPUSH", "gift", "b")

    assert [append[0].options for append in door.driver.appends] == [None, None]


def test_bodies_of_one_command_are_one_span(door: Door, client: Client) -> None:
    client.send(encode("LPUSH", "gift", "a", "b", "c") + encode("LPUSH", "gift", "d") * 2)
    for _ in range(3):
        client.read()

    assert [push.span for append in door.driver.appends for push in append] == [3, 0, 0, 1, 1]


def test_repeated_dedupe_key_answers_the_first_id(door: Door, client: Client) -> None:
    first = client.ask("XADD", "gift", "*", "body", "b", "dedupe", "k")

    assert client.ask("PBUS.ADD", "gift", "b", "DEDUPE", "k") == first
    assert client.ask("PBUS.ADD", "gift", "b", "DEDUPE", "l") != first
    assert door.server.stored_total == 2


@pytest.mark.parametrize(
    "words", [("LPUSH", "brief", "b"), ("LPUSH", "brief", "b", "c"), ("XADD", "brief", "*", "body", "b"),
              ("PBUS.ADD", "brief", "b"), ("PUBLISH", "brief", "b")]
)
def test_ttl_of_the_queue_goes_with_every_push_that_names_none(words: tuple[str, ...]) -> None:
    door = Door(queues={"brief": Queue(topic={"credit": PULL}, ttl_s=1.5)})
    client = door.client()
    client.send(encode(*words) * 3)
    for _ in range(3):
        client.read()

    pushes = [push for append in door.driver.appends for push in append]
    assert len(pushes) == 3 * (1 + (words[-1] == "c"))
    assert {push.options.ttl_ms if push.options else 0 for push in pushes} == {1500}
    door.close()


def test_push_may_have_a_ttl_of_its_own_or_none() -> None:
    door = Door(queues={"brief": Queue(topic={"credit": PULL}, ttl_s=1.5)})
    client = door.client()
    client.ask("XADD", "brief", "*", "body", "b", "ttl", "7", "key", "k")
    client.ask("PBUS.ADD", "brief", "b", "TTL", "0")

    assert [append[0].options for append in door.driver.appends] == [PushOptions(ttl_ms=7, key="k"), None]
    door.close()


def test_17_mib_are_too_big_and_their_neighbours_stored(door: Door, client: Client) -> None:
    gevent.spawn(
        client.send, encode("LPUSH", "gift", "a") + encode("LPUSH", "gift", b"x" * 17 * 1024 * 1024)
        + encode("LPUSH", "gift", "b", "c"),
    )

    replies = [client.read() for _ in range(3)]
    assert replies[1].startswith("TOOBIG gift takes at most 1048576 bytes a body, this one has 17825792: not stored")
    assert replies[2] == 3
    assert bodies(door) == [b"a", b"b", b"c"]


def test_names_of_strangers_are_shown_harmless(client: Client) -> None:
    assert client.ask("LPUSH", "a\x1b[31m\r\n+OK", "b").startswith("NOQUEUE there is no queue 'a?[31m??+OK'")


def test_body_over_the_limit_is_refused_alone(door: Door, client: Client) -> None:
    big = "x" * (1024 * 1024 + 1)
    client.send(encode("LPUSH", "gift", "a") + encode("LPUSH", "gift", big) + encode("LPUSH", "gift", "b"))

    replies = [client.read() for _ in range(3)]

    assert replies[0] in (1, 2)
    text = "TOOBIG gift takes at most 1048576 bytes a body, this one has 1048577"
    assert replies[1] == f"{text}: not stored, send it smaller"
    assert replies[2] == 2
    assert bodies(door) == [b"a", b"b"]


def test_one_body_over_the_limit_refuses_all_of_its_command(door: Door, client: Client) -> None:
    assert client.ask("LPUSH", "gift", "a", "x" * (1024 * 1024 + 1), "b").startswith("TOOBIG")
    assert bodies(door) == []


def test_body_at_the_limit_is_stored(client: Client) -> None:
    assert client.ask("LPUSH", "gift", "x" * (1024 * 1024)) == 1


def test_body_limit_below_the_length_of_names_holds() -> None:
    door = Door(Ingest(max_body_bytes=4))
    client = door.client()
    client.send(encode("LPUSH", "gift", "abcd") * 2 + encode("LPUSH", "gift", "abcde") + encode("LPUSH", "gift", "ab"))

    replies = [client.read() for _ in range(4)]

    assert replies[2] == "TOOBIG gift takes at most 4 bytes a body, this one has 5: not stored, send it smaller"
    assert bodies(door) == [b"abcd", b"abcd", b"ab"]
    door.close()


def test_too_many_elements_are_refused_and_the_connection_lives(client: Client) -> None:
    reply = client.ask("LPUSH", "gift", *["x"] * 10_000)

    assert reply == "TOOBIG the command has 10002 elements, 10000 is the most: not stored"
    assert client.ask("LPUSH", "gift", "a") == 1


# -- the old contract -----------------------------------------------------------------------------


def test_pepper_push_answers_json(door: Door, client: Client) -> None:
    answer = json.loads(client.ask("LPUSH", "old/anything/at all", "a", "b"))

    assert answer["jobs"] == ["1000-1", "1000-2"]
    assert answer["error"] == ""
    assert [push.traceparent[3:35] for push in door.driver.appends[0]] == [answer["inTraceId"]] * 2


def test_pepper_push_without_a_slash_answers_the_backlog(client: Client) -> None:
    assert client.ask("LPUSH", "old", "a") == 1


def test_pepper_refusals_are_json_too(door: Door, client: Client) -> None:
    too_big = json.loads(client.ask("LPUSH", "old/x", "x" * (1024 * 1024 + 1)))
    door.driver.fail = Unavailable("gone")
    first, second = (json.loads(client.ask("LPUSH", "old/x", "a")) for _ in range(2))

    assert too_big["jobs"] is None
    assert too_big["error"].startswith("TOOBIG old/x")
    assert first["jobs"] is None
    assert first["error"] == second["error"] == AWAY


# -- one append a turn ----------------------------------------------------------------------------


def test_pushes_of_all_connections_of_a_turn_are_one_append(door: Door) -> None:
    clients = [door.client() for _ in range(10)]
    for number, client in enumerate(clients):
        client.command("LPUSH", "gift", str(number))

    assert [client.read() for client in clients] == [10] * 10
    assert [len(append) for append in door.driver.appends] == [10]


def test_what_comes_during_an_append_is_the_next_one(door: Door) -> None:
    first, *others = [door.client() for _ in range(5)]
    door.driver.held_back = True
    first.command("LPUSH", "gift", "a")
    door.until(lambda: door.driver.open_appends, "the first append runs")
    for client in others:
        client.command("LPUSH", "gift", "b")
    assert others[0].silent()

    door.driver.go.set()

    assert first.read() == 1
    assert [client.read() for client in others] == [5] * 4
    assert [len(append) for append in door.driver.appends] == [1, 4]
    assert door.driver.batches == [1, 2]


def test_pipeline_is_one_append_up_to_the_next_other_command(door: Door, client: Client) -> None:
    push = encode("LPUSH", "gift", "a")
    client.send(push * 3 + encode("PING") + push * 2 + encode("LLEN", "gift") + push)

    assert [client.read() for _ in range(8)] == [3, 3, 3, "PONG", 5, 5, 5, 6]
    assert [len(append) for append in door.driver.appends] == [3, 2, 1]


def test_refused_push_is_no_barrier_and_keeps_its_place(door: Door, client: Client) -> None:
    client.send(
        encode("LPUSH", "gift", "a") + encode("LPUSH", "nope", "b") + encode("LPUSH", "gift", "c", "d")
        + encode("PBUS.ADD", "gift", "e")
    )

    replies = [client.read() for _ in range(4)]

    assert replies[0] == 4
    assert replies[1].startswith("NOQUEUE")
    assert replies[2:] == [4, "1000-4"]
    assert len(door.driver.appends) == 1


def test_a_thousand_pipelined_pushes_are_answered_in_order(client: Client) -> None:
    client.send(b"".join(encode("PBUS.ADD", "gift", str(number)) for number in range(1000)))

    assert [client.read() for _ in range(1000)] == [f"1000-{number}" for number in range(1, 1001)]


def test_nobody_gets_more_than_64_commands_done_in_a_turn(door: Door) -> None:
    greedy, modest = door.client(), door.client()
    greedy.send(encode("PING") * 1000)
    modest.command("LPUSH", "gift", "a")

    assert modest.read() == 1
    done = door.server.connections  # the greedy one still has commands to be executed
    assert any(connection._parser.unparsed_bytes for connection in done)
    assert [greedy.read() for _ in range(1000)] == ["PONG"] * 1000


def test_closed_connection_does_not_undo_its_pushes(door: Door) -> None:
    client, other = door.client(), door.client()
    door.driver.held_back = True
    client.command("LPUSH", "gift", "a")
    door.until(lambda: door.driver.open_appends)
    client.close()
    door.until(lambda: len(door.server.connections) <= 2)
    door.driver.go.set()

    assert other.ask("LPUSH", "gift", "b") == 2
    assert bodies(door) == [b"a", b"b"]


def test_client_that_says_no_more_is_still_answered(door: Door, client: Client) -> None:
    client.send(encode("LPUSH", "gift", "a") * 3 + encode("LLEN", "gift"))
    client.socket.shutdown(socket.SHUT_WR)

    assert [client.read() for _ in range(4)] == [3, 3, 3, 3]
    with pytest.raises(EOFError):
        client.read()


# -- the store is away ----------------------------------------------------------------------------


def test_push_while_the_store_is_away_is_refused_at_once(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("disk full")
    wanted = "UNAVAILABLE the store 'main' is away (disk full): not stored, try again in 1 s"

    assert client.ask("LPUSH", "gift", "a") == wanted
    door.driver.held_back = True                      # nobody may even try now
    assert client.ask("LPUSH", "gift", "b") == wanted
    assert door.child.problems["storage.main"] == "storage main is away: disk full"


def test_what_waited_behind_a_failed_append_is_refused_as_not_stored(door: Door) -> None:
    first, second = door.client(), door.client()
    door.driver.held_back = True
    first.command("LPUSH", "gift", "a")
    door.until(lambda: door.driver.open_appends)
    second.send(encode("LPUSH", "gift", "b") * 3)
    gone = MaybeStored("no answer")
    door.until(lambda: door.store.committer._waiting)
    door.driver.fail = gone
    door.driver.go.set()

    assert first.read() == (
        "MAYBESTORED the store 'main' went away in the middle of the write (no answer): maybe stored, "
        "push again only if a duplicate does no harm"
    )
    assert [second.read() for _ in range(3)] == [
        "UNAVAILABLE the store 'main' is away (no answer): not stored, try again in 1 s"
    ] * 3


def test_pushes_go_on_when_the_store_is_back(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("gone")
    client.ask("LPUSH", "gift", "a")
    declared = door.driver.declared

    door.driver.fail = None
    door.until(lambda: not door.store.away)

    assert client.ask("LPUSH", "gift", "a") == 1
    assert door.child.problems["storage.main"] == ""
    assert door.driver.declared > declared, "it may have come back empty"


def test_fenced_boot_stores_nothing_and_tells_the_master_once(door: Door, client: Client) -> None:
    door.driver.fail = Conflict("boot was declared dead")

    first, second = (client.ask("LPUSH", "gift", "a") for _ in range(2))

    assert first.startswith("UNAVAILABLE this node was taken for dead")
    assert second.startswith("UNAVAILABLE")
    assert ": not stored" in first
    assert ": not stored" in second
    assert door.child.told == [("fenced", {})]


def test_bug_of_a_driver_leaves_nobody_without_an_answer(door: Door, client: Client) -> None:
    door.driver.fail = ZeroDivisionError("bug")

    assert client.ask("LPUSH", "gift", "a").startswith("MAYBESTORED")


def test_store_away_at_the_start_is_told_and_waited_for() -> None:
    door = Door(fail=Unavailable("connection refused"))
    client = door.client()

    assert client.ask("LPUSH", "gift", "a").startswith("UNAVAILABLE the store 'main' is away (connection refused)")
    door.driver.fail = None
    door.until(lambda: not door.store.away)
    assert client.ask("LPUSH", "gift", "a") == 1
    door.close()


def test_mixed_pushes_of_many_clients_in_one_append_are_answered_each_in_its_own_way(door: Door) -> None:
    clients = [door.client() for _ in range(6)]
    for number, each in enumerate(clients):
        assert each.ask("LPUSH", "gift", f"first {number}") == number + 1
    door.driver.held_back = True
    opener = door.client().command("LPUSH", "gift", "opens")   # while this is written the others come together
    gevent.sleep(0.01)

    for number, each in enumerate(clients):
        queue, other = ("gift", "mail") if number % 2 else ("mail", "gift")
        each.send(encode("LPUSH", queue, f"{number}a") * 2 + encode("PBUS.ADD", other, f"{number}b") * 2)
        each.send(encode("XADD", queue, "*", "body", f"{number}c", "key", "k") + encode("PING"))
        each.command("LPUSH", queue, f"{number}d", f"{number}e")
    gevent.sleep(0.01)
    door.driver.held_back = False
    door.driver.go.set()

    assert opener.read() == 7
    replies = [[each.read() for _ in range(7)] for each in clients]
    ids = {push.body: push for append in door.driver.appends for push in append}
    assert len(ids) == 7 + 6 * 5
    for backlog, again, first_id, second_id, typed, pong, more in replies:
        assert isinstance(backlog, int)
        assert backlog == again
        assert len({first_id, second_id, typed}) == 3
        assert pong == "PONG"
        assert more > backlog
    pushed = [push for append in door.driver.appends[7:] for push in append]
    for number in range(6):
        own = [push.body.decode() for push in pushed if push.body.startswith(b"%d" % number)]
        assert own == [f"{number}{letter}" for letter in "aabbcde"]


def test_push_that_comes_while_one_is_written_is_answered_after_it(door: Door, client: Client) -> None:
    assert client.ask("LPUSH", "gift", "a") == 1
    door.driver.held_back = True
    for body in ("b", "c"):
        client.command("LPUSH", "gift", body)
        gevent.sleep(0.01)

    door.driver.go.set()

    assert [client.read(), client.read(), client.ask("PING")] == [2, 3, "PONG"]


def test_pushes_like_the_last_one_take_the_short_way_and_are_the_same(door: Door, client: Client) -> None:
    assert client.ask("LPUSH", "gift", "a") == 1
    assert client.ask("LPUSH", "gift", "b") == 2      # begins like the last one
    assert client.send(encode("LPUSH", "gift", "c") * 3).read() == 5
    assert [client.read(), client.read()] == [5, 5]
    half = encode("LPUSH", "gift", "d")
    client.send(half + half[:10])
    assert client.read() == 6
    client.send(half[10:] + encode("PING"))

    assert [client.read(), client.read()] == [7, "PONG"]
    assert bodies(door) == [b"a", b"b", b"c", b"c", b"c", b"d", b"d"]
