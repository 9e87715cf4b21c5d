"""
What measurements need to know about the machine: processor time of processes, the time of an fsync,
a bare loopback echo, and how much somebody else is running beside us.

Processor times are read from the processes' CPU clocks (nanoseconds): /proc/PID/stat counts ticks of
10 ms, too coarse for a bus that is idle.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import psutil

from pbus.bench.private import popen
from pbus.clock import SystemClock

CLOCK: Final = SystemClock()
FSYNC_BYTES: Final = 4096
"""Written before each measured fsync: a page."""


def until(condition: Callable[[], object], timeout_s: float, pause_s: float = 0.01) -> bool:
    """Ask again and again; whether it came true within *timeout_s*."""
    deadline_s = CLOCK.monotonic_s() + timeout_s
    while not condition():
        if CLOCK.monotonic_s() > deadline_s:
            return False
        CLOCK.sleep(pause_s)
    return True


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds that these processes have used together; those that are gone count 0."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            # The CPU clock of another process: ~pid above three bits, of which 2 is CPUCLOCK_SCHED.
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def written_bytes(pids: Iterable[int]) -> int:
    """What these processes have had written to disks so far (a page that is made dirty counts once)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/io", encoding="ascii") as lines:
            total += next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
    return total


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes together; a page that several share counts once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += int(psutil.Process(pid).memory_full_info().pss)
    return total


class Processor:
    """
    How much processor time went by on this machine, and whose it was.

    Ours are this process, its living descendants, and its reaped ones.
    """

    def __init__(self) -> None:
        self._begun_s = CLOCK.monotonic_s()
        self._busy_s = _busy_s()
        self._ours_s = _ours_s()

    def others(self) -> float:
        """Share of one core that other programs used since the start of this."""
        elapsed_s = max(1e-6, CLOCK.monotonic_s() - self._begun_s)
        foreign_s = (_busy_s() - self._busy_s) - (_ours_s() - self._ours_s)
        return max(0.0, foreign_s / elapsed_s)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _ours_s() -> float:
    reaped = os.times()
    living = [child.pid for child in psutil.Process().children(recursive=True)]
    return cpu_s([os.getpid(), *living]) + reaped.children_user + reaped.children_system


def describe(folder: Path) -> dict[str, str]:
    """This machine, and the disk that *folder* is on: what was measured is about them."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}", "python": sys.version.split()[0],
        "disk": _disk(folder), "fsync": f"{fsync_s(folder) * 1e6:.0f} us",
    }


def _disk(folder: Path) -> str:
    """Kind of the file system of *folder*."""
    real = os.path.realpath(folder)
    parts = psutil.disk_partitions(all=True)
    found = [part for part in parts if os.path.commonpath([real, part.mountpoint]) == part.mountpoint]
    return max(found, key=lambda part: len(part.mountpoint)).fstype if found else "unknown"


def fsync_s(folder: Path, count: int = 30) -> float:
    """Median time of appending a page to a file of *folder* and fsyncing it."""
    return statistics.median(_fsync_once(folder) for _ in range(count))


def _fsync_once(folder: Path) -> float:
    with fsyncs(folder) as fsync:
        fsync()  # the file itself is new
        begin_s = time.perf_counter()
        fsync()
        return time.perf_counter() - begin_s


@contextlib.contextmanager
def fsyncs(folder: Path) -> Iterator[Fsync]:
    """A file of *folder* to which pages can be appended durably."""
    path = folder / f"fsync-{os.getpid()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield Fsync(fd)
    finally:
        os.close(fd)
        path.unlink()


class Fsync:
    """Call it: a page is appended and fsynced."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self) -> None:
        os.write(self._fd, b"x" * FSYNC_BYTES)
        os.fsync(self._fd)


class Echo:
    """A process that sends back what it gets over loopback TCP; a context manager with one connection to it."""

    def __enter__(self) -> Echo:
        self._process = popen([sys.executable, "-c", _ECHO], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def trip(self, data: bytes = b"x" * 200) -> None:
        """There and back."""
        self._socket.sendall(data)
        left = len(data)
        while left:
            left -= len(self._socket.recv(left))

    def __exit__(self, *_: object) -> None:
        self._socket.close()  # it ends with its connection
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


_ECHO = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client, _ = listener.accept()
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := client.recv(65536):
    client.sendall(data)
"""
