"""
Facts about a process that the kernel knows: who it is even when its number was given out again.

Rule: a pid alone names nobody. Whoever signals a process that is not his own child compares its
birth first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_BRAND: Final = 1 << 60
_BRANDS: Final = 1 << 40
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_FAMILY: Final = 256
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What a process takes.

    Attributes:
        rss_bytes: Resident memory, what it shares with others too.
        own_bytes: Of a family: the memory of its head alone.
        cpu_s: Processor time so far, user and system, with that of its children that it has waited for.
    """

    rss_bytes: int
    own_bytes: int
    cpu_s: float


def usage(pid: int) -> Usage | None:
    """
    What *pid* takes; None: it is gone, or cannot be looked at.

    One file is read, which takes a quarter of what psutil needs for the same: there may be hundreds, every second.
    """
    fields = _stat(pid)
    if fields is None:
        return None
    rss_bytes = int(fields[21]) * _PAGE_BYTES
    return Usage(rss_bytes, rss_bytes, sum(int(field) for field in fields[11:15]) / _TICKS)


def usage_of_family(pid: int) -> Usage | None:
    """
    What *pid* and its living descendants take together, the nearest ``_FAMILY`` of them.

    Where user code forks without end, that is the kernel's business (its limits), not to be counted by us.
    """
    own = usage(pid)
    if own is None:
        return None
    rss_bytes, cpu_s, seen = own.rss_bytes, own.cpu_s, 1
    generation = children(pid)
    while generation and seen < _FAMILY:
        members = [found for child in generation[: _FAMILY - seen] if (found := usage(child)) is not None]
        rss_bytes += sum(each.rss_bytes for each in members)
        cpu_s += sum(each.cpu_s for each in members)
        seen += len(generation)
        generation = [grandchild for child in generation for grandchild in children(child)]
    return Usage(rss_bytes, own.rss_bytes, cpu_s)


def children(pid: int) -> list[int]:
    """Living and dead children of *pid*, of its first thread (and so of a process with one thread: all)."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def name(pid: int) -> str:
    """What it is called; empty: it is gone."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[bytes] | None:
    """Fields of /proc/PID/stat from the state on; None: there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return None
    # The name (field 2) may hold anything, spaces and brackets too; fields count from its end.
    return stat[stat.rindex(b")") + 2 :].split()


def birth(pid: int) -> int:
    """When *pid* was born, in clock ticks since the machine's start; 0: it is gone or a zombie."""
    fields = _stat(pid)
    if fields is None:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_same(pid: int, born: int) -> bool:
    """Whether the process *pid* of that birth still lives."""
    return pid > 0 and born > 0 and birth(pid) == born


def kill(pid: int, signum: signal.Signals, group: bool) -> None:
    """Signal a process, or the *group* that it leads. One that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signum)
                return
        # Not (yet) a leader: it was forked a moment ago.
        os.kill(pid, signum)


def die_with_parent(signum: signal.Signals) -> None:
    """
    Have the kernel send *signum* to this process when its parent dies.

    Cleared by setuid, so call it after; and compare getppid afterwards, because a parent that is
    dead already sends nothing.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signum))


def adopt_orphans() -> None:
    """What our descendants leave behind becomes our child, not that of the machine's first process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def brand(n: int) -> None:
    """
    Mark this process, and all that it will ever start, as number *n*'s.

    The mark is a limit that binds nobody (processor time of real-time processes: ages of it). It is inherited by
    fork, exec and setuid; a daemon that has left its session, its group and its parent still bears it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    with contextlib.suppress(ValueError, OSError):  # somebody set a hard limit: then it goes without
        resource.setrlimit(resource.RLIMIT_RTTIME, (_BRAND + n % _BRANDS, hard))


def brand_of(pid: int) -> int:
    """Whose process *pid* is by its mark; 0: nobody's, or it cannot be looked at."""
    try:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_RTTIME)
    except OSError:
        return 0
    return soft - _BRAND if _BRAND < soft < _BRAND + _BRANDS else 0


def own_proc_again() -> None:
    """After setuid the kernel gives /proc/self to root; sockets with long paths are reached through it."""
    _prctl(_PR_SET_DUMPABLE, 1)


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
