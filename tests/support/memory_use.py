"""How much memory a process takes while something happens to it."""

from __future__ import annotations

import threading

import psutil

_LOOK_S = 0.01
_MB = 1024 * 1024


class Memory(threading.Thread):
    """Looks how much memory a process has, all the time until the end of the block, or until it is asked."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._first = self._most = self._process.memory_info().rss
        self.start()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._most = max(self._most, self._process.memory_info().rss)

    def growth_mb(self) -> float:
        """From the beginning to the most that it had; ends the looking."""
        self._over.set()
        self.join()
        return (self._most - self._first) / _MB
