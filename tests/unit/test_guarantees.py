"""docs/guarantees.md: every promise is there, every test that it names exists, and both languages say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/guarantees.md", ROOT / "docs/guarantees.zh-CN.md"]
PROMISES = [f"G{number}" for number in range(1, 13)]


def named_tests(page: Path) -> list[str]:
    return re.findall(r"`(tests/[\w/.]+\.py)`", page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = set(named_tests(page))
    assert len(named) > 15
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_promise_has_its_text_its_tests_and_its_figure(page: Path) -> None:
    text = page.read_text("utf-8")
    rows = dict(re.findall(r"^\| (G\d+) \|(.*)\|$", text, re.MULTILINE))
    assert list(rows) == PROMISES
    assert re.findall(r"^\*\*(G\d+)[:：]", text, re.MULTILINE) == PROMISES
    for promise, row in rows.items():
        _, tests, figure = (cell.strip() for cell in row.split("|"))
        assert named_in(tests), f"{promise} names no test"
        assert re.search(r"\d", figure), f"{promise} has no figure"


def named_in(cell: str) -> list[str]:
    return re.findall(r"`[\w/.]+\.py`", cell)


def test_both_languages_name_the_same_tests_in_the_same_order() -> None:
    english, chinese = map(named_tests, PAGES)
    assert english == chinese


def test_both_languages_tell_the_same_figures() -> None:
    english, chinese = map(figures, PAGES)
    assert english == chinese


def figures(page: Path) -> list[list[str]]:
    """Of each row of each table, in no order: languages differ in that."""
    rows = re.findall(r"^\|.*\|$", page.read_text("utf-8"), re.MULTILINE)
    return [sorted(re.findall(r"\d+(?:[.,]\d+)*", row)) for row in rows]
