"""
A real bus in a temporary folder: started by the command people use, and gone when the test is over.

    def test_something(bus_factory):
        bus = bus_factory({"queue": {"gift": {"topic": {"credit": {"python": {...}}}}}})
        redis.Redis(port=bus.port).lpush("gift", "x")

Rule: nothing survives. Every process of the bus is found by what it has open below the bus' folder
(its working directory at least), so those that left their process group are found too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pbus.config.load import load
from pbus.config.schema import Settings
from pbus.errors import PbusError
from pbus.supervisor.control import call
from tests.support import leftovers
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
STOP_S = 20.0

CRASHES = ("Traceback (most recent call last)", "Exception ignored in", "ResourceWarning: ")
SCALED = """
[node]
grace = "3s"
heartbeat = "500ms"
lost_after = "1500ms"
"""
"""Intervals that suit a test; a key set by the test itself wins."""


class Bus:
    """
    One ``pbus start`` in the foreground.

    Attributes:
        folder: Parent of conf.d; run_dir, data_dir and log_dir are below it unless configured.
        settings: The configuration as loaded.
        port: Of the first TCP address of [ingest].
        process: The master.
        out: File with what the master printed (stdout and stderr).
        python: Interpreter that it runs in.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.conf = folder / "conf.d"
        self.out = folder / "start.out"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.python = sys.executable
        self.process: subprocess.Popen[bytes] | None = None
        self._settings: Settings | None = None

    # -- life ---------------------------------------------------------------------------------

    def launch(self) -> None:
        """``pbus start`` without waiting for anything."""
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [self.python, "-m", "pbus", "start", "-c", str(self.conf)], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env=self.environment, cwd=self.folder, start_new_session=True,
                preexec_fn=leftovers.end_with_the_tests,
            )

    def start(self, states: tuple[str, ...] = ("running",), timeout_s: float = START_S) -> Bus:
        """``pbus start``, and wait until ``status`` says one of *states*."""
        self.launch()
        self.wait(states, timeout_s)
        return self

    def wait(self, states: tuple[str, ...] = ("running",), timeout_s: float = START_S) -> dict[str, Any]:
        """Wait until ``status`` says one of *states*; its answer."""
        last: dict[str, Any] = {}

        def reached() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the bus ended with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(PbusError, OSError):
                last.update(self.status())
            return last.get("state") in states

        try:
            until(reached, timeout_s, f"the bus is {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}; last status {last}\n{self.tail()}") from None
        return last

    def stop(self, fast: bool = False, timeout_s: float = STOP_S) -> int:
        """``pbus stop``; the exit status of the master."""
        assert self.process is not None
        self.cli("stop", *(["--fast"] if fast else []))
        return self.process.wait(timeout_s)

    def restart(self, states: tuple[str, ...] = ("running",)) -> Bus:
        """Stop (if it runs) and start again."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        return self.start(states)

    def kill_master(self) -> None:
        """kill -9 the master, and wait for that; its children are on their own."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def kill_everything(self) -> None:
        """kill -9 every process of it at once, and wait until they are gone."""
        assert self.process is not None
        left = self.processes()
        self.process.kill()  # first, so that nobody is replaced
        while left:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            left = self.processes()
        self.process.wait(10)

    def clean_up(self) -> None:
        """End whatever is left of it, however it got there."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.settings.node.grace_s + 3)
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(5)

    def has_not_crashed(self) -> None:
        """Nothing was printed that only a mistake in pbus prints: greenlets and destructors die without a word else."""
        printed = self.out.read_text(errors="replace") if self.out.exists() else ""
        assert not any(line.startswith(CRASHES) for line in printed.splitlines()), printed[-8000:]

    # -- what it is ---------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = load(str(self.conf))
        return self._settings

    @property
    def port(self) -> int:
        return next(int(a.rpartition(":")[2]) for a in self.settings.ingest.listen if not a.startswith("unix:"))

    @property
    def web_port(self) -> int:
        """Of the dashboard."""
        return int(self.settings.dashboard.listen.rpartition(":")[2])

    def status(self) -> dict[str, Any]:
        """What ``pbus status`` is made of, asked over the control socket."""
        answer: dict[str, Any] = call(self.settings.node.run_dir, "status", 10.0)["status"]
        return answer

    def topic(self, queue: str, topic: str) -> dict[str, Any]:
        """The row of one topic in ``status``."""
        return next(row for row in self.status()["topics"] if (row["queue"], row["topic"]) == (queue, topic))

    def pids(self, role: str) -> list[int]:
        """Processes of *role* that the master knows now."""
        return [row["pid"] for row in self.status()["processes"] if row["role"] == role]

    def kill(self, role: str, signum: int = signal.SIGKILL) -> list[int]:
        """Signal every process of *role*; their pids."""
        pids = self.pids(role)
        for pid in pids:
            os.kill(pid, signum)
        return pids

    def processes(self) -> list[int]:
        """Every living process of this bus, zombies apart: what has its folder open."""
        return sorted(leftovers.holders(self.folder))

    def cli(self, *arguments: str, check: bool = False, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run ``pbus ARGUMENTS -c conf.d``."""
        return subprocess.run(
            [sys.executable, "-m", "pbus", *arguments, "-c", str(self.conf)], env=self.environment, cwd=self.folder,
            capture_output=True, text=True, timeout=timeout_s, check=check,
        )

    # -- what it said -------------------------------------------------------------------------

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Lines of pbus.log as dicts, all or those of one event."""
        path = Path(self.settings.node.log_dir) / "pbus.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if not name or event["event"] == name]

    def topic_log(self, queue: str, topic: str) -> str:
        """Text of a topic's log."""
        path = Path(self.settings.node.log_dir) / "topic" / f"{queue}.{topic}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def tail(self, count: int = 40) -> str:
        """The end of what it printed and logged, for failed tests."""
        printed = self.out.read_text(errors="replace") if self.out.exists() else ""
        events = [json.dumps(event)[:2000] for event in self.events()[-count:]]
        return "\n".join([printed[-4000:], *events])


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def to_toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """*tree* as TOML: strings, numbers, booleans, lists of these, and tables."""
    plain = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
    lines = [f"[{prefix}]"] if prefix else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines.append(to_toml(value, f"{prefix}.{_key(key)}" if prefix else _key(key)))
    return "\n".join(lines)


