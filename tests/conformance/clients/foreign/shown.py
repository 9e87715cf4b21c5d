"""
Runs what docs/clients.md shows, producers and consumers of all languages at the same time, against one bus.

Rule: as a reader would. Every producer runs to its end, twice: the first time the reply to its ``LPUSH`` is lost, the
second time the reply to its ``XADD``. Every consumer runs until it is killed, over a failure of a job and a restart of
the store and of the bus. Each language has a queue of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.conformance.clients.foreign import builds, snippets
from tests.conformance.clients.foreign.stage import CuttingProxy
from tests.support import leftovers
from tests.support.bus import Bus, write_config
from tests.support.programs import missing, requires, requires_php_redis
from tests.support.redis_server import RedisServer, running
from tests.support.waiting import until

_ROOT: Final = Path(__file__).parents[4]
_EXTENSIONS: Final = {"python": "py", "php": "php", "node": "cjs", "cli": "sh"}
_LOST: Final = re.compile(rb'(gift-\w+)\r\n.*?"uid": ([14])\}', re.DOTALL)
"""The first push of many, and that with a dedupe key."""
PRODUCER_S: Final = 30.0
AWAY_S: Final = 2.5
"""Longer than the consumers of the page block: each of them asks while the store is away."""
CONSUMER_S: Final = 30.0


@dataclass(slots=True, kw_only=True)
class Shown:
    """
    What came out of a language's snippets.

    Attributes:
        missing: Why they could not be started; raised again in each of its tests.
        said: What the producer printed, each time.
        status: How it ended, each time.
        did: What the consumer printed.
        failures: Texts of the failures that the bus was told of.
        done: Jobs that were done in the end.
    """

    missing: BaseException | None = None
    said: list[str] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    did: str = ""
    failures: list[str] = field(default_factory=list)
    done: int = 0


def run_all(names: list[str], folder: Path) -> dict[str, Shown]:
    """Everything, for the languages of these names (first words of snippets)."""
    folder.mkdir(parents=True)
    shown = {name: Shown() for name in names}
    commands: dict[str, _Commands] = {}
    for name, result in shown.items():
        try:
            commands[name] = _commands(name, folder)
        except (pytest.skip.Exception, pytest.fail.Exception) as reason:
            result.missing = reason
    if commands:
        with running(folder, appendonly="yes") as store, _bus(commands, folder, store) as bus:
            with CuttingProxy(("127.0.0.1", bus.port), pattern=_LOST, port=builds.port()):
                _produce(commands, shown)
            with _consumers(commands, folder, shown):
                _watch(bus, store, commands, shown)
    return shown


# -- commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Commands:
    producer: list[str]
    consumer: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def _commands(name: str, folder: Path) -> _Commands:
    """How both are started; skips, or fails in CI, when something is missing."""
    return _COMPILED[name]() if name in _COMPILED else _interpreted(name, folder)


def _interpreted(name: str, folder: Path) -> _Commands:
    starts: dict[str, Callable[[], list[str]]] = {
        "python": lambda: [sys.executable], "cli": lambda: [requires("redis-cli") and requires("sh")],
        "php": lambda: [requires_php_redis(), "-d", f"include_path={_ROOT}/contrib/php"],
        "node": lambda: [requires("node")],
    }
    start, texts, files = starts[name](), snippets.read(), {}
    for role in ("producer", "consumer"):
        files[role] = folder / f"{name}-{role}.{_EXTENSIONS[name]}"
        files[role].write_text(snippets.adapted(f"{name} {role}", texts[f"{name} {role}"], builds.port()), "utf-8")
    environment = _node_packages(folder) if name == "node" else {}
    return _Commands([*start, str(files["producer"])], [*start, str(files["consumer"])], environment)


def _node_packages(folder: Path) -> dict[str, str]:
    """``redis`` is one of the two versions that the tests have side by side."""
    packages = builds.BROUGHT / "node" / "node_modules"
    version = subprocess.run([requires("node"), "--version"], capture_output=True, text=True, timeout=20).stdout
    package = packages / ("redis-6" if int(version.strip("v\n").partition(".")[0]) >= 20 else "redis-5")
    if not package.is_dir():
        missing(f"the node package {package.name} is not there: bin/test brings it")
    own = folder / "node_modules"
    own.mkdir()
    (own / "redis").symlink_to(package)
    return {"NODE_PATH": str(own)}


def _java(name: str) -> Callable[[], _Commands]:
    def commands() -> _Commands:
        out = builds.built("java")
        start = [requires("java"), "-XX:TieredStopAtLevel=1", "-cp", f"{out}/{name}:{out}/jars/*"]
        return _Commands([*start, "Producer"], [*start, "Consumer"])

    return commands


def _native(name: str) -> Callable[[], _Commands]:
    return lambda: _Commands([f"{builds.built(name)}/producer"], [f"{builds.built(name)}/consumer"])


_COMPILED: Final = {"go": _native("go"), "rust": _native("rust"), "jedis": _java("jedis"), "lettuce": _java("lettuce")}
NAMES: Final = (*_EXTENSIONS, *_COMPILED)


# -- the run ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _bus(commands: Mapping[str, _Commands], folder: Path, store: RedisServer) -> Iterator[Bus]:
    """One with the configuration of the page for each language; nobody else has its port meanwhile."""
    text = snippets.read()["configuration"]
    trees = [tomllib.loads(snippets.adapted(f"{name} configuration", text, builds.port())) for name in commands]
    queues = {queue: table for tree in trees for queue, table in tree["queue"].items()}
    bus = Bus(folder / "bus")
    write_config(bus.folder, {
        "ingest": {"listen": [f"127.0.0.1:{builds.port() + 1}"]}, "queue": queues,
        "storage": {"main": {"url": store.url, "call_timeout": "500ms"}},
    })
    with (builds.BROUGHT / "port.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield bus.start()
        finally:
            bus.clean_up()
    bus.has_not_crashed()


def _produce(commands: Mapping[str, _Commands], shown: Mapping[str, Shown]) -> None:
    for _ in range(2):
        running = {name: _start(each.producer, each, subprocess.PIPE) for name, each in commands.items()}
        for name, process in running.items():
            try:
                out, _ = process.communicate(timeout=PRODUCER_S)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
            shown[name].said.append(out.decode("utf-8", "replace"))
            shown[name].status.append(process.returncode)


@contextlib.contextmanager
def _consumers(commands: Mapping[str, _Commands], folder: Path, shown: Mapping[str, Shown]) -> Iterator[None]:
    logs = {name: folder / f"{name}.out" for name in commands}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, each in commands.items():
            with logs[name].open("wb") as out:
                running.append(_start(each.consumer, each, out))
        yield
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        for name, log in logs.items():
            shown[name].did = log.read_text("utf-8", "replace")


def _start(command: list[str], each: _Commands, out: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **each.environment}, preexec_fn=leftovers.end_with_the_tests,
    )


def _watch(bus: Bus, store: RedisServer, commands: Mapping[str, _Commands], shown: Mapping[str, Shown]) -> None:
    """All that was produced, a job that fails, a store that is away, a restart, one more job; nothing is judged."""
    queues = {name: snippets.queue(name) for name in commands}

    def done(name: str) -> int:
        total: int = bus.topic(queues[name], "credit")["done_total"]
        return total

    def failures(name: str) -> list[str]:
        return [event["error"] for event in bus.events("job.failed") if event["queue"] == queues[name]]

    acking = [name for name in commands if name != "cli"]
    _wait(lambda: all(done(name) >= 7 for name in commands))
    with redis.Redis(port=bus.port) as client:
        for name in acking:
            client.lpush(queues[name], "{}")
    _wait(lambda: all(map(failures, acking)))
    store.kill()
    begin_s = time.monotonic()
    _wait(lambda: time.monotonic() - begin_s > AWAY_S)
    store.start()
    bus.restart()
    with redis.Redis(port=bus.port) as client:
        for name in commands:
            client.lpush(queues[name], '{"uid": 99}')
    _wait(lambda: all(done(name) >= 8 for name in commands))
    for name in commands:
        shown[name].done, shown[name].failures = done(name), failures(name)


def _wait(condition: Callable[[], bool]) -> None:
    """Until it is so, or long enough: whose it was is seen by what came out of each."""
    with contextlib.suppress(AssertionError):
        until(condition, CONSUMER_S, "")


def credited(did: str) -> list[int]:
    """The users of the jobs that a consumer says it has run."""
    return sorted(int(uid) for uid in re.findall(r"^crediting \D*(\d+)", did, re.MULTILINE))
