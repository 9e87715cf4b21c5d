"""Alarms of a store: one node decides; nothing is told twice, nothing is forgotten, whoever dies and whenever."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pbus.config.schema import Alarm, Notify, PullHandler, Queue, System, Topic, TopicAlarm
from pbus.core import notices
from pbus.core.alarms import Policy
from pbus.errors import Conflict, StoreFull
from pbus.scheduler.alarms import Alarms
from pbus.scheduler.conditions import KIND, Conditions
from pbus.scheduler.looks import Looks
from pbus.scheduler.notify import Post
from pbus.scheduler.readings import Readings
from pbus.scheduler.sampler import Sampler
from pbus.storage.driver import TopicNumbers
from tests.unit.scheduler.store import AWAY, Bench, SchedulerStore, prepared

POLICY = Policy(group_wait_s=1.0, oncall={"live": ("team",)}, default=("all",))
PATH = ("gift", "credit")
QUEUES = {"gift": Queue(system="live", topic={"credit": Topic(
    pull=PullHandler(), alarm=TopicAlarm(oldest_wait_s=60.0, backlog=3),
)})}


class Told(Post):
    """Sends by writing down; ``error`` is what each try comes to."""

    def __init__(self, bench: Bench) -> None:
        super().__init__({"team": Notify(command=["x"]), "all": Notify(command=["x"])}, bench.clock)
        self.sent: list[tuple[str, str, int]] = []
        self.error = ""
        self.hangs = False

    def send(self, message: notices.Message, ended: list[tuple[notices.Message, str]]) -> None:
        self.sent.append((message.status, message.notifier, message.count))
        if not self.hangs:
            ended.append((message, self.error))


class Node:
    """One scheduler's duty over the shared store."""

    def __init__(self, bench: Bench, driver: SchedulerStore, name: str = "n1", post: Told | None = None) -> None:
        self.driver = driver
        self.bench = bench
        store = prepared(driver)
        self.looks = Looks(store, Sampler({}), bench.clock, lambda: 1)
        self.conditions = Conditions(name, f"boot-{name}")
        self.post = post or Told(bench)
        readings = Readings(
            QUEUES, {"live": System(owner="live-team")}, Alarm(), self.looks, dict, is_first=True
        )
        self.duty = Alarms(
            store, f"{name}/boot-{name}/1.1", POLICY, readings, self.conditions, self.post, 5.0, 15.0, bench.clock,
            bench.log,
        )

    def turn(self, ready: int = 0) -> None:
        self.looks.known = {PATH: TopicNumbers(ready=ready)}
        self.duty.turn()


