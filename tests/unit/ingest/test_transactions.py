"""MULTI .. EXEC: pushes of a transaction are one write, the rest is done after it, and EXEC answers for all."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from typing import Any

import gevent
import hiredis
import pytest

from pbus.config.schema import Ingest, Limits
from pbus.core import tokens
from pbus.core.job import Move
from pbus.errors import MaybeStored, StoreFull, Unavailable
from pbus.ingest import transactions
from tests.unit.ingest.door import Client, Door, encode

QUEUED = "QUEUED"
ABORTED = "EXECABORT Transaction discarded because of previous errors: nothing of it is stored"
AT = "try again in 1 s"


def multi(client: Client, *commands: Sequence[str]) -> Any:
    """The reply to EXEC; each of *commands* must be queued."""
    assert client.ask("MULTI") == "OK"
    for words in commands:
        assert client.ask(*words) == QUEUED, words
    return texts(client.ask("EXEC"))


def texts(reply: Any) -> Any:
    """*reply* with the errors in it as text."""
    if not isinstance(reply, list):
        return reply
    return [str(each) if isinstance(each, hiredis.ReplyError) else each for each in reply]


def stored(door: Door) -> list[list[bytes]]:
    """Bodies of each append."""
    return [[push.body for push in append] for append in door.driver.appends]


def read_one(client: Client) -> str:
    """The id of the next job of gift/credit, read and not acked."""
    ((_, ((job_id, _),)),) = client.ask("XREADGROUP", "GROUP", "credit", "c", "COUNT", "1", "STREAMS", "gift", ">")
    return str(job_id)


# -- what is stored -------------------------------------------------------------------------------


def test_pushes_of_a_transaction_are_one_append_and_one_group(door: Door, client: Client) -> None:
    replies = multi(client, ("LPUSH", "gift", "a", "b"), ("LPUSH", "mail", "c"), ("PUBLISH", "gift", "d"))

    assert replies == [3, 1, 2]
    (append,) = door.driver.appends
    assert [(push.queue, push.body, push.span, push.whole) for push in append] == [
        ("gift", b"a", 2, 4), ("gift", b"b", 0, 0), ("mail", b"c", 1, 0), ("gift", b"d", 1, 0),
    ]


def test_one_command_alone_needs_no_group(door: Door, client: Client) -> None:
    assert multi(client, ("LPUSH", "gift", "a", "b")) == [2]

    assert [push.whole for push in door.driver.appends[0]] == [0, 0]


def test_every_form_of_push_answers_as_it_does_alone(client: Client) -> None:
    replies = multi(
        client, ("RPUSH", "gift", "a"), ("XADD", "gift", "*", "body", "b"), ("PBUS.ADD", "gift", "c", "DELAY", "5"),
        ("PUBLISH", "gift", "d"), ("LPUSH", "live:gift:list", "e"),
    )

    assert replies == [5, "1000-2", "1000-3", 2, 5]


def test_nothing_is_stored_before_exec_nor_after_discard(door: Door, client: Client) -> None:
    client.ask("MULTI")
    assert client.ask("LPUSH", "gift", "a") == QUEUED
    assert client.ask("DISCARD") == "OK"
    assert client.ask("EXEC") == "ERR EXEC without MULTI"

    assert client.ask("LPUSH", "gift", "b") == 1
    assert stored(door) == [[b"b"]]


@pytest.mark.parametrize("ending", ["RESET", "QUIT"])
def test_reset_and_quit_work_at_once(door: Door, client: Client, ending: str) -> None:
    client.ask("MULTI")
    client.ask("LPUSH", "gift", "a")

    assert client.ask(ending) == {"RESET": "RESET", "QUIT": "OK"}[ending]
    if ending == "RESET":
        assert client.ask("LPUSH", "gift", "b") == 1
    assert stored(door) == ([[b"b"]] if ending == "RESET" else [])


def test_connection_that_ends_discards(door: Door) -> None:
    client = door.client()
    client.ask("MULTI")
    client.command("LPUSH", "gift", "a").close()
    door.until(lambda: not door.server.connections)

    assert stored(door) == []
    assert door.server.held_bytes == 0


def test_duplicate_is_no_refusal(door: Door, client: Client) -> None:
    first = client.ask("PBUS.ADD", "gift", "a", "DEDUPE", "k")

    assert multi(client, ("PBUS.ADD", "gift", "b", "DEDUPE", "k"), ("LPUSH", "gift", "c")) == [first, 2]


def test_empty_transaction_is_an_empty_array(door: Door, client: Client) -> None:
    assert multi(client) == []
    assert multi(client, ("PING",), ("ECHO", "x")) == ["PONG", "x"]
    assert stored(door) == []


def test_a_whole_transaction_in_one_packet_is_answered_in_order(door: Door, client: Client) -> None:
    client.send(
        encode("LPUSH", "gift", "a") + encode("MULTI") + encode("LPUSH", "gift", "b") * 70 + encode("LLEN", "gift")
        + encode("EXEC") + encode("LPUSH", "gift", "c") + encode("LLEN", "gift")
    )

    assert [client.read() for _ in range(2)] == [1, "OK"]
    assert [client.read() for _ in range(71)] == [QUEUED] * 71
    assert client.read() == [71] * 71
    assert [client.read() for _ in range(2)] == [72, 72]
    assert [len(bodies) for bodies in stored(door)] == [1, 70, 1]


# -- as Redis -------------------------------------------------------------------------------------


def test_words_without_multi_are_redis_own(client: Client) -> None:
    assert client.ask("EXEC") == "ERR EXEC without MULTI"
    assert client.ask("DISCARD") == "ERR DISCARD without MULTI"


def test_nested_multi_is_refused_and_aborts_nothing(client: Client) -> None:
    client.ask("MULTI")

    assert client.ask("MULTI") == "ERR MULTI calls can not be nested"
    assert client.ask("LPUSH", "gift", "a") == QUEUED
    assert client.ask("EXEC") == [1]


def test_transactions_need_an_identity(door: Door) -> None:
    stranger = door.client(local=False)

    assert [stranger.ask(word) for word in ("MULTI", "EXEC", "DISCARD")] == ["NOAUTH Authentication required."] * 3


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("NONSENSE", "x"), "ERR unknown command 'NONSENSE', with args beginning with: 'x' "),
        (("WATCH", "gift"), "ERR unknown command 'WATCH', with args beginning with: 'gift' "),
        (("LLEN",), "ERR wrong number of arguments for 'llen' command"),
        (("LPUSH", "gift"), "BADVALUE wrong number of arguments for 'lpush' command: not stored"),
        (("EXEC", "now"), "ERR wrong number of arguments for 'exec' command"),
        (("LPUSH", "gfit", "x"), "NOQUEUE there is no queue 'gfit': not stored, did you mean 'gift'?"),
        (("LPUSH", "gift/credit", "x"), "NOQUEUE 'gift/credit' is a topic; push to 'gift': not stored"),
        (("LPUSH", "safe", "x"), "NOAUTH safe needs AUTH safe PASSWORD first: not stored"),
        (("PBUS.ADD", "gift", "x", "DELAY", "-1"), "BADVALUE delay takes whole milliseconds"),
        (("XADD", "gift", "1-1", "body", "x"), "BADVALUE XADD takes * as its id"),
        (("LPUSH", "gift", "x" * 2000), "TOOBIG gift takes at most 1024 bytes a body, this one has 2000"),
        (("LPUSH", "gift", "x" * 1100, "x"), "TOOBIG gift takes at most 1024 bytes a body"),
        (("ECHO", "x" * 2000), "TOOBIG an argument has 2000 bytes, 1024 is the most: not stored"),
        (("AUTH", "safe", "pw"), "ERR Command not allowed inside a transaction: AUTH"),
        (("HELLO", "3"), "ERR Command not allowed inside a transaction: HELLO"),
        (("BRPOP", "gift/credit", "1"), "ERR Command not allowed inside a transaction: BRPOP"),
        (("BLPOP", "gift/credit", "1"), "ERR Command not allowed inside a transaction: BLPOP"),
        (("RPOP", "gift/nope"), "NOTOPIC 'gift/nope' is no topic"),
        (("LPOP", "safe/own"), "NOAUTH safe/own needs AUTH safe/own PASSWORD first: nothing taken"),
        (("RPOP", "gift/credit", "-1"), "ERR value is out of range, must be positive"),
        (("XREADGROUP", "GROUP", "mail", "c", "STREAMS", "gift", ">"), "BADVALUE gift/mail has a handler"),
        (("XACK", "gift", "credit", "x"), "ERR Invalid stream ID specified as stream command argument"),
        (("XACK", "gift", "nope", "1-1"), "NOTOPIC 'gift/nope' is no topic"),
        (("PBUS.NACK", "gift", "credit", "1-1", "LATER"), "BADVALUE PBUS.NACK takes"),
        (("PBUS.SETTLE", "done"), "NOPERM PBUS.SETTLE is for the process of a program"),
        (("XREADGROUP", "GROUP", "credit", "c", "STREAMS", "block", ">"), "NOQUEUE there is no queue 'block/credit'"),
        (("LLEN", "nope"), "NOQUEUE there is no queue 'nope'"),
        (("HGETALL", "safe"), "NOAUTH safe needs AUTH safe PASSWORD first"),
        (("XPENDING", "gift", "nope"), "NOTOPIC"),
        (("XINFO", "STREAM", "nope"), "NOQUEUE there is no queue 'nope'"),
        (("XRANGE", "gift", "x", "+"), "ERR Invalid stream ID"),
        (("XDEL", "gift", "x"), "ERR Invalid stream ID"),
        (("LREM", "gift/nope", "0", "1-1"), "NOTOPIC"),
        (
            ("XREADGROUP", "GROUP", "credit", "c", "COUNT", "1", "block", "0", "STREAMS", "gift", ">"),
            "ERR Command not allowed inside a transaction: XREADGROUP",
        ),
    ],
)
def test_refusal_comes_at_once_and_aborts(words: tuple[str, ...], answer: str) -> None:
    door = Door(Ingest(max_body_bytes=1024))
    client = door.client()
    client.ask("MULTI")
    assert client.ask("LPUSH", "gift", "a") == QUEUED

    assert client.ask(*words).startswith(answer)
    assert client.ask("LPUSH", "gift", "b") == QUEUED
    assert client.ask("EXEC") == ABORTED

    assert stored(door) == []
    assert client.ask("EXEC") == "ERR EXEC without MULTI"
    assert client.ask("LPUSH", "gift", "c") == 1
    door.close()


def test_read_that_does_not_block_may_be_part_of_it(client: Client) -> None:
    client.ask("LPUSH", "gift", "a")

    (entries,) = multi(client, ("XREADGROUP", "GROUP", "credit", "block", "STREAMS", "gift", ">"))

    assert entries[0][1][0][1][:2] == ["body", "a"]


def test_garbage_in_a_transaction_discards_it(door: Door, client: Client) -> None:
    client.send(encode("MULTI") + encode("LPUSH", "gift", "a") + b"*x\r\n")

    assert [client.read() for _ in range(2)] == ["OK", QUEUED]
    assert client.read().startswith("ERR Protocol error")
    assert stored(door) == []


# -- the others -----------------------------------------------------------------------------------


def test_others_are_done_after_the_pushes_and_answered_in_their_places(client: Client) -> None:
    client.ask("HELLO", "3")

    assert multi(
        client, ("LLEN", "gift"), ("LPUSH", "gift", "a"), ("RPOP", "gift/credit"), ("PING",), ("RPOP", "gift/credit"),
        ("LPUSH", "gift", "b"), ("CLIENT", "NONSENSE"), ("CLIENT", "ID"), ("RPOP", "gift/credit", "0"),
    ) == [2, 2, "a", "PONG", "b", 2, "ERR unknown subcommand 'NONSENSE'. Try CLIENT HELP.", 1, []]


def test_subcommand_is_one_of_them(client: Client) -> None:
    assert multi(client, ("XGROUP", "CREATE", "gift", "credit", "$")) == [
        "BUSYGROUP Consumer Group name already exists"
    ]
    client.ask("MULTI")
    assert client.ask("XINFO", "STREAM") == "ERR wrong number of arguments for 'xinfo|stream' command"
    assert client.ask("EXEC") == ABORTED


def test_popped_job_is_settled_when_the_array_has_left(door: Door, client: Client) -> None:
    assert multi(client, ("LPUSH", "gift", "a"), ("RPOP", "gift/credit"), ("RPOP", "gift/credit", "5")) == [
        1, "a", None
    ]

    door.until(lambda: door.driver.settled)
    assert [move for move, _ in door.driver.settled] == [Move.ACK]


def test_popped_job_of_a_client_that_is_gone_goes_back(door: Door) -> None:
    client = door.client()
    client.ask("LPUSH", "gift", "a")
    door.driver.claim_go.clear()
    client.send(encode("MULTI") + encode("RPOP", "gift/credit") + encode("EXEC"))
    door.until(lambda: door.store.puller._waiting)
    next(iter(door.server.connections)).close()       # as a reset does
    door.driver.claim_go.set()

    door.until(lambda: door.driver.settled)
    assert [move for move, _ in door.driver.settled] == [Move.RELEASE]


def test_client_that_does_not_wait_for_the_rest_gives_back_and_has_nothing_more_done(door: Door) -> None:
    client, other = door.client(), door.client()
    client.ask("LPUSH", "gift", "a", "b")
    job = client.ask("XADD", "mail", "*", "body", "c")
    client.send(encode("MULTI") + encode("RPOP", "gift/credit") + encode("HGETALL", "gift"))
    client.send(encode("XDEL", "mail", job) + encode("EXEC"))
    door.until(lambda: door.driver.claims)
    connection = min(door.server.connections, key=lambda connection: connection.id)
    transaction = connection.transaction
    assert transaction is not None
    door.until(lambda: transaction._replies[0])       # the rates, which come next, take half a second
    connection.close()

    door.until(lambda: door.driver.settled and not performing())
    assert {move for move, _ in door.driver.settled} == {Move.RELEASE}
    assert other.ask("LLEN", "mail") == 1


def performing() -> list[gevent.Greenlet]:
    """What still does the commands of a transaction."""
    greenlets = [each for each in gc.get_objects() if isinstance(each, gevent.Greenlet)]
    return [each for each in greenlets if not each.dead and "_perform" in repr(each)]


def test_ack_beside_a_push_acks_only_what_was_stored(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    job = read_one(client)
    door.driver.refuse = "jobs"

    answer = multi(client, ("XACK", "gift", "credit", job), ("LPUSH", "mail", "next"))
    assert answer.startswith("EXECABORT QUEUEFULL mail")
    assert door.driver.settled == []

    door.driver.refuse = ""
    assert multi(client, ("XACK", "gift", "credit", job), ("LPUSH", "mail", "next")) == [1, 1]
    assert door.driver.settled == [(Move.ACK, job)]


def test_barriers_in_a_pipeline_are_what_they_were(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    job = read_one(client)
    client.send(
        encode("LPUSH", "gift", "b") + encode("LLEN", "gift") + encode("LPUSH", "gift", "c")
        + encode("XACK", "gift", "credit", job) + encode("LPUSH", "gift", "d")
    )

    assert [client.read() for _ in range(5)] == [2, 2, 3, 1, 4]
    assert len(door.driver.appends) == 4


def test_command_that_meets_a_bug_ends_its_connection(door: Door, client: Client) -> None:
    other = door.client()
    client.ask("MULTI")
    client.ask("LLEN", "gift")
    stores, door.server.stores = door.server.stores, {}

    client.command("EXEC")

    with pytest.raises(EOFError):
        client.read()
    assert other.ask("PING") == "PONG"
    door.server.stores = stores


def test_long_transaction_leaves_others_their_turn(
    door: Door, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    sleep = transactions.gevent.sleep

    def counting(seconds: float) -> None:
        turns.extend([seconds] if not seconds else [])  # the watches of the store sleep for seconds
        sleep(seconds)

    monkeypatch.setattr(transactions.gevent, "sleep", counting)

    assert len(multi(client, *[("PING",)] * 130)) == 130
    assert len(turns) == 2
    assert len(multi(client, *[("INFO",)] * 3)) == 3
    assert len(turns) == 5


def test_replies_of_a_transaction_are_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "REPLY_BYTES", 1000)

    replies = multi(client, ("ECHO", "x" * 1500), ("LPUSH", "gift", "a"), ("ECHO", "y"))

    assert replies[:2] == ["x" * 1500, 1]
    assert replies[2] == "TOOBIG the replies of one transaction are at most 0 MiB: not done"


# -- what the store says --------------------------------------------------------------------------


def test_full_queue_refuses_the_whole_transaction(door: Door, client: Client) -> None:
    door.driver.refuse = "jobs"

    assert multi(client, ("LPUSH", "gift", "small"), ("LPUSH", "mail", "a", "b"), ("LLEN", "gift")) == (
        "EXECABORT QUEUEFULL mail holds 0 of 1000000 jobs, this command brings 2: nothing of the transaction is "
        "stored, try again in 5 s"
    )
    assert door.store.committer.refused_total == 3
    assert client.ask("EXEC") == "ERR EXEC without MULTI"


def test_others_of_the_batch_are_not_touched_by_it(door: Door, client: Client) -> None:
    other = door.client()
    door.driver.refuse = "jobs"
    door.driver.held_back = True
    other.command("LPUSH", "gift", "small")
    door.until(lambda: door.driver.open_appends)
    client.send(encode("MULTI") + encode("LPUSH", "gift", "a") + encode("LPUSH", "gift", "small") + encode("EXEC"))
    other.command("LPUSH", "gift", "small")
    door.until(lambda: len(door.store.committer._waiting) == 2)
    door.driver.go.set()

    assert [other.read(), other.read()] == [1, 2]
    assert [client.read() for _ in range(3)] == ["OK", QUEUED, QUEUED]
    assert client.read().startswith("EXECABORT QUEUEFULL gift")


def test_store_that_names_no_reason_stores_nothing_either(door: Door, client: Client) -> None:
    door.driver.refuse = "whole"

    assert multi(client, ("LPUSH", "gift", "a"), ("LPUSH", "gift", "b")) == (
        "EXECABORT UNAVAILABLE the store has refused it: nothing of the transaction is stored"
    )


@pytest.mark.parametrize(
    ("failure", "answer"),
    [
        (
            Unavailable("gone"),
            f"EXECABORT UNAVAILABLE the store 'main' is away (gone): nothing of the transaction is stored, {AT}",
        ),
        (
            StoreFull("no space"),
            "EXECABORT UNAVAILABLE the store 'main' has no room (no space): nothing of the transaction is stored, "
            "try again in 5 s",
        ),
        (
            MaybeStored("cut"),
            "MAYBESTORED the store 'main' went away in the middle of the write (cut): maybe stored, push again only "
            "if a duplicate does no harm",
        ),
    ],
)
def test_store_that_fails_is_one_answer(door: Door, client: Client, failure: Exception, answer: str) -> None:
    door.driver.fail_append = failure

    assert multi(client, ("LPUSH", "gift", "a"), ("LLEN", "gift"), ("LPUSH", "gift", "b")) == answer


def test_store_that_is_away_is_said_when_a_push_is_queued(door: Door, client: Client) -> None:
    door.store.gate.away("gone")
    client.ask("MULTI")

    assert client.ask("LPUSH", "gift", "a") == f"UNAVAILABLE the store 'main' is away (gone): not stored, {AT}"
    assert client.ask("EXEC") == ABORTED


def test_store_that_went_away_meanwhile_is_said_by_exec(door: Door, client: Client) -> None:
    client.ask("MULTI")
    client.ask("LPUSH", "gift", "a")
    door.store.gate.away("gone")

    assert client.ask("EXEC") == (
        f"EXECABORT UNAVAILABLE the store 'main' is away (gone): nothing of the transaction is stored, {AT}"
    )
    assert stored(door) == []
    assert door.store.committer.refused_total == 1


def test_store_is_away_for_the_others_only(door: Door, client: Client) -> None:
    client.ask("MULTI")
    client.ask("LLEN", "gift")
    door.store.lost(Unavailable("gone"))
    door.driver.fail = Unavailable("gone")

    assert texts(client.ask("EXEC")) == [f"UNAVAILABLE gone: nothing is known, {AT}"]


def test_client_that_is_gone_has_its_pushes_stored_and_nothing_else_done(door: Door) -> None:
    client = door.client()
    job = client.ask("XADD", "gift", "*", "body", "a")
    other = door.client()
    door.driver.held_back = True
    client.send(encode("MULTI") + encode("XDEL", "gift", job) + encode("LPUSH", "mail", "b") + encode("EXEC"))
    door.until(lambda: door.driver.open_appends)
    min(door.server.connections, key=lambda connection: connection.id).close()
    door.driver.go.set()
    door.driver.held_back = False

    assert other.ask("LLEN", "mail") == 1
    door.until(lambda: not performing())
    assert other.ask("LLEN", "gift") == 1


# -- bounds ---------------------------------------------------------------------------------------


def test_commands_of_a_transaction_are_bounded() -> None:
    door = Door(Ingest(limits=Limits(elements=5)))
    client = door.client()
    client.ask("MULTI")
    assert [client.ask("LPUSH", "gift", "a") for _ in range(5)] == [QUEUED] * 5

    assert client.ask("PING") == "TOOBIG a transaction has at most 5 commands: nothing of it is stored"
    assert client.ask("EXEC") == ABORTED
    assert stored(door) == []
    door.close()


def test_bytes_of_a_transaction_are_bounded_and_given_back(door: Door, client: Client) -> None:
    connection = next(iter(door.server.connections))
    connection.limits.command_bytes = 100_000
    client.ask("MULTI")
    assert client.ask("LPUSH", "gift", "x" * 60_000) == QUEUED
    assert 60_000 < door.server.held_bytes < 61_000

    answer = client.ask("LPUSH", "gift", "y" * 40_000)
    assert answer == "TOOBIG a transaction has at most 100000 bytes: nothing of it is stored"
    assert client.ask("EXEC") == ABORTED
    assert door.server.held_bytes == 0


def test_transactions_of_all_clients_together_are_bounded(door: Door) -> None:
    door.server._most_held = 200_000
    clients = [door.client() for _ in range(3)]
    for client in clients:
        client.ask("MULTI")
    assert clients[0].ask("LPUSH", "gift", "x" * 90_000) == QUEUED
    assert clients[1].ask("LPUSH", "gift", "x" * 60_000) == QUEUED

    assert clients[2].ask("LPUSH", "gift", "x" * 70_000) == QUEUED

    assert clients[0].read().startswith("UNAVAILABLE unfinished commands of all clients have more than 0 MiB")
    assert clients[1].ask("EXEC") == [1]
    assert clients[2].ask("EXEC") == [2]


def test_the_largest_is_told_before_it_is_queued(door: Door, client: Client) -> None:
    door.server._most_held = 50_000
    client.ask("MULTI")

    answer = client.ask("LPUSH", "gift", "x" * 60_000)
    assert answer.startswith("UNAVAILABLE unfinished commands of all clients")
    with pytest.raises(EOFError):
        client.read()
    assert door.client().ask("LPUSH", "gift", "small") == 1
    assert stored(door) == [[b"small"]]


def test_one_that_waits_for_its_push_is_not_told_that_it_is_not_stored(door: Door, client: Client) -> None:
    door.driver.held_back = True
    client.send(encode("MULTI") + encode("LPUSH", "gift", "x" * 60_000) + encode("EXEC"))
    door.until(lambda: door.driver.open_appends)
    door.server._most_held = 50_000
    greedy = door.client()
    greedy.ask("MULTI")
    greedy.command("LPUSH", "gift", "y" * 20_000)

    assert [client.read() for _ in range(2)] == ["OK", QUEUED]
    with pytest.raises(EOFError):
        client.read()
    door.driver.go.set()


# -- drain ----------------------------------------------------------------------------------------


def test_drain_waits_for_a_transaction_that_has_begun(door: Door) -> None:
    begun, idle = door.client(), door.client()
    begun.ask("MULTI")
    begun.ask("LPUSH", "gift", "a")

    door.server.drain()

    with pytest.raises(EOFError):
        idle.read()
    assert begun.ask("EXEC") == [1]
    door.until(lambda: door.server.idle)


# -- the old contract, tokens ---------------------------------------------------------------------


def test_pushes_of_the_old_contract_answer_their_json_in_the_array(client: Client) -> None:
    ids, backlog = multi(client, ("LPUSH", "old/any", "a", "b"), ("LPUSH", "old", "c"))

    answer = json.loads(ids)
    assert (answer["jobs"], answer["error"]) == (["1000-1", "1000-2"], "")
    assert backlog == 3


def test_refusal_of_the_old_contract_is_one_line_where_queued_was_expected(client: Client) -> None:
    client.ask("MULTI")

    assert client.ask("LPUSH", "old/any", "a") == QUEUED
    assert client.ask("LPUSH", "old/any", "x" * (1 << 20) + "y").startswith("TOOBIG old")
    assert client.ask("EXEC") == ABORTED


def test_push_token_pushes_in_transactions_while_its_process_lives(door: Door) -> None:
    token, slot = door.token(tokens.PUSH)
    client = door.client()
    client.ask("AUTH", token)
    assert multi(client, ("LPUSH", "safe", "a"), ("LPUSH", "gift", "b")) == [1, 1]

    client.ask("MULTI")
    client.ask("LPUSH", "safe", "c")
    slot.update(n=8)

    assert client.ask("LPUSH", "safe", "d") == "WRONGPASS the process of this token is gone: not stored"
    assert client.ask("EXEC") == ABORTED
    assert client.ask("EXEC") == "WRONGPASS the process of this token is gone: nothing is done"
    assert len(door.driver.appends) == 1


def test_token_that_is_void_at_exec_stores_nothing(door: Door) -> None:
    token, slot = door.token(tokens.PUSH)
    client = door.client()
    client.ask("AUTH", token)
    client.ask("MULTI")
    client.ask("LPUSH", "safe", "c")
    slot.update(n=8)

    assert client.ask("EXEC") == (
        "EXECABORT WRONGPASS the process of this token is gone: nothing of the transaction is stored"
    )
    assert stored(door) == []


def test_job_that_a_program_did_not_read_goes_back(door: Door) -> None:
    token, _ = door.token(tokens.PEPPER, "php/credit")
    door.client().ask("LPUSH", "php", "a")
    client = door.tcp_client()
    client.ask("AUTH", f"php/credit:{token}")
    client.send(encode("MULTI") + encode("RPOP", "php/credit") + encode("EXEC"))
    door.until(lambda: any(connection._unread for connection in door.server.connections))

    client.close()                                    # what it has not read makes this a reset

    door.until(lambda: door.driver.settled)
    assert [move for move, _ in door.driver.settled] == [Move.RELEASE]


def test_program_gives_back_and_takes_the_next_in_one_transaction(door: Door) -> None:
    token, _ = door.token(tokens.PEPPER, "php/credit")
    pushing, client = door.client(), door.client()
    pushing.ask("LPUSH", "php", "a", "b")
    client.ask("AUTH", f"php/credit:{token}")
    first = client.ask("RPOP", "php/credit")

    client.ask("MULTI")
    assert client.ask("LPUSH", "php/credit", first) == QUEUED
    assert door.driver.settled == []
    assert client.ask("LPUSH", "php/credit", "no reply") == QUEUED
    assert client.ask("RPOP", "php/credit") == QUEUED
    given, refused, second = client.ask("EXEC")

    assert json.loads(given)["jobs"] == ["1000-1"]
    assert json.loads(refused)["error"] == "BADVALUE php/credit takes back what it handed out: not stored"
    assert json.loads(second)["jobs"][0]["content"] == "b"
    assert [move for move, _ in door.driver.settled] == [Move.RETRY]
