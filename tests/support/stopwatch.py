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
    Runs from the beginning to the end of its context.

    Attributes:
        begun_s, ended_s: Monotonic time; it has not ended while ``ended_s`` is 0.
    """

    def __init__(self) -> None:
        self.begun_s = self.ended_s = 0.0
        self._wall_s = 0.0  # unix time when the monotonic one was 0
        self._pauses: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._naps: list[threading.Event] = []  # set by each thread after each of its naps
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Stopwatch:
        for processor in os.sched_getaffinity(0):
            self._naps.append(threading.Event())
            self._threads.append(threading.Thread(target=self._nap, args=(processor, self._naps[-1]), daemon=True))
            self._threads[-1].start()
        self._wait_for_naps()
        self.begun_s = time.monotonic()
        self._wall_s = time.time() - self.begun_s
        return self

    def __exit__(self, *_: object) -> None:
        self.ended_s = time.monotonic()
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def s(self) -> float:
        """Seconds that went by, until now or to the end."""
        return (self.ended_s or time.monotonic()) - self.begun_s

    @property
    def paused_s(self) -> float:
        """Those in which at least one processor stood still."""
        return self._paused_s(self.begun_s, self.ended_s or time.monotonic())

    @property
    def worked_s(self) -> float:
        """The others."""
        return self.s - self.paused_s

    def worked_between_s(self, begin_s: float, end_s: float) -> float:
        """Seconds from the unix time *begin_s* to *end_s*, both while it ran, less those of pauses."""
        return end_s - begin_s - self._paused_s(begin_s - self._wall_s, end_s - self._wall_s)

    def _paused_s(self, begin_s: float, end_s: float) -> float:
        if not self.ended_s:
            self._wait_for_naps()  # a pause that is over by now is known when the thread has had its turn
        total_s = 0.0
        for pause_s, resume_s in sorted(self._pauses):
            total_s += max(0.0, min(resume_s, end_s) - max(pause_s, begin_s))
            begin_s = max(begin_s, resume_s)
        return total_s

    def _wait_for_naps(self) -> None:
        for nap in self._naps:
            nap.clear()
            nap.wait(10.0)

    def _nap(self, processor: int, napped: threading.Event) -> None:
        os.sched_setaffinity(0, {processor})  # of this thread alone
        before_s, over = time.monotonic(), False
        while not over:
            over = self._over.wait(_NAP_S)
            now_s = time.monotonic()
            if now_s - before_s > _NAP_S + _PAUSE_S:
                self._pauses.append((before_s + _NAP_S, now_s))
            before_s = now_s
            napped.set()
