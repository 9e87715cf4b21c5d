"""Readings: which there are, of what, and what is said when one fires."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pbus.config.schema import Alarm, Concurrency, PullHandler, PythonHandler, Queue, System, Topic, TopicAlarm
from pbus.core.alarms import Reading
from pbus.core.statistics import Bucket
from pbus.scheduler.conditions import Condition
from pbus.scheduler.elsewhere import Elsewhere
from pbus.scheduler.looks import ALL_S, Looks
from pbus.scheduler.readings import NEAR_S, WATCHED, Path, Readings
from pbus.scheduler.sampler import Sampler
from pbus.storage.driver import TopicNumbers
from pbus.telemetry.metrics import BOUNDS
from tests.unit.scheduler.store import Bench, SchedulerStore, prepared

PATH = ("gift", "credit")
OWN = Condition("n1", "b1", places={"gift/credit": 2})
WALL_S = 1_800_000_000.0
EVERY = TopicAlarm(
    oldest_wait_s=60.0, backlog=10, gone_in_s=600.0, failed_percent=10.0, latency_p90_s=1.0, dead_growth=5,
)

Pausers = Callable[[Mapping[Path, int]], Mapping[Path, str]]


def readings(
    alarm: TopicAlarm = EVERY, *, is_first: bool = True, pausers: Pausers = lambda _: {},
    elsewhere: Elsewhere | None = None, **more: Any,
) -> tuple[Readings, Looks]:
    bench = Bench()
    looks = Looks(prepared(SchedulerStore()), Sampler({}), bench.clock, lambda: 1)
    python = PythonHandler(call="a:b", path="/")
    queues = {"gift": Queue(system="live", topic={
        "credit": Topic(python=python, concurrency=Concurrency(min=1, max=2), alarm=alarm),
        "quiet": Topic(pull=PullHandler()),
    })}
    systems = {"live": System(title="Live", owner="live-team")}
    bounds = Alarm(fill_percent=85.0, **more)
    deployed = {"gift/credit": WALL_S - 60}
    made = Readings(
        queues, systems, bounds, looks, dict, is_first=is_first, deployed_s=deployed, pausers=pausers,
        elsewhere=elsewhere,
    )
    return made, looks


def taken(made: Readings, own: Condition = OWN, *others: Condition, living: list[str] | None = None,
          now_s: float = 0.0) -> Mapping[str, float | None]:
    return {one.id: one.value for one in made.take(now_s, own, others, living, 12.0, "main")}


def test_every_bound_of_a_topic_is_one_reading_and_unknown_before_it_was_looked_at() -> None:
    made, looks = readings()
    names = ("oldest_wait", "backlog", "gone_in", "failed_percent", "latency_p90", "dead_growth")
    assert taken(made) == {**{f"{name}:gift/credit": None for name in names}, "store_fill:main": 12.0}

    looks.known = {PATH: TopicNumbers(ready=7, oldest_wait_s=70.0, done_total=5)}
    found = taken(made)
    assert (found["oldest_wait:gift/credit"], found["backlog:gift/credit"]) == (70.0, 7)
    assert found["gone_in:gift/credit"] is None
    assert (found["failed_percent:gift/credit"], found["dead_growth:gift/credit"]) == (0.0, 0)


def test_topics_with_bounds_are_looked_at_more_often() -> None:
    assert [readings(alarm)[1].every_s for alarm in (EVERY, TopicAlarm())] == [WATCHED, ALL_S]


@pytest.mark.parametrize(("is_first", "more", "ids"), [
    (True, {}, {"fatal:gift/credit", "circuit:php", "node:n2", "node:n3"}),
    (False, {}, {"fatal:gift/credit", "node:n2", "node:n3"}),
    (True, {"fatal": False, "circuit": False, "node": False}, set()),
])
def test_nodes_say_what_does_not_run_and_the_lost_say_nothing(
    is_first: bool, more: dict[str, bool], ids: set[str]
) -> None:
    made, _ = readings(TopicAlarm(), is_first=is_first, **more)
    second = Condition("n2", "b2", {"gift/credit": ("fatal", "x"), "other/topic": ("fatal", "x")}, {"php": "refused"})
    third = Condition("n3", "b3", {"gift/quiet": ("fatal", "x")}, {"http": "refused"})
    found = taken(made, OWN, second, third, living=["b1", "b2"])

    assert set(found) - {"store_fill:main"} == ids
    if more == {}:
        assert (found["node:n2"], found["node:n3"]) == (0.0, 1.0)


def test_firing_says_why_since_when_the_code_is_new_and_whose_jobs_wait() -> None:
    made, looks = readings()
    looks.known = {PATH: TopicNumbers(ready=7, running=2, delayed=1, oldest_wait_s=70.0, done_total=5)}
    taken(made)
    why = made.because(Reading(kind="backlog", subject="gift/credit", value=7), WALL_S)

    assert why.cause == (
        "all 2 that it may have at once are busy, 7 jobs wait, the oldest for 70 s; "
        "new code since 2027-01-15 07:59:00 UTC"
    )
    assert why.affected == "system live (Live, live-team), 8 jobs wait"
    assert "pbus topic scale gift/credit N" in why.todo
    later = made.because(Reading(kind="backlog", subject="gift/credit", value=7), WALL_S + NEAR_S)
    assert "new code" not in later.cause


def test_nobody_is_told_of_a_shadow() -> None:
    bench = Bench()
    looks = Looks(prepared(SchedulerStore()), Sampler({}), bench.clock, lambda: 1)
    shadow = Topic(pull=PullHandler(), alarm=EVERY, shadow_of="real")
    queues = {"gift": Queue(topic={"real": Topic(pull=PullHandler()), "credit": shadow})}
    made = Readings(queues, {}, Alarm(fill_percent=0.0), looks, dict, is_first=True)
    looks.known = {PATH: TopicNumbers(ready=70, oldest_wait_s=700.0, dead_total=9)}

    assert taken(made, Condition("n1", "b1", {"gift/credit": ("fatal", "x")})) == {}


def test_latency_is_that_of_the_other_nodes_too() -> None:
    store = SchedulerStore()
    made, looks = readings(elsewhere=Elsewhere(store, "n1"))
    looks.known = {PATH: TopicNumbers()}
    store.buckets = [
        Bucket(*PATH, "n2", 600, run={30: 12}), Bucket(*PATH, "n3", 600, run={30: 8}),
        Bucket("gift", "", "", 600, pushed=9), Bucket(*PATH, "n1", 600, run={80: 100}),     # our own are known better
    ]
    other = Condition("n2", "b2")
    found = [
        {one.id: one.value for one in made.take(at_s, OWN, others, None, 0.0, "main", at_s)}["latency_p90:gift/credit"]
        for at_s, others in ((664.0, []), (664.0, [other]), (700.0, [other]), (723.0, [other]))
    ]

    assert found == [0.0, BOUNDS[30], BOUNDS[30], 0.0]
    assert store.calls.count("statistics") == 2         # once a minute and queue


def test_firing_says_who_paused_and_when() -> None:
    asked = []

    def pausers(paused_ms: Mapping[Path, int]) -> Mapping[Path, str]:
        asked.append(paused_ms)
        return {PATH: "ann on n1"}

    made, looks = readings(pausers=pausers)
    looks.known = {PATH: TopicNumbers(ready=7, paused_ms=int((WALL_S - 90) * 1000))}
    taken(made)
    whys = [made.because(Reading(kind=kind, subject="gift/credit", value=7), WALL_S) for kind in ("backlog", "gone_in")]

    assert all("was paused by ann on n1 90 s ago" in why.cause for why in whys), whys[0].cause
    assert len(asked) == 1


def test_backend_that_is_left_alone_says_where_and_why() -> None:
    made, _ = readings()
    stopped = {"gift/credit": ("down", "unix:/x: refused"), "gift/other": ("fatal", "its own reason")}
    taken(made, Condition("n1", "b1", stopped, {"php": "unix:/x: refused"}, callers={"php": ["gift/credit"]}))
    why = made.because(Reading(kind="circuit", subject="php", value=1.0), WALL_S)

    assert (why.cause, why.affected) == ("on n1: unix:/x: refused", "topics gift/credit")
