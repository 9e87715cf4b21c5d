"""What ends without a handler is told, once, with its number; what nobody knows is a problem until it is settled."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import structlog.testing

from pbus.core.outcome import Rules
from pbus.scheduler.accounts import LOOK_S, Accounts
from pbus.storage.driver import DeadGroup, TopicNumbers
from tests.unit.scheduler.store import SchedulerStore, prepared

PATH = ("gift", "credit")
NOTHING = TopicNumbers()


class Store(SchedulerStore):
    def __init__(self) -> None:
        super().__init__()
        self.groups: list[DeadGroup] = []

    def dead_groups(self, queue: str, topic: str) -> list[DeadGroup]:
        self._enter("dead_groups")
        return self.groups


class Scene:
    def __init__(self, hold: bool = False) -> None:
        self.driver = Store()
        self.problems: dict[str, str] = {}
        rules = {PATH: Rules(hold=hold)}
        store = prepared(self.driver)
        self.duty = Accounts(store, rules, self.problems.__setitem__, structlog.get_logger())

    def look(self, numbers: TopicNumbers) -> list[dict[str, Any]]:
        """A turn at which the topic's numbers are these; what was logged."""
        self.driver.known = {PATH: numbers}
        with structlog.testing.capture_logs() as lines:
            assert self.duty.turn() == LOOK_S
        return lines

    def unknown(self, count: int, reason: str = "unknown") -> None:
        group = DeadGroup("gift", "credit", "f" * 16, count, count, 1, 1, reason, "why", "1-0")
        self.driver.groups = [group] if count else []
        self.look(dataclasses.replace(NOTHING, dead=count))


@pytest.mark.parametrize("name", ["expired", "cancelled", "forgotten"])
def test_what_is_new_since_the_last_look_is_one_line(name: str) -> None:
    scene = Scene()
    assert scene.look(TopicNumbers(**{f"{name}_total": 7})) == []
    (line,) = scene.look(TopicNumbers(**{f"{name}_total": 10}))
    assert (line["event"], line["count"], line["total"]) == (f"jobs.{name}", 3, 10)
    assert (line["queue"], line["topic"]) == PATH
    assert scene.look(TopicNumbers(**{f"{name}_total": 10})) == []


def test_a_topic_that_is_new_begins_at_nothing_and_one_that_was_removed_is_no_event() -> None:
    scene = Scene()
    scene.driver.known = {}
    scene.duty.turn()
    assert [line["count"] for line in scene.look(TopicNumbers(expired_total=2))] == [2]
    assert scene.look(NOTHING) == []


def test_what_a_look_missed_the_next_one_tells() -> None:
    scene = Scene()
    scene.look(NOTHING)
    scene.duty.interrupted()
    assert [line["count"] for line in scene.look(TopicNumbers(expired_total=2))] == [2]


def test_deliveries_of_unknown_end_are_a_problem_until_somebody_has_settled_them() -> None:
    scene = Scene(hold=True)
    scene.unknown(2)
    (text,) = scene.problems.values()
    assert text.startswith("gift/credit: nobody knows whether 2 of its jobs ran")
    scene.unknown(0)
    assert list(scene.problems.values()) == [""]


def test_other_dead_letters_are_no_problem_of_this_kind() -> None:
    scene = Scene(hold=True)
    scene.unknown(2, "failed")
    assert scene.problems == {}


def test_topics_that_do_not_hold_cost_one_call() -> None:
    scene = Scene()
    scene.look(TopicNumbers(dead=5))
    assert scene.driver.calls == ["numbers"]
