"""Jobs that a Pepperbus stored: each comes to its topic once, as it was, however often the import is killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from pbus.cli.main import main
from pbus.cli.pepperbus_jobs import PAUSED_KEY
from tests.support.bus import ROOT, Bus, write_config
from tests.support.programs import requires, requires_php_redis
from tests.support.redis_server import RedisServer
from tests.support.seeds import generator
from tests.support.waiting import until

PROGRAM = Path(__file__).parents[1] / "support" / "handlers" / "pepper_program.php"
QUEUE = "gift"
RETRIED, ONCE = "credit", "mail"


class Old:
    """A Pepperbus that has been stopped: its configuration and what it has left in Redis."""

    def __init__(self, folder: Path) -> None:
        self.server = RedisServer(folder, tcp=True)
        self.server.start()
        self.redis = redis.Redis(port=self.server.port)
        self.file = folder / "queue.json"
        storage = {"type": "redis", "address": f"127.0.0.1:{self.server.port}", "auth": ""}
        http = {"run_type": 1, "script_entry": "http://127.0.0.1:1/jobs", "num_of_workers": 2, "storage": storage}
        self.file.write_text(json.dumps({QUEUE: {"password": "pw", "topic": {
            RETRIED: {**http, "is_retry": True, "retry_time": 60}, ONCE: http,
        }}}))

    def store(self, topic: str, suffix: str, number: int, made: int = 0, **fields: Any) -> None:
        """One job, as the old bus encodes it."""
        job = {
            "id": f"{number}", "inTraceId": f"{number + 1:032x}", "content": f"body {number}", "retrying": made,
            "RetryTimes": made, "RetryTime": 0, "IsRetry": False, "BeginRetry": made > 0, "RetryResidueTime": 0,
        }
        self.redis.lpush(f"{QUEUE}::{topic}::{suffix}", json.dumps(job | fields))

    def left(self) -> dict[str, int]:
        keys = [key.decode() for key in self.redis.keys("gift::*")]
        return {key: int(self.redis.llen(key)) for key in keys}


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Old]:
    folder = tmp_path / "old"
    folder.mkdir()
    old = Old(folder)
    yield old
    old.redis.close()
    old.server.stop()


@pytest.fixture
def bus(request: pytest.FixtureRequest, tmp_path: Path, old: Old) -> Iterator[Bus]:
    """A bus that has never been started; with Redis it lives in the old one, in another database."""
    bus = Bus(tmp_path / "bus")
    tree: dict[str, Any] = {}
    if getattr(request, "param", "sqlite") == "redis":
        tree["storage"] = {"main": {"url": f"redis://127.0.0.1:{old.server.port}/1"}}
    write_config(bus.folder, tree)
    yield bus
    bus.clean_up()


both_stores = pytest.mark.parametrize("bus", ["sqlite", "redis"], indirect=True)


class Said(NamedTuple):
    """What a command answered."""

    returncode: int
    stdout: str
    stderr: str


def pbus(bus: Bus, *words: str) -> Said:
    """A command in this process: a third of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        returncode = main([*words, "-c", str(bus.conf)])
    return Said(returncode, out.getvalue(), err.getvalue())


def take_over(bus: Bus, old: Old, *more: str) -> Said:
    return pbus(bus, "import", "pepperbus", "--config", str(old.file), *more)


def jobs(bus: Bus) -> list[dict[str, Any]]:
    """Every job of the queue, as ``queue export`` shows it."""
    return [json.loads(line) for line in pbus(bus, "queue", "export", QUEUE).stdout.splitlines()]


def places(bus: Bus, topic: str) -> Counter[tuple[str, str, int]]:
    """(body, state, attempts) of what a topic has, without what was cancelled for it."""
    found = Counter(
        (job["body"], job["topics"][topic]["state"], job["topics"][topic].get("attempts", 0)) for job in jobs(bus)
    )
    return Counter({place: count for place, count in found.items() if place[1] != "ended"})


