"""
``pbus top``: the status, again and again, on the whole screen, with plain ANSI sequences.

    look (status, once a second) -> frame (top_view) -> draw, when it differs -> keys, the terminal's size

Rule: whatever ends it, the terminal is as it was. It asks the bus what ``pbus status`` asks, no store and nobody else.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.output import Output
from pbus.cli.top_view import Frame, Pace, Screen, frame, press
from pbus.clock import Clock, SystemClock
from pbus.errors import Exit, NotRunning, PbusError

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other screen, without a cursor; what is too long is cut by the terminal."""
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_DRAW: Final = "\x1b[?2026h\x1b[H"
_DRAWN: Final = "\x1b[?2026l"
"""What is between them is shown as one, where the terminal can do that; others pass over it."""
_KEYS: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.DOTALL)
_NOTICE_S: Final = 0.25
"""Another size of the terminal is noticed within this time."""
_ASK_S: Final = 5.0
_LEAST_S: Final = 0.2


@click.command()
@click.option("--every", default="1s", show_default=True, metavar="DURATION", help="How often to look.")
@pass_context
def top(context: Context, every: str) -> int:
    """
    Watch topics and processes on the whole screen.

    \b
    q      quit
    p      pause: nothing moves until it is pressed again
    s, S   sort by the next column, by the one before
    t      topics or processes
    j, k   scroll; arrows, page up and down, g: to the top

    Rates are those of the last 5 seconds. IN/S is what came to a topic, from the differences of its numbers.
    """
    from pbus.config.values import duration_s

    try:
        every_s = max(_LEAST_S, duration_s(every))
    except ValueError as error:
        raise click.UsageError(f"--every takes {error}") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("top needs a terminal; 'pbus status' prints once, 'pbus status -o json' for programs")
    watch = Watch(context.run_dir(), context.output, every_s, SystemClock())
    watch.look()
    with Terminal() as terminal:
        watch.run(terminal)
    return Exit.DONE


class Terminal:
    """The screen and the keys, from ``with`` to its end. One owner: the command."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._saved: list[Any] = []
        self._signals: dict[int, Any] = {}
        self.is_stale = True
        """Somebody else may have drawn on it."""

    def __enter__(self) -> Terminal:
        self._saved = termios.tcgetattr(self._in)
        acts: dict[int, Callable[[int, FrameType | None], None]] = {
            signal.SIGTERM: _interrupt, signal.SIGHUP: _interrupt, signal.SIGTSTP: self._step_aside,
        }
        self._signals = {number: signal.signal(number, act) for number, act in acts.items()}
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        for number, act in self._signals.items():
            signal.signal(number, act)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return (size.columns or 80), (size.lines or 24)

    def draw(self, lines: list[str]) -> None:
        """The whole picture at once. A line is cleared before it: behind a full one its last character would go."""
        self._write(_DRAW + "\r\n".join(f"\x1b[2K{line}" for line in lines) + _DRAWN)
        self.is_stale = False

    def keys(self, wait_s: float) -> list[str] | None:
        """Keys that are pressed within *wait_s*; None: the terminal is gone."""
        ready, _, _ = select.select([self._in], [], [], wait_s)
        if not ready:
            return []
        data = os.read(self._in, 256)
        return _KEYS.findall(data.decode("utf-8", "replace")) if data else None

    def _begin(self) -> None:
        tty.setcbreak(self._in, termios.TCSADRAIN)
        self._write(_ENTER)
        self.is_stale = True

    def _end(self) -> None:
        with contextlib.suppress(OSError, termios.error):     # the terminal itself may be gone
            self._write(_LEAVE)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._saved)

    def _step_aside(self, _: int, __: FrameType | None) -> None:
        """Ctrl-Z: give the screen back until we are continued."""
        self._end()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._begin()

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "ascii", "replace")
        while data:
            data = data[os.write(self._out, data) :]


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class Watch:
    """
    What is known, and the loop. One owner: the command.

    Args:
        run_dir: Of the bus.
        output: For its colours.
        every_s: From look to look.
        clock: The clock to use.
    """

    def __init__(self, run_dir: str, output: Output, every_s: float, clock: Clock) -> None:
        self._run_dir = run_dir
        self._output = output
        self._every_s = every_s
        self._clock = clock
        self._pace = Pace()
        self._answer: dict[str, Any] = {}
        self._at_ms = 0
        self._trouble = ""
        self._looks = 0

    def look(self) -> None:
        """
        Ask the bus.

        Raises:
            PbusError: it did not tell us, and never has.
        """
        from pbus.supervisor.control import call

        self._looks += 1
        try:
            self._answer = call(self._run_dir, "status", _ASK_S, reads=True)["status"]
        except PbusError as error:
            if not self._answer:
                if isinstance(error, NotRunning):
                    raise NotRunning(f"{error}; 'pbus start --daemon' starts it") from None
                raise
            self._trouble = f"{error}; what is shown was so before"
            return
        self._trouble = ""
        self._at_ms = int(self._clock.wall_s() * 1000)
        self._pace.see(self._clock.monotonic_s(), self._answer)

    def run(self, terminal: Terminal) -> None:
        """Until somebody has had enough."""
        screen, due_s = Screen(), self._clock.monotonic_s() + self._every_s
        picture, drawn = self._picture(screen, terminal.size), (screen, terminal.size, 0)
        while True:
            if not screen.frozen and self._clock.monotonic_s() >= due_s:
                self.look()
                due_s = self._clock.monotonic_s() + self._every_s
            wanted = (screen, terminal.size, self._looks)
            if wanted != drawn or terminal.is_stale:
                picture, drawn = self._picture(screen, terminal.size), wanted
                terminal.draw(picture.lines)
            left_s = _NOTICE_S if screen.frozen else max(0.0, due_s - self._clock.monotonic_s())
            keys = terminal.keys(min(_NOTICE_S, left_s))
            chosen: Screen | None = picture.screen
            for key in keys if keys is not None else ["q"]:
                chosen = press(chosen, key, picture.page) if chosen is not None else None
            if chosen is None:
                return
            screen = chosen

    def _picture(self, screen: Screen, room: tuple[int, int]) -> Frame:
        return frame(screen, self._answer, self._pace, self._at_ms, room, self._output, self._trouble)
