"""
A program that speaks ``lines``: it is handed one job at a time and answers each.

    job line --> pipe --> program --> answer line
                  |          |
                  |          ended: with a status: failed; by a signal: it killed its consumer
                  not a byte of it was read when the program ended: the job has not begun

Rule: a job ends here in exactly one way, with a text that says what happened. A program that breaks the protocol is
not trusted with another job: nobody knows what it is doing.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
from collections.abc import Callable
from typing import Final

from pbus.clock import Clock
from pbus.codec.lines import ANSWER_BYTES, Answer, Malformed, answer, begins, kept
from pbus.consumer.kin import Kin
from pbus.consumer.launch import Launch
from pbus.consumer.running import Log, Running

GOING_S: Final = 0.4
"""A program that has closed its input or its output is about to end; after so long it is not."""


class LinesProgram(Running):
    """
    One life of such a program; see ``Running``. *timeout_s* is the topic's, for the text of a failure.

    Attributes:
        jobs: How many it has ended.
        over: Why it gets no more jobs; empty while it does.
        condemned: It is being stopped because its job is overdue.
    """

    def __init__(
        self, launch: Launch, kin: Kin, log: Log, clock: Clock, wake_fd: int, timeout_s: float = 0.0,
        quiet: bool = False,
    ) -> None:
        super().__init__(launch, kin, log, clock, wake_fd, take=self._take, answer_bytes=ANSWER_BYTES, quiet=quiet)
        self._timeout_s = timeout_s
        self.jobs = 0
        self.over = ""
        self.condemned = False
        self._job_id = ""
        self._before = ""
        self._answer: Answer | None = None
        self._going_s = 0.0  # it has closed a pipe: when it must have ended
        self._why = ""
        os.set_blocking(self.stdin_fd, False)
        self.poll.register(self.stdin_fd, 0)

    def run(self, job_id: str, line: bytes, woken: Callable[[], None]) -> Answer | None:
        """
        One job, from its line to its answer.

        Args:
            woken: Called when the wake-up descriptor is readable.

        Returns:
            How it ended; None: the program ended without having read any of it (see ``over``).
        """
        if self._kin.ended(self.pid) is not None:
            self._notice()
            return None
        self.tag.job_id, self._job_id, self._answer = job_id, job_id, None
        self.forget_words()
        left = self._write(memoryview(line))
        while self._answer is None and not self.over:
            left = self._step(left, woken)
        unread = self._unread() + len(left) >= len(line)
        told = self._answer or self._end_of_job(unread)
        self.tag.job_id, self._before, self._job_id = "", job_id, ""
        self.jobs += told is not None
        return told

    def tend(self) -> None:
        """Look after it while it has no job: its output, whether it still listens, whether it lives."""
        for fd in self.out_fds:
            if not self._going_s:
                self.read(fd)
        self._notice()

    @property
    def is_going(self) -> bool:
        """It has closed its input or its output, and has not ended."""
        return bool(self._going_s) and not self.over

    # -- one job ----------------------------------------------------------------------------------

    def _step(self, left: memoryview, woken: Callable[[], None]) -> memoryview:
        """Wait for anything and deal with it; what is still to be written."""
        timeout_s = self._going_s - self._clock.monotonic_s() if self._going_s else None
        for fd, events in self.attend(timeout_s):
            if fd == self._wake_fd:
                woken()
            elif events & select.POLLERR:
                self._unheard()
            elif left:
                left = self._write(left)
        if self._answer is None:
            self._notice()
        return left

    def _write(self, data: memoryview) -> memoryview:
        """Write what the pipe takes; the rest."""
        fd = self.stdin_fd
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unheard()
            return data
        self.poll.register(fd, select.POLLOUT if data else 0)  # 0: poll says so when nobody reads it any more
        return data

    def _unheard(self) -> None:
        """It has closed its input: that is the end where it has not read its job, and its own business where it has."""
        self.poll.unregister(self.stdin_fd)
        if self._unread():
            self._goes("closed its standard input")

    def _unread(self) -> int:
        """Bytes of the job that are still in the pipe."""
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self.stdin_fd, termios.FIONREAD, count)
        except OSError:
            return 0
        return count[0]

    def _take(self, line: bytes) -> bytes:
        """Whether a line of its output is an answer; what of it is not."""
        at = begins(line)
        try:
            told = answer(line[at:] if at else line)
        except Malformed as mistake:
            self._break(str(mistake))
            return line
        if told is None:
            return line
        if not self._job_id or told.job_id == self._before:
            self.say("WARNING", f"{self.name} answered {told.job_id} once more, or too late: ignored")
        elif told.job_id == self._job_id and self._answer is None:
            self._answer = told
        elif told.job_id != self._job_id:
            self._break(f"answered the unknown job {kept(told.job_id)[:64]!r} while it held {self._job_id}")
        return line[:at]

    def _break(self, what: str) -> None:
        """It does not keep to the protocol: its job fails, and it gets no other."""
        self.over = self.over or f"{self.name} {what}"
        if self._job_id and self._answer is None:
            self._answer = Answer(self._job_id, "failed", kept(f"the program {what}"))

    # -- its end ----------------------------------------------------------------------------------

    def closed(self, level: str) -> None:
        """It closed an output: without its standard output it cannot answer any more."""
        if level == "INFO":
            self._goes("closed its standard output")

    def _goes(self, why: str) -> None:
        if not self._going_s:
            self._going_s, self._why = self._clock.monotonic_s() + GOING_S, why

    def _notice(self) -> None:
        """Has it ended, or will it never answer?"""
        if self.look():
            self.over = self.over or f"{self.name} {self.how()}"
        elif self._going_s and self._clock.monotonic_s() >= self._going_s:
            self.over = f"{self.name} {self._why} and went on: killed"
            self.kill()

    def hang_up(self) -> None:
        """Poll said that nobody reads its standard input any more."""
        self._goes("closed its standard input")
        self.await_end(GOING_S)
        self._notice()

    def _end_of_job(self, unread: bool) -> Answer | None:
        """What became of the job of a program that is over and gave no answer."""
        if unread and not self.condemned:
            return None
        if self.condemned:
            return Answer(self._job_id, "timeout", f"no answer within {self._timeout_s:g} s, the program was stopped")
        if self._going_s and self._why in self.over:
            return Answer(self._job_id, "crashed", kept(f"the program {self._why} while it held the job, and went on"))
        assert self.status is not None
        verdict = "crashed" if self.status < 0 else "failed"
        return Answer(self._job_id, verdict, kept(f"the program {self.how()}"))
