"""``pbus push`` and ``pbus tail`` against a running bus."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import Bus, BusFactory, bus_factory, free_port
from tests.support.waiting import until

__all__ = ["bus_factory"]

HANDLERS = '''
import pbus

def obey(job):
    print("said by the handler of", job.text)
    if job.text == "fail":
        raise pbus.Dead("as asked")
    if job.text == "again" and job.attempt == 1:
        raise pbus.Retry(after_s=0.05, reason="not yet")
'''
JOB_ID = re.compile(r"\d+-\d+\Z")


@pytest.fixture
def bus(bus_factory: BusFactory, tmp_path: Path) -> Bus:
    (tmp_path / "tail_push_jobs.py").write_text(HANDLERS)
    python = {"call": "tail_push_jobs:obey", "path": str(tmp_path)}
    return bus_factory(
        {
            "queue": {
                "gift": {
                    "alias": ["old:gift"],
                    "topic": {"credit": {"python": python}, "mail": {"python": python}, "audit": {"pull": {}}},
                },
                "locked": {"password": "a-queue-password", "topic": {"credit": {"python": python}}},
            }
        }
    )


def push(bus: Bus, *arguments: str) -> tuple[int, str, str]:
    answer = bus.cli("push", *arguments)
    return answer.returncode, answer.stdout, answer.stderr


def test_push_prints_the_id_of_the_job(bus: Bus) -> None:
    status, out, err = push(bus, "gift", "hello")
    assert (status, err) == (0, "")
    assert JOB_ID.match(out.strip())


def test_push_by_alias_reaches_the_queue(bus: Bus) -> None:
    assert push(bus, "old:gift", "hello", "--wait")[0] == 0


def test_push_uses_the_password_of_the_configuration(bus: Bus) -> None:
    status, out, _ = push(bus, "locked", "hello", "--wait", "-o", "json")
    assert status == 0
    assert "a-queue-password" not in out


def test_push_waits_for_each_topic_that_the_bus_runs(bus: Bus) -> None:
    status, out, err = push(bus, "gift", "hello", "--wait", "-o", "json")
    document = json.loads(out)
    assert status == 0
    assert [row["topic"] for row in sorted(document["results"], key=lambda row: row["topic"])] == ["credit", "mail"]
    assert {row["id"] for row in document["results"]} == set(document["jobs"])
    assert all(row["result"] == "done" and row["run_ms"] >= 0 for row in document["results"])
    assert "gift/audit" in err


def test_push_that_fails_exits_1_and_says_why(bus: Bus) -> None:
    status, out, _ = push(bus, "gift", "fail", "--wait")
    assert status == 1
    assert out.count("dead") == 2
    assert "as asked" in out


def test_push_waits_beyond_a_repeated_attempt(bus: Bus) -> None:
    status, out, err = push(bus, "gift", "again", "--wait")
    assert status == 0
    assert out.count("attempt 2") == 2
    assert "not yet" in err


def test_push_lines_pushes_each_line_in_order(bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"".join(b"line %d\n" % number for number in range(1201)) + b"\n")
    status, out, _ = push(bus, "gift", "--lines", str(tmp_path / "lines"), "--wait", "-o", "json")
    document = json.loads(out)
    assert status == 0
    assert len(document["jobs"]) == 1201
    assert document["jobs"] == sorted(document["jobs"], key=lambda job: [int(part) for part in job.split("-")])
    assert len(document["results"]) == 2402


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nobody", "x"], 5, "there is no queue 'nobody'"),
        (["gift/credit", "x"], 5, "is a topic; push to 'gift'"),
        (["gift"], 2, "say what to push"),
        (["gift", "x", "--wait", "--timeout", "soon"], 2, "--timeout"),
        (["gift", "x", "--dedupe", ""], 2, "dedupe is empty"),
        (["gift", "x", "--key", ""], 2, "key is empty"),
        (["gift", "x", "--delay", ""], 2, "--delay takes a duration"),
        (["gift", "@/no/such/file"], 1, "/no/such/file"),
    ],
)
def test_push_that_cannot_be_has_its_exit_status(bus: Bus, arguments: list[str], status: int, said: str) -> None:
    answer = push(bus, *arguments)
    assert answer[0] == status
    assert said in answer[2]
    assert answer[1] == ""


def test_push_refused_by_the_bus_says_so(bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    status, out, err = push(bus, "gift", f"@{tmp_path / 'large'}")
    assert (status, out) == (1, "")
    assert "TOOBIG" in err


@pytest.mark.parametrize("wait", [[], ["--wait"]])
def test_push_without_a_bus_is_unreachable(bus_factory: BusFactory, wait: list[str]) -> None:
    topic = {"http": {"url": f"http://127.0.0.1:{free_port()}/"}}
    bus = bus_factory({"queue": {"gift": {"topic": {"credit": topic}}}}, start=False)
    status, out, err = push(bus, "gift", "x", *wait)
    assert (status, out) == (69, "")
    assert "pbus: " in err


class Tail:
    """A ``pbus tail`` that runs; a context manager."""

    def __init__(self, bus: Bus, *arguments: str) -> None:
        self._bus = bus
        self._out = bus.folder / "tail.out"
        self._arguments = arguments

    def __enter__(self) -> Tail:
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pbus", "tail", *self._arguments, "-c", str(self._bus.conf)],
                env=self._bus.environment, cwd=self._bus.folder, stdout=out, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def text(self) -> str:
        return self._out.read_text()

    def shows(self, text: str) -> None:
        until(lambda: text in self.text(), 10, lambda: f"tail shows {text!r}; so far:\n{self.text()}")

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]


def test_tail_jobs_shows_every_attempt_as_it_ends(bus: Bus) -> None:
    with Tail(bus, "jobs") as tail:
        tail.shows("following")
        push(bus, "gift", "again", "--wait")
        tail.shows("done  attempt 2")
        assert tail.text().count("retry  attempt 1") == 2


def test_tail_jobs_only_failed_leaves_out_what_went_well(bus: Bus) -> None:
    with Tail(bus, "jobs", "--only", "failed", "-o", "json") as tail:
        tail.shows("following")
        push(bus, "gift", "hello", "--wait")
        push(bus, "gift", "fail", "--wait")
        until(lambda: len(tail.documents()) == 2, 10, lambda: f"two failures are shown:\n{tail.text()}")
        assert {document["event"] for document in tail.documents()} == {"job.dead"}


def test_tail_of_a_topic_shows_what_its_handler_says(bus: Bus) -> None:
    with Tail(bus, "gift/credit") as tail:
        push(bus, "gift", "hello", "--wait")
        tail.shows("said by the handler of hello")


def test_tail_events_goes_on_across_the_change_of_days(bus: Bus) -> None:
    log = Path(bus.settings.node.log_dir) / "pbus.log"
    with Tail(bus, "events", "--since", "1h") as tail:
        tail.shows("master.ready")
        log.rename(log.with_name("pbus.log.2027-01-14"))
        assert bus.process is not None
        bus.process.send_signal(signal.SIGUSR1)
        tail.shows("log.reopened")


def test_tail_jobs_without_a_bus_says_that_it_is_not_running(bus: Bus) -> None:
    bus.stop()
    answer = bus.cli("tail", "jobs")
    assert answer.returncode == 3
    assert "not running" in answer.stderr
