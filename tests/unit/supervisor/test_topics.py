"""Topics that do not run are told once, and are a problem when it lasts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.config.schema import Log
from pbus.supervisor.handle import Handle
from pbus.supervisor.scoreboard import Scoreboard
from pbus.supervisor.topics import Topics, standing, without
from pbus.telemetry import log as logs
from tests.unit.supervisor.fakes import Wire, handle

WEB, MAIL = ("gift", "web"), ("gift", "mail")
NOBODY = "no consumer process is attached"


@dataclass
class Scene:
    topics: Topics
    children: list[Handle]
    clock: FakeClock
    file: Path

    def say(self, name: tuple[str, str], state: str, reason: str = "", child: int = 0) -> None:
        self.children[child].lanes[name] = {"state": state, "reason": reason, "concurrency": 1}
        self.topics.look(name)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.topics.tick()

    def problems(self, **more: Any) -> list[str]:
        return self.topics.problems(**{"next_starts": {}, "told": (), **more})

    def events(self) -> list[tuple[str, str, str]]:
        lines = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        return [(line["event"], line["topic"], line.get("reason", "")) for line in lines]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    wire, clock, board = Wire(), FakeClock(), Scoreboard(8)
    logs.configure(Log(), str(tmp_path), clock=clock)
    children = [handle(board, wire, 1), handle(board, wire, 2)]
    yield Scene(Topics(children, [MAIL], clock), children, clock, tmp_path / "pbus.log")
    wire.close()


def test_each_change_is_one_event_however_many_children_tell_it(scene: Scene) -> None:
    for child in (0, 1):
        scene.say(WEB, "running", child=child)
    for child in (0, 1):
        scene.say(WEB, "down", "refused", child)
    scene.say(WEB, "paused", "HTTP 301", 0)
    scene.say(WEB, "paused", "HTTP 301", 1)
    for child in (0, 1):
        scene.say(WEB, "running", child=child)
    assert scene.events() == [
        ("topic.down", "web", "refused"), ("topic.paused", "web", "HTTP 301"), ("topic.running", "web", ""),
    ]


def test_what_stands_still_for_long_is_a_problem_until_it_runs(scene: Scene) -> None:
    scene.say(WEB, "down", "refused")
    scene.wait(2.9)
    assert scene.problems() == []
    scene.say(WEB, "paused", "HTTP 301 to /x")
    scene.wait(0.2)
    assert scene.problems() == ["gift/web paused: HTTP 301 to /x"]
    assert scene.problems(told={"gift/web"}) == []
    scene.say(WEB, "running")
    assert scene.problems() == []


def test_a_consumer_that_is_replaced_at_once_is_no_news(scene: Scene) -> None:
    scene.say(MAIL, "down", NOBODY)
    scene.wait(1.0)
    scene.say(MAIL, "running")
    assert scene.events() == []
    scene.say(MAIL, "down", NOBODY)
    scene.wait(3.1)
    assert scene.events() == [("topic.down", "mail", NOBODY)]
    assert scene.problems(next_starts={"gift/mail": 6.4}) == [f"gift/mail down: {NOBODY}; next start in 6 s"]


def test_a_child_that_is_gone_neither_heals_nor_keeps_a_topic_down(scene: Scene) -> None:
    scene.say(WEB, "down", "refused")
    [gone, other] = scene.children
    scene.children.remove(gone)
    scene.wait(4.0)
    assert scene.problems() == ["gift/web down: refused"]
    other.lanes[WEB] = {"state": "running", "reason": "", "concurrency": 1}
    scene.wait(1.0)
    assert scene.problems() == []


def test_problems_of_some_topics_are_left_out_and_those_of_their_namesakes_are_not() -> None:
    about = [
        "gift/new down: refused", "consumer gift/new: given up", "gift/new: it forks (job 1-0)",
        "consumer gift/new 0: x",
    ]
    others = [
        "gift/new2 down: refused", "consumer gift/new2: given up", "storage main is away", "order/gift/new down: x",
    ]

    assert without([*about, *others], ["gift/new"]) == others
    assert without(about, []) == about


@pytest.mark.parametrize(("lanes", "of_consumers", "told"), [
    ([(True, "down", 0), (False, "running", 1)], True, ["running"]),
    ([(True, "down", 0), (False, "down", 0)], True, ["down"]),
    ([(True, "running", 1), (False, "braked", 1)], True, ["running"]),
    ([(True, "down", 0), (False, "running", 1)], False, ["down"]),
    ([(False, "draining", 0)], True, ["draining"]),
    ([], True, []),
])
def test_processes_that_finish_a_job_with_who_drains_are_not_missed(
    lanes: list[tuple[bool, str, int]], of_consumers: bool, told: list[str]
) -> None:
    said = [(stays, {"state": state, "concurrency": count}) for stays, state, count in lanes]
    assert [lane["state"] for lane in standing(said, of_consumers)] == told
