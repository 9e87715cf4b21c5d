"""
A bus that is measured: ``python -m pbus start -c DIR`` in a temporary folder, on free ports of the loopback.

A backlog is made while the delivery child stands still (SIGSTOP), and measured from the moment it
goes on until nothing is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import redis

from pbus.bench.load import QUEUE, push
from pbus.bench.machine import CLOCK, cpu_s, fsync_s, until
from pbus.bench.private import BenchError, end, free_ports, popen
from pbus.config.load import load
from pbus.errors import PbusError
from pbus.storage.driver import Driver
from pbus.storage.open import StoreTarget, make, queue_specs
from pbus.supervisor.control import call

UNBOUNDED: Final = {"max_backlog": 0, "max_backlog_bytes": "0B"}
"""A slice of pushes is as long as it takes, and nobody settles what is parked."""
LONGEST_S: Final = 120.0
STARTS_WITHIN_S: Final = 60.0
FILL_PIPELINE: Final = 32
_ANSWER_S: Final = 10.0
_POLL_S: Final = 0.01


class Bus:
    """
    One bus; it runs from ``start`` until ``close``.

    Args:
        folder: Where everything of it goes; must exist.
        config: Its configuration, completed with a name, ports, folders and a short grace.
        environment: More variables of its environment.

    Attributes:
        port: Where it takes pushes.
        data_dir: Where its store is.
        settings: Its configuration as loaded.
        driver: Its store, as one of its children sees it; made when it is asked for first.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = dict(environment or {})
        self._stack = contextlib.ExitStack()
        self._driver: Driver | None = None
        self.port, self.web_port = free_ports(2)
        self.conf = folder / "conf.d"
        self.run_dir = folder / "run"
        self.data_dir = folder / "data"
        node = {
            "name": folder.name, "run_dir": str(self.run_dir), "data_dir": str(self.data_dir),
            "log_dir": str(folder / "log"), "grace": "3s",
        }
        tree = {
            **config, "node": {**node, **config.get("node", {})},
            "ingest": {"listen": [f"127.0.0.1:{self.port}"], **config.get("ingest", {})},
            "dashboard": {"listen": f"127.0.0.1:{self.web_port}", **config.get("dashboard", {})},
        }
        self.conf.mkdir()
        (self.conf / "bench.toml").write_text(to_toml(tree) + "\n", encoding="utf-8")
        self.settings = load(str(self.conf))

    # -- life ---------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start it and wait for nothing."""
        with (self._folder / "output").open("ab") as out:
            self._process = popen(
                [sys.executable, "-m", "pbus", "start", "-c", str(self.conf)], self._environment, cwd=self._folder,
                stdout=out, stderr=out,
            )
        self._stack.callback(end, self._process)

    def start(self) -> Bus:
        """
        Start it and wait until it runs.

        Raises:
            BenchError: it does not, with what it said.
        """
        self.launch()
        if not until(self._runs, STARTS_WITHIN_S):
            raise BenchError(f"the bus is not running after {STARTS_WITHIN_S:g} s:\n{self._said()}")
        return self

    def _runs(self) -> bool:
        if self._process.poll() is not None:
            raise BenchError(f"the bus ended with status {self._process.returncode}:\n{self._said()}")
        with contextlib.suppress(PbusError, OSError):
            return bool(self.status()["state"] == "running")
        return False

    def close(self) -> None:
        """End it and whatever it started; idempotent."""
        self._stack.close()

    def _said(self) -> str:
        log = self._folder / "log" / "pbus.log"
        lines = log.read_text("utf-8", "replace").splitlines()[-10:] if log.exists() else []
        return "\n".join([(self._folder / "output").read_text("utf-8", "replace")[-4000:], *lines])

    # -- what it is ---------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of its master."""
        return self._process.pid

    def status(self) -> dict[str, Any]:
        """
        What ``pbus status`` knows.

        Raises:
            PbusError: it does not answer.
        """
        answer: dict[str, Any] = call(str(self.run_dir), "status", _ANSWER_S, reads=True)["status"]
        return answer

    def pids(self, *roles: str) -> list[int]:
        """Processes of these roles (none: all, the master among them) that the master knows now."""
        return [row["pid"] for row in self.status()["processes"] if not roles or row["role"] in roles]

    # -- its store, from outside --------------------------------------------------------------

    @property
    def driver(self) -> Driver:
        if self._driver is None:
            self._driver = self._stack.enter_context(_opened(self))
        return self._driver

    def backlog(self) -> int:
        """Deliveries of all topics that are not settled."""
        return sum(n.ready + n.running + n.delayed for n in self.driver.numbers().values())

    def done(self) -> int:
        """Deliveries that are."""
        return sum(n.done_total for n in self.driver.numbers().values())

    def drained_s(self, count: int, begins: Callable[[], object] = lambda: None) -> float:
        """
        Push *count* jobs while nothing is delivered, then let it go on; seconds from *begins* to the last one.

        Raises:
            BenchError: they are not done in ``LONGEST_S``.
        """
        with standing_still(self):
            push(self.port, QUEUE, count, pipeline=FILL_PIPELINE)
            begins()
            begin_s = CLOCK.monotonic_s()
        if not until(lambda: not self.backlog(), LONGEST_S, _POLL_S):
            raise BenchError(f"{self.backlog()} of {count} jobs are left after {LONGEST_S:g} s:\n{self._said()}")
        return CLOCK.monotonic_s() - begin_s


