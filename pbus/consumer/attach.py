"""
A consumer process' tie to its delivery child: jobs come in, results go out, receipts come back.

    claimed --jobs--> waiting --begin--> begun --answer--> unreceipted --settled--> forgotten
                         |                                      |
                         +--finish: unstarted ------------------+

Rule: the claims are this process' own, so a delivery child that dies takes nothing with it. What
waits is run, what was answered is kept until the receipt, and the next delivery child is told all
of it by ``attach``. Nothing here runs while user code runs: frames are read between jobs.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import resource
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from pbus.clock import Clock
from pbus.codec.frames import FrameError, FrameReader, encode

READ_BYTES: Final = 256 * 1024
LOOK_AGAIN_S: Final = 0.05
"""The socket is looked at so often while jobs wait: a frame is about that much work."""
SEND_TIMEOUT_S: Final = 30
IDLE_S: Final = 5.0
BACKOFF_S: Final = (0.05, 2.0)

ID, ATTEMPT, REDELIVERED, BODY, TRACEPARENT, CONTENT_TYPE, CRASHES, FIRST_MS, FORGIVEN = range(9)
RawJob = list[Any]
"""A job as it stands in a ``jobs`` frame (see codec.frames)."""


def ticket(job: RawJob) -> list[Any]:
    """What a new delivery child must know to settle *job* without asking the store."""
    return [job[ID], job[ATTEMPT], job[REDELIVERED], job[CRASHES], job[FIRST_MS], job[FORGIVEN]]


class Attachment:
    """
    The link of one consumer process. One owner: the process' main loop; only ``stop`` is for others.

    Args:
        connect: Makes a connection to the delivery child; raises OSError while there is none.
        identity: ``owner``, ``queue``, ``topic``, ``pid`` of the ``attach`` frame.
        attached: Called with the delivery child's serial number once it has taken us in.
        clock: Where deadlines come from.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], identity: dict[str, Any], attached: Callable[[int], None],
        clock: Clock,
    ) -> None:
        self._connect = connect
        self._identity = identity
        self._attached = attached
        self._clock = clock
        self._sock: socket.socket | None = None
        self._inode = -1
        self._reader = FrameReader()
        self._poll = select.poll()
        self._others: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._parent = os.getppid()
        self._waiting: collections.deque[RawJob] = collections.deque()
        self._begun: RawJob | None = None
        self._unstarted: set[str] = set()
        self._results: dict[str, tuple[RawJob, dict[str, Any]]] = {}
        self._finishing = False
        self._looked_at_s = clock.monotonic_s()
        self._pause_s = BACKOFF_S[0]
        self._retry_at_s = 0.0

    def stop(self) -> None:
        """Begin nothing more. May be called from any thread, also in the middle of a job."""
        self._finishing = True
        try:
            os.eventfd_write(self._waker, 1)
        except OSError:
            pass  # user code closed it: the loop looks at the flag by itself

    def next_job(self) -> RawJob | None:
        """Wait for a job and begin it; None when there will be none any more."""
        while not self._finishing:
            if not self._waiting:
                self._look(IDLE_S)
            elif self._clock.monotonic_s() - self._looked_at_s > LOOK_AGAIN_S:
                self._look(0.0)
            elif not self._finishing:
                self._begun = self._waiting.popleft()
                return self._begun
        return None

    def answer(self, verdict: str, error: str, delay_s: float | None, run_s: float) -> None:
        """The job that was begun last has ended; its result goes out at once and is kept until the receipt."""
        job, self._begun = self._begun, None
        if job is None:
            raise RuntimeError("an answer without a job")
        result = {"id": job[ID], "verdict": verdict, "error": error, "delay": delay_s, "run_s": run_s}
        self._results[job[ID]] = (job, result)
        self._send(encode("result", **result))

    def put_back(self) -> None:
        """The job that was begun last has not begun after all: it goes before what waits."""
        job, self._begun = self._begun, None
        if job is not None:
            self._waiting.appendleft(job)

    def watch(self, fd: int, act: Callable[[int], None], events: int = select.POLLIN) -> None:
        """While ``next_job`` waits, look at *fd* too: *act* is called with what poll says of it, by the same thread."""
        self._others[fd] = (events, act)
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Look at *fd* no more."""
        if self._others.pop(fd, None) is not None:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)

    def leave(self, timeout_s: float) -> bool:
        """
        Hand back what has not begun and wait until the store has everything.

        Returns:
            Whether every receipt came within *timeout_s*.
        """
        self._finishing = True
        deadline_s = self._clock.monotonic_s() + timeout_s
        self._hand_back()
        while self._results or self._unstarted:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            self._look(min(left_s, 0.5))
            self._hand_back()
        self._close()
        return not self._results and not self._unstarted

    def _hand_back(self) -> None:
        if self._waiting:
            ids = [job[ID] for job in self._waiting]
            self._waiting.clear()
            self._unstarted.update(ids)
            self._send(encode("unstarted", ids=ids))

    def _look(self, timeout_s: float) -> None:
        """Read what has come, waiting up to *timeout_s* for it; attach if there is no link."""
        if self._sock is None and not self._attach():
            self._rest(timeout_s)
        else:
            self._read(timeout_s)
        self._looked_at_s = self._clock.monotonic_s()

    def _read(self, timeout_s: float) -> None:
        for fd, events in self._poll.poll(timeout_s * 1000):
            if fd in self._others:
                self._others[fd][1](events)
            elif fd == self._waker:
                self._rouse(events)
            elif self._sock is None or fd != self._sock.fileno():
                continue  # looked at no more since poll told of it
            elif events & select.POLLNVAL:
                self._close()  # user code closed our socket
            else:
                self._receive(0)

    def _rouse(self, events: int) -> None:
        """``stop`` was called (or user code closed the descriptor, which then is looked at no more)."""
        if events & select.POLLIN and self._finishing:
            self._poll.unregister(self._waker)  # it has said what it had to say
        elif events & select.POLLNVAL:
            self._poll.unregister(self._waker)

    def _receive(self, flags: int) -> bool:
        """One read; False once there is nothing more to come (or, with MSG_DONTWAIT, nothing now)."""
        if self._sock is None:
            return False
        try:
            data = self._sock.recv(READ_BYTES, flags)
            frames = self._reader.feed(data)
        except BlockingIOError:
            return False
        except (OSError, FrameError):
            data, frames = b"", []
        for frame in frames:
            self._take(frame)
        if not data:
            self._close()
        return bool(data)

    def _take(self, frame: dict[str, Any]) -> None:
        match frame["kind"]:
            case "jobs":
                self._waiting.extend(frame["jobs"])
            case "settled":
                for job_id in frame["ids"]:
                    self._results.pop(job_id, None)
                    self._unstarted.discard(job_id)
            case "attached":
                self._pause_s = BACKOFF_S[0]
                self._attached(frame["link"])
            case "finish":
                self._finishing = True

    def _send(self, data: bytes) -> None:
        """Hand *data* to the kernel whole, or give the link up: the next ``attach`` repeats what counts."""
        if self._sock is None:
            return
        try:
            self._sock.sendall(data)
        except OSError:
            while self._receive(socket.MSG_DONTWAIT):
                pass  # what the delivery child had sent before it died is ours
            self._close()

    def _attach(self) -> bool:
        """Connect and say what we hold; False when it has to be tried again later."""
        if self._clock.monotonic_s() < self._retry_at_s:
            return False
        self._retry_at_s = self._clock.monotonic_s() + self._pause_s
        self._pause_s = min(self._pause_s * 2, BACKOFF_S[1])
        try:
            self._sock = _raised(self._connect())
        except OSError:
            if os.getppid() != self._parent:
                self._finishing = True  # the master is gone too, and nobody will listen any more
            return False
        self._inode = _inode(self._sock)
        self._reader = FrameReader()
        self._poll = select.poll()
        self._poll.register(self._sock.fileno(), select.POLLIN)
        self._poll.register(self._waker, select.POLLIN)
        self._register_others()
        self._unstarted.clear()  # not among what we hold: the delivery child gives them back
        held = ([self._begun] if self._begun else []) + list(self._waiting)
        results = [[ticket(job), result] for job, result in self._results.values()]
        self._send(encode("attach", **self._identity, holds=[ticket(job) for job in held], results=results))
        return self._sock is not None

    def _register_others(self) -> None:
        for fd, (events, _) in self._others.items():
            self._poll.register(fd, events)

    def _rest(self, timeout_s: float) -> None:
        """Nobody to talk to: wait for the next attempt, or for ``stop``."""
        left_s = min(timeout_s, max(0.0, self._retry_at_s - self._clock.monotonic_s()))
        if left_s > 0 and not self._finishing:
            self._poll = select.poll()
            self._poll.register(self._waker, select.POLLIN)
            self._register_others()
            for fd, events in self._poll.poll(left_s * 1000):
                if fd in self._others:
                    self._others[fd][1](events)
                elif events & select.POLLNVAL:
                    self._clock.sleep(left_s)
        elif left_s > 0:
            self._clock.sleep(min(left_s, LOOK_AGAIN_S))

    def _close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if _inode(sock) == self._inode:
            sock.close()
        else:
            sock.detach()  # user code closed it; whatever has its number now is not ours to close


def _inode(sock: socket.socket) -> int:
    """What tells our socket from another descriptor of the same number; 0 for none."""
    try:
        return os.fstat(sock.fileno()).st_ino
    except OSError:
        return 0


def _raised(sock: socket.socket) -> socket.socket:
    """
    *sock* on a high descriptor, blocking, with a bound on sends.

    User code that closes "all" descriptors usually begins at 3 and ends early; SO_SNDTIMEO bounds a
    send without the extra poll() that a Python timeout costs before each one.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        high = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, min(max(soft // 2, 16), 768))
    except OSError:
        high = -1
    if high >= 0:
        raised = socket.socket(sock.family, sock.type, sock.proto, fileno=high)
        sock.close()
        sock = raised
    sock.setblocking(True)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
    return sock
