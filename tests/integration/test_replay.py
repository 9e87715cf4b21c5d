"""``pbus replay`` with a running bus: a guard that trips, jobs of a file. What is killed meanwhile: tests/chaos."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.core.job import Push
from tests.support.bus import Bus, BusFactory
from tests.support.graves import Reborn, bury, opened, replay
from tests.support.waiting import until

GROUP_A, GROUP_B = "a" * 16, "b" * 16
MEANT, OTHERS, GOOD = 1200, 200, 250
RATE = 500


@pytest.fixture
def handler() -> Iterator[Reborn]:
    reborn = Reborn()
    with contextlib.closing(reborn.stub):
        yield reborn


def bus_of(bus_factory: BusFactory, handler: Reborn) -> Bus:
    return bus_factory({"queue": {"gift": {"topic": {"credit": handler.topic, "late": {"pull": {}}}}}}, start=False)


def groups(bus: Bus) -> dict[str, int]:
    """Dead letters by their group."""
    with opened(bus.settings) as driver:
        return {group.fingerprint: group.count for group in driver.dead_groups("gift", "credit")}


def test_a_guard_stops_a_fast_replay_of_a_group_when_the_handler_begins_to_fail(
    bus_factory: BusFactory, handler: Reborn
) -> None:
    bus = bus_of(bus_factory, handler)
    ids = bury(bus.settings, MEANT, "a")
    others = bury(bus.settings, OTHERS, "b")
    bus.start()
    times: list[float] = []
    handler.fails = lambda number: times.append(time.monotonic()) or number >= GOOD  # type: ignore[func-returns-value]
    asked = ("--from", "dead", "--topic", "gift/credit", "--group", GROUP_A, "--rate", f"{RATE}/s",
             "--canary", "5,10%", "--guard", "failed<2%")
    counted = bus.cli("replay", "start", *asked, "--dry-run", check=True).stderr
    assert f"would replay {MEANT} at {RATE}/s, 2 s; stages end at 5, 120, {MEANT}" in counted
    bus.cli("replay", "start", *asked, "--name", "r2", check=True)
    until(lambda: replay(bus.settings, "r2").state == "tripped", 30, "the guard has stopped it")
    until(lambda: handler.ran == replay(bus.settings, "r2").replayed, 10, "what it had pushed has run")

    replayed = handler.ran
    print(f"{replayed - GOOD} of {MEANT - GOOD} that would have failed were replayed")
    assert GOOD < replayed < MEANT
    assert times[GOOD - 1] - times[120] >= (GOOD - 121) / RATE * 0.8, "not faster than it may"
    assert handler.copies.keys() == set(ids[MEANT - replayed :]), "the newest first, nothing of the other group"
    left = groups(bus)
    assert (left[GROUP_A], left[GROUP_B], sum(left.values())) == (
        MEANT - replayed, len(others), MEANT + len(others) - GOOD), "the rest is untouched; what failed again is dead"
    told = bus.cli("replay", "show", "r2", check=True).stdout
    assert "guard failed<2%: " in told
    assert f"stopped after {replayed} of {MEANT}, the rest is untouched" in told

    handler.fails = lambda number: False
    bus.cli("replay", "resume", "r2", check=True)
    until(lambda: replay(bus.settings, "r2").state == "done", 30, "it is done")
    assert (handler.copies.keys(), replay(bus.settings, "r2").replayed) == (set(ids), MEANT)
    assert {copies.total() for copies in handler.copies.values()} == {1}
    (copy,) = handler.copies[ids[0]]
    again = f"run again as {copy} by replay r2"
    assert f"is not dead any more: {again}" in bus.cli("dead", "show", "gift/credit", ids[0]).stderr
    assert f"gift/credit  ended, {again}" in bus.cli("job", "why", "gift", ids[0], check=True).stdout


def test_jobs_that_another_environment_exported_go_masked_to_the_topic_that_is_named(
    bus_factory: BusFactory, handler: Reborn, tmp_path: Path
) -> None:
    there = bus_factory({"queue": {"gift": {"topic": {"credit": handler.topic}}}}, name="production", start=False)
    ids = bury(there.settings, 20)
    with opened(there.settings) as driver:
        (secret,) = driver.append("x/b1/1.1", 1, [Push("gift", b'{"uid":7,"password":"geheim"}')])
    exported = there.cli("queue", "export", "gift", "--mask", check=True).stdout
    bus = bus_of(bus_factory, handler)
    bus.start()
    file = tmp_path / "jobs.jsonl"
    more = '{"queue": "other", "body": "no"}\n{"queue": "gift", "body": "bmV3", "encoding": "base64"}\n'
    file.write_text(exported + more)
    asked = ("--from", str(file), "--topic", "gift/credit", "--filter", "body != 7", "--name", "r4", "--rate", "0")
    assert "gift/credit: 21" in bus.cli("replay", "start", *asked, "--dry-run", check=True).stderr
    bus.cli("replay", "start", *asked, check=True)
    until(lambda: replay(bus.settings, "r4").state == "done", 30, "it is done")
    until(lambda: handler.ran == 21, 20, "they have run, and one that never had an id, too")
    assert handler.copies.keys() == {"", secret.id, *ids} - {ids[7]}
    bodies = {request.body for request in handler.stub.requests}
    assert {b"new", b'{"uid":7,"password":"***"}'} < bodies
    assert (bus.topic("gift", "credit")["dead"], bus.topic("gift", "late")["ready"]) == (0, 0)
    until(lambda: not list((bus.folder / "var" / "replays").iterdir()), 10, "its copy of the file is gone")
