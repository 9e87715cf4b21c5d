"""
A consumer process' tie to its delivery child: jobs come in, results go out, receipts come back.

    claimed --jobs--> waiting --begin--> begun --answer--> unreceipted --settled--> forgotten
                         |                                      |
                         +--finish, recall: unstarted ----------+

Rule: the claims are this process' own, so a delivery child that dies takes nothing with it. What
waits is run, what was answered is kept until the receipt, and the next delivery child is told all
of it by ``attach``.

Two threads meet here. The main one connects, begins and answers; while user code has it, the listener (see
supervisor/child.py) hands back what waits behind a slow job and tells where that one is. A job leaves ``waiting``
by one popleft, so it is either begun or handed back; everything else is done under the lock. The listener never waits
for the main thread or for the peer, and never ends the link: what it meets, the main thread meets again.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from pbus.clock import Clock
from pbus.codec.frames import BRIEF_ID_BYTES, FrameError, FrameReader, encode, encode_done
from pbus.consumer import descriptors

READ_BYTES: Final = 256 * 1024
LOOK_AGAIN_S: Final = 0.05
"""The socket is looked at so often while jobs wait: a frame is about that much work."""
SEND_TIMEOUT_S: Final = 30
IDLE_S: Final = 5.0
BACKOFF_S: Final = (0.05, 2.0)
LISTENER_S: Final = 0.1
"""How long the listener may stand at the lock: the main thread holds it while it sends."""
TROUBLES: Final = 8
"""So many complaints are kept for a delivery child that is away."""

ID, ATTEMPT, REDELIVERED, BODY, TRACEPARENT, CONTENT_TYPE, CRASHES, FIRST_MS, FORGIVEN = range(9)
RawJob = list[Any]
"""A job as it stands in a ``jobs`` frame (see codec.frames)."""
Result = tuple[str, str, float | None, float]
"""Verdict, error, what was asked to wait (seconds), and seconds that it ran."""


def replay_of(job: RawJob) -> str:
    """Id of the job that *job* is run again for; empty: it is no replay."""
    return str(job[FORGIVEN + 1]) if len(job) > FORGIVEN + 1 else ""


def ticket(job: RawJob) -> list[Any]:
    """What a new delivery child must know to settle *job* without asking the store."""
    return [job[ID], job[ATTEMPT], job[REDELIVERED], job[CRASHES], job[FIRST_MS], job[FORGIVEN]]


def result_of(job: RawJob, result: Result) -> dict[str, Any]:
    """The fields of a ``result`` frame."""
    verdict, error, delay_s, run_s = result
    return {"id": job[ID], "verdict": verdict, "error": error, "delay": delay_s, "run_s": run_s}


class Attachment:
    """
    The link of one consumer process. One owner: the main loop; ``stop``, ``recall``, ``stuck`` are the listener's.

    Args:
        connect: Makes a connection to the delivery child; raises OSError while there is none.
        identity: ``owner``, ``queue``, ``topic``, ``pid`` of the ``attach`` frame.
        attached: Called with the delivery child's serial number once it has taken us in.
        clock: Where deadlines come from.
        idle: Called before each wait for work; answers how many seconds that may last at most. It may ``stop``.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], identity: dict[str, Any], attached: Callable[[int], None],
        clock: Clock, idle: Callable[[], float] | None = None,
    ) -> None:
        self._connect = connect
        self._identity = identity
        self._attached = attached
        self._clock = clock
        self._idle = idle if idle is not None else _no_limit
        self._sock: socket.socket | None = None
        self._inode = -1
        self._poll = descriptors.Poll()
        self._others: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._parent = os.getppid()
        self._finishing = False
        self._looked_at_s = clock.monotonic_s()
        self._pause_s = BACKOFF_S[0]
        self._retry_at_s = 0.0
        # What follows is shared with the listener, and so is every use of the socket.
        self._lock = threading.Lock()
        self._reader = FrameReader()
        self._waiting: collections.deque[RawJob] = collections.deque()
        self._begun: RawJob | None = None
        self._unstarted: set[str] = set()
        self._results: dict[str, tuple[RawJob, Result]] = {}
        self._is_brief = False  # our delivery child reads brief frames
        self._unsent = b""  # the rest of what the listener had to say
        self._troubles: list[bytes] = []
        self.robbed = False
        """User code has closed our connection."""

    # -- the main loop --------------------------------------------------------------------------

    def next_job(self) -> RawJob | None:
        """Wait for a job and begin it; None when there will be none any more."""
        while not self._finishing:
            if not self._waiting:
                self._look(min(IDLE_S, self._idle()))
            elif self._clock.monotonic_s() - self._looked_at_s > LOOK_AGAIN_S:
                self._look(0.0)
            else:
                try:
                    self._begun = self._waiting.popleft()
                except IndexError:
                    continue  # called back since we looked
                return self._begun
        return None

    def answer(self, verdict: str, error: str, delay_s: float | None, run_s: float) -> None:
        """The job that was begun last has ended; its result goes out at once and is kept until the receipt."""
        with self._lock:
            job, self._begun = self._begun, None
            if job is None:
                raise RuntimeError("an answer without a job")
            job_id: str = job[ID]
            result = verdict, error, delay_s, run_s
            self._results[job_id] = job, result
            if self._is_brief and verdict == "done" and not error and len(job_id) <= BRIEF_ID_BYTES // 4:
                self._send(encode_done(job_id, run_s))
            else:
                self._send(encode("result", **result_of(job, result)))

    def put_back(self) -> None:
        """The job that was begun last has not begun after all: it goes before what waits."""
        with self._lock:
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
        with self._lock:
            self._send(self._handed_back(leaving=True))  # with nothing in it too: nothing is to be claimed for us
        while self._results or self._unstarted:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            self._look(min(left_s, 0.5))
            if self._waiting:
                with self._lock:
                    self._send(self._handed_back(leaving=True))
        with self._lock:
            self._close()
        return not self._results and not self._unstarted

    def trouble(self, job_id: str, text: str) -> None:
        """Tell what user code has done to its own process; kept for the next delivery child if there is none."""
        with self._lock:
            data = encode("trouble", id=job_id, text=text)
            if self._sock is not None:
                self._send(data)
            elif len(self._troubles) < TROUBLES:
                self._troubles.append(data)

    # -- for the listener -----------------------------------------------------------------------

    def stop(self) -> None:
        """Begin nothing more, and hand back what waits. May be called from any thread, also in the middle of a job."""
        self._finishing = True
        try:
            os.eventfd_write(self._waker, 1)
        except OSError:
            pass  # user code closed it: the loop looks at the flag by itself
        if self._begun is not None and self._lock.acquire(timeout=LISTENER_S):
            try:
                self._hand_back_soon(leaving=True)
            finally:
                self._lock.release()

    def recall(self, behind: str) -> bool:
        """
        Hand back what waits behind the job *behind*, so that others can run it. Never waits.

        Returns:
            Whether that job still runs; if not, there is nothing to be handed back.
        """
        if not self._lock.acquire(timeout=LISTENER_S):
            return False
        try:
            if self._begun is None or self._begun[ID] != behind:
                return False
            self._hand_back_soon(leaving=False)
            return True
        finally:
            self._lock.release()

    def stuck(self, place: str, stack: str) -> None:
        """Tell in which line the job is that runs, and how it came there. Never waits."""
        if not self._lock.acquire(timeout=LISTENER_S):
            return
        try:
            if self._begun is not None:
                self._send_soon(encode("stuck", id=self._begun[ID], place=place, stack=stack))
        finally:
            self._lock.release()

    @property
    def running(self) -> str:
        """Id of the job that runs, empty for none."""
        begun = self._begun
        return begun[ID] if begun is not None else ""

    # -- jobs back (the caller holds the lock) --------------------------------------------------

    def _handed_back(self, leaving: bool) -> bytes:
        ids: list[str] = []
        with contextlib.suppress(IndexError):
            while True:  # one by one: the main thread begins the next one without the lock
                ids.append(self._waiting.popleft()[ID])
        self._unstarted.update(ids)
        return encode("unstarted", ids=ids, leaving=leaving)

    def _hand_back_soon(self, leaving: bool) -> None:
        while self._receive():
            pass  # what the main thread has not read yet waits behind the job as well
        if self._sock is None:
            return  # nobody to give it to, and the next delivery child may be there before the job is over
        if self._waiting:
            self._send_soon(self._handed_back(leaving))
        elif self._unsent:
            self._send_soon(b"")

    # -- the link -------------------------------------------------------------------------------

    def _look(self, timeout_s: float) -> None:
        """Read what has come, waiting up to *timeout_s* for it; attach if there is no link."""
        if self._sock is None and not self._attach():
            self._rest(timeout_s)
        else:
            self._read(timeout_s)
        self._looked_at_s = self._clock.monotonic_s()

    def _read(self, timeout_s: float) -> None:
        for fd, events in self._poll.poll(max(0.0, timeout_s) * 1000):
            if fd in self._others:
                self._others[fd][1](events)
            elif fd == self._waker:
                self._rouse(events)
            elif self._sock is not None and fd == self._sock.fileno():  # it may have gone since poll told of it
                with self._lock:
                    if events & select.POLLNVAL or not self._receive(end=True):
                        self._close()

    def _rouse(self, events: int) -> None:
        """``stop`` was called (or user code closed the descriptor, which then is looked at no more)."""
        if events & select.POLLIN and self._finishing:
            self._poll.unregister(self._waker)  # it has said what it had to say
        elif events & select.POLLNVAL:
            self._poll.unregister(self._waker)

    def _receive(self, end: bool = False) -> bool:
        """
        One read that does not wait. The caller holds the lock.

        Returns:
            Whether something came; with *end*: whether more can come.
        """
        if self._sock is None:
            return False
        try:
            data = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
            frames = self._reader.feed(data)
        except BlockingIOError:
            return end  # the other thread was faster
        except (OSError, FrameError):
            return False
        for frame in frames:
            self._take(frame)
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
                self._is_brief = frame.get("brief", False)  # one of an earlier version does not
                self._attached(frame["link"])
            case "finish":
                self._finishing = True

    def _send(self, data: bytes) -> None:
        """
        Hand *data* to the kernel whole, or give the link up: the next ``attach`` repeats what counts.

        The caller is the main thread and holds the lock.
        """
        if self._sock is None:
            return
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        try:
            self._sock.sendall(data)
        except OSError:
            while self._receive():
                pass  # what the delivery child had sent before it died is ours
            self._close()

    def _send_soon(self, data: bytes) -> None:
        """As much of *data* as the kernel takes now; the rest goes before whatever is sent next."""
        data = self._unsent + data
        try:
            sent = self._sock.send(data, socket.MSG_DONTWAIT) if self._sock is not None else 0
        except OSError:
            sent = 0  # full, or over: then the main thread will see
        self._unsent = data[sent:]

    def _attach(self) -> bool:
        """Connect and say what we hold; False when it has to be tried again later."""
        if self._clock.monotonic_s() < self._retry_at_s:
            return False
        self._retry_at_s = self._clock.monotonic_s() + self._pause_s
        self._pause_s = min(self._pause_s * 2, BACKOFF_S[1])
        try:
            sock = descriptors.raised(self._connect(), SEND_TIMEOUT_S)
        except OSError:
            if os.getppid() != self._parent:
                self._finishing = True  # the master is gone too, and nobody will listen any more
            return False
        with self._lock:
            self._sock = sock
            self._inode = descriptors.inode(sock.fileno())
            self._reader = FrameReader()
            self._is_brief = False
            self._poll = descriptors.Poll()
            self._poll.register(sock.fileno(), select.POLLIN)
            self._register_others()
            self._unsent = b""
            self._unstarted.clear()  # not among what we hold: the delivery child gives them back
            held = ([self._begun] if self._begun else []) + list(self._waiting)
            results = [[ticket(job), result_of(job, result)] for job, result in self._results.values()]
            self._send(encode("attach", **self._identity, holds=[ticket(job) for job in held], results=results))
            troubles, self._troubles = self._troubles, []
            self._send(b"".join(troubles))
        return self._sock is not None

    def _register_others(self) -> None:
        self._poll.register(self._waker, select.POLLIN)
        for fd, (events, _) in self._others.items():
            self._poll.register(fd, events)

    def _rest(self, timeout_s: float) -> None:
        """Nobody to talk to: wait for the next attempt, or for ``stop``."""
        left_s = min(timeout_s, max(0.0, self._retry_at_s - self._clock.monotonic_s()))
        if left_s > 0 and not self._finishing:
            self._poll = descriptors.Poll()
            self._register_others()
            for fd, events in self._poll.poll(left_s * 1000):
                if fd in self._others:
                    self._others[fd][1](events)
                elif events & select.POLLNVAL:
                    self._clock.sleep(left_s)
        elif left_s > 0:
            self._clock.sleep(min(left_s, LOOK_AGAIN_S))

    def _close(self) -> None:
        """The caller is the main thread and holds the lock."""
        sock, self._sock = self._sock, None
        self._unsent = b""
        if sock is not None and not descriptors.close(sock, self._inode):
            self.robbed = True


def _no_limit() -> float:
    return math.inf
