"""
How many jobs go into one frame: about 50 ms of work, by what the last jobs took, and more than FRAME_JOBS only as far
as they are 10 ms of it.

Rule: pure. A frame is what a dead or slow consumer keeps from the others, so it grows only as fast
as its jobs are answered, and shrinks with the first slow one. It is large because a claim, a settle and a read cost as
much as five to twenty jobs in them: jobs of no length need a fifth less of the delivery child in frames of 256 than
of 64.
"""

from __future__ import annotations

from typing import Final

FRAME_WORK_S: Final = 0.05
FRAME_JOBS: Final = 64
MOST_JOBS: Final = 256
QUICK_WORK_S: Final = 0.01
FRAME_BYTES: Final = 4 * 1024 * 1024
OWN_S: Final = 0.000005
"""What a job takes of its consumer beside the handler's time, at least."""
LOOK_S: Final = 0.004
"""Results may wait so long in the socket, where they count already, to be read many at a time."""
_WEIGHT: Final = 1 / 8


class Pace:
    """The frame size of one consumer. One owner: its entry in the lane."""

    def __init__(self) -> None:
        self._answered = 0
        self._run_s = 0.0
        self._body_bytes = 0.0

    @property
    def frame(self) -> int:
        """
        Jobs that make up the next frame, 1..MOST_JOBS.

        A new consumer starts with 1; the size doubles at most with each frame it has answered.
        """
        jobs = 1 + self._answered
        if jobs > FRAME_JOBS:
            jobs = max(FRAME_JOBS, min(jobs, MOST_JOBS, int(QUICK_WORK_S / (self._run_s + OWN_S))))
        if self._run_s * jobs > FRAME_WORK_S:
            jobs = int(FRAME_WORK_S / self._run_s)
        if self._body_bytes * jobs > FRAME_BYTES:
            jobs = int(FRAME_BYTES / self._body_bytes)
        return max(1, jobs)

    def next_look_s(self, left: int) -> float:
        """
        When to read again from a consumer that still has *left* jobs, seconds.

        Soon enough that its next frame arrives before it runs dry; 0 when it has nothing to do.
        """
        return min(LOOK_S, left * (self._run_s + OWN_S) / 4)

    def answered(self, run_s: float, body_bytes: int) -> None:
        """A job of that size took *run_s* seconds of the handler's time."""
        if self._answered < MOST_JOBS:
            self._answered += 1
        self._run_s += (max(0.0, run_s) - self._run_s) * _WEIGHT
        self._body_bytes += (body_bytes - self._body_bytes) * _WEIGHT
