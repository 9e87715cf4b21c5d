from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.consumer.output import LINE_BYTES, SLICE, Descriptors, Output


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


def test_a_text_of_any_size_is_written_in_slices_and_line_by_line(lines: Lines) -> None:
    text = "".join(f"{number}\n" for number in range(SLICE))
    with printing(lines):
        sys.stdout.write(text)
    assert max(len(said) for _, _, said in lines.written) <= SLICE + LINE_BYTES
    assert "\n".join(said for _, _, said in lines.written) + "\n" == text


def test_a_forked_process_can_print_although_a_thread_was_printing(lines: Lines) -> None:
    with printing(lines) as output:
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with output._out._lock:
                held.set()
                over.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            print("from the child")
            os._exit(7 if lines.written else 1)
        over.set()
        thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def run_led(path: Path, code: str, most_bytes: int = 1000) -> None:
    """Run *code* in a process whose descriptors lead to *path*; ``it`` is who leads them."""
    head = "import os; from pbus.consumer.output import Descriptors"
    head += f"; it = Descriptors({str(path)!r}, {most_bytes}); it.lead()"
    subprocess.run([sys.executable, "-c", f"{head}\n{code}"], check=True)


def test_descriptors_lead_to_the_file_for_programs_too(tmp_path: Path) -> None:
    path = tmp_path / "gift.credit.log"
    run_led(path, r"os.write(1, b'out\n'); os.system('echo program; echo complaint >&2')")
    assert path.read_text().split() == ["out", "program", "complaint"]


def test_a_log_that_cannot_be_opened_is_no_error(tmp_path: Path) -> None:
    Descriptors(str(tmp_path / "no" / "such" / "folder.log"), 1000).lead()


def test_after_a_rotation_they_lead_to_the_new_file_but_not_what_user_code_has_led_elsewhere(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "log", tmp_path / "elsewhere"
    run_led(path, f"""
mine = os.open({str(elsewhere)!r}, os.O_WRONLY | os.O_CREAT)
os.dup2(mine, 2)
os.rename({str(path)!r}, {str(path) + '.1'!r})
it.lead()
os.write(1, b"log")
os.write(2, b"mine")
""")
    assert (path.read_text(), elsewhere.read_text()) == ("log", "mine")


def test_closed_ones_are_opened_again_so_that_no_file_gets_their_number(tmp_path: Path) -> None:
    path, data = tmp_path / "log", tmp_path / "data"
    run_led(path, f"""
os.closerange(0, 3)
assert it.mend() and not it.mend()
file = os.open({str(data)!r}, os.O_WRONLY | os.O_CREAT)
assert file > 2, file
os.write(2, b"complaint")
assert os.read(0, 10) == b""
os.system("echo program")
""")
    assert (path.read_text(), data.read_text()) == ("complaintprogram\n", "")


def test_what_programs_print_is_bounded_until_the_log_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    run_led(path, f"""
os.write(1, b"x" * 900)
assert not it.bound()
os.write(2, b"x" * 900)
assert it.bound() and not it.bound()
os.write(1, b"nowhere"); os.write(2, b"nowhere")
os.rename({str(path)!r}, {str(path) + '.1'!r})
it.lead()
os.write(1, b"new")
""")
    assert (Path(f"{path}.1").stat().st_size, path.read_text()) == (1800, "new")
