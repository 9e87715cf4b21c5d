"""Printing: forms, and nothing that a terminal or a spreadsheet would obey."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.cli.output import Output, brief, cell, columns_of, csv_cell, cut, escape, pad, table_lines, to_json

ROWS = [
    {"topic": "gift/credit", "ready": 3, "error": None},
    {"topic": "gift/mail", "ready": 12_345, "error": "a\nb\x1b[31m"},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(form: str, stream: io.StringIO | None = None) -> str:
    stdout = stream if stream is not None else io.StringIO()
    Output(form, stdout).rows("topics", ("topic", "ready", "error"), ROWS, state="running")
    return stdout.getvalue()


def test_table_is_padded_and_not_cut_when_piped() -> None:
    assert printed("table").splitlines() == [
        "TOPIC        READY  ERROR", "gift/credit  3", "gift/mail    12345  a\\nb\\x1b[31m",
    ]


def test_table_is_cut_to_the_width_of_a_terminal() -> None:
    assert table_lines(("topic",), [{"topic": "x" * 50}], 10) == ["TOPIC", "x" * 9 + "…"]


@pytest.mark.parametrize(
    ("text", "columns"), [("gift", 4), ("用户", 4), ("e\u0301", 1), ("ｇift", 5), ("", 0)]
)
def test_text_takes_the_columns_that_a_terminal_gives_it(text: str, columns: int) -> None:
    assert columns_of(text) == columns
    assert columns_of(pad(text, 8)) == 8


@pytest.mark.parametrize(("width", "shown"), [(9, "没有 用户"), (8, "没有 用…"), (7, "没有 …"), (1, "…")])
def test_wide_text_is_cut_to_the_columns_that_are_there(width: int, shown: str) -> None:
    assert cut("没有 用户", width) == shown
    assert columns_of(shown) <= width


def test_json_is_one_document_with_a_version() -> None:
    assert json.loads(printed("json")) == {"v": 1, "state": "running", "topics": ROWS}


def test_jsonl_is_one_document_a_line() -> None:
    assert [json.loads(line) for line in printed("jsonl").splitlines()] == [{"v": 1, **row} for row in ROWS]


def test_csv_keeps_what_a_cell_holds() -> None:
    rows = list(csv.reader(io.StringIO(printed("csv"))))
    assert rows[1:] == [["gift/credit", "3", ""], ["gift/mail", "12345", "a\nb\x1b[31m"]]


def test_csv_on_a_terminal_is_escaped() -> None:
    assert "\x1b" not in printed("csv", Terminal())


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\rx"])
def test_csv_cell_that_starts_a_formula_is_defused(text: str) -> None:
    assert csv_cell(text) == "'" + text


def test_csv_numbers_stay_numbers() -> None:
    assert [csv_cell(value) for value in (-1, -1.5, "-1", "+2.5e3")] == ["-1", "-1.5", "-1", "+2.5e3"]


@given(st.text())
def test_escaped_text_has_nothing_to_obey(text: str) -> None:
    shown = escape(text)
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\u2029")


@given(JSON)
def test_json_of_anything_is_itself_again_and_safe_to_show(value: object) -> None:
    text = to_json(value)
    assert json.loads(text) == value
    assert escape(text) == text


def test_cells_are_for_people() -> None:
    values = (None, True, 1.50, ["a", "b"], b"x", {"a": 1})
    assert [cell(value) for value in values] == ["", "yes", "1.5", "a b", "x", '{"a": 1}']


def test_line_survives_a_narrow_encoding() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Output("table", stream).line("日本")
    assert raw.getvalue() == b"\\u65e5\\u672c\n"


def test_talk_goes_to_stderr() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    Output("json", stdout, stderr).say("waiting\x07\nstill")
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "waiting\\x07\nstill\n")


def test_colour_is_for_terminals_only() -> None:
    assert Output("table", io.StringIO()).style("x", "red") == "x"
    assert Output("table", Terminal()).style("x", "red") != "x"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("refused", "refused"),
        ("Uncaught Exception: boom\nStack trace:\n#0 {main}", "Uncaught Exception: boom"),
        ('Traceback (most recent call last):\n  File "a.py", line 1\nKeyError: \'uid\'\n', "KeyError: 'uid'"),
        ("2 of 2 failed: Traceback (most recent call last):\n  File\nKeyError: 1", "2 of 2 failed: KeyError: 1"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("", ""),
    ],
)
def test_brief_is_the_line_that_says_most(error: str, line: str) -> None:
    assert brief(error) == line
