"""``pbus program``: what it says when the bus does not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pbus.cli.main import main

CONFIG = """
[node]
name = "n"
run_dir = "var"
[program.mailer]
argv = ["sleep", "1"]
processes = 2
"""


@pytest.fixture
def conf(tmp_path: Path) -> str:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "pbus.toml").write_text(CONFIG)
    return str(tmp_path / "conf.d")


def test_programs_are_listed_without_a_running_bus(conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["program", "ls", "-o", "json", "-c", conf]) == 0
    [row] = json.loads(capsys.readouterr().out)["programs"]
    assert (row["program"], row["state"], row["running"], row["wanted"]) == ("mailer", "stopped", 0, 2)
    assert row["argv"] == ["sleep", "1"]


@pytest.mark.parametrize("command", [["program", "restart"], ["topic", "restart", "*"]])
def test_restart_without_a_running_bus_says_so(
    conf: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "-c", conf]) == 3
    assert "'pbus start --daemon' starts it" in capsys.readouterr().err
