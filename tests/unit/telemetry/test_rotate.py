"""A file a day, and only so many of them."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from pbus.telemetry.rotate import rotate

TODAY = datetime.date(2027, 1, 15)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_yesterdays_files_are_renamed_todays_stay(tmp_path: Path) -> None:
    (tmp_path / "topic").mkdir()
    (tmp_path / "pbus.log").write_text('{"ts":"2027-01-14T23:59:59.999Z","level":"info"}\n')
    (tmp_path / "topic/gift.credit.log").write_text("2027-01-14T10:00:00.000Z 1 - INFO x\n")
    (tmp_path / "topic/gift.mail.log").write_text("2027-01-15T00:00:00.000Z 1 - INFO x\n")
    renamed = rotate(str(tmp_path), 7, TODAY)
    assert names(tmp_path) == ["pbus.log.2027-01-14", "topic/gift.credit.log.2027-01-14", "topic/gift.mail.log"]
    assert renamed == [str(tmp_path / "pbus.log"), str(tmp_path / "topic/gift.credit.log")]


def test_file_that_also_got_lines_after_midnight_belongs_to_its_first_day(tmp_path: Path) -> None:
    (tmp_path / "pbus.log").write_text('{"ts":"2027-01-14T23:59:59Z"}\n{"ts":"2027-01-15T00:00:01Z"}\n')
    rotate(str(tmp_path), 7, TODAY)
    assert names(tmp_path) == ["pbus.log.2027-01-14"]


def test_second_call_of_a_day_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "pbus.log").write_text('{"ts":"2027-01-14T23:59:59Z"}\n')
    assert rotate(str(tmp_path), 7, TODAY)
    assert rotate(str(tmp_path), 7, TODAY) == []


def test_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    (tmp_path / "pbus.log").write_text('{"ts":"2027-01-14T23:59:59Z"}\n')
    (tmp_path / "pbus.log.2027-01-14").write_text("earlier\n")
    rotate(str(tmp_path), 7, TODAY)
    assert names(tmp_path) == ["pbus.log.2027-01-14", "pbus.log.2027-01-14.1"]


def test_files_older_than_days_are_removed(tmp_path: Path) -> None:
    for day in ("2027-01-07", "2027-01-08", "2027-01-14"):
        (tmp_path / f"pbus.log.{day}").write_text("x\n")
    (tmp_path / "pbus.log.2020-99-99").write_text("somebody else's\n")
    rotate(str(tmp_path), 7, TODAY)
    assert names(tmp_path) == ["pbus.log.2020-99-99", "pbus.log.2027-01-08", "pbus.log.2027-01-14"]


def test_file_without_a_time_goes_by_its_last_change(tmp_path: Path) -> None:
    path = tmp_path / "pbus.log"
    path.write_text("no time here\n")
    os.utime(path, (1_799_900_000, 1_799_900_000))  # 2027-01-14
    rotate(str(tmp_path), 7, TODAY)
    assert names(tmp_path) == ["pbus.log.2027-01-14"]


def test_empty_file_and_foreign_files_stay(tmp_path: Path) -> None:
    (tmp_path / "pbus.log").write_text("")
    (tmp_path / "notes.txt").write_text("2020-01-01\n")
    assert rotate(str(tmp_path), 7, TODAY) == []
    assert names(tmp_path) == ["notes.txt", "pbus.log"]


def test_missing_folder_and_standard_output_are_nothing_to_do(tmp_path: Path) -> None:
    assert rotate(str(tmp_path / "absent"), 7, TODAY) == []
    assert rotate("-", 7, TODAY) == []
