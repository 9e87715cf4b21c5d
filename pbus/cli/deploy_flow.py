"""
The steps of ``pbus deploy``, over parts that are handed in.

    take --> wait for running = 0 --> COMMAND --> mark (events, ping, slow start) --> release --> look
      |             |                    |
      +-------------+--- Ctrl-C, TERM ---+--> release, 128 + signal

Rule: whatever happens after ``take``, ``release`` is tried; what that cannot do, the end of the lease does. Signals
only set a flag, so nothing is left half done.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pbus.clock import Clock
from pbus.errors import Exit, PbusError

POLL_FIRST_S: Final = 0.05
POLL_MOST_S: Final = 0.5
_STEP_S: Final = 0.05
_PATIENCE_S: Final = 10.0
_SAY_S: Final = 10.0
_BY_SIGNAL: Final = 128


class Holds(Protocol):
    """See ``deploy_hold.Hold``."""

    renew_s: float

    def take(self) -> list[tuple[str, str]]: ...

    def running(self) -> dict[str, int]: ...

    def renew(self) -> list[str]: ...

    def release(self) -> bool: ...


class Stops:
    """Ctrl-C, TERM and HUP, kept until somebody asks."""

    def __init__(self) -> None:
        self.signum = 0

    def install(self) -> None:
        """From now on."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._take)

    def _take(self, signum: int, _: object) -> None:
        self.signum = self.signum or signum


class Interrupted(Exception):
    """Somebody wants it to end."""


@dataclass(slots=True)
class Deploy:
    """
    One deploy.

    Attributes:
        command: With its arguments.
        timeout_s: Longest wait for what runs.
        mark: Called with the command's status and seconds when it has ended.
        say: Talks to the person.
    """

    holds: Holds
    command: Sequence[str]
    timeout_s: float
    mark: Callable[[int, float], None]
    say: Callable[[str], None]
    clock: Clock
    stops: Stops
    popen: Callable[..., Any] = subprocess.Popen
    _renew_at_s: float = 0.0

    def run(self) -> int:
        """
        All of it.

        Returns:
            The command's exit status (128 + n: a signal ended it, or us); 75: jobs still ran after the timeout.

        Raises:
            PbusError: a store is away, another deploy is under way.
        """
        held = self.holds.take()
        self._renew_at_s = self.clock.monotonic_s() + self.holds.renew_s
        names = ", ".join("/".join(name) for name in held)
        self.say(f"paused on all nodes: {names}" if names else "somebody had paused all of them before; they stay so")
        try:
            try:
                return self._deploy()
            except Interrupted:
                self.say(f"interrupted by {signal.Signals(self.stops.signum).name}")
                return _BY_SIGNAL + self.stops.signum
        finally:
            self._release()

    def _deploy(self) -> int:
        running = self._wait()
        if running:
            self.say(f"not deployed: still running after {self.timeout_s:g} s: {_listed(running)}")
            return Exit.TEMPORARY
        began_s = self.clock.monotonic_s()
        status = self._command()
        took_s = self.clock.monotonic_s() - began_s
        self.say(f"the command ended with status {status} after {took_s:.1f} s")
        try:
            self.mark(status, took_s)
        except PbusError as error:
            self.say(f"no mark among the events, no slow start: {error}")
        return status

    def _wait(self) -> dict[str, int]:
        """What still runs when the time is over; nothing, as a rule."""
        now_s = self.clock.monotonic_s()
        until_s, say_at_s, pause_s = now_s + self.timeout_s, now_s + 1.0, POLL_FIRST_S
        while running := self.holds.running():
            now_s = self.clock.monotonic_s()
            if now_s >= until_s:
                return running
            if now_s >= say_at_s:
                self.say(f"waiting for what runs: {_listed(running)}")
                say_at_s = now_s + _SAY_S
            self._live(strict=True)
            self.clock.sleep(min(pause_s, max(0.0, until_s - now_s)))
            pause_s = min(POLL_MOST_S, pause_s * 2)
        self._live(strict=True)
        return running

    def _live(self, *, strict: bool) -> None:
        """
        Between two steps: stop if somebody wants it, renew the lease when it is time.

        Raises:
            Interrupted: by a signal. PbusError: the hold is lost, and *strict*.
        """
        if self.stops.signum:
            raise Interrupted
        if self.clock.monotonic_s() < self._renew_at_s:
            return
        self._renew_at_s = self.clock.monotonic_s() + self.holds.renew_s
        try:
            lost = self.holds.renew()
        except PbusError as error:
            self.say(f"the pause was not prolonged: {error}")
            return
        if lost and strict:
            raise PbusError(f"not deployed: somebody else resumed or paused {', '.join(lost)} meanwhile")
        if lost:
            self.say(f"somebody else resumed or paused {', '.join(lost)} meanwhile")

    def _command(self) -> int:
        """Run it; its output is ours. A signal to us goes on to it."""
        process = self.popen(list(self.command))
        while (status := process.poll()) is None:
            try:
                self._live(strict=False)
            except Interrupted:
                self._end(process)
                raise
            self.clock.sleep(_STEP_S)
        return int(status) if status >= 0 else _BY_SIGNAL - int(status)

    def _end(self, process: Any) -> None:
        process.send_signal(self.stops.signum)
        until_s = self.clock.monotonic_s() + _PATIENCE_S
        while process.poll() is None and self.clock.monotonic_s() < until_s:
            self.clock.sleep(_STEP_S)
        if process.poll() is None:
            self.say(f"the command did not end within {_PATIENCE_S:g} s, it is killed")
            process.kill()
            process.wait()

    def _release(self) -> None:
        try:
            if self.holds.release():
                self.say("resumed")
        except PbusError as error:
            self.say(f"not resumed: {error}; the scheduler does it when the hold ends")


def _listed(running: Mapping[str, int]) -> str:
    return ", ".join(f"{path} {count}" for path, count in sorted(running.items()))
