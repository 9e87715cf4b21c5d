"""
Whoever a program leaves behind: this process reaps its children, and ends what outlives them.

A process that wraps a program is a *subreaper*: whatever the program starts and leaves becomes its child, however it
daemonised itself. So nothing stays, nothing becomes a zombie, and the memory of a program is that of its family.

Rule: pids are signalled here and nowhere else, under the lock under which they are reaped: a number that was given
out again is never hit.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Final

from pbus.clock import Clock

_PR_SET_CHILD_SUBREAPER: Final = 36
LOOK_S: Final = 0.2
"""Memory of a family is looked at no more often: a look takes longer than a fast job."""
_NAP_S: Final = 0.005
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Kin:
    """
    The children of this process. One a process; the thread of its own only reaps.

    Attributes:
        news_fd: Readable when a child that was started here has ended; ``heard`` makes it quiet again.
    """

    def __init__(self, clock: Clock) -> None:
        self.news_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._clock = clock
        self._lock = threading.Lock()
        self._born = threading.Event()
        self._closed = False
        self._ours: dict[int, int | None] = {}  # pid -> how it ended; None while it lives
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._reaper = threading.Thread(target=self._reap, name="reaper", daemon=True)
        self._reaper.start()

    def start(self, launch: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """
        Start a program; its end is told by ``news_fd`` and ``ended``.

        Raises:
            LaunchError: as *launch* does.
        """
        with self._lock:  # nobody is reaped before it is known whose end that is
            child = launch()
            self._ours[child.pid] = None
        self._born.set()
        return child

    def ended(self, pid: int) -> int | None:
        """How a program ended: its status, or minus the signal; None while it lives."""
        return self._ours[pid]

    def heard(self) -> None:
        """The news have been taken note of."""
        try:
            os.eventfd_read(self.news_fd)
        except BlockingIOError:
            pass

    def forget(self, pid: int) -> None:
        """Nobody asks about it any more."""
        self._ours.pop(pid, None)

    def send(self, pid: int, signum: int) -> bool:
        """Signal a program; False: it has ended."""
        with self._lock:
            if self._ours.get(pid, 0) is not None:
                return False
            os.kill(pid, signum)
            return True

    def clear(self, timeout_s: float) -> int:
        """
        End everybody but the programs that still run, and what they have.

        Returns:
            How many are still there after *timeout_s* (of another user, or stuck in the kernel).
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        while strangers := self._strangers():
            with self._lock:
                for pid in strangers:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except (ProcessLookupError, PermissionError):
                        pass
            if self._clock.monotonic_s() >= deadline_s:
                return len(strangers)
            self._clock.sleep(_NAP_S)
        return 0

    def close(self) -> None:
        """Reap nobody any more, for a process that has other children afterwards. There must be none now."""
        self._closed = True
        self._born.set()
        self._reaper.join()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        os.close(self.news_fd)

    def _strangers(self) -> list[int]:
        living = {pid for pid, ended in self._ours.items() if ended is None}
        return [pid for pid in children(os.getpid()) if pid not in living]

    def _reap(self) -> None:
        while not self._closed:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                self._born.wait()
                self._born.clear()
                continue
            if dead is not None:
                self._bury(dead)

    def _bury(self, dead: os.waitid_result) -> None:
        with self._lock:
            try:
                os.waitpid(dead.si_pid, 0)
            except ChildProcessError:
                return  # one that could not become its program, buried by whoever started it
            if dead.si_pid in self._ours:
                exited = dead.si_code == os.CLD_EXITED
                self._ours[dead.si_pid] = dead.si_status if exited else -dead.si_status
                os.eventfd_write(self.news_fd, 1)


def children(pid: int) -> list[int]:
    """Processes whose parent is *pid*, zombies too; empty when it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        found: list[int] = []
        for thread in threads:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
        return found
    except FileNotFoundError:
        return _children_by_search(pid) if os.path.isdir(f"/proc/{pid}") else []
    except OSError:
        return []


def _children_by_search(pid: int) -> list[int]:
    """The same on kernels that do not list children."""
    return [one for one in (int(name) for name in os.listdir("/proc") if name.isdigit()) if _parent(one) == pid]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def family(pid: int) -> Iterator[int]:
    """*pid* and all its descendants."""
    waiting, seen = [pid], set[int]()
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            yield one
            waiting += children(one)


def family_rss_bytes(pid: int) -> int:
    """Resident memory of *pid* and its descendants; what they share counts for each of them."""
    return sum(_rss_bytes(one) for one in family(pid))


class FamilyMemory:
    """
    Resident memory of a program and its descendants, looked at no more often than every LOOK_S.

    Args:
        pid: The program.
        clock: When it was looked at.
    """

    def __init__(self, pid: int, clock: Clock) -> None:
        self._pid = pid
        self._clock = clock
        self._looked_s = -LOOK_S
        self._bytes = 0

    def __call__(self) -> int:
        """Bytes, as of the last look."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s, self._bytes = now_s, family_rss_bytes(self._pid)
        return self._bytes


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
