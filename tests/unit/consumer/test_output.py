from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.consumer.output import LINE_BYTES, Output, lead_descriptors_to


class Lines:
    """A topic log that keeps (job, level, text)."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, str]] = []

    def write(self, job_id: str, level: str, text: str, pid: int) -> None:
        assert pid == os.getpid()
        self.written.append((job_id, level, text))


@pytest.fixture
def lines() -> Lines:
    return Lines()


@contextlib.contextmanager
def printing(lines: Lines) -> Iterator[Output]:
    """Output installed, as in a consumer process (pytest's own capture comes back after it)."""
    before = sys.stdout, sys.stderr
    output = Output(lines)
    output.install()
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = before


def test_what_is_printed_is_tagged_with_the_job_that_runs(lines: Lines) -> None:
    with printing(lines) as output:
        output.begin("1-0")
        print("one")
        print("two", file=sys.stderr)
        output.end()
        output.begin("2-0")
        print("three")
        output.end()
        print("idle")
    assert lines.written == [
        ("1-0", "INFO", "one"), ("1-0", "ERROR", "two"), ("2-0", "INFO", "three"), ("", "INFO", "idle"),
    ]


def test_a_line_without_an_end_belongs_to_its_job(lines: Lines) -> None:
    with printing(lines) as output:
        output.begin("1-0")
        print("half", end="")
        output.end()
        output.begin("2-0")
        print("whole")
    assert lines.written == [("1-0", "INFO", "half"), ("2-0", "INFO", "whole")]


def test_a_line_that_never_ends_is_cut(lines: Lines) -> None:
    with printing(lines):
        for _ in range(10):
            print("x" * LINE_BYTES, end="")
    assert sum(len(text) for _, _, text in lines.written) >= 9 * LINE_BYTES


def test_bytes_can_be_written_too(lines: Lines) -> None:
    with printing(lines):
        sys.stdout.buffer.write(b"raw \xff\n")
    assert lines.written == [("", "INFO", "raw \ufffd")]


def test_threads_may_print_at_once(lines: Lines) -> None:
    def talk() -> None:
        for _ in range(200):
            print("x" * 50)

    with printing(lines):
        threads = [threading.Thread(target=talk) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    said = "\n".join(text for _, _, text in lines.written).split("\n")
    assert sum(map(len, said)) == 800 * 50


def test_job_log_writes_with_the_level_of_the_record(lines: Lines) -> None:
    with printing(lines) as output:
        output.begin("1-0")
        output.logger.warning("low on %s", "gifts")
        try:
            raise ValueError("x")
        except ValueError:
            output.logger.exception("failed")
    (job_id, level, text), (_, _, traceback) = lines.written
    assert (job_id, level, text) == ("1-0", "WARNING", "low on gifts")
    assert traceback.startswith("failed\nTraceback")


def test_a_wrong_log_call_fails_nobody(lines: Lines) -> None:
    with printing(lines) as output:
        output.logger.warning("%d", "no number")
        output.logger.warning("next")
    assert lines.written[-1] == ("", "WARNING", "next")


def test_descriptors_lead_to_the_file_for_programs_too(tmp_path: Path) -> None:
    path = tmp_path / "gift.credit.log"
    code = (
        "import os, sys; from pbus.consumer.output import lead_descriptors_to; lead_descriptors_to(sys.argv[1]); "
        "os.write(1, b'out\\n'); os.system('echo program; echo complaint >&2')"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.read_text().split() == ["out", "program", "complaint"]


def test_a_log_that_cannot_be_opened_is_no_error(tmp_path: Path) -> None:
    lead_descriptors_to(str(tmp_path / "no" / "such" / "folder.log"))
