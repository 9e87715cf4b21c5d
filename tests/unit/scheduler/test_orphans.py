"""When an orphan is over: nothing of it is left, and what is left to read stays."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from pbus.clock import FakeClock
from pbus.config.schema import Node
from pbus.scheduler.orphans import Orphans, Watch
from pbus.storage.driver import Held, TopicNumbers
from tests.unit.scheduler.store import SchedulerStore, prepared

MINE = ("gift", "credit")


class Seen(SchedulerStore):
    """A store with these numbers that notes what is dropped."""

    def __init__(self, numbers: TopicNumbers) -> None:
        super().__init__()
        self.known = {MINE: numbers}
        self.removed: list[tuple[str, str]] = []
        self.holders: dict[str, list[Held]] = {}

    def numbers(self, queues: Any = None) -> dict[tuple[str, str], TopicNumbers]:
        return self.known

    def owners(self) -> list[str]:
        return list(self.holders)

    def held(self, owner: str) -> list[Held]:
        return self.holders[owner]

    def drop_topic(self, queue: str, topic: str) -> bool:
        self.removed.append((queue, topic))
        return True


class Told(Orphans):
    """Notes what is to be forgotten."""

    def __init__(self, gone: frozenset[str], over: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__([MINE], gone, over, Node(name="bus-1"), "/nowhere", structlog.get_logger())
        self.forgotten: list[tuple[str, str]] = []

    def forget(self, names: Any) -> bool:
        self.forgotten += names
        return True


@pytest.mark.parametrize(("numbers", "gone", "is_over"), [
    (TopicNumbers(), False, True),
    (TopicNumbers(ready=1), True, False),
    (TopicNumbers(running=1), True, False),
    (TopicNumbers(delayed=1), True, False),
    (TopicNumbers(dead=1), True, True),
    (TopicNumbers(dead=1), False, False),     # its queue goes on: nobody else would take what is pushed to it
])
def test_orphan_is_over_when_nothing_waits_or_runs(numbers: TopicNumbers, gone: bool, is_over: bool) -> None:
    those = Told(frozenset({"gift"} if gone else ()))
    Watch(those, prepared(Seen(numbers)), [MINE], lambda: 1, FakeClock()).turn()
    assert those.forgotten == ([MINE] if is_over else [])


@pytest.mark.parametrize(("numbers", "nodes", "dropped"), [
    (TopicNumbers(), 1, [MINE]), (TopicNumbers(), 2, []), (TopicNumbers(dead=1), 1, []), (TopicNumbers(ready=1), 1, []),
])
def test_topic_that_is_over_leaves_the_store_only_with_nothing_in_it_and_nobody_beside_us(
    numbers: TopicNumbers, nodes: int, dropped: list[tuple[str, str]]
) -> None:
    driver, clock = Seen(numbers), FakeClock()
    duty = Watch(Told(frozenset(), over=(MINE,)), prepared(driver), [], lambda: nodes, clock)
    duty.turn()
    assert driver.removed == []               # others were not to be seen yet
    clock.advance(60.0)
    duty.turn()
    duty.turn()
    assert driver.removed == dropped


@pytest.mark.parametrize(("node", "expected"), [("bus-1", []), ("bus-2", [MINE])])
def test_topic_that_another_node_runs_is_theirs(node: str, expected: list[tuple[str, str]]) -> None:
    driver, those = Seen(TopicNumbers(ready=5, running=1)), Told(frozenset())
    driver.holders = {f"{node}/boot/0.1": [Held(*MINE, "1-0", 0, 0)]}
    Watch(those, prepared(driver), [MINE], lambda: 2, FakeClock()).turn()
    assert those.forgotten == expected
