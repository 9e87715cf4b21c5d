"""
A37: twelve broken configurations, at a start and at a reload of a bus that runs.

Exit status 78 and every problem, both times; what ran before goes on as if nothing had been asked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import redis

from tests.support.bus import Bus, BusFactory
from tests.support.waiting import until

BROKEN = Path(__file__).parents[1] / "unit" / "config" / "broken"
CASES = (
    "addresses", "bounds-and-choices", "broken-files", "fastcgi", "handlers", "http", "orders", "programs", "set-twice",
    "storages", "unknown-keys", "wrong-types",
)
ONE_TOPIC = {"queue": {"gift": {"topic": {"credit": {"pull": {}}}}}}


def test_a_broken_configuration_is_told_whole_and_changes_nothing(bus_factory: BusFactory, tmp_path: Path) -> None:
    bus = bus_factory(ONE_TOPIC)
    before = bus.processes()
    client = redis.Redis(port=bus.port)
    good = tmp_path / "good"
    shutil.copytree(bus.conf, good)
    for case in CASES:
        _become(bus.conf, BROKEN / case / "conf.d")
        fresh = tmp_path / case
        shutil.copytree(bus.conf, fresh / "conf.d")
        for told in (_pbus(bus, "start", fresh / "conf.d"), _pbus(bus, "reload", bus.conf)):
            said, _ = told.communicate(timeout=30)
            assert told.returncode == 78, said
            for line in (BROKEN / case / "problems.txt").read_text().splitlines():
                file, key, text = line.split(": ", 2)
                assert any(file in one and key in one and text in one for one in said.splitlines()), f"{line}\n{said}"
        assert client.lpush("gift", case) >= 1
    _become(bus.conf, good)
    client.close()
    assert bus.processes() == before
    until(lambda: bus.cli("reload", "--wait").returncode == 0, 10, "a good one is taken over after all of them")
    assert not any("reload" in problem for problem in bus.status()["problems"])


def _become(conf: Path, source: Path) -> None:
    shutil.rmtree(conf)
    shutil.copytree(source, conf)


def _pbus(bus: Bus, command: str, conf: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pbus", command, "-c", str(conf)], env=bus.environment, cwd=bus.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
