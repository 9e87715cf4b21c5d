"""``pbus topic stats`` and ``pbus system report`` over the statistics of a store, on SQLite and on Redis."""

from __future__ import annotations

import datetime
import json
import time

import pytest

from pbus.core.statistics import Bucket
from pbus.storage.statistics import Known
from pbus.telemetry.metrics import BOUNDS
from tests.integration.test_cli_stores import World, url, world

__all__ = ["url", "world"]

FAST, SLOW = BOUNDS.index(0.01), BOUNDS.index(1.0)
HOUR_US = 3_600_000_000


def row(node: str, topic: str = "credit", queue: str = "gift", **counts: object) -> Bucket:
    return Bucket(queue, topic, node, 0, **counts)  # type: ignore[arg-type]


def test_stats_are_sums_of_nodes_by_steps_with_percentiles_of_all(world: World) -> None:
    minute = int(time.time()) // 300 * 300 - 300
    with world.store() as driver:
        driver.put_statistics(minute, [row("n1", done=98, run={FAST: 98}), row("n1", "push", done=5)])
        driver.put_statistics(minute, [row("n2", done=1, failed=1, dead=1, run={SLOW: 2})], {("gift", ""): Known(50)})
        driver.put_statistics(minute + 60, [row("n2", done=3, run={SLOW: 3})], {("gift", ""): Known(62)})

    told = world.pbus("topic", "stats", "gift/credit", "--since", "30m", "--step", "5m", "-o", "json")

    assert told.status == 0, told.err
    document = json.loads(told.out)
    assert (document["v"], document["queue"], document["topic"], document["step_s"]) == (1, "gift", "credit", 300)
    (step,) = document["steps"]
    assert step["at_s"] == minute
    assert [step[key] for key in ("pushed", "done", "failed", "dead")] == [12, 102, 1, 1]
    assert (step["run_p50_s"], step["run_p90_s"], step["run_p99_s"], step["wait_p50_s"]) == (0.01, 0.01, 1.0, None)
    assert document["total"]["done"] == 102
    steps = json.loads(world.pbus("topic", "stats", "gift/credit", "--step", "1m", "-o", "json").out)["steps"]
    assert [(one["at_s"] - minute, one["done"], one["run_p90_s"]) for one in steps] == [(0, 99, 0.01), (60, 3, 1.0)]


def test_stats_for_people_end_with_the_sum(world: World) -> None:
    minute = int(time.time()) // 60 * 60 - 60
    with world.store() as driver:
        driver.put_statistics(minute - 120, [row("n1", done=1, run={FAST: 1}, wait={SLOW: 1})])
        driver.put_statistics(minute, [row("n1", done=2, run={FAST: 2})])

    lines = world.pbus("topic", "stats", "gift/credit", "--since", "10m").out.splitlines()

    assert lines[0].split()[:3] == ["FROM", "IN", "DONE"]
    assert len(lines) == 4
    assert lines[-1].split()[:3] == ["all", "0", "3"]
    assert lines[-1].split()[7:] == ["1", "s", "1", "s", "10", "ms", "10", "ms", "10", "ms"]


def test_stats_of_long_ago_are_of_hours_and_that_is_said(world: World) -> None:
    day_s = int(time.time()) - 2 * 86_400
    with world.store() as driver:
        driver.put_statistics(day_s, [row("n1", done=7)])

    told = world.pbus("topic", "stats", "gift/credit", "--since", "3d", "--step", "5m", "-o", "json")

    assert "kept by 1h only: --step is 1h" in told.err
    assert [(one["at_s"], one["done"]) for one in told.rows("steps")] == [(day_s // 3600 * 3600, 7)]


def test_stats_of_nothing_are_empty(world: World) -> None:
    assert world.pbus("topic", "stats", "gift/credit", "-o", "json").rows("steps") == []
    told = world.pbus("topic", "stats", "gift/credit")
    assert (told.status, told.out) == (0, "")
    assert "nothing is known of gift/credit" in told.err


@pytest.mark.parametrize(("words", "says"), [
    (("topic", "stats", "gift/credit", "--since", "2"), "a duration such as"),
    (("topic", "stats", "gift/credit", "--step", "90s"), "whole minutes"),
    (("topic", "stats", "gift/credi"), "did you mean 'gift/credit'?"),
    (("system", "report", "--month", "11-2026"), "a month such as 2026-11"),
    (("system", "report", "--system", "liv"), "did you mean 'live'?"),
])
def test_what_cannot_be_meant_is_explained(world: World, words: tuple[str, ...], says: str) -> None:
    told = world.pbus(*words)

    assert told.status != 0
    assert says in told.err
    assert told.out == ""


def test_report_is_what_each_system_used_in_a_month_and_its_share(world: World) -> None:
    now = datetime.datetime.now(datetime.UTC)
    with world.store() as driver:
        for pushed in (100, 104):
            driver.put_statistics(int(now.timestamp()), [], {("gift", ""): Known(pushed)})
        driver.put_statistics(int(now.timestamp()), [
            row("n1", done=3, failed=2, dead=1, bytes=1 << 29, run_us=2 * HOUR_US, cpu_us=HOUR_US // 2),
            row("n2", "push", done=4, bytes=1 << 29, run_us=HOUR_US),
            row("n1", "smtp", "mail", done=1, run_us=HOUR_US),
        ])

    told = world.pbus("system", "report", "--month", f"{now:%Y-%m}", "-o", "json")

    assert json.loads(told.out)["month"] == f"{now:%Y-%m}"
    rows = {one["system"]: one for one in told.rows("systems")}
    live = rows["live"]
    assert (live["title"], live["queues"], live["jobs"], live["gib"]) == ("Live", 1, 4, 1.0)
    assert [live[key] for key in ("handler_hours", "cpu_hours", "share", "attempts_per_job")] == [3.0, 0.5, 0.75, 1.125]
    assert rows["default"]["share"] == 0.25
    assert world.pbus("system", "report", "--month", "-o", "json").out == told.out       # this one
    (only,) = world.pbus("system", "report", "--system", "live", "-o", "json").rows("systems")
    assert only == live
    table = world.pbus("system", "report", "--system", "live").out.splitlines()
    assert table[1].split()[0] == "live"
    assert table[1].split()[-1] == "75.0%"
    (before,) = world.pbus("system", "report", "--month", "2020-02", "--system", "live", "-o", "json").rows("systems")
    assert [before[key] for key in ("jobs", "handler_hours", "share", "attempts_per_job")] == [0, 0.0, None, None]