@contextlib.contextmanager
def standing_still(bus: Bus) -> Iterator[None]:
    """The delivery children stand still. They must not hold the store's lock then, so a push is tried first."""
    pids = bus.pids("delivery")
    try:
        while not _stopped(bus, pids):
            _continue(pids)
            CLOCK.sleep(0.05)
        yield
    finally:
        _continue(pids)


def _stopped(bus: Bus, pids: list[int]) -> bool:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with redis.Redis(port=bus.port, socket_timeout=1.0) as client:
        try:
            client.lpush(QUEUE, "0")
        except redis.RedisError:
            return False
    return True


def _continue(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _opened(bus: Bus) -> Iterator[Driver]:
    """The bus' store, as one of its children sees it."""
    storage = bus.settings.storage["main"]
    url = storage.url
    if url.startswith("sqlite:"):
        url = "sqlite:" + str(bus.data_dir / url.removeprefix("sqlite:"))
    driver = make(StoreTarget("main", url, storage.password, storage.call_timeout_s, bus.settings.node.name))
    driver.open()
    try:
        driver.declare(queue_specs(bus.settings.queue, "main"))
        yield driver
    finally:
        driver.close()


class CpuPerJob:
    """Processor time a job of the bus' roles, from here on."""

    def __init__(self, bus: Bus, *roles: str) -> None:
        self._pids = {role: bus.pids(role) for role in roles}
        self._before = {role: cpu_s(pids) for role, pids in self._pids.items()}

    def us(self, role: str, jobs: int) -> float:
        """Microseconds of *role* for each of the *jobs* that were done meanwhile."""
        return (cpu_s(self._pids[role]) - self._before[role]) / max(1, jobs) * 1e6

    def text(self, jobs: int) -> dict[str, str]:
        """The same of each role, for people."""
        return {f"{role} cpu": f"{self.us(role, jobs):.1f} us" for role in self._pids}


def fsync_text(bus: Bus) -> dict[str, str]:
    """What an fsync costs where this bus keeps its data."""
    return {"fsync": f"{fsync_s(bus.data_dir) * 1e6:.0f} us"}


def to_toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """*tree* as TOML: strings, numbers, booleans, lists of these, and tables."""
    plain = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
    lines = [f"[{prefix}]"] if prefix else []
    lines += [f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines.append(to_toml(value, f"{prefix}.{json.dumps(key)}" if prefix else json.dumps(key)))
    return "\n".join(lines)
