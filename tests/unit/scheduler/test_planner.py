"""The planner's ticks: what the master is told and when, what the log has, and how it begins after another one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog.testing

from pbus.clock import FakeClock
from pbus.core.autoscale_terms import NodeSample, Plan, TopicRules
from pbus.scheduler.looks import ALL_S, Looks
from pbus.scheduler.orders import Orders
from pbus.scheduler.planner import AT_S, PATIENCE_S, WORDS_S, Planner
from pbus.scheduler.roster import Store
from pbus.scheduler.sampler import Sampler
from pbus.storage.driver import QueueSpec, TopicNumbers, TopicSpec
from tests.unit.scheduler.store import SchedulerStore

PATH, NAME = "gift/credit", ("gift", "credit")
RULES = TopicRules(least=1, most=32)


class Nothing:
    def write(self, sample: NodeSample, plan: Plan) -> None:
        """Nobody simulates."""


class Scene:
    def __init__(self, folder: Path, **rules: TopicRules) -> None:
        self.clock = FakeClock()
        self.rules = {PATH: RULES, **rules}
        self.sampler = Sampler(self.rules)
        self.told: list[dict[str, Any]] = []
        self.problems: dict[str, str] = {}
        log = structlog.get_logger()
        self.orders = Orders(str(folder), self.rules, self.clock, self.problems.__setitem__, log)
        self.planner = Planner(self.rules, self.sampler, self.orders, Nothing(), self._tell, self.clock, log)
        self.numbers = TopicNumbers()

    def _tell(self, kind: str, **fields: Any) -> None:
        assert kind == "plan"
        self.told.append(fields["topics"])

    def machine(self, wanted: int) -> None:
        self.sampler.machine({"cores": 8, "cores_used": 0.1, "memory_bytes": 0, "memory_free_bytes": 0, "topics": {
            PATH: {"places": wanted, "starting": 0, "cores": 0.1, "rss_bytes": 0, "wanted": wanted},
        }})

    def tick(self, arrivals: int = 0, done: int = 0, service_s: float = 0.05, places: int = 1) -> None:
        ready = self.numbers.ready + arrivals - done
        self.numbers = replace(self.numbers, ready=ready, done_total=self.numbers.done_total + done)
        self.sampler.looked({NAME: self.numbers}, self.clock.monotonic_s())
        self.sampler.worked({"child": 0, "interval_s": 1.0, "backends": {}, "topics": {PATH: {
            "is_open": True, "places": places, "running": 0, "done": done, "timed": done, "run_s": done * service_s,
            "p95_s": service_s, "busy": 0, "retry_after_s": 0.0,
        }}})
        self.planner.tick()
        self.clock.sleep(1.0)


def test_the_master_is_told_a_new_number_at_once_and_words_now_and_then(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.machine(1)
    scene.tick()
    assert scene.told[-1][PATH]["wanted"] == 1
    for _ in range(3):
        scene.tick(200, 200, places=32)
    assert scene.told[-1][PATH]["wanted"] > 1
    assert scene.told[-1][PATH]["limited_by"] == "none"
    for _ in range(20):
        scene.tick(200, 200, places=12)
    frames = len(scene.told)
    for _ in range(10):
        scene.tick(200, 200, places=12)
    assert len(scene.told) - frames <= 10 / WORDS_S + 1


def test_a_topic_at_rest_costs_no_frames(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.machine(1)
    for _ in range(5):
        scene.tick()
    frames = len(scene.told)
    for _ in range(10):
        scene.tick()
    assert len(scene.told) == frames


def test_after_a_restart_nothing_jumps(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.machine(12)
    with structlog.testing.capture_logs() as lines:
        for _ in range(8):
            scene.tick(200, 200, places=12)
    assert {frame[PATH]["wanted"] for frame in scene.told if PATH in frame} == {12}
    assert [line for line in lines if line["event"] == "topic.scaled"] == []


def test_it_waits_for_the_master_but_not_for_ever(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.tick()
    assert scene.told == []
    for _ in range(int(PATIENCE_S) + 1):
        scene.tick()
    assert scene.told


def test_a_change_is_an_event_with_its_inputs(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.machine(1)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            scene.tick(200, 200, places=32)
    event = [line for line in lines if line["event"] == "topic.scaled"][-1]
    assert (event["queue"], event["topic"]) == NAME
    assert event["wanted"] > event["was"]
    assert "jobs/s of 50 ms keep" in event["reason"]
    assert event["done_per_s"] == 200.0
    assert event["measured_service_s"] == 0.05
    assert "can do" in event["capacity"]


def test_a_thousand_changes_at_once_are_not_a_thousand_lines(tmp_path: Path) -> None:
    many = {f"q/t{number}": RULES for number in range(1000)}
    scene = Scene(tmp_path, **many)
    scene.sampler.looked({("q", f"t{number}"): TopicNumbers() for number in range(1000)}, scene.clock.monotonic_s())
    scene.machine(1)
    with structlog.testing.capture_logs() as lines:
        scene.tick()
        scene.tick(200, 200)
        scene.tick(200, 200)
    events = [line for line in lines if line["event"] == "topic.scaled"]
    assert len(events) < 20
    assert sum(line.get("omitted", 0) for line in events) > 900


def test_an_order_holds_until_it_ends(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.machine(1)
    for _ in range(4):
        scene.tick()
    scene.orders.take({"glob": PATH, "min": 5, "max": 5, "until_s": scene.clock.wall_s() + 3.5})
    scene.tick()
    assert scene.told[-1][PATH]["wanted"] == 5
    assert "by order" in scene.told[-1][PATH]["reason"]
    for _ in range(30):
        scene.tick(places=5)
    assert scene.told[-1][PATH]["wanted"] == 1


def test_ticks_come_a_quarter_after_the_full_second(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    late_s = (scene.clock.monotonic_s() + scene.planner.next_s - AT_S) % 1.0
    assert min(late_s, 1.0 - late_s) < 1e-6
    assert 0.0 < scene.planner.next_s <= 1.0


def test_looks_are_at_everything_now_and_then_and_else_where_something_happens() -> None:
    asked: list[list[str] | None] = []

    class Driver(SchedulerStore):
        def numbers(self, queues: Any = None) -> Any:
            asked.append(queues)
            return super().numbers(queues)

    driver, clock = Driver(), FakeClock()
    driver.known = {NAME: TopicNumbers(), ("mail", "send"): TopicNumbers()}
    sampler = Sampler({PATH: RULES, "mail/send": RULES})
    specs = [QueueSpec(name, (TopicSpec(topic),), 3600.0, 0) for name, topic in (NAME, ("mail", "send"))]
    store = Store("main", driver, specs)  # type: ignore[arg-type] # what looks do not call is not there
    looks = Looks(store, sampler, clock, lambda: 1)
    quiet = {"is_open": True, "places": 1, "running": 0}

    def second(**topics: Any) -> None:
        sampler.worked({"child": 0, "interval_s": 1.0, "backends": {}, "topics": topics})
        looks.turn()
        sampler.sample(clock.monotonic_s(), 0.0, {}, {})
        clock.sleep(1.0)

    second(**{PATH: quiet, "mail/send": quiet})
    second()
    second()
    asked.clear()
    second(**{PATH: {**quiet, "running": 1}})
    assert asked == [["gift"]]
    asked.clear()
    for _ in range(int(ALL_S) + 1):
        second(**{PATH: quiet})
    assert None in asked


def test_what_was_seen_is_kept_for_charts_with_its_age() -> None:
    driver, clock = SchedulerStore(), FakeClock()
    driver.known = {NAME: TopicNumbers(ready=1)}
    store = Store("main", driver, [QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 0)])  # type: ignore[arg-type]
    looks = Looks(store, Sampler({PATH: RULES}), clock, lambda: 1)
    assert (looks.known, looks.age_s) == ({}, math.inf)

    looks.turn()
    clock.advance(2.0)
    driver.known = {}
    looks.interrupted()

    assert looks.known[NAME].ready == 1  # it is away: as it was
    assert (list(looks.queues), looks.age_s) == (["gift"], 2.0)
    looks.turn()
    assert looks.known == {}  # it was removed
