"""What ``pbus status`` is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.handle import Handle
from pbus.supervisor.numbers import NumberDesk, Numbers
from pbus.supervisor.scoreboard import Scoreboard
from pbus.supervisor.plan import TopicFact
from pbus.supervisor.status import Facts, build
from tests.unit.supervisor.fakes import Wire, handle

ROW = {"queue": "gift", "topic": "credit", "ready": 3, "running": 1, "delayed": 0, "dead": 2, "oldest_wait_s": 1.25,
       "done_total": 10, "failed_total": 4}
CREDIT = TopicFact(queue="gift", topic="credit", at_least=1, at_most=4)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def child(wire: Wire) -> Handle:
    return handle(Scoreboard(8), wire)


def test_every_question_is_asked_anew(wire: Wire, child: Handle) -> None:
    desk, got = NumberDesk(lambda: [child], FakeClock()), []
    desk.ask(got.append)
    desk.ask(got.append)
    first, second = wire.told()
    desk.heard({"id": second["id"], "topics": [ROW], "problem": ""})
    desk.heard({"id": first["id"], "topics": [], "problem": "away"})
    assert got == [Numbers({("gift", "credit"): ROW}), Numbers({("gift", "credit"): ROW}, "away")]


def test_silent_scheduler_is_waited_for_three_seconds(wire: Wire, child: Handle) -> None:
    clock, got = FakeClock(), []
    desk = NumberDesk(lambda: [child], clock)
    desk.ask(got.append)
    desk.heard({"id": wire.told()[0]["id"], "topics": [ROW]})
    clock.advance(60)
    desk.ask(got.append)
    clock.advance(2.9)
    desk.settle()
    assert len(got) == 1
    clock.advance(0.2)
    desk.settle()
    assert got[1] == Numbers({("gift", "credit"): ROW}, "numbers of topics are 63 s old: the scheduler does not answer")


def test_dead_scheduler_is_not_waited_for(child: Handle) -> None:
    children, got = [child], []
    desk = NumberDesk(lambda: children, FakeClock())
    desk.ask(got.append)
    children.clear()
    desk.settle()
    desk.ask(got.append)
    assert [numbers.problem for numbers in got] == [
        "numbers of topics are not known yet: the scheduler does not answer",
        "numbers of topics are not known yet: the scheduler is not running",
    ]


def test_a_store_that_was_not_read_takes_nothing_away_from_what_is_known_of_others(wire: Wire, child: Handle) -> None:
    desk, got = NumberDesk(lambda: [child], FakeClock()), []
    mail = {**ROW, "topic": "mail"}
    desk.ask(got.append)
    desk.heard({"id": wire.told()[0]["id"], "topics": [ROW, mail], "problem": ""})
    desk.ask(got.append)
    desk.heard({"id": wire.told()[0]["id"], "topics": [ROW], "problem": "not known yet: away"})
    assert got[1].topics == {("gift", "credit"): ROW, ("gift", "mail"): mail}


def test_what_fires_is_known_as_it_was_last(wire: Wire, child: Handle) -> None:
    desk, got = NumberDesk(lambda: [child], FakeClock()), []
    desk.ask(got.append)
    desk.heard({"id": wire.told()[0]["id"], "topics": [], "problem": "", "alarms": {"rows": [{"id": "x"}], "total": 1}})
    desk._answerers = list
    desk.ask(got.append)

    answers = [build(facts(numbers=numbers)) for numbers in got]
    assert [(answer["alarms"], answer["alarms_total"]) for answer in answers] == [([{"id": "x"}], 1)] * 2


def facts(**changes: Any) -> Facts:
    known: dict[str, Any] = {
        "state": "running", "node": "n", "generation": 1, "now_s": 10.0, "problems": [], "master": {"role": "master"},
        "children": [], "restarts": {}, "topics": [CREDIT], "numbers": Numbers(),
    }
    return Facts(**{**known, **changes})


def test_status_has_exactly_the_shape_that_is_promised(child: Handle) -> None:
    answer = build(facts(children=[child], numbers=Numbers({("gift", "credit"): ROW})))
    assert set(answer) == {
        "state", "node", "generation", "problems", "processes", "topics", "programs", "backends", "reload", "door",
        "alarms", "alarms_total",
    }
    assert set(answer["topics"][0]) - {"reason"} == {
        "queue", "topic", "state", "ready", "running", "delayed", "dead", "oldest_wait_s", "done_total", "failed_total",
        "concurrency", "capacity", "consumers", "scaling", "rollout",
    }
    assert answer["topics"][0]["concurrency"] == {"now": 0, "min": 1, "max": 4}
    assert answer["topics"][0]["capacity"] == {"now_per_s": None, "max_per_s": None, "limited_by": None}
    assert answer["topics"][0]["oldest_wait_s"] == 1.25
    assert answer["processes"][1]["uptime_s"] == 10.0


def test_numbers_that_nobody_has_read_are_not_given_as_zeros() -> None:
    [topic] = build(facts(numbers=Numbers({}, "numbers of topics are not known yet: away")))["topics"]
    counts = ("ready", "running", "delayed", "dead", "done_total", "failed_total", "oldest_wait_s")
    assert [topic[name] for name in counts] == [None] * 7


def test_any_problem_makes_a_running_bus_degraded() -> None:
    assert build(facts())["state"] == "running"
    assert build(facts(problems=["x"]))["state"] == "degraded"
    assert build(facts(numbers=Numbers({}, "old")))["state"] == "degraded"
    assert build(facts(state="stopping", problems=["x"]))["state"] == "stopping"


def test_problem_that_several_children_tell_is_told_once() -> None:
    assert build(facts(problems=["main is away", "x", "main is away"]))["problems"] == ["main is away", "x"]


def test_topic_is_as_bad_as_its_worst_lane(wire: Wire) -> None:
    board = Scoreboard(8)
    good = handle(board, wire, 1, lanes={("gift", "credit"): {"state": "running", "reason": "", "concurrency": 2}})
    bad = handle(board, wire, 2, lanes={("gift", "credit"): {"state": "down", "reason": "refused", "concurrency": 1}})
    [topic] = build(facts(children=[good, bad]))["topics"]
    assert (topic["state"], topic["reason"], topic["concurrency"]["now"]) == ("down", "refused", 3)
    [topic] = build(facts(children=[good, bad], fatal={("consumer", "gift/credit"): "ended 10 times"}))["topics"]
    assert topic["state"] == "fatal"


def test_topic_says_when_its_next_process_starts(wire: Wire) -> None:
    idle = {("gift", "credit"): {"state": "down", "reason": "nobody is attached", "concurrency": 0}}
    child = handle(Scoreboard(8), wire, lanes=idle)
    [topic] = build(facts(children=[child], next_starts={"gift/credit": 6.2}))["topics"]
    assert topic["reason"] == "nobody is attached; next start in 6 s"
    [topic] = build(facts(children=[child], next_starts={"gift/credit": 0.2}))["topics"]
    assert topic["reason"] == "nobody is attached"


def test_consumers_are_counted_and_listed(wire: Wire) -> None:
    board = Scoreboard(8)
    children = [handle(board, wire, n, role="consumer", path="gift/credit") for n in (1, 2)]
    python = TopicFact(queue="gift", topic="credit", at_least=2, at_most=2, has_consumers=True)
    [topic] = build(facts(children=children, topics=[python]))["topics"]
    assert topic["consumers"] == [1001, 1002]
    assert topic["concurrency"]["now"] == 2


def test_topic_that_is_pulled_has_no_slots() -> None:
    pulled = TopicFact(queue="gift", topic="credit", at_least=1, at_most=1, pulled=True)
    [topic] = build(facts(topics=[pulled]))["topics"]
    assert topic["concurrency"] == {"now": 0, "min": 0, "max": 0}


def test_paused_topic_says_since_when_and_is_no_problem(child: Handle) -> None:
    row = {**ROW, "paused_ms": 1_000_000}
    answer = build(facts(children=[child], numbers=Numbers({("gift", "credit"): row}), wall_s=1_659.0))

    assert answer["state"] == "running"
    [topic] = answer["topics"]
    assert topic["state"] == "paused"
    assert topic["reason"] == "by 'pbus topic pause' 10 min ago, 'pbus topic resume gift/credit' ends it"
    known = {("gift", "credit"): {**row, "paused_by": "ann on n"}}
    [topic] = build(facts(numbers=Numbers(known), wall_s=1_600.0))["topics"]
    assert topic["reason"] == "by ann on n 10 min ago, 'pbus topic resume gift/credit' ends it"


def test_topic_that_is_down_stays_down_when_it_is_paused(wire: Wire) -> None:
    lanes = {("gift", "credit"): {"state": "down", "reason": "refused", "concurrency": 1}}
    numbers = Numbers({("gift", "credit"): {**ROW, "paused_ms": 5}})
    [topic] = build(facts(children=[handle(Scoreboard(8), wire, lanes=lanes)], numbers=numbers))["topics"]

    assert (topic["state"], topic["reason"]) == ("down", "refused")


def test_braked_topic_that_is_paused_is_not_said_to_be_tried(wire: Wire) -> None:
    lanes = {("gift", "credit"): {"state": "braked", "reason": "one job is tried after 8 s", "concurrency": 1}}
    numbers = Numbers({("gift", "credit"): {**ROW, "paused_ms": 5}})
    problems = ["gift/credit braked: one job is tried after 8 s", "gift/credit2 braked: x"]
    answer = build(facts(children=[handle(Scoreboard(8), wire, lanes=lanes)], numbers=numbers, problems=problems))

    [topic] = answer["topics"]
    assert topic["state"] == "paused"
    assert topic["reason"].startswith("by 'pbus topic pause'")
    assert answer["problems"] == ["gift/credit2 braked: x"]


def test_topic_that_only_the_store_has_is_orphaned_and_a_problem(child: Handle) -> None:
    old = {**ROW, "topic": "old", "running": 0, "delayed": 2}
    answer = build(facts(children=[child], numbers=Numbers({("gift", "credit"): ROW, ("gift", "old"): old})))

    assert answer["state"] == "degraded"
    reason = "it is not in the configuration, 5 jobs wait in it; 'pbus topic rm gift/old --purge' ends it"
    assert answer["problems"] == [f"gift/old orphaned: {reason}"]
    credit, orphan = answer["topics"]
    assert (orphan["topic"], orphan["state"], orphan["ready"], orphan["reason"]) == ("old", "orphaned", 3, reason)
    assert orphan.keys() == credit.keys()


def test_topic_that_another_node_runs_is_not_orphaned(child: Handle) -> None:
    numbers = Numbers({("gift", "credit"): ROW, ("gift", "theirs"): {**ROW, "topic": "theirs"}})

    assert len(build(facts(children=[child], numbers=numbers))["topics"]) == 1


def test_addresses_are_as_bad_as_the_worst_child_finds_them(wire: Wire) -> None:
    row = {"backend": "php", "address": "unix:/a", "state": "up", "reason": "", "connections": 3, "limit": 8,
           "in_use": 2, "waiting": 0, "calls_total": 10, "failed_total": 1, "busy_total": 0, "topics": ["gift/credit"]}
    bad = {**row, "state": "open", "reason": "refused", "topics": ["gift/mail"]}
    other = {**row, "address": "unix:/b", "limit": None}
    board = Scoreboard(8)
    children = [
        handle(board, wire, 1, backends={("php", "unix:/a"): row, ("php", "unix:/b"): other}),
        handle(board, wire, 2, backends={("php", "unix:/a"): bad}),
    ]

    first, second = build(facts(children=children))["backends"]

    assert (first["state"], first["reason"], first["limit"], first["calls_total"]) == ("open", "refused", 16, 20)
    assert first["topics"] == ["gift/credit", "gift/mail"]
    assert (second["address"], second["limit"]) == ("unix:/b", None)


MAILER = ("program", "mailer")


@pytest.mark.parametrize(("known", "state", "reason"), [
    ({}, "down", ""),
    ({"deaths": {MAILER: "exit status 1"}}, "down", "exit status 1"),
    ({"fatal": {MAILER: "ended 10 times"}}, "fatal", "ended 10 times"),
])
def test_program_without_a_process_says_what_it_died_of(known: dict[str, Any], state: str, reason: str) -> None:
    [row] = build(facts(programs={MAILER: (2, 7)}, **known))["programs"]
    assert (row["program"], row["state"], row["reason"]) == ("mailer", state, reason)
    assert (row["running"], row["wanted"], row["restarts"], row["pids"]) == (0, 2, 7, [])


def test_topic_scaled_to_nothing_runs_and_one_without_its_processes_does_not() -> None:
    consumed = dataclasses.replace(CREDIT, has_consumers=True)
    [topic] = build(facts(topics=[consumed], decisions={"gift/credit": {"wanted": 0}}))["topics"]
    assert topic["state"] == "running"
    [topic] = build(facts(topics=[consumed]))["topics"]
    assert (topic["state"], topic["reason"]) == ("down", "no consumer process is ready")
