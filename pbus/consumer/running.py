"""
One life of somebody else's program: started, read from, asked to finish, ended.

    start --> reads of its output (never waits, keeps a tail) --> ended by itself
                  |                                        \\-> finish: end of input, stop signal, KILL
                  \\-> the topic's log, tagged with the job

Rule: nothing that a program does holds us up or makes us grow. Its end is what the kernel says of its process; a
grandchild that holds its pipes changes nothing.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pbus.clock import Clock
from pbus.codec.lines import LineReader, kept
from pbus.consumer.kin import Kin
from pbus.consumer.launch import Launch

READ_BYTES: Final = 64 * 1024
LAST_READS: Final = 64
"""Of a program that has ended so many reads are made at most: a grandchild may go on writing."""
TAIL_BYTES: Final = 1500
"""Of what it said last so much is kept, for the text of a failure."""
OUTPUT_BYTES: Final = 16 * 1024
"""A line of output without an end is cut here."""
KILLED_S: Final = 5.0
STRAGGLERS_S: Final = 1.0
WITHIN: Final = 0.8


class Log(Protocol):
    """What of telemetry.topic_log.TopicLog is used here."""

    def write(self, job_id: str, level: str, text: str, pid: int) -> None:
        """One or more lines, tagged."""


@dataclass(slots=True)
class Tag:
    """Which job runs now. One writer: the main loop."""

    job_id: str = ""


class Voice:
    """
    One pipe that a program writes to.

    Args:
        fd: Our end; is made not to wait.
        level: Of its lines in the log.
        log, tag, pid: Where they go, and under which names.
        take: Is shown each line first; what it takes does not go to the log.
        limit_bytes: A longer line is cut.
    """

    def __init__(
        self, fd: int, level: str, log: Log, tag: Tag, pid: int, take: Callable[[bytes], bytes] | None = None,
        limit_bytes: int = OUTPUT_BYTES,
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.tail = b""
        self.level = level
        self._log = log
        self._tag = tag
        self._pid = pid
        self._take = take
        self._reader = LineReader(limit_bytes)

    def read(self) -> int:
        """One read; how many bytes came, 0 when it is closed, -1 when there is nothing now."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return -1
        except OSError:
            return 0
        if data:
            self._hear(self._reader.feed(data))
        return len(data)

    def read_last(self) -> None:
        """What is in the pipe of a program that has ended, and the line that it left without an end."""
        for _ in range(LAST_READS):
            if self.read() <= 0:
                break
        rest = self._reader.rest()
        if rest:
            self._hear([rest])

    def _hear(self, lines: list[bytes]) -> None:
        if self._take is not None:
            lines = [left for line in lines if (left := self._take(line))]
        if self._reader.dropped_bytes and not self._reader.is_skipping:
            lines = [*lines, b".. %d more bytes of a line that is too long" % self._reader.dropped_bytes]
            self._reader.dropped_bytes = 0
        if lines:
            text = b"\n".join(lines)
            self.tail = (self.tail + b"\n" + text[-TAIL_BYTES:])[-TAIL_BYTES:]
            self._log.write(self._tag.job_id, self.level, text.decode("utf-8", "replace"), self._pid)


