"""``pbus job why`` and ``pbus topic why`` of a bus that runs, and of one that is stopped."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import Bus, BusFactory, bus_factory
from tests.support.waiting import until

__all__ = ["bus_factory"]

HANDLERS = """
import os, time, pbus

def obey(job):
    if job.text == "wait":
        while not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
            time.sleep(0.02)
    if job.text == "die":
        raise pbus.Dead("no such user 7")
    if job.text == "again" and job.attempt == 1:
        raise pbus.Retry(after_s=600, reason="not yet")
"""


@pytest.fixture
def bus(bus_factory: BusFactory, tmp_path: Path) -> Bus:
    (tmp_path / "why_jobs.py").write_text(HANDLERS)
    python = {"call": "why_jobs:obey", "path": str(tmp_path)}
    web = {"http": {"url": "http://127.0.0.1:1/nobody"}}
    return bus_factory({"queue": {"gift": {"topic": {"credit": {"python": python}}}, "mail": {"topic": {"web": web}}}})


def why(bus: Bus, *words: str) -> list[dict[str, Any]]:
    """Reasons of a job."""
    said = bus.cli("job", "why", *words, "-o", "json")
    assert said.returncode == 0, said.stderr
    rows: list[dict[str, Any]] = json.loads(said.stdout)["reasons"]
    return rows


def push(bus: Bus, queue: str, *words: str) -> str:
    said = bus.cli("push", queue, *words)
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()


def first_is(bus: Bus, word: str, *words: str) -> dict[str, Any]:
    """The first reason of a job, when it is *word*."""
    until(lambda: why(bus, *words)[0]["why"] == word, 10, lambda: f"{word} comes first: {why(bus, *words)}")
    return why(bus, *words)[0]


def test_every_place_of_a_job_has_its_reason(bus: Bus, tmp_path: Path) -> None:
    dead, again = push(bus, "gift", "die"), push(bus, "gift", "again")
    later = push(bus, "gift", "later", "--delay", "10m")
    assert "no such user 7" in first_is(bus, "dead", dead)["text"]
    assert first_is(bus, "retry", again)["text"].startswith("attempt 1 failed; the next one is due in 9 min")
    assert "it is delayed until " in first_is(bus, "delayed", "gift", later)["text"]

    runs = push(bus, "gift", "wait", "--key", "user 4")
    behind, plain = push(bus, "gift", "x", "--key", "user 4"), push(bus, "gift", "y")
    (pid,) = bus.topic("gift", "credit")["consumers"]
    running = first_is(bus, "running", "gift/credit", runs)
    assert running["text"].startswith("attempt 1 is in the hands of consumer gift/credit 0 of ")
    assert f"(pid {pid}) for " in running["text"]
    waiting = {row["why"] for job in (behind, plain) for row in why(bus, job)}
    assert waiting <= {"key", "limit", "running", "in line"}

    assert bus.cli("topic", "pause", "gift/credit").returncode == 0
    (tmp_path / "go").touch()
    assert first_is(bus, "ended", runs)["state"] == "ended"
    who = os.environ.get("SUDO_USER") or getpass.getuser()
    assert f"gift/credit was paused by {who} on {bus.settings.node.name} " in first_is(bus, "paused", plain)["text"]
    bus.stop()
    assert [row["why"] for row in why(bus, plain)] == ["stopped", "paused"]
    assert [row["why"] for row in why(bus, dead)] == ["dead"]


def test_backend_that_is_away_is_the_reason_of_its_jobs(bus: Bus) -> None:
    job = push(bus, "mail", "x")
    until(lambda: bus.topic("mail", "web")["state"] == "down", 10, "the topic is down")

    reason = first_is(bus, "circuit", job)
    assert reason["text"].startswith("mail/web is down: 127.0.0.1:1: ")
    assert reason["text"].endswith("; no job is spent on 127.0.0.1:1")
    said = bus.cli("job", "why", job).stdout.splitlines()
    assert said[0].startswith(f"mail {job}: its id says that it was pushed ")
    assert said[1] == "mail/web  ready"
    assert said[3].startswith("    next: 'pbus backend ls'")


NOT_FOUND = [
    (["1700000000000-0"], 5, "no queue has a job 1700000000000-0 (any more); its id says that it was pushed "),
    (["99999999999999-0"], 5, "which is still to come: no bus gave it out; jobs that every topic is through with are"),
    (["gift", "1-0"], 5, "gift has no job 1-0 (any more); its id says"), (["nobody", "1-0"], 5, "there is no queue"),
    (["gift/credit"], 2, "which job?"), (["1-0", "2-0"], 2, "one job, please"), (["x y"], 2, "which job?"),
]


def test_id_of_no_job_says_what_can_be_told(bus: Bus) -> None:
    for words, status, said in NOT_FOUND:
        answer = bus.cli("job", "why", *words)
        assert (answer.returncode, said in answer.stderr) == (status, True), answer.stderr
