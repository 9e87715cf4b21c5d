"""
A master with idle roles: the supervisor alone, as a process of its own.

    python -m tests.support.idle_bus PLAN.json      (what ``IdleBus.launch`` runs)

PLAN.json: {"grace_s", "backoff": {..}, "doors": {name: address}, "roles": [{RoleSpec fields}]}.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pbus.config.schema import Backoff
from pbus.config.values import address
from pbus.errors import BootError, PbusError
from pbus.supervisor.control import call
from pbus.supervisor.master import Master
from pbus.supervisor.plan import Plan
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.plan import TopicFact
from tests.support import leftovers
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
IDLE = "tests.support.idle_role"


class IdleBus:
    """One such master. Everything of it is gone when the test is over."""

    def __init__(self, folder: Path, plan: dict[str, Any], environment: dict[str, str]) -> None:
        self.folder = folder
        self.run_dir = folder / "var"
        self.log = folder / "var" / "log" / "pbus.log"
        self.out = folder / "out"
        self.plan = plan
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, wait for nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.json").write_text(json.dumps(self.plan))
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.idle_bus", str(self.folder / "plan.json")], cwd=ROOT, stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=leftovers.end_with_the_tests,
                env={**os.environ, **self.environment},
            )
        return self.process

    def start(self, states: tuple[str, ...] = ("running",)) -> IdleBus:
        """Start it and wait until it is in one of *states*."""
        self.launch()
        self.wait(states)
        return self

    def wait(self, states: tuple[str, ...], timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait until its status says one of *states*; the status."""
        return self.wait_for(lambda status: status["state"] in states, f"state {states}", timeout_s)

    def wait_for(
        self, fact: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = 20.0
    ) -> dict[str, Any]:
        """Wait until *fact* holds for its status; the status."""
        seen: list[dict[str, Any]] = []

        def holds() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.out.read_text()}"
            with contextlib.suppress(PbusError, OSError):
                seen.append(self.status())
            return bool(seen) and fact(seen[-1])

        until(holds, timeout_s, what)
        return seen[-1]

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = call(str(self.run_dir), "status", 5.0)["status"]
        return answer

    def pids(self, role: str) -> list[int]:
        return [row["pid"] for row in self.status()["processes"] if row["role"] == role]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def ended(self, timeout_s: float = 20.0) -> int:
        """Wait until the master has ended; its exit status."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def processes(self) -> list[int]:
        """Living processes that hold something of its folder open."""
        return sorted(leftovers.holders(self.folder))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log with that event, or all of them."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event for event in map(json.loads, lines) if name in ("", event["event"])]

    def say(self, kind: str, *index: int, role: str = "scheduler", **fields: Any) -> None:
        """Have the child of *role* (of that *index*, else each) that has ``sayings(role)`` say that frame."""
        with open(self.sayings(role), "a") as file:
            file.write(json.dumps([kind, fields, *index]) + "\n")

    def sayings(self, role: str) -> str:
        """The file for ``args["sayings"]``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return str(self.folder / f"sayings.{role}")

    def clean_up(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(5)
        deadline = time.monotonic() + 10
        while (left := leftovers.holders(self.folder)) and time.monotonic() < deadline:
            leftovers.end(left)
            time.sleep(0.02)


IdleFactory = Callable[..., IdleBus]


@pytest.fixture
def idle_bus(tmp_path: Path) -> Iterator[IdleFactory]:
    """``idle_bus(roles, name="bus", start=True, states=("running",), environment=None, **plan) -> IdleBus``."""
    buses: list[IdleBus] = []

    def make(
        *roles: dict[str, Any], name: str = "bus", start: bool = True, states: tuple[str, ...] = ("running",),
        environment: dict[str, str] | None = None, **plan: Any,
    ) -> IdleBus:
        bus = IdleBus(tmp_path / name, {"roles": list(roles), **plan}, environment or {})
        buses.append(bus)
        return bus.start(states) if start else bus

    yield make
    for bus in buses:
        bus.clean_up()


def role(name: str = "delivery", **fields: Any) -> dict[str, Any]:
    """A RoleSpec as JSON; ``args`` tells the idle role how to be."""
    return {"role": name, "module": IDLE, "title": name + " {index}", **fields}


class _Printer:
    def waiting(self, why: str) -> None:
        print("waiting:", why, flush=True)

    def ready(self, pid: int, problems: list[str]) -> None:
        print("ready:", pid, problems, flush=True)


def _plan(path: Path) -> Plan:
    told = json.loads(path.read_text())
    folder = path.parent / "var"
    specs = [
        RoleSpec(**{**spec, "keeps": tuple(spec.get("keeps", ())), "hears": tuple(spec.get("hears", ()))})
        for spec in told["roles"]
    ]
    return Plan(
        node="idle", run_dir=str(folder), data_dir=str(folder), log_dir=str(folder / "log"),
        grace_s=told.get("grace_s", 2.0), backoff=Backoff(**told.get("backoff", {})), roles=tuple(specs),
        least_slots=told.get("least_slots", 0), user=told.get("user", ""), status_group=told.get("status_group", ""),
        doors={name: address(text) for name, text in told.get("doors", {}).items()},
        topics=tuple(TopicFact(**topic) for topic in told.get("topics", ())),
    )


def main() -> int:
    try:
        return Master(_plan(Path(sys.argv[1])), _Printer()).run()
    except BootError as error:
        print(f"failed: {error}", flush=True)
        return int(error.exit_status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
