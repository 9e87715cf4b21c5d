"""
How long something took, as far as the machine let anybody work.

A promise in seconds is about pbus. A virtual machine from which its processors are taken away for a second now and
then, all of them or one, breaks none: a thread on each processor takes short naps, and what they exceed is a pause.
A busy machine makes no pauses: who wakes up is served before who works.

    with Stopwatch() as watch:
        ...
    assert watch.worked_s <= 1.0
"""

from __future__ import annotations

import os
import threading
import time

_NAP_S = 0.01
_PAUSE_S = 0.1
"""A nap that took so much longer was a pause."""


class Stopwatch:
    """
    Runs from the beginning to the end of its context; read it afterwards.

    Attributes:
        begun_s, ended_s: Monotonic time.
    """

    def __init__(self) -> None:
        self.begun_s = self.ended_s = 0.0
        self._pauses: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Stopwatch:
        for processor in os.sched_getaffinity(0):
            ready = threading.Event()
            self._threads.append(threading.Thread(target=self._nap, args=(processor, ready), daemon=True))
            self._threads[-1].start()
            ready.wait(10)
        self.begun_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended_s = time.monotonic()
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def s(self) -> float:
        """Seconds that went by."""
        return self.ended_s - self.begun_s

    @property
    def paused_s(self) -> float:
        """Seconds in which at least one processor stood still."""
        until_s, total_s = self.begun_s, 0.0
        for begin_s, resume_s in sorted(self._pauses):
            total_s += max(0.0, min(resume_s, self.ended_s) - max(begin_s, until_s))
            until_s = max(until_s, resume_s)
        return total_s

    @property
    def worked_s(self) -> float:
        """Seconds that went by, less those in which a processor stood still."""
        return self.s - self.paused_s

    def _nap(self, processor: int, ready: threading.Event) -> None:
        os.sched_setaffinity(0, {processor})  # of this thread alone
        ready.set()
        before_s, over = time.monotonic(), False
        while not over:
            over = self._over.wait(_NAP_S)
            now_s = time.monotonic()
            if now_s - before_s > _NAP_S + _PAUSE_S:
                self._pauses.append((before_s + _NAP_S, now_s))
            before_s = now_s
