"""Full queues, filling stores and slow ones: pushes are refused, with what is known, and nothing piles up."""

from __future__ import annotations

import json
from collections.abc import Iterator

import gevent
import pytest

from pbus.config.schema import Queue
from pbus.errors import MaybeStored, StoreFull, Unavailable
from pbus.ingest import committer
from pbus.ingest.fullness import ASKED_S
from tests.unit.ingest.door import PULL, PYTHON, Client, Door, encode

QUEUES = {
    "cheap": Queue(topic={"credit": PULL}, importance=3),
    "gift": Queue(topic={"credit": PULL, "mail": PYTHON}, max_backlog=10, max_backlog_bytes=100),
    "dear": Queue(topic={"credit": PULL}, importance=1),
    "old": Queue(topic={"credit": PULL}, pepper=True),
}
CALL_TIMEOUT_S = 10_000.0
AGAIN = "not stored, try again in 5 s"


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door(queues=QUEUES)
    yield door
    door.close()


# -- a queue that is full -------------------------------------------------------------------------


def test_full_queue_says_what_it_holds(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a", "b")
    door.driver.refuse = "jobs"

    assert client.ask("LPUSH", "gift", "c") == f"QUEUEFULL gift holds 2 of 10 jobs: {AGAIN}"
    assert client.ask("XADD", "gift", "*", "body", "c") == f"QUEUEFULL gift holds 2 of 10 jobs: {AGAIN}"
    assert client.ask("PUBLISH", "gift", "c") == f"QUEUEFULL gift holds 2 of 10 jobs: {AGAIN}"
    assert client.ask("LPUSH", "gift", *"cde") == f"QUEUEFULL gift holds 2 of 10 jobs, this command brings 3: {AGAIN}"
    assert json.loads(client.ask("LPUSH", "old/x", "c"))["error"].startswith("QUEUEFULL old holds 0 of 1000000 jobs")


def test_full_queue_is_a_problem_until_nobody_is_refused(door: Door, client: Client) -> None:
    door.driver.refuse = "jobs"
    client.ask("LPUSH", "gift", "c")
    door.store.watch()

    assert door.child.problems["queue.gift.full"] == (
        "queue gift is full: pushes beyond max_backlog (10 jobs) are refused; "
        "'pbus queue show gift' tells whose jobs wait"
    )
    door.clock.ahead_s += ASKED_S + 1
    door.store.watch()
    assert door.child.problems["queue.gift.full"] == ""


def test_queue_full_of_bytes_says_how_many(door: Door, client: Client) -> None:
    door.driver.refuse = "bytes"

    assert client.ask("LPUSH", "gift", "c") == f"QUEUEFULL gift takes at most 100 bytes: {AGAIN}"
    door.store.watch()
    assert client.ask("LPUSH", "gift", "c") == f"QUEUEFULL gift holds 77 of 100 bytes, oldest waits 2 s: {AGAIN}"


def test_refusal_tells_what_fails_and_what_is_paused(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", *"abc")
    door.driver.refuse = "jobs"
    client.ask("LPUSH", "gift", "d")
    door.store.watch()
    assert client.ask("RPOP", "gift/credit", "2") == ["a", "b"]
    door.until(lambda: len(door.driver.settled) == 2)
    door.driver.failed_total = 98
    door.driver.paused_ms = 5
    door.clock.ahead_s += 1
    door.store.watch()

    text = client.ask("LPUSH", "gift", "d")

    assert text.startswith("QUEUEFULL gift holds 3 of 10 jobs, oldest waits 2 s, credit is paused, mail is paused, ")
    assert text.endswith(f" fails 98 %: {AGAIN}")


def test_refusals_never_ask_the_store(door: Door, client: Client) -> None:
    door.driver.refuse = "jobs"
    client.send(encode("LPUSH", "gift", "c") * 500)
    assert {client.read() for _ in range(500)} == {f"QUEUEFULL gift holds 0 of 10 jobs: {AGAIN}"}

    assert door.driver.looks == 0
    door.store.watch()
    assert door.driver.looks == 1
    door.clock.ahead_s += 31
    door.store.watch()
    door.store.watch()
    assert door.driver.looks == 2, "nobody was refused for a while"


def test_spans_are_refused_alone_and_replies_keep_their_order(door: Door, client: Client) -> None:
    door.driver.refuse = "jobs"
    client.send(
        encode("LPUSH", "gift", "a") + encode("LPUSH", "gift", "small") + encode("LPUSH", "gift", "b", "c")
        + encode("PBUS.ADD", "gift", "small") + encode("PBUS.ADD", "gift", "d") + encode("LPUSH", "gift", "small", "e")
        + encode("PING")
    )

    first, second, third, fourth, fifth, sixth, last = [client.read() for _ in range(7)]

    assert first == third.replace(", this command brings 2", "") == fifth
    assert first.startswith("QUEUEFULL gift holds 4 of 10 jobs")
    assert (second, fourth, sixth, last) == (4, "1000-2", 4, "PONG")
    assert len(door.driver.appends) == 1
    assert door.server.stored_total == 4
    assert door.server.refused_total == 4


# -- a store that fills ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "refused"),
    [(0.84, ""), (0.86, "cheap"), (0.92, "cheap gift"), (0.96, "cheap gift"), (0.97, "cheap gift dear"),
     (1.0, "cheap gift dear")],
)
def test_store_that_fills_refuses_the_least_important_first(
    door: Door, client: Client, share: float, refused: str
) -> None:
    door.driver.share = share
    door.store.watch()

    answers = {name: client.ask("LPUSH", name, "a") for name in ("cheap", "gift", "dear")}

    assert [name for name, answer in answers.items() if answer != 1] == refused.split()
    assert bool(door.child.problems.get("storage.main.fill")) is bool(refused)


def test_store_that_fills_says_how_full_it_is_and_opens_again(door: Door, client: Client) -> None:
    door.driver.share = 0.86
    door.store.watch()

    assert client.ask("LPUSH", "cheap", "a") == (
        f"UNAVAILABLE the store 'main' is 86 % full, queues of importance 3 are refused from 85 % on: {AGAIN}"
    )
    assert door.child.problems["storage.main.fill"] == (
        "storage main is 86 % full: pushes to queues of importance 3 are refused"
    )
    assert door.server.refused_total == 1

    door.driver.share = 0.84
    door.store.watch()
    assert client.ask("LPUSH", "cheap", "a") == 1
    assert door.child.problems["storage.main.fill"] == ""


def test_pipeline_to_a_closed_gate_is_refused_one_by_one(door: Door, client: Client) -> None:
    client.ask("LPUSH", "cheap", "a")
    door.driver.share = 0.9
    door.store.watch()
    client.send(encode("LPUSH", "cheap", "a") * 3 + encode("LPUSH", "dear", "b") + encode("LPUSH", "cheap", "a"))

    replies = [client.read() for _ in range(5)]

    assert [str(reply).partition(" ")[0] for reply in replies] == ["UNAVAILABLE"] * 3 + ["1", "UNAVAILABLE"]


def test_store_without_room_refuses_pushes_and_nothing_else(door: Door, client: Client) -> None:
    client.ask("LPUSH", "gift", "a")
    door.driver.fail_append = StoreFull("12 MiB are free, min_free is 64 MiB")
    wanted = (
        f"UNAVAILABLE the store 'main' has no room (12 MiB are free, min_free is 64 MiB): {AGAIN}"
    )

    assert client.ask("LPUSH", "gift", "b") == wanted
    tries = door.driver.tries
    assert client.ask("LPUSH", "dear", "b") == wanted
    assert door.driver.tries == tries, "one try a second is enough"
    assert not door.store.away
    assert client.ask("RPOP", "gift/credit") == "a"
    assert door.child.problems["storage.main.full"].startswith("storage main has no room for pushes: 12 MiB")

    door.driver.fail_append = None
    door.store.watch()
    assert client.ask("LPUSH", "gift", "b") == 1 + 1, "mail has not taken the first one"
    door.clock.ahead_s += 11
    door.store.watch()
    assert door.child.problems["storage.main.full"] == ""


# -- a store that is slow -------------------------------------------------------------------------


@pytest.fixture
def slow() -> Iterator[Door]:
    """
    A door whose store takes an append and does not answer.

    Its call_timeout is hours, and time passes when the test says so: nothing here depends on the machine.
    """
    door = Door(queues=QUEUES, call_timeout_s=CALL_TIMEOUT_S)
    door.driver.held_back = True
    yield door
    door.driver.go.set()
    door.close()


def _ticks(door: Door, share: float) -> None:
    """So much of the call_timeout passes, tick by tick, and the loop does not turn."""
    tick_s = CALL_TIMEOUT_S * committer.PATIENCE / committer._TICKS
    for _ in range(round(share * CALL_TIMEOUT_S / tick_s)):
        door.clock.ahead_s += tick_s
        door.store.committer._tick()


def _passes(door: Door, share: float) -> None:
    """So much of the call_timeout passes, tick by tick."""
    _ticks(door, share)
    gevent.sleep(0)


def _stuck(door: Door) -> Client:
    """A client whose push the store does not answer."""
    client = door.client()
    client.command("LPUSH", "gift", "a")
    door.until(lambda: door.driver.open_appends)
    return client


def _waiting(door: Door) -> Client:
    """A client whose push waits for that one."""
    client = door.client()
    client.command("LPUSH", "gift", "b")
    door.until(lambda: door.store.committer._waiting)
    return client


def test_nobody_waits_behind_a_slow_write_for_long(slow: Door) -> None:
    first, second = _stuck(slow), _waiting(slow)
    _passes(slow, committer.PATIENCE)
    assert second.silent()

    _passes(slow, committer.PATIENCE / committer._TICKS)

    wait_s = CALL_TIMEOUT_S * committer.PATIENCE
    said = f"UNAVAILABLE the store 'main' is slow (this push waited for {wait_s:.1f} s): not stored, try again in 1 s"
    assert second.read() == said
    assert slow.client().ask("LPUSH", "gift", "c").startswith("UNAVAILABLE the store 'main' is slow (a write runs for")
    assert slow.client().ask("PING") == "PONG"
    slow.driver.go.set()
    assert first.read() == 1
    assert slow.client().ask("LPUSH", "gift", "d") == 2
    assert [push.body for append in slow.driver.appends for push in append] == [b"a", b"d"]


def test_pushes_go_on_when_all_who_waited_for_company_were_refused(slow: Door) -> None:
    first, second = _stuck(slow), _waiting(slow)
    _passes(slow, committer.PATIENCE)

    # The write returns, the next one waits a moment for others, and in that moment it is too late.
    slow.driver.go.rawlink(lambda _: _ticks(slow, committer.PATIENCE / committer._TICKS))
    slow.driver.go.set()

    assert first.read() == 1
    assert second.read().startswith("UNAVAILABLE the store 'main' is slow (this push waited for")
    slow.until(lambda: slow.store.committer.idle)
    assert slow.client().ask("LPUSH", "gift", "c") == 2


def test_who_came_late_is_not_refused_with_those_who_waited(slow: Door) -> None:
    _stuck(slow)
    early = _waiting(slow)
    _passes(slow, committer.PATIENCE * 0.75)
    late = slow.client().command("LPUSH", "gift", "c")
    slow.until(lambda: len(slow.store.committer._waiting) == 2)
    _passes(slow, committer.PATIENCE * 0.5)

    assert early.read().startswith("UNAVAILABLE")
    slow.driver.go.set()
    assert late.read() == 2


def test_write_that_does_not_return_is_answered_as_unknown_in_time(slow: Door) -> None:
    client, second = _stuck(slow), _waiting(slow)
    _passes(slow, committer.CUT + committer.PATIENCE / committer._TICKS)

    assert client.read().startswith("MAYBESTORED the store 'main' went away in the middle of the write (no answer for ")
    assert second.read().startswith("UNAVAILABLE")
    assert slow.client().ask("LPUSH", "gift", "c").startswith("UNAVAILABLE")
    slow.driver.go.set()
    slow.until(lambda: slow.store.committer.idle)
    assert client.silent(), "one command, one reply"
    assert slow.client().ask("LPUSH", "gift", "d") == 2


def test_write_that_fails_late_answers_nobody_twice(slow: Door) -> None:
    client = _stuck(slow)
    _passes(slow, committer.CUT + committer.PATIENCE / committer._TICKS)
    client.read()
    slow.driver.fail = MaybeStored("gone")
    slow.driver.go.set()
    slow.until(lambda: slow.store.committer.idle)

    assert client.silent()
    assert slow.store.away == "gone"


def test_shares_of_the_call_timeout_leave_room_for_a_tick() -> None:
    tick = committer.PATIENCE / committer._TICKS
    assert committer.PATIENCE + tick + committer.CUT + tick < 1.0
    assert committer.WRITE < committer.CUT


def test_pushes_that_wait_are_bounded_over_all_connections(slow: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FULL_BYTES", 300_000), ("OVER_BYTES", 600_000)):
        monkeypatch.setattr(committer, name, value)
    _stuck(slow)
    clients = [slow.client() for _ in range(40)]
    for client in clients:
        gevent.spawn(client.send, encode("LPUSH", "gift", "x" * 60_000))
    slow.until(lambda: slow.server.refused_total + len(slow.store.committer._waiting) == 40, "all of them were read")

    assert slow.store.committer._bytes < 600_000 + 61_000
    text = next(text for text in map(_reply, clients) if text)
    assert text.startswith("UNAVAILABLE the store 'main' does not keep up (0 MiB wait for it): not stored")


def test_known_producer_is_not_read_from_while_too_much_waits(slow: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "FULL_BYTES", 100_000)
    stuck, other = _stuck(slow), slow.client()
    gevent.spawn(other.send, encode("LPUSH", "gift", "x" * 110_000))
    slow.until(lambda: slow.store.committer.full)
    stuck.command("LPUSH", "gift", "later")
    assert stuck.silent(0.05)

    slow.driver.go.set()

    assert [stuck.read(), other.read(), stuck.read()] == [1, 2, 3]


def _reply(client: Client) -> str:
    try:
        return str(client.read(0.01))
    except gevent.Timeout:
        return ""


def test_store_that_cannot_be_looked_at_is_found_out_by_the_next_push(door: Door, client: Client) -> None:
    door.driver.fail = Unavailable("gone")
    with pytest.raises(Unavailable):
        door.store.watch()

    assert client.ask("LPUSH", "gift", "a").startswith("UNAVAILABLE the store 'main' is away (gone)")
