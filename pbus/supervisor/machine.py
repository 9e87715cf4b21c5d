"""
What this machine has and what of it is in use: cores and memory, of the machine or of the container that we live in.

Rule: the tightest limit counts. A control group that allows two cores of sixty-four leaves two; one without limits
is not there. What cannot be read now (no descriptor is left) is as it was: nothing here raises.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Final

import psutil

_CGROUPS: Final = "/sys/fs/cgroup"
_UNLIMITED: Final = 1 << 60


class Machine:
    """Reads once a second. One owner: the master."""

    def __init__(self) -> None:
        self._groups = list(_own_groups())
        self._busy_s, self._at_s = 0.0, 0.0
        self._last: Mapping[str, float | int] = dict.fromkeys(
            ("cores", "cores_used", "memory_bytes", "memory_free_bytes"), 0
        )

    def look(self, now_s: float) -> Mapping[str, float | int]:
        """
        ``cores``, ``cores_used`` (since the last look; 0 at the first), ``memory_bytes``, ``memory_free_bytes``.

        Zeros: not known.
        """
        with contextlib.suppress(OSError, psutil.Error):
            self._last = self._read(now_s)
        return self._last

    def _read(self, now_s: float) -> Mapping[str, float | int]:
        cores = min([float(len(os.sched_getaffinity(0))), *(group.cores for group in self._groups)])
        busy_s = min((group.cpu_s for group in self._groups if group.cpu_s), default=0.0) or _busy_s()
        passed_s = now_s - self._at_s
        used = max(0.0, busy_s - self._busy_s) / passed_s if self._at_s and passed_s > 0 else 0.0
        self._busy_s, self._at_s = busy_s, now_s
        memory = psutil.virtual_memory()
        total, free = memory.total, memory.available
        for group in self._groups:
            if (limit := group.memory_bytes) < total:
                total, free = limit, min(free, max(0, limit - group.memory_used_bytes))
        return {
            "cores": cores, "cores_used": round(min(used, cores), 3), "memory_bytes": total, "memory_free_bytes": free,
        }


class _Group:
    """One control group (version 2) on the way from ours to the root, if it limits anything."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @property
    def cores(self) -> float:
        quota, _, period = self._read("cpu.max").partition(" ")
        return float(quota) / float(period) if quota.isdigit() else float(_UNLIMITED)

    @property
    def cpu_s(self) -> float:
        """Processor time of all in it, where it is bounded: else the machine's is what counts."""
        return self._named("cpu.stat", "usage_usec") / 1e6 if self.cores < _UNLIMITED else 0.0

    @property
    def memory_bytes(self) -> int:
        text = self._read("memory.max")
        return int(text) if text.isdigit() else _UNLIMITED

    @property
    def memory_used_bytes(self) -> int:
        """Without what the kernel gives up at once when it is short (as in ``available`` of a machine)."""
        text = self._read("memory.current")
        return (int(text) if text.isdigit() else 0) - self._named("memory.stat", "inactive_file")

    def _named(self, file: str, name: str) -> int:
        for line in self._read(file).splitlines():
            key, _, number = line.partition(" ")
            if key == name:
                return int(number)
        return 0

    def _read(self, name: str) -> str:
        try:
            with open(os.path.join(self._folder, name)) as file:
                return file.read().strip()
        except OSError:
            return ""


def _own_groups() -> Iterator[_Group]:
    """Our control group and those above it, those only that bound processor or memory."""
    try:
        with open("/proc/self/cgroup") as file:
            path = next((line.strip()[3:] for line in file if line.startswith("0::")), "")
    except OSError:
        return
    while path:
        group = _Group(_CGROUPS + path)
        if group.cores < _UNLIMITED or group.memory_bytes < _UNLIMITED:
            yield group
        path = os.path.dirname(path) if path != "/" else ""


def _busy_s() -> float:
    """Processor time that all programs of this machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))
