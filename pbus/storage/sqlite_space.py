"""
Room for an embedded store: how full its disk is, and when pushes must stop.

Pages of the file that are free inside it count as free: what was drained can be pushed again,
although the file stays as large. A part of ``min_free`` has to be free on the disk itself: the log
file of SQLite is written there before anything else is.

Rule: looked at ten times a second at most; between two looks the bytes pushed are subtracted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pbus.clock import Clock, SystemClock
from pbus.errors import StoreFull
from pbus.storage.driver import Fill

_LOOK_EVERY_S: Final = 0.1
_ON_DISK: Final = 4
"""One part in so many of ``min_free`` must be free outside of the file."""
_WRITTEN: Final = 2
"""Bytes on the disk for each pushed one, at worst: in the log file of SQLite, later in the database."""


class Space:
    """What is left for the file at *path*; *free_inside* reads the bytes that are free inside it."""

    def __init__(
        self, path: Path, min_free_bytes: int, free_inside: Callable[[], int], clock: Clock | None = None
    ) -> None:
        self._path = path
        self._min_free_bytes = min_free_bytes
        self._free_inside = free_inside
        self._clock = clock or SystemClock()
        self._room_bytes = 0
        self._look_at_s = -1.0

    def need(self, size: int) -> None:
        """
        A push of so many bytes is about to be written.

        Raises:
            StoreFull: afterwards less than ``min_free`` would be free.
        """
        if not self._min_free_bytes:
            return
        needed = size * _WRITTEN
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_at_s or self._room_bytes < needed:
            self._look_at_s = now_s + _LOOK_EVERY_S
            self._room_bytes = self._look()
        if self._room_bytes < needed:
            raise StoreFull(
                f"{self._path}: less than {self._min_free_bytes} bytes are free for it (min_free): free space there, "
                "or wait until jobs are done; pushes go on by themselves"
            )
        self._room_bytes -= needed

    def fill(self) -> Fill:
        """See ``Driver.fill``."""
        disk = os.statvfs(self._path.parent)
        total = disk.f_blocks * disk.f_frsize
        free = disk.f_bavail * disk.f_frsize + self._free_inside()
        return Fill(share=max(0.0, 1.0 - free / total) if total else 0.0, free_bytes=free)

    def _look(self) -> int:
        """Bytes above ``min_free``."""
        disk = os.statvfs(self._path.parent)
        free = disk.f_bavail * disk.f_frsize
        if free >= 2 * self._min_free_bytes:
            return free - self._min_free_bytes  # no need to know what is free inside
        outside = free - self._min_free_bytes // _ON_DISK
        return min(outside, free + self._free_inside() - self._min_free_bytes)
