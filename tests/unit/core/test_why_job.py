"""Why one job is not done at one topic: every rule once, and what its topic adds."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.core.why import Facts
from pbus.core.why_job import RULES, Holder, JobFacts, age_of, reasons

NOW_MS = 1_800_000_000_000
ID = f"{NOW_MS - 240_000}-3"
CONSUMER: dict[str, Any] = {"node": "bus-1", "process": "consumer gift/credit 1", "pid": 4711}


def topic(**changes: Any) -> Facts:
    known = {"queue": "gift", "topic": "credit", "handler": "python", "ready": 5, "running": 1, "delayed": 0, "dead": 0,
             "oldest_wait_s": 240.0, "done_total": 7, "pushed_total": 20, "slots": 2, "most": 4}
    return Facts(**{**known, **changes})


def job(state: str, of: Facts | None = None, **changes: Any) -> JobFacts:
    return JobFacts(id=ID, topic=of or topic(), state=state, now_ms=NOW_MS, **changes)


CASES: dict[str, tuple[JobFacts, str]] = {
    "not sampled": (
        job("", topic(shadow_of="settle", sample="1%")),
        "gift/credit is a shadow that sees 1% of the jobs: this one is not among them, or came before it",
    ),
    "not meant": (job(""), "gift/credit began after it was pushed: it is not on its way there"),
    "ended": (job("ended"), "gift/credit is through with it: done, cancelled or expired"),
    "dead": (
        job("dead", attempts=3, crashes=1, at_ms=NOW_MS - 180_000, reason="timeout", error="no answer within 60 s"),
        "it is a dead letter of gift/credit, died 3 min ago: timeout after 3 attempts, 1 of which killed their "
        "consumer: no answer within 60 s",
    ),
    "left": (
        job("running", holder=Holder(node="bus-1")),
        "it was in the hands of a process of bus-1 that is not there any more",
    ),
    "running": (
        job("running", attempts=1, holder=Holder(since_s=12.5, **CONSUMER)),
        "attempt 2 is in the hands of consumer gift/credit 1 of bus-1 (pid 4711) for 12 s",
    ),
    "expired": (
        job("ready", expires_ms=NOW_MS - 1),
        "its ttl was over at 2027-01-15 07:59:59 UTC: it expires when somebody looks at it, and is not run",
    ),
    "delayed": (
        job("delayed", due_ms=NOW_MS + 40_000),
        "it is delayed until 2027-01-15 08:00:40 UTC, in 40 s: it was pushed so",
    ),
    "retry": (
        job("delayed", due_ms=NOW_MS + 4_000, attempts=2),
        "attempt 2 failed; the next one is due in 4 s, at 2027-01-15 08:00:04 UTC",
    ),
    "key": (
        job("ready", key="user 4", behind="17-1"), "its key 'user 4' is held by 17-1, which was pushed before it",
    ),
}


@pytest.mark.parametrize("why", list(CASES))
def test_rule_holds_and_says_what_is_so(why: str) -> None:
    facts, text = CASES[why]
    first = reasons(facts)[0]

    assert (first.why, first.text) == (why, text)
    assert first.todo
    assert "{" not in first.todo


def test_every_rule_has_its_case() -> None:
    assert [rule.why for rule in RULES] == list(CASES)


def test_job_that_nothing_holds_up_waits_for_its_turn() -> None:
    (reason,) = reasons(job("ready"))

    assert reason.why == "in line"
    assert reason.text == (
        "it is ready, pushed 4 min ago, and waits for its turn: 5 jobs wait in gift/credit, the oldest for 4 min"
    )
    assert reason.todo == f"'pbus tail jobs --job {ID}' follows its attempts"


@pytest.mark.parametrize(("state", "of", "whys"), [
    ("ready", {"paused": True}, ["paused"]),
    ("ready", {"bus": "stopped", "paused": True, "dead": 3, "delayed": 1}, ["stopped", "paused"]),
    ("ready", {"running": 4}, ["limit"]),
    ("delayed", {"state": "fatal"}, ["retry", "fatal"]),
    ("running", {"paused": True}, ["running"]),
    ("dead", {"bus": "stopped"}, ["dead"]),
])
def test_what_holds_up_its_topic_holds_it_up_while_it_waits(state: str, of: dict[str, Any], whys: list[str]) -> None:
    more = {"due_ms": NOW_MS + 1000, "attempts": 1, "holder": Holder(**CONSUMER)}
    assert [reason.why for reason in reasons(job(state, topic(**of), **more))] == whys


def test_delay_that_is_over_is_no_reason() -> None:
    assert [reason.why for reason in reasons(job("delayed", due_ms=NOW_MS - 1, attempts=2))] == ["in line"]


def test_job_behind_another_one_in_a_process_says_which() -> None:
    (reason,) = reasons(job("running", holder=Holder(runs="17-1", **CONSUMER)))

    assert reason.text == "claimed by consumer gift/credit 1 of bus-1 (pid 4711), behind 17-1, which runs there"


def test_job_of_another_node_says_which() -> None:
    (reason,) = reasons(job("running", holder=Holder(node="bus-2", process="a process")))

    assert reason.text == "attempt 1 is in the hands of a process of bus-2"


def test_delay_of_a_job_with_a_key_may_be_the_key_that_rests() -> None:
    text = reasons(job("delayed", due_ms=NOW_MS + 9_000, key="k"))[0].text

    assert text.endswith("it was pushed so, or its key rests")


@pytest.mark.parametrize(("id", "text"), [
    (ID, "its id says that it was pushed 4 min ago, at 2027-01-15 07:56:00 UTC"),
    (f"{NOW_MS + 86_400_000}-0", "its id says 2027-01-16 08:00:00 UTC, which is still to come: no bus gave it out"),
    ("99999999999999-0", "its id says 5138-11-16 09:46:39 UTC, which is still to come: no bus gave it out"),
])
def test_id_tells_when_it_was_given_out(id: str, text: str) -> None:
    assert age_of(id, NOW_MS) == text
