"""A log line is one line, whatever is in it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pbus.telemetry.lines import MAX_LINE_BYTES, escape, json_line, text_line, timestamp

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


def test_timestamp_is_rfc3339_in_utc_with_milliseconds() -> None:
    assert timestamp(1_800_000_000.25) == "2027-01-15T08:00:00.250Z"


@given(ANY_TEXT)
def test_json_line_is_one_line_that_reads_back(text: str) -> None:
    line = json_line({"event": "x", "err": text})
    shown = line.decode("utf-8")
    assert shown.count("\n") == 1
    assert len(shown.splitlines()) == 1
    assert json.loads(shown)["err"] == text


@given(ANY_TEXT)
def test_text_line_is_one_line_without_controls(text: str) -> None:
    line = text_line({"ts": "2027-01-15T08:00:00.250Z", "level": "info", "event": "x", "err": text})
    line.encode("utf-8")
    assert len(line.splitlines()) == 1
    assert escape(line) == line


def test_text_line_reads_from_left_to_right() -> None:
    fields = {
        "ts": "2027-01-15T08:00:00.250Z", "level": "warning", "event": "job.failed", "node": "bus-1",
        "queue": "gift", "topic": "credit", "attempt": 2, "err": "no route",
    }
    assert text_line(fields) == '2027-01-15 08:00:00.250 WARNING job.failed gift/credit attempt=2 err="no route"'


def test_terminal_escape_is_shown() -> None:
    assert escape("\x1b[31mred\x07\u202e") == "\\x1b[31mred\\x07\\u202e"


def test_chinese_text_is_left_as_it_is() -> None:
    assert "订阅" in json_line({"event": "x", "err": "订阅"}).decode()


def test_line_beyond_the_bound_keeps_what_says_where_it_came_from() -> None:
    line = json_line({"event": "x", "job": "1-1", "noise": ["y" * 100] * 2000})
    fields = json.loads(line)
    assert len(line) < MAX_LINE_BYTES
    assert fields["event"] == "x"
    assert fields["job"] == "1-1"
    assert fields["cut_bytes"] > MAX_LINE_BYTES