def seconds(count: int, ready: int, *nodes: Node) -> None:
    """So much time, a turn of each node a second."""
    for _ in range(count):
        for node in nodes:
            node.turn(ready)
        nodes[0].bench.clock.advance(1.0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(params=[False, True], ids=["one-node", "many-nodes"])
def driver(request: pytest.FixtureRequest, bench: Bench) -> SchedulerStore:
    made = SchedulerStore(many_nodes=request.param)
    made.counters = {"boot-n1": 1, "boot-n2": 1}
    return made


def test_what_fires_is_sent_once_and_its_end_once(bench: Bench, driver: SchedulerStore) -> None:
    node = Node(bench, driver)
    seconds(30, 5, node)
    seconds(30, 0, node)

    assert node.post.sent == [("firing", "team", 1), ("over", "team", 1)]


def test_next_process_tells_nothing_again_and_what_is_over_meanwhile(bench: Bench, driver: SchedulerStore) -> None:
    first = Node(bench, driver)
    seconds(5, 5, first)
    first.duty.leave()
    second = Node(bench, driver)
    seconds(10, 5, second)
    assert second.post.sent == []
    second.duty.leave()
    third = Node(bench, driver)
    seconds(10, 0, third)

    assert third.post.sent == [("over", "team", 1)]


@pytest.mark.parametrize("writes", range(12))
def test_process_that_dies_between_any_two_writes_makes_nobody_told_twice_or_not_at_all(
    bench: Bench, driver: SchedulerStore, writes: int
) -> None:
    post = Told(bench)
    first = Node(bench, driver, post=post)
    driver.write_limit = writes
    seconds(5, 5, first)
    died_told = len(post.sent)
    driver.write_limit = 1 << 30
    bench.clock.advance(60.0)               # whoever decided stood still
    second = Node(bench, driver, "n2", post)
    seconds(60, 5, second)

    told = [one for one in post.sent if one[0] == "firing"]
    assert len(told) in ((1, 2) if died_told else (1,)), post.sent  # sent, and dead before it was written: again
    assert all(one == ("firing", "team", 1) for one in told)


@pytest.mark.parametrize("writes", range(10))
def test_store_that_fails_between_any_two_writes_makes_nobody_told_twice_or_not_at_all(
    bench: Bench, driver: SchedulerStore, writes: int
) -> None:
    node = Node(bench, driver)
    driver.write_limit = writes
    seconds(5, 5, node)
    driver.write_limit = 1 << 30
    seconds(90, 5, node)

    assert len(node.post.sent) in (1, 2), node.post.sent     # twice: sent, and that could not be written for long
    assert set(node.post.sent) == {("firing", "team", 1)}


def test_message_that_somebody_else_tries_is_left_to_it(bench: Bench, driver: SchedulerStore) -> None:
    node = Node(bench, driver)
    node.post.hangs = True
    seconds(3, 5, node)
    (stale,) = driver.documents("message")
    driver.write_document("message", stale.name, stale.text, stale.version)
    message = notices.read(stale.text)
    assert message is not None
    before = list(node.post.sent)
    node.duty._try(stale, message, bench.clock.wall_s())

    assert node.post.sent == before


def test_message_is_made_again_when_it_was_decided_and_not_written(bench: Bench, driver: SchedulerStore) -> None:
    node = Node(bench, driver)
    node.post.hangs = True
    seconds(3, 5, node)
    for path in [path for path in driver.texts if path[0] == "message"]:
        del driver.texts[path]
    post = Told(bench)
    driver.texts.pop(("decider", "alarms"), None)
    again = Node(bench, driver, post=post)
    seconds(5, 5, again)

    assert post.sent == [("firing", "team", 1)]


def test_message_that_is_not_taken_is_tried_again(bench: Bench, driver: SchedulerStore) -> None:
    node = Node(bench, driver)
    node.post.error = "refused"
    seconds(20, 5, node)
    assert 3 <= len(node.post.sent) <= 5
    node.post.error = ""
    seconds(40, 5, node)
    count = len(node.post.sent)
    seconds(100, 5, node)

    assert len(node.post.sent) == count


def test_store_that_takes_nothing_is_not_called_away(bench: Bench, driver: SchedulerStore) -> None:
    node = Node(bench, driver)
    for error in (AWAY, StoreFull("full")):
        driver.fail = error
        node.turn(5)
    driver.fail = Conflict("fenced")
    with pytest.raises(Conflict):
        node.turn(5)
    driver.fail = None
    seconds(5, 5, node)

    assert node.post.sent == [("firing", "team", 1)]


class TestManyNodes:
    """What only a store of several nodes has."""

    @pytest.fixture
    def driver(self) -> SchedulerStore:
        made = SchedulerStore(many_nodes=True)
        made.counters = {"boot-n1": 1, "boot-n2": 1}
        return made

    def test_one_of_two_decides(self, bench: Bench, driver: SchedulerStore) -> None:
        post = Told(bench)
        nodes = [Node(bench, driver, name, post) for name in ("n1", "n2")]
        seconds(60, 5, *nodes)

        assert post.sent == [("firing", "team", 1)]

    def test_other_decides_when_the_first_stands_still_and_the_first_notices(
        self, bench: Bench, driver: SchedulerStore
    ) -> None:
        post = Told(bench)
        first, second = Node(bench, driver, "n1", post), Node(bench, driver, "n2", post)
        seconds(3, 0, first, second)
        seconds(10, 5, second)
        assert post.sent == []
        seconds(15, 5, second)
        assert post.sent == [("firing", "team", 1)]
        seconds(30, 5, first, second)

        assert post.sent == [("firing", "team", 1)]

    def test_two_that_both_believe_to_decide_tell_it_once(self, bench: Bench, driver: SchedulerStore) -> None:
        post = Told(bench)
        first, second = Node(bench, driver, "n1", post), Node(bench, driver, "n2", post)
        seconds(1, 0, first)
        first.duty._renew_s = 1e12               # it has stood still and knows nothing of the other
        bench.clock.advance(60.0)
        seconds(16, 0, second)
        for _ in range(30):
            for node in (first, second):
                node.turn(5)
                bench.clock.advance(0.5)

        assert post.sent == [("firing", "team", 1)]

    def test_node_that_is_lost_is_told_with_what_it_said_last(self, bench: Bench, driver: SchedulerStore) -> None:
        first, second = Node(bench, driver, "n1"), Node(bench, driver, "n2")
        stopped = {"gift/credit": ["fatal", "it ends"]}
        frame: dict[str, Any] = {"topics": {}, "stopped": stopped, "circuits": {"php": "x"}}
        second.conditions.hear(frame)
        seconds(6, 0, first, second)
        assert first.post.sent == [("firing", "team", 1), ("firing", "all", 1)]       # its topic, its backend
        driver.fence("boot-n2")
        seconds(5, 0, first)

        assert first.post.sent[2:] == [("firing", "all", 1)]                          # itself
        assert json.loads(driver.texts[KIND, "n2"].text)["boot"] == "boot-n2"

    def test_node_that_ends_in_good_order_is_not_missed(self, bench: Bench, driver: SchedulerStore) -> None:
        first, second = Node(bench, driver, "n1"), Node(bench, driver, "n2")
        seconds(3, 0, first, second)
        second.duty.leave()
        driver.forget("boot-n2")
        seconds(30, 0, first)

        assert first.post.sent == []
