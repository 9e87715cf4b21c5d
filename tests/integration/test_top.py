"""``pbus top`` in a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from tests.support.bus import Bus, BusFactory, bus_factory
from tests.support.waiting import until

__all__ = ["bus_factory"]

STYLE = re.compile(r"\x1b\[[0-9;]*[mK]")


class Screen:
    """A terminal with ``pbus top`` in it."""

    def __init__(self, bus: Bus, *words: str) -> None:
        self.ours, theirs = os.openpty()
        self.resize(100, 30)
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pbus", "top", "-c", str(bus.conf), *words], stdin=theirs, stdout=theirs,
            stderr=theirs, env={**bus.environment, "TERM": "xterm", "LANG": "C.UTF-8"}, cwd=bus.folder,
            start_new_session=True,
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def read(self) -> str:
        """Everything so far."""
        while select.select([self.ours], [], [], 0)[0]:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.ours, 65536).decode("utf-8", "replace")
        return self.seen

    def lines(self) -> list[str]:
        """The last whole picture."""
        whole = self.read().rpartition("\x1b[?2026l")[0].rpartition("\x1b[H")[2]
        return [STYLE.sub("", line) for line in whole.split("\r\n")]

    def shows(self, text: str) -> list[str]:
        until(lambda: text in "\n".join(self.lines()), 10, lambda: f"{text!r} is shown: {self.lines()}")
        return self.lines()

    def end(self) -> int:
        """Its exit status, when the terminal is as it was."""
        status = self.process.wait(10)
        assert self.read().rstrip().endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(self.theirs) == self.before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def bus(bus_factory: BusFactory) -> Bus:
    return bus_factory({"queue": {name: {"topic": {"take": {"pull": {}}}} for name in ("gift", "mail")}})


@pytest.fixture
def screen(bus: Bus) -> Iterator[Screen]:
    screen = Screen(bus, "--every", "200ms")
    with contextlib.closing(screen):
        yield screen


def test_top_follows_the_bus_and_its_keys(bus: Bus, screen: Screen) -> None:
    lines = screen.shows("gift/take")
    assert len(lines) == 30
    assert bus.cli("push", "mail", "x").returncode == 0
    until(lambda: any(re.match(r"mail/take +running +1 ", line) for line in screen.lines()), 10, "the job is seen")

    screen.press("s")
    assert [line.split()[0] for line in screen.shows("s sort: ready") if "/take" in line] == ["mail/take", "gift/take"]
    screen.press("t")
    assert str(bus.process.pid if bus.process else 0) in "\n".join(screen.shows("PROCESS"))
    screen.press("p")
    screen.shows("PAUSED")
    bus.cli("stop")
    screen.press("p")
    assert "does not answer" in screen.shows("not running: nobody answers")[0]
    screen.press("q")
    assert screen.end() == 0


def test_top_fits_when_the_terminal_becomes_another(screen: Screen) -> None:
    screen.shows("gift/take")
    screen.resize(60, 12)
    until(lambda: len(screen.lines()) == 12, 5, "it is as small as the terminal")
    assert max(map(len, screen.lines()[2:])) <= 60


def test_top_gives_the_terminal_back_whatever_ends_it(bus: Bus) -> None:
    for how in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with contextlib.closing(Screen(bus)) as screen:
            screen.shows("gift/take")
            screen.process.send_signal(how)
            assert screen.end() == 130


def test_top_without_a_terminal_or_a_bus_says_so(bus: Bus) -> None:
    said = bus.cli("top")
    assert (said.returncode, "top needs a terminal" in said.stderr) == (2, True)
    bus.stop()
    with contextlib.closing(Screen(bus)) as screen:
        assert screen.process.wait(10) == 3
        assert "'pbus start --daemon' starts it" in screen.read()
