"""Reading log files: the past, what comes, and the change of days."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from pbus.telemetry.log_reader import LAST_LINES, LogReader, log_entry, topic_entry
from pbus.telemetry.log_reader import coming as follow
from pbus.clock import FakeClock


class ActingClock(FakeClock):
    """A clock whose sleeper meets somebody who acts: one act a sleep, then nothing more comes."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__()
        self._acts = list(acts)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self._acts:
            self._acts.pop(0)()


def append(path: Path, text: str) -> Callable[[], object]:
    def act() -> None:
        with path.open("a") as file:
            file.write(text)

    return act


def coming(reader: LogReader, count: int) -> list[str]:
    lines = list(itertools.islice(reader.coming(), count))
    reader.close()
    return lines


def test_past_is_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "pbus.log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    with contextlib.closing(LogReader(str(path), FakeClock())) as reader:
        lines = list(reader.past(None))
    assert lines == [f"line {number}" for number in range(100_000 - LAST_LINES, 100_000)]


def test_past_since_reads_the_days_it_needs(tmp_path: Path) -> None:
    (tmp_path / "pbus.log.2027-01-12").write_text("too old\n")
    (tmp_path / "pbus.log.2027-01-13").write_text("old\n")
    (tmp_path / "pbus.log.2027-01-14").write_text("yesterday\n")
    (tmp_path / "pbus.log").write_text("today\n")
    since_s = FakeClock().wall_s() - 2 * 86_400
    with contextlib.closing(LogReader(str(tmp_path / "pbus.log"), FakeClock())) as reader:
        assert list(reader.past(since_s)) == ["old", "yesterday", "today"]


def test_coming_goes_on_where_the_past_ended(tmp_path: Path) -> None:
    path = tmp_path / "pbus.log"
    path.write_text("a\nb\n")
    reader = LogReader(str(path), ActingClock(append(path, "c\nd"), append(path, "d\ne\n")))
    assert list(reader.past(None)) == ["a", "b"]
    assert coming(reader, 3) == ["c", "dd", "e"]


def test_coming_waits_for_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "pbus.log"
    reader = LogReader(str(path), ActingClock(lambda: None, append(path, "first\n")))
    assert list(reader.past(None)) == []
    assert coming(reader, 1) == ["first"]


def test_change_of_days_loses_nothing(tmp_path: Path) -> None:
    path, old = tmp_path / "pbus.log", tmp_path / "pbus.log.2027-01-14"
    path.write_text("a\n")

    def change() -> None:
        path.rename(old)
        append(path, "today\n")()

    acts = [change, append(old, "said by who had not noticed\n"), append(path, "more\n")]
    reader = LogReader(str(path), ActingClock(*acts))
    list(reader.past(None))
    assert coming(reader, 3) == ["said by who had not noticed", "today", "more"]


def test_file_that_was_cut_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "pbus.log"
    path.write_text("long long line\n")
    reader = LogReader(str(path), ActingClock(lambda: path.write_text("new\n")))
    list(reader.past(None))
    assert coming(reader, 1) == ["new"]


def test_log_entry_reads_json_and_text() -> None:
    json_entry = log_entry('{"ts":"2027-01-15T08:00:00.000Z","level":"info","event":"node.ready"}')
    text = log_entry("2027-01-15 08:00:00.000 INFO    node.ready pid=1")
    for entry in (json_entry, text):
        assert entry.fields["event"] == "node.ready"
        assert entry.fields["level"] == "info"
        assert entry.at_s == 1_800_000_000.0


@pytest.mark.parametrize("line", ["", "{", "[1]", "free text", '{"ts": 5}'])
def test_line_of_any_kind_is_an_entry(line: str) -> None:
    assert log_entry(line).text == line
    assert log_entry(line).at_s is None
    assert topic_entry(line).text == line


def test_topic_entry_reads_its_columns() -> None:
    entry = topic_entry("2027-01-15T08:00:00.000Z 42 17-1 ERROR PHP Warning: x")
    assert dict(entry.fields) == {
        "ts": "2027-01-15T08:00:00.000Z", "level": "error", "pid": 42, "job": "17-1", "message": "PHP Warning: x",
    }


def test_several_files_are_followed_at_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    clock = ActingClock(append(two, "first\n"), append(one, "second\nthird\n"), append(two, "fourth\n"))
    readers = [LogReader(str(path), clock) for path in (one, two)]
    lines = list(itertools.islice(follow(readers, clock), 4))
    for reader in readers:
        reader.close()
    assert lines == [(1, "first"), (0, "second"), (0, "third"), (1, "fourth")]
