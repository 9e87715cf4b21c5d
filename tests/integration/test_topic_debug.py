"""``pbus topic debug``: every kind of handler runs once in the terminal, and nothing is stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import Bus, BusFactory
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.php_fpm import PhpFpm
from tests.support.programs import requires, requires_php_redis
from tests.support.talker import Plan

HANDLERS = Path(__file__).parents[1] / "support" / "handlers"


def debug(bus: Bus, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pbus", "topic", "debug", *arguments, "-c", str(bus.conf)], env=bus.environment,
        cwd=bus.folder, capture_output=True, text=True, timeout=60, input=text,
    )


def with_topic(bus_factory: BusFactory, topic: dict[str, Any], tmp_path: Path, start: bool = False) -> Bus:
    tree = {"queue": {"gift": {"topic": {"credit": topic}}}}
    return bus_factory(tree, start=start, environment={"RUNS_FILE": str(tmp_path / "runs")})


# -- Python ----------------------------------------------------------------------------------------------


PYTHON: dict[str, Any] = {"python": {"call": "consumer_jobs:act", "path": str(HANDLERS)}}


def test_a_python_handler_runs_without_a_bus(bus_factory: BusFactory, tmp_path: Path) -> None:
    bus = with_topic(bus_factory, PYTHON, tmp_path)
    told = debug(bus, "gift/credit", "say hello")
    assert told.returncode == 0, told.stderr
    assert "printed hello" in told.stdout
    assert "logged hello" in told.stderr
    assert "done" in told.stdout.splitlines()[-1]
    assert not (bus.folder / "var").exists()


def test_a_failure_is_shown_with_its_traceback(bus_factory: BusFactory, tmp_path: Path) -> None:
    told = debug(with_topic(bus_factory, PYTHON, tmp_path), "gift/credit", "fail no money", "-o", "json")
    (result,) = json.loads(told.stdout)["results"]
    assert told.returncode == 1
    assert result["result"] == "failed"
    assert "ValueError: no money" in result["error"]


def test_the_debugger_looks_around_where_it_was_raised(bus_factory: BusFactory, tmp_path: Path) -> None:
    told = debug(with_topic(bus_factory, PYTHON, tmp_path), "gift/credit", "fail no money", "--pdb", text="p rest\nq\n")
    assert "'no money'" in told.stdout
    assert told.returncode == 1


def test_a_breakpoint_stops_here(bus_factory: BusFactory, tmp_path: Path) -> None:
    code = "def act(job):\n    secret = 'found ' + job.text\n    breakpoint()\n    return None\n"
    (tmp_path / "stops.py").write_text(code)
    bus = with_topic(bus_factory, {"python": {"call": "stops:act", "path": str(tmp_path)}}, tmp_path)
    told = debug(bus, "gift/credit", "me", text="p secret\nc\n")
    assert told.returncode == 0, told.stderr
    assert "'found me'" in told.stdout


def test_what_a_handler_pushes_is_told_and_not_stored(bus_factory: BusFactory, tmp_path: Path) -> None:
    (tmp_path / "pushes.py").write_text("def act(job):\n    job.push('mail', b'child of ' + job.body)\n")
    bus = with_topic(bus_factory, {"python": {"call": "pushes:act", "path": str(tmp_path)}}, tmp_path)
    told = debug(bus, "gift/credit", "x")
    assert told.returncode == 0, told.stderr
    assert "not stored: mail child of x" in told.stderr


def test_a_stored_job_is_run_and_stays_where_it_is(bus_factory: BusFactory, tmp_path: Path) -> None:
    bus = with_topic(bus_factory, PYTHON, tmp_path, start=True)
    bus.cli("topic", "pause", "gift/credit", check=True)
    with redis.Redis(port=bus.port) as client:
        job = client.xadd("gift", {"body": "say stored"})
    told = debug(bus, "gift/credit", "--job", job.decode())
    assert told.returncode == 0, told.stderr
    assert "printed stored" in told.stdout
    assert bus.topic("gift", "credit")["ready"] == 1
    assert bus.topic("gift", "credit")["done_total"] == 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [((), 2), (("x", "--job", "1-0"), 2), (("--job", "1-0"), 69), (("@/nowhere/at/all",), 1)],
)
def test_without_a_job_it_says_what_is_missing(
    bus_factory: BusFactory, tmp_path: Path, arguments: tuple[str, ...], status: int
) -> None:
    told = debug(with_topic(bus_factory, PYTHON, tmp_path), "gift/credit", *arguments)
    assert told.returncode == status, told.stderr
    assert "Traceback" not in told.stderr


def test_a_topic_that_is_not_there_is_not_found(bus_factory: BusFactory, tmp_path: Path) -> None:
    assert debug(with_topic(bus_factory, PYTHON, tmp_path), "gift/debit", "x").returncode == 5


# -- programs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[sys.executable, "lines_jobs.py"], ["php", "lines_jobs.php"]])
def test_a_program_answers_one_line(bus_factory: BusFactory, tmp_path: Path, argv: list[str]) -> None:
    requires(argv[0])
    topic = {"command": {"argv": argv, "cwd": str(HANDLERS)}}
    bus = with_topic(bus_factory, topic, tmp_path)
    assert debug(bus, "gift/credit", "ok 1").returncode == 0
    told = debug(bus, "gift/credit", "dead no such gift")
    assert told.returncode == 1
    assert "permanent" in told.stdout
    assert "no such gift" in told.stdout
    told = debug(bus, "gift/credit", "kill x")
    assert "died of SIGKILL" in told.stdout
    told = debug(bus, "gift/credit", "exit-once 7")
    assert "exited with status 7" in told.stdout


def test_what_a_program_prints_is_seen(bus_factory: BusFactory, tmp_path: Path) -> None:
    requires("php")
    bus = with_topic(bus_factory, {"command": {"argv": ["php", "lines_jobs.php"], "cwd": str(HANDLERS)}}, tmp_path)
    told = debug(bus, "gift/credit", "say hello")
    assert "printed hello" in told.stderr
    assert "complained hello" in told.stderr


def test_a_program_of_the_old_contract_takes_its_job_here(bus_factory: BusFactory, tmp_path: Path) -> None:
    requires_php_redis()
    command = {"argv": ["php", "pepper_program.php"], "cwd": str(HANDLERS), "protocol": "pepper", "entry": "A,b"}
    bus = with_topic(bus_factory, {"command": command}, tmp_path)
    told = debug(bus, "gift/credit", "ok 1")
    assert told.returncode == 0, told.stderr + told.stdout
    assert "entry A,b, 1 jobs" in told.stderr
    assert "ok 1" in (tmp_path / "runs").read_text()
    assert "pushed it back" in debug(bus, "gift/credit", "throw-once x").stdout
    assert "exited with status 3" in debug(bus, "gift/credit", "exit-once 3").stdout


# -- calls -----------------------------------------------------------------------------------------------


def test_a_php_fpm_script_is_called_once(bus_factory: BusFactory, tmp_path: Path) -> None:
    folder = tmp_path / "fpm"
    folder.mkdir()
    fpm = PhpFpm(folder)
    try:
        fpm.start()
        code = "error_log('complained'); header('Code: 200'); echo 'said ', $_POST['queue'];"
        script = fpm.script("credit.php", code)
        bus = with_topic(bus_factory, {"fastcgi": {"address": fpm.address, "script": script}}, tmp_path)
        told = debug(bus, "gift/credit", "x")
        assert told.returncode == 0, told.stderr + told.stdout
        assert "| said gift" in told.stdout
        assert "complained" in told.stdout
        assert "code: 200" in told.stdout.lower()
    finally:
        fpm.close()
    told = debug(bus, "gift/credit", "x")
    assert told.returncode == 1
    assert "down" in told.stdout


def test_an_http_endpoint_is_called_once(bus_factory: BusFactory, tmp_path: Path) -> None:
    def plan(request: HttpRequest, number: int) -> Plan:
        assert request.body == b"x"
        return [response(503 if number else 200, b"said something", Retry_After="7")]

    stub = HttpStub(plan)
    try:
        bus = with_topic(bus_factory, {"http": {"url": stub.url}}, tmp_path)
        told = debug(bus, "gift/credit", "x")
        assert (told.returncode, "| said something" in told.stdout) == (0, True), told.stdout + told.stderr
        told = debug(bus, "gift/credit", "x")
        assert told.returncode == 1
        assert "again in 7 s" in told.stdout
    finally:
        stub.close()
