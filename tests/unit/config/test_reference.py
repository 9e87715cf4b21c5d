"""The reference in docs/ is the schema's."""

from __future__ import annotations

from pathlib import Path

from pbus.config.reference import reference

PAGE = Path(__file__).parents[3] / "docs/configuration.md"


def test_reference_in_docs_is_current() -> None:
    assert PAGE.read_text() == reference(), "run: python -m pbus.config.reference > docs/configuration.md"


def test_reference_has_no_half_said_key() -> None:
    assert "MISSING" not in reference()
    assert "| `timeout` | `\"1m\"` | duration | respawn | longest attempt; 0s: none |" in reference()
