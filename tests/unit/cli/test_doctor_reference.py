"""The tables of checks in docs/doctor.md are those of the rules."""

from __future__ import annotations

import pytest

from pbus.cli.doctor_reference import GROUPS, PAGE, page, tables
from pbus.core.doctor import RULES


def test_checks_in_docs_are_current() -> None:
    text = PAGE.read_text("utf-8")

    assert text == page(text), "run: python -m pbus.cli.doctor_reference"


def test_every_rule_has_its_line() -> None:
    assert {kind for kinds in GROUPS.values() for kind in kinds} == {rule.of for rule in RULES}
    assert [tables().count(f"| `{rule.check}` |") for rule in RULES] == [1] * len(RULES)


def test_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        page("# doctor\n")
