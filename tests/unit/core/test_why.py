"""Why a topic's jobs are not done: every rule once, their order, and what is told when nothing is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.core.why import RULES, Address, Facts, FailedAuth, holds_up, reasons, suspects

REST: dict[str, Any] = {
    "ready": 0, "running": 0, "delayed": 0, "dead": 0, "oldest_wait_s": 0.0, "done_total": 7, "pushed_total": 7,
    "backlog": 0, "slots": 2, "most": 4,
}


def facts(**changes: Any) -> Facts:
    return Facts(**{"queue": "gift", "topic": "credit", "system": "live", "handler": "python", **REST, **changes})


def failed(address: str = "10.0.0.7", identity: str = "gift", recent: int = 3, **more: Any) -> FailedAuth:
    known: dict[str, Any] = {"tried": identity, "ago_s": 40.0, **more}
    return FailedAuth(address=address, identity=identity, recent=recent, **known)


UNKNOWN = dict.fromkeys(name for name in REST if name not in ("slots", "most"))
CASES: dict[str, dict[str, Any]] = {
    "auth": {"failed_auths": [failed()]},
    "stopped": {"bus": "stopped", "state": "stopped"},
    "unknown": {"bus": "unknown", "state": "unknown"},
    "bus": {"bus": "stopping", "state": "stopping"},
    "store": {"store_away": "connection refused", **UNKNOWN},
    "orphaned": {"handler": "", "state": "orphaned", "ready": 3},
    "finishing": {"handler": "stored", "state": "orphaned", "ready": 3},
    "full": {"backlog": 10, "max_backlog": 10, "ready": 10, "running": 1},
    "paused": {"paused": True, "state": "paused", "ready": 5},
    "fatal": {"state": "fatal", "reason": "exit status 1", "ready": 5},
    "rollout": {"state": "rollout-failed", "reason": "exit status 1"},
    "braked": {"state": "braked", "reason": "56 of 60 attempts failed", "ready": 5},
    "circuit": {
        "state": "down", "handler": "http", "ready": 5, "addresses": [Address("10.0.0.8:80", "open", "refused")],
    },
    "down": {"state": "down", "reason": "no consumer process is ready", "ready": 5},
    "ping": {"state": "paused", "handler": "fastcgi", "reason": "ping: Code: 404; no such topic", "ready": 5},
    "state": {"state": "strange", "reason": "of a later version", "ready": 5},
    "never": {"pushed_total": 0, "done_total": 0},
    "nobody takes": {"handler": "pull", "ready": 5, "oldest_wait_s": 300.0, "slots": 0, "most": 1000},
    "open claims": {"handler": "pull", "ready": 5, "running": 8, "slots": 0, "most": 8},
    "no consumers": {"ready": 5, "slots": 0, "most": 4},
    "limit": {"ready": 5, "running": 4, "oldest_wait_s": 90.0, "limited_by": "processor"},
    "keys": {"ready": 5, "waiting": 5, "running": 1, "rate_per_s": 2.5},
    "rate": {"ready": 5, "waiting": 4, "running": 1, "rate_per_s": 2.5},
    "addresses": {"handler": "http", "ready": 5, "addresses": [Address("a", "up"), Address("b", "probing", "refused")]},
    "later": {"delayed": 2},
    "dead": {"dead": 3},
    "shadow": {"shadow_of": "credit", "sample": "1%", "backlog": 10, "max_backlog": 10},
    "done": {},
    "works": {"ready": 5, "running": 2, "oldest_wait_s": 4.0},
    "else": {"state": "draining", "ready": 5},
}


@pytest.mark.parametrize("why", list(CASES))
def test_rule_holds_and_is_told_first(why: str) -> None:
    first = reasons(facts(**CASES[why]))[0]

    assert first.why == why
    assert first.text
    assert first.todo
    assert "{" not in first.text + first.todo
    assert "None" not in first.text + first.todo


def test_every_rule_has_its_case() -> None:
    assert [rule.why for rule in RULES] == list(CASES)


@pytest.mark.parametrize(("why", "text", "todo"), [
    ("auth",
     "10.0.0.7 failed to authenticate 3 times in 10 min, as gift, last 40 s ago: what is said after that is refused",
     "compare its password with [queue.gift] ('pbus config show queue.gift' says where)"),
    ("store", "its store is away: connection refused",
     "pushes are refused until it is back; 'pbus status' shows when it is"),
    ("paused", "gift/credit is paused, 5 jobs wait", "'pbus topic resume gift/credit'"),
    ("circuit", "gift/credit is down; no job is spent on 10.0.0.8:80 (refused)",
     "'pbus backend ls' shows its addresses; they are probed, and it goes on by itself when one answers"),
    ("ping", "the handler does not take gift/credit: ping: Code: 404; no such topic",
     "'pbus topic test gift/credit BODY' shows its whole answer; it is asked again by itself"),
    ("keys", "5 jobs wait for their keys, which others hold that run or wait for their next try, the oldest for 0 s",
     "'pbus job why ID' says which one a job waits for"),
    ("rate", "5 jobs wait, the oldest for 0 s: no more than 2.5 a second may begin here",
     "a higher rate in its section, or a node more"),
    ("addresses", "a part of its addresses is left alone: b (refused)",
     "'pbus backend ls' shows them; they are probed by themselves"),
    ("nobody takes", "5 jobs wait for consumers that fetch them, the oldest for 5 min, and none is in anybody's hands",
     "start one: RPOP gift/credit, or XREADGROUP GROUP credit NAME STREAMS gift >"),
    ("limit", "all 4 that it may have at once are busy, 5 jobs wait, the oldest for 90 s; limited by processor",
     "a larger concurrency; for now 'pbus topic scale gift/credit N --for 1h'"),
    ("done", "nothing waits: 7 done so far", "'pbus tail gift/credit' follows what comes next"),
])
def test_sentence_says_what_is_so_and_what_to_do(why: str, text: str, todo: str) -> None:
    first = reasons(facts(**CASES[why]))[0]

    assert (first.text, first.todo) == (text, todo)


def test_one_job_waits_and_several_wait() -> None:
    texts = [reasons(facts(paused=True, ready=count))[0].text for count in (1, 2)]

    assert texts == ["gift/credit is paused, 1 job waits", "gift/credit is paused, 2 jobs wait"]


def test_several_reasons_are_told_in_order() -> None:
    found = reasons(facts(failed_auths=[failed()], bus="stopped", state="stopped", paused=True, dead=2, delayed=1))

    assert [reason.why for reason in found] == ["auth", "stopped", "paused", "later", "dead"]


def test_nothing_is_said_of_numbers_that_are_not_known() -> None:
    assert [reason.why for reason in reasons(facts(**UNKNOWN))] == ["else"]


@pytest.mark.parametrize(("by", "text"), [
    ("", "gift/credit was paused 12 min ago, 5 jobs wait"),
    ("ann on bus-1", "gift/credit was paused by ann on bus-1 12 min ago, 5 jobs wait"),
])
def test_pause_says_who_and_when(by: str, text: str) -> None:
    assert reasons(facts(paused=True, ready=5, paused_s=740.0, paused_by=by))[0].text == text


def test_person_that_paused_a_topic_is_told_and_not_the_state_under_it() -> None:
    assert [reason.why for reason in reasons(facts(paused=True, state="down", ready=5))] == ["paused"]


def test_reason_of_an_address_is_not_said_twice() -> None:
    addresses = [Address(name, "open", "refused") for name in "abcde"]
    down = facts(state="down", handler="http", reason="a: refused", addresses=addresses)

    assert reasons(down)[0].text == "gift/credit is down: a: refused; no job is spent on a, b, c, 2 more"


@pytest.mark.parametrize(("why", "holds"), [
    ("auth", False), ("stopped", True), ("store", True), ("paused", True), ("rollout", False), ("limit", True),
    ("later", False), ("dead", False), ("done", False), ("works", False), ("else", False),
])
def test_single_job_is_held_up_by_what_keeps_ready_ones(why: str, holds: bool) -> None:
    assert (why in [reason.why for reason in holds_up(facts(**CASES[why]))]) is holds


# -- who is not let in ----------------------------------------------------------------------------


@pytest.mark.parametrize(("identity", "counts"), [
    ("gift", True), ("gift/credit", True), ("live", True), ("", True), ("mail", False), ("gift/other", False),
])
def test_failures_count_that_concern_the_topic(identity: str, counts: bool) -> None:
    assert bool(suspects(facts(failed_auths=[failed(identity=identity)]))) is counts


def test_failures_of_an_address_are_added_up_and_two_are_not_many() -> None:
    rows = [failed(recent=1), failed(identity="gift/credit", recent=1), failed("10.0.0.8", recent=2)]
    assert suspects(facts(failed_auths=rows)) == []

    ((row, count),) = suspects(facts(failed_auths=[*rows, failed(identity="", recent=1, ago_s=5.0, tried="gfit")]))
    assert (row.address, row.identity, count) == ("10.0.0.7", "gift", 3), "a name that somebody bears tells more"


def test_failures_that_are_long_ago_are_no_reason() -> None:
    assert suspects(facts(failed_auths=[failed(recent=0)])) == []


@pytest.mark.parametrize(("row", "text", "todo"), [
    (failed(identity="gift/credit"), "as gift/credit,", "[queue.gift.topic.credit]"),
    (failed(identity="live"), "as live,", "[system.live]"),
    (failed(identity="", tried="gfit"), "as 'gfit', a name that nobody bears,", "gift to push, gift/credit to pull"),
    (failed(identity="", tried=""), "without a name that anybody bears,", "AUTH takes a name and its password"),
])
def test_whose_name_it_was_is_told(row: FailedAuth, text: str, todo: str) -> None:
    reason = reasons(facts(failed_auths=[row]))[0]

    assert text in reason.text
    assert todo in reason.todo


def test_many_addresses_are_told_as_a_number() -> None:
    rows = [failed(f"10.0.0.{number}", recent=number) for number in range(3, 10)]
    text = reasons(facts(failed_auths=rows))[0].text

    assert text.startswith("10.0.0.9 failed to authenticate 9 times")
    assert "; so did 4 more addresses: what is said" in text


