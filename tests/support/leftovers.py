"""
What a test left running.

A process counts when it descends from this one, or when it holds something open below the test's
own folder (a daemon has left the family, but it keeps its log, its lock, its working directory).
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil

from pbus.supervisor.process import die_with_parent

Living = dict[int, float]
"""pid -> start time; a pid alone may have been given to somebody else."""


def descendants() -> Living:
    """Every living or unreaped descendant of this process."""
    found: Living = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found[process.pid] = process.create_time()
    return found


def holders(folder: Path) -> Living:
    """Processes other than this one that have *folder*, or anything below it, open."""
    top = os.path.realpath(folder)
    found: Living = {}
    for pid in psutil.pids():
        if pid != os.getpid() and _holds(pid, top):
            with contextlib.suppress(psutil.Error):
                found[pid] = psutil.Process(pid).create_time()
    return found


def end_with_the_tests() -> None:
    """For ``preexec_fn``: the kernel ends this process when the test run is killed before it can clean up."""
    die_with_parent(signal.SIGTERM)


def describe(living: Living) -> str:
    """One line a process, for the failure."""
    lines = []
    for pid in sorted(living):
        try:
            process = psutil.Process(pid)
            lines.append(f"  {pid} {process.status()} {' '.join(process.cmdline()) or process.name()}")
        except psutil.Error:
            continue
    return "\n".join(lines)


def end(living: Living) -> None:
    """Kill and reap them, so that they do not disturb the next test."""
    for pid in living:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for pid in living:
        with contextlib.suppress(ChildProcessError, OSError):
            os.waitpid(pid, 0)


def _holds(pid: int, top: str) -> bool:
    """Whether the working directory or a descriptor of *pid* lies below *top*."""
    links = [f"/proc/{pid}/cwd"]
    with contextlib.suppress(OSError):
        links += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target == top or target.startswith(top + os.sep):
                return True
    return False
