"""Several pytest processes are one run: what failed in any of them is told, counted, and in the exit status."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.conftest import ALONE
from tests.support import lanes
from tests.support.lanes import Lane, Result, closing_line, understood

ROOT = Path(__file__).parents[3]
OUTPUT = """\
collected 3 items
tests/unit/test_x.py .F.                                     [100%]
=================================== FAILURES ===================================
a captured line: ==== 9 failed in 1.00s ====
=========================== short test summary info ============================
SKIPPED [1] tests/unit/test_x.py:3: no php
FAILED tests/unit/test_x.py::test_y - assert 1 == 2
======= 1 failed, 2 passed, 1 skipped, 70 deselected, 2 warnings in 61.20s (0:01:01) =======
"""


def test_output_of_a_lane_is_understood() -> None:
    assert understood(1, OUTPUT) == Result(
        1, {"failed": 1, "passed": 2, "skipped": 1, "warning": 2},
        ["SKIPPED [1] tests/unit/test_x.py:3: no php", "FAILED tests/unit/test_x.py::test_y - assert 1 == 2"],
    )


@pytest.mark.parametrize("status", [0, 139, -9])
def test_lane_without_a_closing_line_is_an_error(status: int) -> None:
    result = understood(status, "collected 3 items\ntests/unit/test_x.py .F")

    assert result.status != 0
    assert result.counts == {"error": 1}
    assert len(result.summary) == 1


def test_closing_line_counts_everything_together() -> None:
    results = [Result(0, {"passed": 4000, "warning": 1}), Result(1, {"passed": 700, "failed": 2, "warning": 1})]

    assert closing_line(results, 754.3).strip("=") == " 2 failed, 4700 passed, 2 warnings in 754.30s (0:12:34) "
    assert closing_line([], 0.01).strip("=") == " no tests ran in 0.01s "


def test_lanes_run_and_the_worst_is_their_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "test_good.py", tmp_path / "test_bad.py"
    good.write_text("def test_good():\n    pass\n")
    bad.write_text("def test_bad():\n    assert not 'really'\n")
    alone = ("-p", "no:cacheprovider", "--rootdir", str(tmp_path), "--noconftest")

    results = lanes.run([Lane("one", (str(good), *alone)), Lane("two", (str(bad), *alone))], ["-q"])

    assert [result.status for result in results] == [0, 1]
    assert [result.counts for result in results] == [{"passed": 1}, {"failed": 1}]
    shown = capfd.readouterr().out
    assert shown.index("pytest: one") < shown.index("pytest: two") < shown.index("assert not 'really'")
    assert "-- one: 1 passed in " in shown


def test_every_test_is_in_its_lane() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    paths = set(pyproject["tool"]["pytest"]["ini_options"]["testpaths"]) - {"tests/integration"}
    paths |= {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/integration/test_*.py")}
    together = [word for lane in lanes.TOGETHER for word in lane.arguments if word.startswith("tests/")]
    (alone,) = lanes.ALONE

    assert sorted(together) == sorted(paths - {"tests/chaos"}), "each once"
    assert "chaos" in ALONE
    assert {"tests/conformance", "tests/integration", "tests/chaos"} <= set(alone.arguments)
