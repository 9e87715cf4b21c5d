"""``pbus topic test``: a job goes straight to every kind of handler, and what the bus would make of it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.support.bus import Bus, BusFactory
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.php_fpm import PhpFpm
from tests.support.talker import HANG, Plan
from tests.support.waiting import until

HANDLERS = Path(__file__).parents[1] / "support" / "handlers"
RETRY = {"attempts": 3, "first": "4s", "max": "4s"}

CODE = """
import os, signal, subprocess, sys, time
def act(job):
    print("printed", job.text, "attempt", job.attempt, flush=False)
    print("complained", file=sys.stderr)
    if job.text == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if job.text == "exit": os._exit(3)
    if job.text == "hang": subprocess.Popen(["sleep", "97.5"]); time.sleep(60)
    if job.text == "leave": subprocess.Popen(["sleep", "98.5"])
    if job.text == "fail": raise ValueError("no money")
    if job.text == "push": job.push("mail", "child")
"""


def tried(bus: Bus, *arguments: str, text: bytes = b"") -> tuple[int, dict[str, Any]]:
    """The exit status and the row of ``pbus topic test gift/credit``."""
    told = subprocess.run(
        [sys.executable, "-m", "pbus", "topic", "test", "gift/credit", *arguments, "-o", "json", "-c", str(bus.conf)],
        env=bus.environment, cwd=bus.folder, capture_output=True, timeout=60, input=text,
    )
    assert told.stdout, told.stderr.decode()
    (row,) = json.loads(told.stdout)["results"]
    return told.returncode, row


def with_topic(bus_factory: BusFactory, topic: dict[str, Any], start: bool = False) -> Bus:
    whole = {"retry": RETRY, "timeout": "2s"} | topic
    return bus_factory({"queue": {"gift": {"topic": {"credit": whole}}}}, start=start)


@pytest.fixture
def python(bus_factory: BusFactory, tmp_path: Path) -> Bus:
    (tmp_path / "acts.py").write_text(CODE)
    return with_topic(bus_factory, {"python": {"call": "acts:act", "path": str(tmp_path)}})


@pytest.fixture
def fpm(tmp_path: Path) -> Iterator[PhpFpm]:
    folder = tmp_path / "fpm"
    folder.mkdir()
    fpm = PhpFpm(folder)
    try:
        fpm.start()
        yield fpm
    finally:
        fpm.close()


# -- Python and programs ---------------------------------------------------------------------------------


def test_a_python_function_runs_apart_and_what_it_prints_is_told(python: Bus) -> None:
    status, row = tried(python, "-", text="wörld".encode())
    assert (status, row["result"], row["then"]) == (0, "done", "settled")
    assert row["output"] == "printed wörld attempt 1\n"
    assert row["stderr"] == "complained\n"
    assert not (python.folder / "var").exists()


@pytest.mark.parametrize(
    ("body", "result", "error"),
    [("fail", "failed", "ValueError: no money"), ("kill", "crashed", "died of SIGKILL"),
     ("exit", "failed", "exited with status 3"), ("hang", "timeout", "no answer within 2 s")],
)
def test_a_failure_is_told_with_what_the_bus_would_do(python: Bus, body: str, result: str, error: str) -> None:
    status, row = tried(python, body)
    assert (status, row["result"]) == (1, result)
    assert error in row["error"]
    assert row["output"] == f"printed {body} attempt 1\n"
    assert row["then"] == "again in 2 to 4 s, attempt 1 of 3 is used up"


def test_nothing_that_it_started_is_left(python: Bus) -> None:
    tried(python, "leave")
    tried(python, "hang")
    until(lambda: not _sleepers(python.folder), 5, "all are gone")


def _sleepers(folder: Path) -> list[int]:
    """Those that handlers below *folder* have started."""
    found = psutil.process_iter(["name", "cwd"])
    return [each.pid for each in found if each.info["name"] == "sleep" and each.info["cwd"] == str(folder)]


def test_what_it_pushes_is_not_stored(python: Bus) -> None:
    status, row = tried(python, "push")
    assert status == 0
    assert "not stored: mail child" in row["stderr"]


def test_a_function_that_cannot_be_loaded_is_an_error(bus_factory: BusFactory, tmp_path: Path) -> None:
    bus = with_topic(bus_factory, {"python": {"call": "nowhere:act", "path": str(tmp_path)}})
    told = bus.cli("topic", "test", "gift/credit", "x")
    assert told.returncode == 1
    assert "nowhere" in told.stderr


def test_a_program_gets_a_line_and_its_output_is_told(bus_factory: BusFactory, tmp_path: Path) -> None:
    argv = [sys.executable, "lines_jobs.py"]
    bus = with_topic(bus_factory, {"command": {"argv": argv, "cwd": str(HANDLERS)}})
    bus.environment["RUNS_FILE"] = str(tmp_path / "runs")
    status, row = tried(bus, "dead no such gift")
    assert (status, row["result"], row["then"]) == (1, "permanent", "dead letter: permanent")
    status, row = tried(bus, "ok 1")
    assert (status, row["result"]) == (0, "done")
    assert tried(bus, "kill x")[1]["result"] == "crashed"


def test_a_stored_job_is_tried_as_its_next_attempt_and_stays(bus_factory: BusFactory, tmp_path: Path) -> None:
    (tmp_path / "acts.py").write_text(CODE)
    topic = {"python": {"call": "acts:act", "path": str(tmp_path)}, "retry": {"attempts": 1}}
    bus = with_topic(bus_factory, topic, start=True)
    with redis.Redis(port=bus.port) as client:
        job = client.xadd("gift", {"body": "fail"}).decode()
    until(lambda: bus.topic("gift", "credit")["dead"] == 1, 10, "the job is dead")
    status, row = tried(bus, "--job", job)
    assert (status, row["id"], row["output"]) == (1, job, "printed fail attempt 2\n")
    assert row["then"] == "dead letter: attempt 2 failed, 1 may be made"
    assert bus.topic("gift", "credit")["dead"] == 1


# -- calls -----------------------------------------------------------------------------------------------


def test_a_php_fpm_script_is_called_as_the_bus_does(bus_factory: BusFactory, fpm: PhpFpm) -> None:
    code = "error_log('complained'); $j = json_decode($_POST['jobs'], true)[0]; header('Code: ' . $j['content']);"
    script = fpm.script("credit.php", code + " echo $j['RetryTimes'];")
    bus = with_topic(bus_factory, {"fastcgi": {"address": fpm.address, "script": script}})
    status, row = tried(bus, "200")
    assert (status, row["result"], row["output"], row["headers"]["code"]) == (0, "done", "1", "200")
    assert "complained" in row["stderr"]
    status, row = tried(bus, "503")
    assert (status, row["result"], row["then"]) == (1, "busy", "again in 1 s, no attempt is used up")
    status, row = tried(bus, "404")
    assert (status, row["result"]) == (1, "not-registered")
    assert "pauses" in row["then"]
    fpm.stop()
    status, row = tried(bus, "200")
    assert (status, row["result"]) == (1, "down")
    assert "as it was" in row["then"]


def test_an_http_endpoint_gets_the_bytes_and_has_the_time_of_the_topic(bus_factory: BusFactory) -> None:
    bodies = []

    def plan(request: HttpRequest, number: int) -> Plan:
        bodies.append(request.body)
        return [response(422, b"wrong")] if number == 0 else [HANG]

    stub = HttpStub(plan)
    try:
        bus = with_topic(bus_factory, {"http": {"url": stub.url}})
        body = bytes(range(256))
        status, row = tried(bus, "-", text=body)
        assert (status, row["result"], row["output"], row["status"]) == (1, "permanent", "wrong", "422")
        status, row = tried(bus, "x")
        assert (status, row["result"]) == (1, "timeout")
        assert bodies == [body, b"x"]
    finally:
        stub.close()


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(bus_factory: BusFactory, tmp_path: Path) -> None:
    asked = []

    def plan(request: HttpRequest, number: int) -> Plan:
        asked.append(request)
        return [response(200)]

    stub = HttpStub(plan)
    try:
        http = {"url": stub.url, "headers": {"Authorization": "Bearer s3cret", "X-Shop": "7"}}
        bus = with_topic(bus_factory, {"http": http})
        status, row = tried(bus, "hello", "--dry-run")
        assert (status, row["result"], row["output"]) == (0, "dry-run", "hello")
        assert row["headers"]["X-Shop"] == "7"
        assert "s3cret" not in json.dumps(row)
        assert row["then"] == f"would send 5 bytes to {stub.url}"
    finally:
        stub.close()
    assert asked == []


def test_a_dry_run_of_a_function_does_not_even_import_it(python: Bus, tmp_path: Path) -> None:
    (tmp_path / "acts.py").write_text(f"import os; os.mkdir({str(tmp_path / 'imported')!r})")
    status, row = tried(python, "x", "--dry-run")
    assert (status, row["then"]) == (0, "would run acts:act with 1 byte")
    assert not os.path.exists(tmp_path / "imported")


def test_a_job_that_is_too_large_is_said_to_die(bus_factory: BusFactory) -> None:
    tree = {"backend": {"web": {"http": ["http://127.0.0.1:9"], "max_post": "1KiB"}}}
    topic = {"http": {"url": "http://127.0.0.1:9/x"}}
    bus = bus_factory(tree | {"queue": {"gift": {"topic": {"credit": topic}}}}, start=False)
    for more in ([], ["--dry-run"]):
        status, row = tried(bus, "x" * 2000, *more)
        assert (status, row["result"], row["then"]) == (1, "unsent", "dead letter: unsent")


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("x", "--job", "1-0"), 2), (("--job", "1-0"), 69)])
def test_without_a_job_it_says_what_is_missing(python: Bus, arguments: tuple[str, ...], status: int) -> None:
    told = python.cli("topic", "test", "gift/credit", *arguments)
    assert told.returncode == status
    assert "Traceback" not in told.stderr
