"""What handlers say, one topic a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.telemetry.topic_log import TopicLog


def test_each_line_gets_a_head(tmp_path: Path) -> None:
    TopicLog(str(tmp_path), "gift", "credit", FakeClock()).write("17-1", "error", "first\n\nPHP Warning: second\n", 42)
    assert (tmp_path / "topic/gift.credit.log").read_text() == (
        "2027-01-15T08:00:00.000Z 42 17-1 ERROR first\n"
        "2027-01-15T08:00:00.000Z 42 17-1 ERROR PHP Warning: second\n"
    )


def test_silence_writes_nothing(tmp_path: Path) -> None:
    TopicLog(str(tmp_path), "gift", "credit").write("17-1", "info", " \n", 42)
    assert not (tmp_path / "topic").exists()


def test_unknown_job_and_pid_are_dashes(tmp_path: Path) -> None:
    TopicLog(str(tmp_path), "gift", "credit", FakeClock()).write("", "info", "hello", 0)
    assert (tmp_path / "topic/gift.credit.log").read_text() == "2027-01-15T08:00:00.000Z - - INFO hello\n"


def test_controls_are_shown_and_cannot_forge_a_line(tmp_path: Path) -> None:
    TopicLog(str(tmp_path), "gift", "credit", FakeClock()).write("17-1", "info", "a\x1b[2Jb\x85 17-2 INFO forged", 42)
    lines = (tmp_path / "topic/gift.credit.log").read_text().split("\n")
    assert lines[0].endswith("INFO a\\x1b[2Jb")
    assert lines[1] == "2027-01-15T08:00:00.000Z 42 17-1 INFO  17-2 INFO forged"


def test_flood_is_cut(tmp_path: Path) -> None:
    TopicLog(str(tmp_path), "gift", "credit").write("17-1", "info", "x\n" * 1_000_000, 42)
    assert (tmp_path / "topic/gift.credit.log").stat().st_size < 4_000_000


@pytest.mark.parametrize(("queue", "topic"), [("../../etc", "x"), ("gift", "a/b"), ("", "x"), ("gift", ".hidden")])
def test_only_names_become_a_path(tmp_path: Path, queue: str, topic: str) -> None:
    with pytest.raises(ValueError, match="is not a topic's name"):
        TopicLog(str(tmp_path), queue, topic)