class Running:
    """
    One life. One owner: the main thread, which is also the one its life is bound to.

    Args:
        launch: How it is started.
        kin: Reaps it.
        log: Where its output goes.
        clock: Where deadlines come from.
        wake_fd: Readable when ``next_event`` should return (somebody wants something of the main thread).
        take: Is shown each line of its standard output first, and answers what of it is output.
        answer_bytes: Longest line of its standard output.
        quiet: Its start is not worth a line.

    Attributes:
        pid, name: Its process; what people call it.
        started_s: Monotonic time of its start.
        status: How it ended: its status, or minus the signal; None while it lives.

    Raises:
        LaunchError: it cannot be started.
    """

    def __init__(
        self, launch: Launch, kin: Kin, log: Log, clock: Clock, wake_fd: int = -1, *,
        take: Callable[[bytes], bytes] | None = None, answer_bytes: int = OUTPUT_BYTES, quiet: bool = False,
    ) -> None:
        self.name = launch.name
        self.tag = Tag()
        self.status: int | None = None
        self._kin = kin
        self._log = log
        self._clock = clock
        self._process = kin.start(launch.start)
        self.pid = self._process.pid
        self.started_s = clock.monotonic_s()
        self.poll = select.poll()
        self._voices: dict[int, Voice] = {}
        self._open: list[int] = []  # pipes that it has not closed, standard output first
        self._wake_fd = wake_fd
        for pipe, level, show, limit in (
            (self._process.stdout, "INFO", take, answer_bytes), (self._process.stderr, "ERROR", None, OUTPUT_BYTES),
        ):
            if pipe is not None:
                voice = Voice(pipe.fileno(), level, log, self.tag, self.pid, show, limit)
                self._voices[voice.fd] = voice
                self._open.append(voice.fd)
                self.poll.register(voice.fd, select.POLLIN)
        self.poll.register(kin.news_fd, select.POLLIN)
        if wake_fd >= 0:
            self.poll.register(wake_fd, select.POLLIN)
        if not quiet:
            self.say("INFO", f"{self.name} starts")

    @property
    def stdin_fd(self) -> int:
        """Where it is written to; -1 when that is closed."""
        pipe = self._process.stdin
        return pipe.fileno() if pipe is not None and not pipe.closed else -1

    @property
    def out_fds(self) -> list[int]:
        """What can be read of it."""
        return list(self._open)

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return self._clock.monotonic_s() - self.started_s

    def say(self, level: str, text: str) -> None:
        """A line of ours about it, in its log."""
        self._log.write(self.tag.job_id, level, text, self.pid)

    def how(self) -> str:
        """How it ended, for people, with what it said last."""
        assert self.status is not None
        how = f"died of {signal_name(-self.status)}" if self.status < 0 else f"exited with status {self.status}"
        said = self.last_words()
        return kept(f"{how}: {said}" if said else how)

    def last_words(self) -> str:
        """The end of its standard error; of its output where there was none."""
        tails = [voice.tail.strip() for voice in reversed(self._voices.values())]
        return next((tail for tail in tails if tail), b"").decode("utf-8", "replace")

    def forget_words(self) -> None:
        """What it says from now on belongs to another job."""
        for voice in self._voices.values():
            voice.tail = b""

    def attend(self, timeout_s: float | None = None) -> list[tuple[int, int]]:
        """
        Wait up to *timeout_s* for anything to happen, and do what has to be done in any case.

        Returns:
            What poll said of other descriptors than its output: the wake-up, standard input.
        """
        others = []
        for fd, events in self.poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000) + 1)):
            if fd in self._voices:
                self.read(fd)
            elif fd == self._kin.news_fd:
                self.look()
            else:
                others.append((fd, events))
        return others

    def read(self, fd: int) -> bool:
        """Read once from one of its pipes; False: it has closed it."""
        if fd not in self._open:
            return False
        if self._voices[fd].read() != 0:
            return True
        self._open.remove(fd)
        self.poll.unregister(fd)
        self.closed(self._voices[fd].level)
        return False

    def closed(self, level: str) -> None:
        """It has closed the pipe of that *level*, and may live on."""

    def look(self) -> bool:
        """Whether it has ended; then what it said last has been read."""
        self._kin.heard()
        if self.status is None:
            self.status = self._kin.ended(self.pid)
            if self.status is not None:
                for voice in self._voices.values():
                    voice.read_last()
        return self.status is not None

    def send(self, signum: int) -> None:
        """Signal it; one that has ended is no error."""
        self._kin.send(self.pid, signum)

    def close_input(self) -> None:
        """Tell it that there will be no more."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def await_end(self, timeout_s: float) -> bool:
        """Read its output until it has ended; False: it has not, within *timeout_s*."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        while not self.look() and (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            self.attend_quietly(left_s)
        return self.status is not None

    def attend_quietly(self, timeout_s: float) -> None:
        """As ``attend``, but nobody can wake us: it is ending anyway."""
        if self._wake_fd >= 0:
            self.poll.unregister(self._wake_fd)
        self.attend(timeout_s)
        if self._wake_fd >= 0:
            self.poll.register(self._wake_fd, select.POLLIN)

    def finish(self, stop_signal: int, timeout_s: float, patience_s: float = 0.0) -> None:
        """
        Ask it to finish, wait for that, and see that it has.

        Args:
            stop_signal: What it is sent.
            timeout_s: Then it is killed.
            patience_s: The end of its input alone should be enough; the signal comes so much later.
        """
        self.close_input()
        if patience_s <= 0 or not self.await_end(min(patience_s, timeout_s)):
            self.send(stop_signal)
            if not self.await_end(max(0.0, timeout_s - patience_s)):
                self.say("WARNING", f"{self.name} did not finish within {timeout_s:g} s and is killed")
                self.kill()
        self.bury()

    def kill(self) -> None:
        """End it now."""
        self.send(signal.SIGKILL)
        self.await_end(KILLED_S)

    def bury(self) -> None:
        """It has ended (or will not): end what it left behind, give the pipes back."""
        left = self._kin.clear(STRAGGLERS_S) if self.status is not None else 0
        if left:
            self.say("WARNING", f"{left} processes that {self.name} left behind cannot be ended")
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._voices, self._open = {}, []
        self._process.returncode = self.status if self.status is not None else -signal.SIGKILL
        self._kin.forget(self.pid)


def time_to_stop_s(configured_s: float, grace_s: float) -> float:
    """How long a program may take to finish: a little less than after which the master kills us all."""
    whole_s = configured_s or grace_s
    return max(WITHIN * whole_s, whole_s - 1.0)


def signal_name(number: int) -> str:
    """``SIGKILL``, or ``signal 99``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
