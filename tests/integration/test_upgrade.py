"""Upgrades of a real bus: other code in the same process, and what becomes of everybody who is connected."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import ROOT, Bus, BusFactory
from tests.support.crowd import Crowd
from tests.support.shop import HANDLERS
from tests.support.waiting import until

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]

PULL = {"topic": {"t": {"pull": {}}}}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the package, to be changed."""
    folder = tmp_path / "code"
    shutil.copytree(ROOT / "pbus", folder / "pbus")  # with what is compiled already
    return folder


@pytest.fixture
def bus(code: Path, tmp_path: Path, bus_factory: BusFactory) -> Bus:
    handler = {"call": "consumer_jobs:act", "path": str(HANDLERS)}
    return bus_factory(
        {"queue": {"long": PULL, "short": PULL, "gift": {"topic": {"credit": {"python": handler}}}}},
        environment={"RUNS_FILE": str(tmp_path / "runs"), "PYTHONPATH": str(code)},
    )


def change(code: Path, version: str = "9.9.9") -> None:
    """New code: it says so itself."""
    file = code / "pbus/__init__.py"
    file.write_text(file.read_text().replace('__version__ = "', f'__version__ = "{version}'))


def consumers(bus: Bus) -> set[int]:
    return {row["pid"] for row in bus.status()["processes"] if row["role"] == "consumer"}


def master(bus: Bus) -> int:
    assert bus.process is not None
    return bus.process.pid


def named(bus: Bus, name: str) -> list[dict[str, Any]]:
    return [event for event in bus.events() if event["event"] == name]


def test_new_code_takes_over_and_nobody_notices(bus: Bus, code: Path) -> None:
    before, crowd = consumers(bus), Crowd(bus.port)
    try:
        change(code)
        told = bus.cli("reload")
        assert told.returncode == 1, told.stderr
        assert "'pbus upgrade'" in told.stderr
        crowd.mark()
        began_s = time.monotonic()
        told = bus.cli("upgrade", "--wait")
        took_s = time.monotonic() - began_s
        assert told.returncode == 0, told.stdout + told.stderr + bus.tail()
        longest_ms, seen = crowd.mark(), crowd.end()
    finally:
        crowd.close()
    assert "-> 9.9.9" in told.stderr
    assert f"pid {master(bus)}" in told.stderr
    assert seen["failures"] == [], f"{seen['failures'][:5]} {bus.tail()}"
    assert (seen["lost"], seen["twice"], seen["strange"]) == (0, 0, 0), seen
    assert consumers(bus) == before
    status = bus.status()
    assert (status["generation"], status["problems"]) == (2, [])
    (done,) = named(bus, "upgrade.done")
    assert done["version"].startswith("9.9.9")
    assert not {event["event"] for event in bus.events()} & {"handover.broken", "handover.back", "drain.cut"}
    print(f"took {took_s:.2f} s, longest round trip {longest_ms:.0f} ms; {seen}")

    (one,) = before  # what the adopted master bears is whole
    os.kill(one, signal.SIGKILL)
    until(lambda: consumers(bus) and one not in consumers(bus), 5, "another one is born at its place")
    with redis.Redis(port=bus.port) as client:
        client.lpush("gift", "ok again")
    until(lambda: bus.topic("gift", "credit")["done_total"] == 1, 5, lambda: f"it works {bus.tail()}")
    assert bus.cli("upgrade", "--wait").returncode == 0, "and once more"
    assert bus.status()["generation"] == 3
    assert bus.stop() == 0


def test_code_that_is_broken_touches_nothing(bus: Bus, code: Path) -> None:
    before = {row["pid"] for row in bus.status()["processes"]}
    with redis.Redis(port=bus.port) as client:
        client.ping()
        broken = code / "pbus/cli/replay.py"
        good = broken.read_text()
        broken.write_text(good + "\ndef (:\n")
        told = bus.cli("upgrade", "--wait")
        assert (told.returncode, "SyntaxError" in told.stderr, "replay.py" in told.stderr) == (1, True, True)
        broken.write_text(good)
        (code / "pbus/ingest/claims.py").rename(code / "claims.py")
        told = bus.cli("upgrade")
        assert told.returncode == 1
        assert "No module named 'pbus.ingest.claims'" in told.stderr
        assert any("the last upgrade has failed" in problem for problem in bus.status()["problems"])
        (code / "claims.py").rename(code / "pbus/ingest/claims.py")
        (bus.conf / "bad.toml").write_text("[queue.x]\nnonsense = 1\n")
        told = bus.cli("upgrade")
        assert (told.returncode, "nonsense" in told.stderr) == (78, True), told.stderr
        (bus.conf / "bad.toml").write_text('[node]\nname = "another"\n')
        told = bus.cli("upgrade")
        assert (told.returncode, "node.name" in told.stderr) == (78, True), told.stderr
        connections = client.connection_pool._created_connections  # type: ignore[attr-defined]
        assert client.ping()
        assert (connections, client.connection_pool._created_connections) == (1, 1)  # type: ignore[attr-defined]
    assert {row["pid"] for row in bus.status()["processes"]} == before
    assert len(named(bus, "upgrade.failed")) == 4


def test_a_stop_and_a_death_while_it_is_executed_are_seen_after_it(bus: Bus, code: Path) -> None:
    change(code)
    (one,) = consumers(bus)
    os.kill(master(bus), signal.SIGUSR2)
    until(lambda: named(bus, "upgrade.exec"), 10, lambda: f"it goes\n{bus.tail()}")
    os.kill(one, signal.SIGKILL)
    os.kill(master(bus), signal.SIGTERM)
    assert bus.process is not None
    assert bus.process.wait(15) == 0, bus.tail()
    names = [event["event"] for event in bus.events()]
    assert names.index("upgrade.exec") < names.index("upgrade.done") < names.index("master.stopping")
    assert [event["status"] for event in named(bus, "child.exited") if event["child_pid"] == one] == [-signal.SIGKILL]
