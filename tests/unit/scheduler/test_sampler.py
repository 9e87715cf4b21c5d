"""What the autoscaler is told, put together from the store, the delivery children and the master."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pbus.core.autoscale_terms import Kind, TopicRules, TopicSample
from pbus.scheduler.sampler import STALE_S, Sampler
from pbus.storage.driver import TopicNumbers

PATH, NAME = "gift/credit", ("gift", "credit")
RULES = TopicRules(least=1, most=8)
NONE: dict[str, Any] = {}


class Scene:
    def __init__(self, rules: TopicRules = RULES) -> None:
        self.sampler = Sampler({PATH: rules})
        self.now_s = 100.0
        self.numbers = TopicNumbers()

    def look(self, nodes: int = 1, **numbers: Any) -> None:
        self.numbers = replace(self.numbers, **numbers)
        self.sampler.looked({NAME: self.numbers, ("other", "node"): TopicNumbers(ready=5)}, self.now_s, nodes)

    def work(self, child: int = 0, interval_s: float = 1.0, backends: dict[str, Any] = NONE, **said: Any) -> None:
        self.sampler.worked({"child": child, "interval_s": interval_s, "topics": {PATH: said} if said else {},
                             "backends": backends})

    def tick(self, wanted: int = 1) -> TopicSample:
        sample = self.sampler.sample(self.now_s + 0.25, 0.0, {PATH: wanted}, {})
        self.now_s += 1.0
        return sample.topics[PATH]


def attempts(done: int, run_s: float, **more: Any) -> dict[str, Any]:
    return {"done": done, "timed": done, "run_s": run_s, "p95_s": 0.0, "busy": 0, "retry_after_s": 0.0, **more}


def standing(places: int, running: int = 0, is_open: bool = True) -> dict[str, Any]:
    return {"is_open": is_open, "places": places, "running": running}


def test_arrivals_are_what_the_backlog_grew_by_and_what_ended_meanwhile() -> None:
    scene = Scene()
    scene.look(done_total=1000)
    scene.tick()
    scene.look(ready=30, running=10, done_total=1060)
    assert scene.tick().arrivals_per_s == pytest.approx(100.0)


def test_what_came_to_a_topic_at_rest_came_just_now() -> None:
    """It was looked at five seconds ago, and nobody had a job of it in hand until this second."""
    scene = Scene()
    scene.look()
    scene.tick()
    scene.now_s += 4.0
    scene.look(ready=100)
    assert scene.tick().arrivals_per_s == pytest.approx(100.0)


def test_a_retry_arrives_when_it_comes_due_and_not_when_it_failed() -> None:
    scene = Scene()
    scene.look(running=1)
    scene.tick()
    scene.look(running=0, delayed=1, failed_total=1)
    assert scene.tick().arrivals_per_s == 0.0
    scene.look(delayed=0, ready=1)
    assert scene.tick().arrivals_per_s == pytest.approx(1.0)


def test_a_busy_answer_is_no_arrival_and_hides_none() -> None:
    """It ends an attempt that no total of the store counts."""
    scene = Scene()
    scene.look(running=4)
    scene.tick()
    scene.work(**standing(4), **attempts(0, 0.0, busy=4))
    scene.look(running=0, ready=3, delayed=4)
    assert scene.tick().arrivals_per_s == pytest.approx(3.0)


def test_purged_jobs_are_no_negative_arrivals() -> None:
    scene = Scene()
    scene.look(ready=500)
    scene.tick()
    scene.look(ready=0, cancelled_total=500)
    assert scene.tick().arrivals_per_s == 0.0


def test_attempts_of_all_children_are_added_up_over_the_time_they_counted() -> None:
    scene = Scene()
    scene.look(running=4)
    scene.work(0, **standing(2, 2), **attempts(30, 3.0))
    scene.work(1, **standing(2, 2), **attempts(10, 1.0))
    sample = scene.tick()
    assert sample.done_per_s == pytest.approx(40.0)
    assert sample.service_s == pytest.approx(0.1)
    assert sample.places == 4


def test_two_frames_in_one_tick_are_two_seconds() -> None:
    scene = Scene()
    scene.look(running=1)
    scene.work(**standing(1, 1), **attempts(20, 2.0))
    scene.work(**standing(1, 1), **attempts(20, 2.0))
    assert scene.tick().done_per_s == pytest.approx(20.0)


def test_a_topic_is_open_as_long_as_one_child_hands_its_jobs_out() -> None:
    scene = Scene()
    scene.look(ready=1)
    scene.work(0, **standing(0, is_open=False))
    scene.work(1, **standing(1))
    assert scene.tick().is_open
    scene.work(1, **standing(0, is_open=False))
    assert not scene.tick().is_open
    scene.work(1, **standing(1))
    scene.look(paused_ms=1)
    assert not scene.tick().is_open


def test_each_of_several_nodes_takes_an_equal_part() -> None:
    scene = Scene()
    scene.look(nodes=3)
    scene.tick()
    scene.look(nodes=3, ready=91, done_total=209)
    sample = scene.tick()
    assert sample.ready == 31
    assert sample.arrivals_per_s == pytest.approx(100.0)


def test_processes_are_what_the_master_says() -> None:
    scene = Scene(replace(RULES, kind=Kind.PROCESSES))
    scene.sampler.machine({"cores": 2, "cores_used": 1.0, "memory_bytes": 100, "memory_free_bytes": 50, "topics": {
        PATH: {"places": 3, "starting": 2, "cores": 0.5, "rss_bytes": 30, "wanted": 5},
    }})
    scene.look(ready=1)
    sample = scene.tick()
    assert (sample.places, sample.starting, sample.cores, sample.rss_bytes) == (3, 2, 0.5, 30)
    assert scene.sampler.places == {PATH: 5}


def test_backends_are_as_the_child_knows_them_that_knows_most() -> None:
    scene = Scene()
    scene.look()
    scene.work(0, backends={"php": {"connections": 48, "processes": 0, "listen_queue": 0}})
    scene.work(1, backends={"php": {"connections": 48, "processes": 12, "listen_queue": 3}})
    backend = scene.sampler.sample(scene.now_s, 0.0, {}, {}).backends["php"]
    assert (backend.connections, backend.processes, backend.listen_queue) == (48, 12, 3)


def test_programs_that_pop_for_themselves_are_measured_by_the_store() -> None:
    """Little's law: two run, ten a second end, so each takes a fifth of a second."""
    scene = Scene()
    scene.look(running=2)
    scene.tick()
    scene.look(running=2, done_total=10)
    sample = scene.tick()
    assert (sample.done_per_s, sample.service_s) == (pytest.approx(10.0), pytest.approx(0.2))


