"""The demo is what a stranger sees first: one command, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}


def test_demo_once_accounts_for_every_job_and_cleans_up(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "pbus", "demo", "--once", "2000"], env=environment(tmp_path), cwd=tmp_path,
        capture_output=True, text=True, timeout=80, check=False, stdin=subprocess.DEVNULL,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert re.fullmatch(
        r"accepted=2000 done=2000 dead=0 lost=0 duplicates=0 p50_ms=\d+\.\d p99_ms=\d+\.\d\n", answer.stdout
    ), answer.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_told_to_stop_accounts_and_leaves_nothing(tmp_path: Path, signum: int) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pbus", "demo"], env=environment(tmp_path), cwd=tmp_path, stdout=file,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )
    try:
        until(lambda: "orders/email" in out.read_text(), 30, lambda: f"a table is shown:\n{out.read_text()}")
        assert "pbus push orders" in out.read_text()
        process.send_signal(signum)
        assert process.wait(40) == 0, out.read_text()
    finally:
        process.kill()
        process.wait()
    (line,) = re.findall(r"^accepted=(\d+) done=(\d+) dead=0 lost=0 duplicates=0 ", out.read_text(), re.MULTILINE)
    assert line[0] == line[1] != "0"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
