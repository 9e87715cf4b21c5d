"""
The doorbell of an embedded store: how a child that waits for jobs learns of a push elsewhere.

A small shared page holds a count per queue and a byte per listener. A writer moves the counts of
the queues it gave jobs to, within its turn and after its commit; then it sends one datagram to each
listener whose byte says that it sleeps. A listener sets its byte *before* it compares the counts,
so a push is either seen in the counts or rung. Nothing here blocks a writer, and nothing is
promised: callers look again every 5 s.

Directory ``<database>.bells``: ``page`` (below), ``lock`` (while a listener chooses its place),
``0``, ``1``, .. one datagram socket a listener.

    0        SLOTS bytes: 1 while that listener sleeps
    1024     QUEUES counts of 32 bits: pushes to the queue of that number (modulo QUEUES)
"""

from __future__ import annotations

import _socket  # the class below gevent's patches: a storage thread has no event loop
import contextlib
import mmap
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pbus.clock import Clock, SystemClock
from pbus.errors import Unavailable
from pbus.storage.sqlite_lock import FileLock

SLOTS: Final = 512
QUEUES: Final = 4096
_COUNTS_AT: Final = 1024
_PAGE_BYTES: Final = _COUNTS_AT + 4 * QUEUES
_LOCK_TIMEOUT_S: Final = 1.0


class _Page:
    """The shared page; its views are dropped before the mapping is."""

    def __init__(self, directory: Path) -> None:
        fd = os.open(directory / "page", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Real blocks: touching a hole of a file on a full disk is SIGBUS.
            os.posix_fallocate(fd, 0, _PAGE_BYTES)
            self._map = mmap.mmap(fd, _PAGE_BYTES)
        finally:
            os.close(fd)
        self.asleep = memoryview(self._map)[:SLOTS]
        self.counts = memoryview(self._map)[_COUNTS_AT:_PAGE_BYTES].cast("I")

    def close(self) -> None:
        self.asleep.release()
        self.counts.release()
        self._map.close()


class Doorbell:
    """The ringing side, one per process."""

    def __init__(self, database: Path) -> None:
        self._directory = database.with_name(database.name + ".bells")
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._page = _Page(self._directory)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def count(self, qids: Iterable[int]) -> None:
        """Note that these queues got jobs. Within the writer's turn, after its commit."""
        for qid in qids:
            place = qid % QUEUES
            self._page.counts[place] = (self._page.counts[place] + 1) & 0xFFFF_FFFF

    def ring(self) -> None:
        """Wake every listener that sleeps; after ``count``, best outside the turn."""
        asleep = self._page.asleep
        slot = bytes(asleep).find(1)
        while slot >= 0:
            # Before the datagram: a listener that lies down again after it must not be overlooked.
            asleep[slot] = 0
            with contextlib.suppress(OSError):  # full: it has rings to read; refused: its process is gone
                self._socket.sendto(b"!", _address(self._fd, slot))
            slot = bytes(asleep).find(1, slot + 1)

    def listen(self, queues: Mapping[str, int], clock: Clock | None = None) -> SqliteBell:
        """
        A new ear; may be called from any thread.

        Args:
            queues: Name -> number of the queues to listen for.
            clock: Of its timeouts.
        """
        return SqliteBell(self._directory, queues, clock or SystemClock())

    def close(self) -> None:
        """Give everything back; idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._socket.close()
            self._page.close()


class SqliteBell:
    """The listening side (``driver.Bell``); ``socket`` is gevent's where that is patched in."""

    def __init__(self, directory: Path, queues: Mapping[str, int], clock: Clock) -> None:
        self._queues = dict(queues)
        self._clock = clock
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._page = _Page(directory)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._seen: dict[str, int] = {}
        self._closed = False
        self._deaf = True
        self._slot = -1
        try:
            self._slot = self._take_slot(directory)
        except BaseException:
            self.close()
            raise

    def wait(self, timeout_s: float) -> frozenset[str] | None:
        """See ``driver.Bell.wait``."""
        if self._deaf:
            self._deaf = False
            self._rung()
            return None
        deadline_s = self._clock.monotonic_s() + timeout_s
        try:
            while not self._closed:
                self._page.asleep[self._slot] = 1
                rung = self._rung()
                left_s = deadline_s - self._clock.monotonic_s()
                if rung or left_s <= 0:
                    return rung
                self._hear(left_s)
        finally:
            if not self._closed:
                self._page.asleep[self._slot] = 0
        return frozenset()

    def close(self) -> None:
        """See ``driver.Bell.close``."""
        if self._closed:
            return
        self._closed = True
        if self._slot >= 0:
            self._page.asleep[self._slot] = 0
            with contextlib.suppress(OSError):
                os.unlink(str(self._slot), dir_fd=self._fd)
        self._socket.close()
        self._page.close()
        os.close(self._fd)

    def _rung(self) -> frozenset[str]:
        counts = self._page.counts
        now = {name: counts[qid % QUEUES] for name, qid in self._queues.items()}
        before, self._seen = self._seen, now
        return frozenset(name for name, count in now.items() if before.get(name) != count)

    def _hear(self, timeout_s: float) -> None:
        self._socket.settimeout(timeout_s)
        with contextlib.suppress(OSError):  # the timeout, or closed meanwhile
            self._socket.recv(1)

    def _take_slot(self, directory: Path) -> int:
        """The first place whose socket nobody reads; what a dead listener left there is removed."""
        lock = FileLock(directory / "lock")
        try:
            if not lock.wait_exclusive(self._clock, _LOCK_TIMEOUT_S):
                raise Unavailable(f"{directory}: another process keeps its lock")
            for slot in range(SLOTS):
                if not self._is_read(slot):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(str(slot), dir_fd=self._fd)
                    self._socket.bind(_address(self._fd, slot))
                    return slot
        finally:
            lock.close()
        raise Unavailable(f"{directory}: all {SLOTS} places are taken")

    def _is_read(self, slot: int) -> bool:
        probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            probe.connect(_address(self._fd, slot))
        except OSError:
            return False
        finally:
            probe.close()
        return True


def _address(directory_fd: int, slot: int) -> str:
    """Path of a socket in the bell directory, short enough for ``sun_path`` wherever that is."""
    return f"/proc/self/fd/{directory_fd}/{slot}"
