"""``pbus replay`` with a running bus: dead letters come back once, a scheduler that is killed changes nothing."""

from __future__ import annotations

import collections
import json
import textwrap
from pathlib import Path
from typing import Any

import redis

from tests.support.bus import Bus, BusFactory
from tests.support.waiting import until

HANDLER = """
    import os
    FOLDER = os.path.dirname(__file__)

    def credit(job):
        with open(f"{FOLDER}/runs", "a") as runs:
            runs.write(f"{job.replay_of or '-'} {job.text}\\n")
        if os.path.exists(f"{FOLDER}/broken") and not (job.replay_of and os.path.exists(f"{FOLDER}/repaired")):
            raise ValueError("the other side is away")
"""


def bus_of(bus_factory: BusFactory, folder: Path) -> Bus:
    (folder / "handlers.py").write_text(textwrap.dedent(HANDLER))
    handler = {
        "python": {"call": "handlers:credit", "path": str(folder)}, "concurrency": 1,
        "retry": {"attempts": 1}, "brake": {"failed_percent": 100, "min_jobs": 100_000},
    }
    return bus_factory({"queue": {"gift": {"topic": {"credit": handler, "late": {"pull": {}}}}}})


def killed(bus: Bus, folder: Path, count: int) -> None:
    """So many dead letters."""
    (folder / "broken").touch()
    with redis.Redis(port=bus.port) as client:
        client.lpush("gift", *[f"{number}" for number in range(count)])
    until(lambda: bus.topic("gift", "credit")["dead"] == count, 30, "all are dead")


def runs(folder: Path) -> collections.Counter[str]:
    """How often each body was run as a replay."""
    lines = (line.split() for line in (folder / "runs").read_text().splitlines())
    return collections.Counter(body for replay_of, body in lines if replay_of != "-")


def shown(bus: Bus, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bus.cli("replay", "show", name, "-o", "json", check=True).stdout)
    return document


def test_a_scheduler_that_is_killed_replays_nothing_twice_and_forgets_nothing(
    bus_factory: BusFactory, tmp_path: Path
) -> None:
    bus = bus_of(bus_factory, tmp_path)
    killed(bus, tmp_path, 300)
    (tmp_path / "repaired").touch()
    started = bus.cli("replay", "start", "--from", "dead", "--topic", "gift/credit", "--rate", "60/s", "--name", "r1")
    assert started.returncode == 0, started.stderr
    for least in (30, 90, 150):
        until(lambda: len(runs(tmp_path)) >= least, 30, f"{least} have run")  # noqa: B023 - at once
        bus.kill("scheduler")
    until(lambda: shown(bus, "r1")["state"] == "done", 60, "it is done")
    until(lambda: bus.topic("gift", "credit")["ready"] + bus.topic("gift", "credit")["running"] == 0, 30, "all ran")

    assert runs(tmp_path) == {str(number): 1 for number in range(300)}
    assert (bus.topic("gift", "credit")["dead"], shown(bus, "r1")["replayed"]) == (0, 300)
    assert bus.topic("gift", "late")["ready"] == 300, "what is for credit is no job of late"


def test_jobs_of_a_file_go_to_the_topic_that_is_named(bus_factory: BusFactory, tmp_path: Path) -> None:
    bus = bus_of(bus_factory, tmp_path)
    killed(bus, tmp_path, 20)
    exported = bus.cli("queue", "export", "gift", check=True).stdout
    file = tmp_path / "jobs.jsonl"
    more = '{"queue": "other", "body": "no"}\n{"queue": "gift", "body": "bmV3", "encoding": "base64"}\n'
    file.write_text(exported + more)
    (tmp_path / "repaired").touch()
    (tmp_path / "broken").unlink()
    asked = ("--from", str(file), "--topic", "gift/credit", "--filter", "body != 7", "--name", "r4", "--rate", "0")
    assert "gift/credit: 20" in bus.cli("replay", "start", *asked, "--dry-run", check=True).stderr
    bus.cli("replay", "start", *asked, check=True)
    until(lambda: shown(bus, "r4")["state"] == "done", 30, "it is done")
    bodies = {str(number) for number in range(20)} - {"7"}
    until(lambda: runs(tmp_path) == dict.fromkeys(bodies, 1), 20, "they have run")
    until(lambda: "- new" in (tmp_path / "runs").read_text(), 20, "one that never had an id has run, too")
    assert (bus.topic("gift", "credit")["dead"], bus.topic("gift", "late")["ready"]) == (20, 20)
    until(lambda: not list((bus.folder / "var" / "replays").iterdir()), 10, "its copy of the file is gone")
    file.write_text('{"queue": "gift", "body": "x"}\n{"queue": "gift"}\n')
    refused = bus.cli("replay", "start", *asked[:-3], "r5")
    assert (refused.returncode, "line 2: it is no job" in refused.stderr) == (2, True)


def test_a_guard_stops_a_replay_whose_handler_still_fails(bus_factory: BusFactory, tmp_path: Path) -> None:
    bus = bus_of(bus_factory, tmp_path)
    killed(bus, tmp_path, 200)
    asked = ("--from", "dead", "--topic", "gift/credit", "--rate", "500/s", "--canary", "5,50%", "--guard", "failed<2%")
    counted = bus.cli("replay", "start", *asked, "--dry-run")
    assert "would replay 200 at 500/s" in counted.stderr
    bus.cli("replay", "start", *asked, "--name", "r2", check=True)
    until(lambda: shown(bus, "r2")["state"] == "tripped", 30, "the guard has stopped it")

    assert "5 of 5 failed" in shown(bus, "r2")["reason"]
    assert sum(runs(tmp_path).values()) == 5
    again = bus.cli("replay", "start", *asked, "--name", "r3")
    assert (again.returncode, "r2 is tripped over the dead letters of gift/credit" in again.stderr) == (2, True)
    (tmp_path / "repaired").touch()
    bus.cli("replay", "resume", "r2", check=True)
    until(lambda: shown(bus, "r2")["state"] == "done", 60, "it is done")
    assert (shown(bus, "r2")["failed_total"], bus.topic("gift", "credit")["dead"]) == (5, 5)