@both_stores
def test_every_list_comes_to_its_topic_as_it_was(bus: Bus, old: Old) -> None:
    for number in range(3):
        old.store(RETRIED, "list", number)
        old.store(ONCE, "list", number)
    old.store(RETRIED, "list", 3, made=2)
    old.store(RETRIED, "list_retry", 4, made=1)
    old.store(RETRIED, "list_retry", 5, made=4)           # it had all of its four attempts
    old.store(RETRIED, "list_timeout", 6, made=4)
    old.store(ONCE, "list_retry", 7, made=1)

    result = take_over(bus, old)

    assert result.returncode == 0, result.stderr
    assert places(bus, RETRIED) == Counter({
        ("body 0", "ready", 0): 1, ("body 1", "ready", 0): 1, ("body 2", "ready", 0): 1, ("body 3", "ready", 2): 1,
        ("body 4", "ready", 1): 1, ("body 5", "dead", 1): 1, ("body 6", "dead", 1): 1,
    })
    assert places(bus, ONCE) == Counter({
        ("body 0", "ready", 0): 1, ("body 1", "ready", 0): 1, ("body 2", "ready", 0): 1, ("body 7", "dead", 1): 1,
    })
    assert old.left() == {}
    states = json.loads(pbus(bus, "topic", "ls", "-o", "json").stdout)["topics"]
    assert {row["state"] for row in states} == {"stopped"}, "nothing stays paused"


def test_unchanged_worker_of_the_old_bus_goes_on_with_its_jobs(tmp_path: Path, old: Old, bus: Bus) -> None:
    requires("php")
    requires_php_redis()
    storage = {"type": "redis", "address": f"127.0.0.1:{old.server.port}"}
    old.file.write_text(json.dumps({QUEUE: {"password": "pw", "topic": {RETRIED: {
        "run_type": 2, "script": str(PROGRAM), "entry": "Gift,credit", "max_children": 2, "is_retry": True,
        "retry_time": 60, "storage": storage,
    }}}}))
    for number in range(10):
        old.store(RETRIED, "list", number, content=f"ok {number}")
    old.store(RETRIED, "list_retry", 10, made=2, content="ok 10")
    assert take_over(bus, old).returncode == 0, "it is moved"
    runs = tmp_path / "runs"
    bus.environment["RUNS_FILE"] = str(runs)

    bus.start()

    until(lambda: bus.topic(QUEUE, RETRIED)["done_total"] == 11, 20, "all jobs are done")
    lines = [line.split(" ", 5) for line in runs.read_text().splitlines()]
    began = Counter((text, attempt) for _, attempt, _, _, word, text in lines if word == "begin")
    assert began == Counter({(f"ok {number}", "1"): 1 for number in range(10)} | {("ok 10", "3"): 1})


def test_order_is_that_of_the_list(bus: Bus, old: Old) -> None:
    for number in range(1100):                            # more than two pages
        old.store(ONCE, "list", number)

    assert take_over(bus, old).returncode == 0

    assert [job["body"] for job in jobs(bus)] == [f"body {number}" for number in range(1100)]


def test_dry_run_changes_nothing(bus: Bus, old: Old) -> None:
    old.store(RETRIED, "list", 1)

    result = take_over(bus, old, "--dry-run")

    assert result.returncode == 0
    assert 'url = "http://127.0.0.1:1/jobs"' in result.stdout
    assert "gift::credit::list: 1 jobs" in result.stderr
    assert not (bus.conf / "pepperbus.toml").exists()
    assert old.left() == {"gift::credit::list": 1}


def test_value_that_is_no_job_stays_and_the_others_go(bus: Bus, old: Old) -> None:
    old.store(RETRIED, "list", 1)
    for bad in ("{bad", "7", '{"id":"1"}', '{"id":"1","content":7}', "\x1b[2J"):
        old.redis.lpush("gift::credit::list", bad)
    old.store(RETRIED, "list", 2)

    result = take_over(bus, old)

    assert result.returncode == 1
    assert old.left() == {"gift::credit::list": 5}
    assert "gift::credit::list: left in the list: {bad: no JSON" in result.stderr
    assert "\x1b" not in result.stderr
    assert sum(places(bus, RETRIED).values()) == 2


def test_bad_configuration_writes_nothing(bus: Bus, old: Old) -> None:
    old.store(RETRIED, "list", 1)
    tree = json.loads(old.file.read_text())
    tree[QUEUE]["topic"][ONCE]["num_of_workers"] = "two"
    old.file.write_text(json.dumps(tree))

    result = take_over(bus, old)

    assert result.returncode == 78
    assert "queue.json: queue_config.gift.topic.mail.num_of_workers: takes a whole number" in result.stderr
    assert not (bus.conf / "pepperbus.toml").exists()
    assert old.left() == {"gift::credit::list": 1}


