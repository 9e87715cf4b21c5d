"""``pbus bench`` for real: figures come out, and whatever ends it, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.leftovers import holders
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
BENCH = [sys.executable, "-m", "pbus", "bench"]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}


def test_bench_writes_figures_and_compares_them(tmp_path: Path) -> None:
    document = tmp_path / "figures.json"
    answer = subprocess.run(
        [*BENCH, "memory", "--store", "sqlite", "--rounds", "2", "--seconds", "0.05", "--json", str(document)],
        env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "memory of the idle stack, sqlite" in answer.stdout
    told = json.loads(document.read_text())
    assert [figure["id"] for figure in told["figures"]] == ["memory.sqlite"]
    assert told["figures"][0]["command"] == "pbus bench memory --store sqlite"
    assert told["figures"][0]["pbus"] > 10
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("signum", [signal.SIGTERM])
def test_bench_that_is_told_to_stop_leaves_nothing(tmp_path: Path, signum: int) -> None:
    process = subprocess.Popen(
        [*BENCH, "memory", "--store", "sqlite", "--seconds", "60"], env=environment(tmp_path), cwd=tmp_path,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    try:
        until(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 5, 30, "its bus runs")
        process.send_signal(signum)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
    assert holders(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
