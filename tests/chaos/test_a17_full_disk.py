"""
A17: the disk of the store and of the logs is full, under load; then somebody frees it.

Pushes are refused: by min_free while there is still room for everything else, which goes on; or by SQLite in the
middle of a write. What was answered with OK is stored. What ends while nothing can be written is settled later and
not run again. Nobody exits, however little of it can be logged.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ledger import ERR
from tests.support.nightly import figure
from tests.support.scenario import Scenario
from tests.support.waiting import until

DISK_BYTES = 64 * 1024 * 1024
FULL_S = figure(2.0, nightly=30.0)
RESUME_S = 5.0
UNDER_LOAD = 40
PIECE_BYTES = 256 * 1024
LOAD = {"threads": 4, "pause_s": 0.01, "orders": "sleep=20"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB; outlives the bus that is on it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("scenario", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("min_free", "left_bytes"), [("16MiB", 8 << 20), ("0B", 0)], ids=["nearly full", "full"])
def test_a_full_disk_costs_pushes_that_are_told_so_and_nothing_else(
    disk: Path, scenario: Scenario, min_free: str, left_bytes: int
) -> None:
    bus = scenario.start(
        {"credit": scenario.http(4), "mail": scenario.python(2)},
        f'[node]\ndata_dir = "{disk}/data"\nlog_dir = "{disk}/log"\n'
        f'[storage.main]\nurl = "sqlite:pbus.db"\nmin_free = "{min_free}"\nhigh_water = 0.99',
    )
    processes = set(bus.processes())
    with scenario.pushing(**LOAD) as producers:
        _load(scenario)
        full_s = time.time()
        with _full(disk, left_bytes):
            until(lambda: _refused(scenario, full_s) >= UNDER_LOAD, 10, "pushes are refused")
            if left_bytes:
                scenario.settled()
            _stay_full(disk, left_bytes)
        freed_s = time.time()
        resume_s = scenario.resumed(freed_s, RESUME_S + 3)
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)  # nobody who ran a job died
    print(f"full for {freed_s - full_s:.1f} s: {_refused(scenario, full_s)} pushes refused")
    assert resume_s <= RESUME_S
    assert set(bus.processes()) == processes, bus.tail()
    assert bus.stop() == 0


@contextlib.contextmanager
def _full(disk: Path, left_bytes: int) -> Iterator[None]:
    """So much is left; everything is freed again afterwards."""
    _fill(disk, left_bytes)
    yield
    (disk / "filler").unlink()


def _fill(disk: Path, left_bytes: int) -> None:
    with (disk / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - left_bytes) > 0:
            filler.write(bytes(min(free, PIECE_BYTES)))


def _stay_full(disk: Path, left_bytes: int) -> None:
    """What the bus frees meanwhile is taken too."""
    end_s = time.monotonic() + FULL_S
    while time.monotonic() < end_s:
        _fill(disk, left_bytes)
        time.sleep(0.02)  # the fault itself


def _refused(scenario: Scenario, since_s: float) -> int:
    return sum(push.result == ERR and push.sent_s >= since_s for push in scenario.ledger.pushed())


def _load(scenario: Scenario) -> None:
    until(lambda: scenario.ran() >= UNDER_LOAD and all(scenario.claims().values()), 10, "every topic is busy")