def test_configuration_that_does_not_fit_the_folder_writes_nothing(bus: Bus, old: Old) -> None:
    (bus.conf / "own.toml").write_text(f'[queue.{QUEUE}]\npassword = "other"\n')

    result = take_over(bus, old)

    assert result.returncode == 78
    assert "queue.gift.password" in result.stderr
    assert sorted(path.name for path in bus.conf.iterdir()) == ["own.toml", "pbus.toml"]
    assert sorted(path.name for path in bus.folder.iterdir()) == ["conf.d"]


def test_repeated_import_finds_nothing_to_do(bus: Bus, old: Old) -> None:
    old.store(RETRIED, "list", 1)
    assert take_over(bus, old).returncode == 0

    again = take_over(bus, old)

    assert again.returncode == 0
    assert "no stored jobs to move" in again.stderr
    assert sum(places(bus, RETRIED).values()) == 1


def test_old_redis_that_is_away_is_said_before_anything_is_written(bus: Bus, old: Old) -> None:
    result = take_over(bus, old, "--from", "redis://127.0.0.1:1/0")

    assert result.returncode == 69
    assert "the old Redis of gift/credit" in result.stderr
    assert not (bus.conf / "pepperbus.toml").exists()


def test_running_bus_is_not_touched(bus: Bus, old: Old) -> None:
    bus.start(("running", "degraded"))
    old.store(RETRIED, "list", 1)

    result = take_over(bus, old)

    assert result.returncode == 75
    assert "already running as pid" in result.stderr
    assert old.left() == {"gift::credit::list": 1}


def test_bus_cannot_start_while_jobs_are_moved(bus: Bus, old: Old) -> None:
    for number in range(3000):
        old.store(RETRIED, "list", number)
    process = _import(bus, old)
    try:
        until(lambda: old.redis.exists(PAUSED_KEY), 30, "it moves jobs")
        os.kill(process.pid, signal.SIGSTOP)
        assert old.left(), "it is not done yet"
        assert pbus(bus, "start").returncode == 75
        os.kill(process.pid, signal.SIGCONT)
    finally:
        process.wait(60)

    assert process.returncode == 0


def _import(bus: Bus, old: Old) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "pbus", "import", "pepperbus", "--config", str(old.file), "-c", str(bus.conf)]
    return subprocess.Popen(
        line, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=bus.folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _has_begun(lock: Path, process: subprocess.Popen[bytes]) -> bool:
    """It moves jobs, or found nothing to move any more."""
    if process.poll() is not None:
        return True
    return lock.exists() and lock.read_text().strip() == str(process.pid)


@both_stores
def test_import_that_is_killed_again_and_again_loses_and_repeats_nothing(bus: Bus, old: Old) -> None:
    count, kills, draw = 3000, 5, generator("import")
    for number in range(count):
        made = number % 3
        old.store(RETRIED, ("list", "list_retry", "list_retry")[made], number, made=made)
        old.store(ONCE, "list", number)
    for number in range(50):
        old.store(RETRIED, "list_timeout", count + number, made=4)

    lock = Path(bus.settings.node.run_dir) / "pbus.pid"
    for round_ in range(kills):
        process = _import(bus, old)
        try:
            until(lambda: _has_begun(lock, process), 30, "it begins")  # noqa: B023 - asked in this round only
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0.0, 0.2 * (round_ + 1)))
        finally:
            process.kill()
            process.wait(10)
        print(f"killed with {old.left()} left, paused: {old.redis.smembers(PAUSED_KEY)}")

    assert take_over(bus, old).returncode == 0
    assert old.left() == {}
    wanted = Counter({(f"body {number}", "ready", number % 3): 1 for number in range(count)})
    wanted |= Counter({(f"body {count + number}", "dead", 1): 1 for number in range(50)})
    assert places(bus, RETRIED) == wanted
    assert places(bus, ONCE) == Counter({(f"body {number}", "ready", 0): 1 for number in range(count)})
