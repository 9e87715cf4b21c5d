"""The page about operations tells of every signal, exit status and file in the run folder, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pbus.cli.main import INTERRUPTED
from pbus.cli.manual import INTERRUPTION, MEANINGS
from pbus.errors import Exit
from pbus.supervisor.lock import PID_FILE
from pbus.supervisor.signals import CAUGHT

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("operations.md", "operations.zh-CN.md")


def rows(page: str) -> dict[str, str]:
    """First cell of every table row -> the second."""
    text = (DOCS / page).read_text("utf-8")
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]*)\|", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_signal_that_the_master_hears_is_told(page: str) -> None:
    told = {name for cell in rows(page) for name in re.findall(r"\b[A-Z]{3,4}[12]?\b", cell)}
    assert {signum.name.removeprefix("SIG") for signum in CAUGHT} <= told


def test_every_exit_status_is_told_in_the_words_of_the_manual() -> None:
    meanings = {**{int(status): text for status, text in MEANINGS.items()}, INTERRUPTED: INTERRUPTION}
    told = {int(cell): text.strip() for cell, text in rows("operations.md").items() if cell.isdigit()}
    assert told == meanings


def test_every_exit_status_is_told_in_chinese() -> None:
    told = {int(cell) for cell in rows("operations.zh-CN.md") if cell.isdigit()}
    assert told == {int(status) for status in Exit} | {INTERRUPTED}


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_run_folder_are_told(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    names = (PID_FILE, "control.sock", "status.sock", "delivery.N.sock", "handover.N.sock", "boot/")
    assert [name for name in names if f"`{name}" not in text] == []
