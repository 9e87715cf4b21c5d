"""
Facts about a process that the kernel knows: who it is even when its number was given out again.

Rule: a pid alone names nobody. Whoever signals a process that is not his own child compares its
birth first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4


def birth(pid: int) -> int:
    """When *pid* was born, in clock ticks since the machine's start; 0: it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return 0
    # The name (field 2) may hold anything, spaces and brackets too; fields count from its end.
    fields = stat[stat.rindex(b")") + 2 :].split()
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


def own_proc_again() -> None:
    """After setuid the kernel gives /proc/self to root; sockets with long paths are reached through it."""
    _prctl(_PR_SET_DUMPABLE, 1)


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
