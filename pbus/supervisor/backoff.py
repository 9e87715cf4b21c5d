"""
Between the lives of a child: how long its place stays empty, and when it is given up.

Rule: judged per role and topic, not per process, so four consumers that die of the same import
count as one crash loop. A life counts as *fast* when it ended before it was ready, or less than
QUICK_S later without having finished a job. No clock and no dice here: both are handed in.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pbus.config.schema import Backoff

QUICK_S: Final = 1.0
BOOT_TRIES: Final = 3
_JITTER: Final = 0.25
"""Share of a wait that is drawn at random, downwards, so that places of one role do not fall in step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """
    How one life of a child went.

    Attributes:
        ready_s: Seconds it was ready before it died; None: it never was.
        finished: Jobs or commands it finished.
        failed_boot: It said by itself why it cannot start.
        reason: How it ended, for people.
    """

    ready_s: float | None
    finished: int
    failed_boot: bool
    reason: str

    @property
    def fast(self) -> bool:
        """Whether it ended before it was of any use."""
        return self.ready_s is None or (self.ready_s < QUICK_S and self.finished == 0)


class History:
    """The deaths of one role and topic. One owner: the master."""

    def __init__(self, policy: Backoff) -> None:
        self._policy = policy
        self._fast: collections.deque[float] = collections.deque()
        self._boots_failed = 0
        self.in_a_row = 0
        """Fast ends since the last life that was of use."""
        self.last = ""
        """How the last life ended."""
        self.fatal = ""
        """Why it is given up; empty while it is not."""

    def died(self, life: Life, now: float, draw: float) -> float:
        """
        A child died unasked at *now*.

        Args:
            life: How it went.
            now: Monotonic seconds.
            draw: Uniform in [0, 1).

        Returns:
            When its place may be lived in again (monotonic seconds); ``fatal`` says when never.
        """
        self.last = life.reason
        if not life.fast:
            self.in_a_row = self._boots_failed = 0
            return now + self._policy.first_s
        self.in_a_row += 1
        self._boots_failed = self._boots_failed + 1 if life.failed_boot else 0
        self._fast.append(now)
        while self._fast[0] <= now - self._policy.window_s:
            self._fast.popleft()
        if self._boots_failed >= BOOT_TRIES:
            self.fatal = f"did not start {self._boots_failed} times: {life.reason}"
        elif len(self._fast) >= self._policy.fatal:
            self.fatal = f"ended {len(self._fast)} times within {self._policy.window_s:g} s: {life.reason}"
        return now + wait_s(self.in_a_row, self._policy) * (1.0 - _JITTER * draw)


def wait_s(in_a_row: int, policy: Backoff) -> float:
    """Seconds between the *in_a_row*-th fast end (from 1) and the next life, without jitter."""
    try:
        return min(policy.max_s, policy.first_s * policy.factor ** (in_a_row - 1))
    except OverflowError:
        return policy.max_s


def given_up(histories: Mapping[tuple[str, str], History]) -> frozenset[tuple[str, str]]:
    """Keys of the roles and topics that are not born any more."""
    return frozenset(key for key, history in histories.items() if history.fatal)
