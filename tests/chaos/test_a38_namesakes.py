"""
A38: a second node of the same name on one Redis, a second start in one folder, and a pid file that a dead bus left
and whose number belongs to another program now.

The first two are refused with 75 and do no harm; the last is no obstacle.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bus import Bus
from tests.support.scenario import Scenario

INTERVALS = '[node]\nname = "twin"\nheartbeat = "200ms"\nlost_after = "1s"\n'


def _start(bus: Bus) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pbus", "start", "-c", str(bus.conf)], env=bus.environment, cwd=bus.folder, text=True,
        capture_output=True, timeout=60, check=False,
    )


@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
def test_second_node_of_a_name_is_refused_and_another_name_is_not(scenario: Scenario) -> None:
    first = scenario.start({"credit": scenario.pulled()}, INTERVALS, name="first")
    second = scenario.start({"credit": scenario.pulled()}, INTERVALS, name="second", start=False)
    told = _start(second)
    assert told.returncode == 75, told.stdout + told.stderr
    assert "node.name: another bus uses this storage as node 'twin'" in told.stdout + told.stderr
    assert first.status()["state"] == "running"
    first.kill_everything()
    second.start()  # nobody moves that counter any more
    assert second.status()["state"] == "running"


@pytest.mark.parametrize("scenario", ["sqlite"], indirect=True)
def test_second_start_in_one_folder_is_refused_and_a_stale_pid_file_is_no_obstacle(scenario: Scenario) -> None:
    bus = scenario.start({"credit": scenario.pulled()})
    told = _start(bus)
    assert told.returncode == 75, told.stdout + told.stderr
    assert f"already running as pid {bus.process.pid if bus.process else 0}" in told.stdout + told.stderr
    assert bus.status()["state"] == "running"
    bus.kill_everything()
    pid_file = Path(bus.settings.node.run_dir) / "pbus.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    assert bus.start().status()["state"] == "running"
