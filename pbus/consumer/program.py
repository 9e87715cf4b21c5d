"""
Role program: a daemon that takes no jobs, kept running.

    start --> its output to log_dir/program/NAME.log --> it ended: we end too, and the master knows how long to wait
                  |
                  asked to leave, or too old: stop signal, after stop_timeout KILL of whatever is left

Rule: what a daemon is, is its own business; here it is only started, heard and ended.
"""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass

from pbus.config.schema import Program
from pbus.config.values import signal_number
from pbus.consumer.command import watch_code
from pbus.consumer.kin import Kin
from pbus.consumer.launch import Launch, LaunchError
from pbus.consumer.recycling import Recycling
from pbus.consumer.running import Log, Running, time_to_stop_s
from pbus.supervisor.child import Child
from pbus.telemetry.topic_log import ProgramLog


def run(child: Child) -> None:
    """The life of one process of a program."""
    args = child.spec.args
    child.start()
    log: Log = NoLog()
    if args["program"].log:
        log = kept = ProgramLog(args["log_dir"], args["name"])
        child.on_frame("logs", lambda _: kept.reopen())
    ProgramKeeper(child, args["program"], log).keep()


class NoLog:
    """Where the output goes of a program that should not be heard."""

    def write(self, job_id: str, level: str, text: str, pid: int) -> None:
        """Nowhere."""


@dataclass(frozen=True, slots=True)
class _Age:
    """What of recycling.Limits a program has."""

    max_age_s: float
    max_jobs: int = 0
    max_rss_bytes: int = 0


class ProgramKeeper:
    """One process of a program, and the next one when it is too old. One a process."""

    def __init__(self, child: Child, program: Program, log: Log) -> None:
        self._child = child
        self._clock = child.clock
        self._program = program
        self._log = log
        self._launch = Launch(
            argv=program.argv, cwd=program.cwd, env=program.env, user=program.user, nice=program.nice,
            heard=program.log,
        )
        self._stop_signal = signal_number(program.stop_signal)
        self._stop_timeout_s = time_to_stop_s(program.stop_timeout_s, child.grace_s)
        self._kin = Kin(child.clock)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def keep(self) -> None:
        """Until it is asked to leave, or the program ends by itself: then the master is told why."""
        try:
            running = self._start()
        except LaunchError as error:
            self._log.write("", "ERROR", str(error), os.getpid())
            self._child.fail(str(error))
        watch_code(self._child, self._launch)
        self._child.on_drain(self._wake)
        self._child.ready()
        while self._stays(running):
            running.say("INFO", f"{running.name} is replaced: it is older than max_age")
            self._finish(running)
            try:
                running = self._start()
            except LaunchError as error:
                self._log.write("", "ERROR", str(error), os.getpid())
                self._child.fail(str(error))
        self._finish(running)

    def _start(self) -> Running:
        return Running(self._launch, self._kin, self._log, self._clock, self._wake_fd)

    def _stays(self, running: Running) -> bool:
        """Look after it; True: it is too old, False: we are to leave. Does not return when it ends by itself."""
        age = Recycling(_Age(self._program.max_age_s), running.started_s, random.random)
        while not self._child.draining:
            left_s = age.left_s(self._clock.monotonic_s())
            if left_s <= 0:
                return True
            running.attend(None if left_s == math.inf else left_s)
            if running.look() and not self._child.draining:
                self._ended(running)
        return False

    def _ended(self, running: Running) -> None:
        hint = ", it has to stay in the foreground" if running.status == 0 else ""
        reason = f"{running.name} {running.how()}{hint}"
        running.say("ERROR", reason)
        running.bury()
        self._child.fail(reason)

    def _finish(self, running: Running) -> None:
        running.finish(self._stop_signal, self._stop_timeout_s)

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)