def test_what_an_ingest_child_counts_of_programs_is_taken_instead() -> None:
    scene = Scene()
    scene.look(running=2)
    said = {PATH: {"done": 4, "run_s_sum": 2.0}}
    scene.sampler.worked({"role": "ingest", "child": 0, "topics": said, "backends": {}})
    scene.look(done_total=4)
    assert scene.tick().service_s == pytest.approx(0.5)
    scene.look(done_total=9)
    assert scene.tick().service_s is None


def test_a_look_that_came_late_does_not_end_the_arrivals() -> None:
    scene = Scene()
    scene.look(running=1)
    scene.tick()
    scene.look(ready=100)
    assert scene.tick().arrivals_per_s == pytest.approx(100.0)
    assert scene.tick().arrivals_per_s == pytest.approx(100.0)


def test_a_store_that_is_away_leaves_the_topic_out() -> None:
    scene = Scene()
    scene.look(ready=5)
    scene.tick()
    scene.now_s += STALE_S
    assert PATH not in scene.sampler.sample(scene.now_s, 0.0, {}, {}).topics


def test_a_topic_at_rest_is_not_awake_until_somebody_has_something_in_hand() -> None:
    scene = Scene()
    scene.work(**standing(1))
    for _ in range(3):
        scene.look()
        scene.tick()
    assert scene.sampler.awake() == set()
    scene.work(**standing(1, 1))
    assert scene.sampler.awake() == {PATH}


def test_a_topic_without_a_place_is_always_looked_at() -> None:
    """Nobody but the store would know of its first job."""
    scene = Scene(replace(RULES, least=0))
    scene.work(**standing(0))
    for _ in range(3):
        scene.look()
        scene.tick(0)
    assert scene.sampler.awake() == {PATH}
