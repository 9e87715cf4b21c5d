"""The file behind the log: bounded, shared, and never in the way."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.telemetry.sink import LogFile


def notice(event: str, count: int, reason: str) -> bytes:
    return f"[{event} {count} {reason}]\n".encode()


def log_file(path: Path, clock: FakeClock, day_bytes: int = 1_000_000) -> LogFile:
    return LogFile(str(path), day_bytes, clock, notice)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_folder_is_made(tmp_path: Path, clock: FakeClock) -> None:
    log_file(tmp_path / "a/b/x.log", clock).write(b"line\n")
    assert (tmp_path / "a/b/x.log").read_bytes() == b"line\n"


def test_renamed_file_is_noticed_within_a_second(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "x.log"
    file = log_file(path, clock)
    file.write(b"1\n")
    path.rename(tmp_path / "x.log.1")
    file.write(b"2\n")
    clock.advance(1.0)
    file.write(b"3\n")
    assert (tmp_path / "x.log.1").read_bytes() == b"1\n2\n"
    assert path.read_bytes() == b"3\n"


def test_removed_file_is_made_again(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "x.log"
    file = log_file(path, clock)
    file.write(b"1\n")
    path.unlink()
    clock.advance(1.0)
    file.write(b"2\n")
    assert path.read_bytes() == b"2\n"


def test_bound_of_the_day_is_told_once_then_counted_then_told_again(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "x.log"
    file = log_file(path, clock, day_bytes=1000)
    for _ in range(20):
        file.write(b"x" * 99 + b"\n")
        clock.advance(1.0)
    lines = path.read_bytes().splitlines()
    assert lines.count(b"x" * 99) == 10
    assert lines[10:] == [b"[log.full 1000 the day's bound is reached]"]
    assert file.dropped == 10
    path.rename(tmp_path / "x.log.1")
    clock.advance(1.0)
    file.write(b"today\n")
    assert path.read_bytes() == b"[log.dropped 10 the day's bound is reached]\ntoday\n"
    assert file.dropped == 0


def test_bound_of_the_day_counts_what_other_processes_wrote(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "x.log"
    file = log_file(path, clock, day_bytes=1000)
    file.write(b"1\n")
    with path.open("ab") as other:
        other.write(b"y" * 999)
    clock.advance(1.0)
    file.write(b"2\n")
    assert file.dropped == 1


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process grows beyond 4 KiB: a write is cut off, then refused, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)    # Python ignores it from its start; at its default it would end the tests


def test_full_disk_drops_are_counted_and_told_when_it_is_over(
    tmp_path: Path, clock: FakeClock, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "x.log"
    file = log_file(path, clock)
    file.write(b"a" * 4000 + b"\n")
    request.getfixturevalue("full_disk")
    file.write(b"b" * 200 + b"\n")  # 95 bytes of it fit
    file.write(b"c\n")
    assert file.dropped == 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    file.write(b"d\n")
    lines = path.read_bytes().splitlines()
    assert lines[1] == b"b" * 95
    assert lines[2].startswith(b"[log.dropped 2 ")
    assert lines[3] == b"d"


def test_a_file_that_nobody_writes_to_any_more_catches_up_too(
    tmp_path: Path, clock: FakeClock, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "x.log"
    file = log_file(path, clock)
    assert file.catch_up() == (0, "")
    file.write(b"a" * 4095 + b"\n")
    request.getfixturevalue("full_disk")
    file.write(b"b\n")
    assert file.catch_up() == (1, "File too large")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert file.catch_up() == (0, "")
    assert path.read_bytes().splitlines()[1:] == [b"[log.dropped 1 File too large]"]


def test_the_bound_of_the_day_is_not_passed_by_catching_up(tmp_path: Path, clock: FakeClock) -> None:
    file = log_file(tmp_path / "x.log", clock, day_bytes=1000)
    for _ in range(11):
        file.write(b"x" * 99 + b"\n")
    assert file.catch_up() == (1, "the day's bound is reached")


def test_unwritable_place_is_counted(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").write_text("")
    file = log_file(tmp_path / "file/x.log", clock)
    file.write(b"1\n")
    assert file.dropped == 1


def test_line_goes_out_in_one_write(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "x.log"
    children = []
    for mark in (b"a", b"b", b"c"):
        pid = os.fork()
        if pid == 0:
            file = log_file(path, clock)
            for _ in range(300):
                file.write(mark * 200 + b"\n")
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    lines = path.read_bytes().splitlines()
    assert sorted(set(lines)) == [mark * 200 for mark in (b"a", b"b", b"c")]
    assert len(lines) == 900


def test_pipe_that_nobody_reads_does_not_hold_up_the_process(clock: FakeClock) -> None:
    reader, writer = os.pipe()
    saved = os.dup(1)
    os.dup2(writer, 1)
    try:
        file = LogFile("-", 10**9, clock, notice)
        for _ in range(2000):
            file.write(b"x" * 1023 + b"\n")  # 2 MB into a pipe of at most 1 MiB
        assert file.dropped > 0
        assert os.get_blocking(1)  # whoever shares standard output is not changed
    finally:
        os.dup2(saved, 1)
        for fd in (saved, reader, writer):
            os.close(fd)
        file.reopen()
