"""The table of commands in docs/protocol.md is that of the rows, and every row says what people need."""

from __future__ import annotations

import pytest

from pbus.ingest import syntax
from pbus.ingest.commands import ROWS
from pbus.ingest.reference import GROUPS, PAGE, page
from pbus.ingest.rows import Row

EVERY = [each for row in ROWS for each in (row, *row.subs)]


def test_commands_in_docs_are_current() -> None:
    text = PAGE.read_text("utf-8")

    assert text == page(text), "run: python -m pbus.ingest.reference"


def test_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        page("# The port\n")


@pytest.mark.parametrize("row", EVERY, ids=[row.name for row in EVERY])
def test_row_says_what_people_need(row: Row) -> None:
    doc = row.doc

    assert doc.group in GROUPS
    assert doc.reply
    assert doc.summary.endswith(".")
    assert "`" not in doc.summary
    assert not doc.more.endswith(".")


@pytest.mark.parametrize("row", EVERY, ids=[row.name for row in EVERY])
def test_syntax_of_a_row_agrees_with_its_arity(row: Row) -> None:
    arguments = syntax.parse(row.doc.syntax)
    least = 1 + row.name.count("|") + sum(_fewest(argument) for argument in arguments)

    if not row.subs:
        assert least == abs(row.arity) or (row.arity < 0 and least > -row.arity)
        assert row.arity < 0 or not any(argument.optional or argument.multiple for argument in arguments)


def _fewest(argument: syntax.Argument) -> int:
    if argument.optional:
        return 0
    own = 1 if argument.token else 0
    if argument.kind == "oneof":
        return own + min(_fewest(part) for part in argument.parts)
    if argument.kind == "block":
        return own + sum(_fewest(part) for part in argument.parts)
    return 1 if argument.kind == "pure-token" else own + 1