def _key(key: str) -> str:
    return json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def write_config(folder: Path, config: Mapping[str, Any] | str) -> None:
    """
    Write *config* (a tree, or TOML text) to ``conf.d`` in *folder*, completed for a test.

    What the test does not set: a node name, scaled intervals, free ports, and for a tree nothing else.
    """
    import tomllib

    tree = tomllib.loads(config) if isinstance(config, str) else _copy(config)
    for section, values in tomllib.loads(SCALED).items():
        tree[section] = {**values, **tree.get(section, {})}
    tree["node"].setdefault("name", "bus-test")
    tree.setdefault("ingest", {}).setdefault("listen", [f"127.0.0.1:{free_port()}"])
    tree.setdefault("dashboard", {}).setdefault("listen", "")
    conf = folder / "conf.d"
    conf.mkdir(parents=True, exist_ok=True)
    (conf / "pbus.toml").write_text(to_toml(tree) + "\n")


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


BusFactory = Callable[..., Bus]


@pytest.fixture
def bus_factory(tmp_path: Path) -> Iterator[BusFactory]:
    """
    ``bus_factory(config, name="bus", start=True, states=("running",), environment=None) -> Bus``.

    *config* as for ``write_config``. Several buses may live in one test under different names; all
    of them are ended afterwards.
    """
    buses: list[Bus] = []

    def make(
        config: Mapping[str, Any] | str, *, name: str = "bus", start: bool = True,
        states: tuple[str, ...] = ("running",), environment: Mapping[str, str] | None = None,
    ) -> Bus:
        bus = Bus(tmp_path / name, environment)
        write_config(bus.folder, config)
        buses.append(bus)
        return bus.start(states) if start else bus

    yield make
    for bus in buses:
        bus.clean_up()
    for bus in buses:
        bus.has_not_crashed()
