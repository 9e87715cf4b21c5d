"""
Between the lives of a child: how long its place stays empty, and when it is given up.

Rule: judged per role and topic, not per process, so four consumers that die of the same import
count as one crash loop. A life is *short* when it ended before it was ready or less than QUICK_S
later: the wait grows. So is one that gave up by itself within SLOW_S with nothing done. A short life
that finished no job was *useless*: too many of them, and the place is given up. A life that a job
ended is neither: the job is to blame, it is bounded by ``crash_limit``, and several such jobs in a
row must not stop a topic. No clock and no dice here: both are handed in.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbus.config.schema import Backoff

QUICK_S: Final = 1.0
SLOW_S: Final = 60.0
"""Who waits half a minute for its database, and then gives up, was of as little use as who did so at once."""
BOOT_TRIES: Final = 3
IN_JOB_S: Final = 1.0
"""A place whose child died of its job stays empty for no longer than this."""
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
        killed: Somebody else sent it KILL (an operator, the kernel for want of memory).
        in_job: It had begun a job, and had not finished it.
        gave_up: It said by itself why it cannot go on.
        reason: How it ended, for people.
    """

    ready_s: float | None
    finished: int
    failed_boot: bool
    killed: bool = False
    in_job: bool = False
    gave_up: bool = False
    reason: str

    @property
    def short(self) -> bool:
        """Whether the next one has to wait longer; who worked and was killed from outside is not to blame."""
        if self.ready_s is None:
            return True
        if self.gave_up and not self.finished and not self.in_job:
            return self.ready_s < SLOW_S
        return self.ready_s < QUICK_S and not (self.killed and self.finished)

    @property
    def useless(self) -> bool:
        """Whether it ended before it was of any use."""
        return self.ready_s is None or (self.short and self.finished == 0 and not self.in_job)


class History:
    """The deaths of one role and topic. One owner: the master."""

    def __init__(self, policy: Backoff, carried: Mapping[str, Any] | None = None) -> None:
        """A new one, or one that was ``carried`` through an upgrade."""
        known = carried or {}
        self._policy = policy
        self._useless: collections.deque[float] = collections.deque(known.get("useless", ()))
        self._boots_failed = int(known.get("boots_failed", 0))
        self.in_a_row = int(known.get("in_a_row", 0))
        """Short lives since the last one that was not."""
        self.last = str(known.get("last", ""))
        """How the last life ended."""
        self.fatal = str(known.get("fatal", ""))
        """Why it is given up; empty while it is not."""

    @property
    def carried(self) -> dict[str, Any]:
        """All of it, in numbers and texts."""
        return {
            "useless": list(self._useless), "boots_failed": self._boots_failed, "in_a_row": self.in_a_row,
            "last": self.last, "fatal": self.fatal,
        }

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
        longest_s = IN_JOB_S if life.in_job else self._policy.max_s
        if not life.short:
            self.in_a_row = self._boots_failed = 0
            return now + min(self._policy.first_s, longest_s)
        self.in_a_row += 1
        self._boots_failed = self._boots_failed + 1 if life.failed_boot else 0
        if life.useless:
            self._judge(life, now)
        return now + min(wait_s(self.in_a_row, self._policy), longest_s) * (1.0 - _JITTER * draw)

    def _judge(self, life: Life, now: float) -> None:
        """One more life that was of no use: is it time to give up?"""
        self._useless.append(now)
        while self._useless[0] <= now - self._policy.window_s:
            self._useless.popleft()
        if self._boots_failed >= BOOT_TRIES:
            self.fatal = f"did not start {self._boots_failed} times: {life.reason}"
        elif len(self._useless) >= self._policy.fatal:
            self.fatal = f"ended {len(self._useless)} times within {self._policy.window_s:g} s: {life.reason}"


def wait_s(in_a_row: int, policy: Backoff) -> float:
    """Seconds between the end of the *in_a_row*-th short life (from 1) and the next one, without jitter."""
    try:
        return min(policy.max_s, policy.first_s * policy.factor ** (in_a_row - 1))
    except OverflowError:
        return policy.max_s


def given_up(histories: Mapping[tuple[str, str], History]) -> frozenset[tuple[str, str]]:
    """Keys of the roles and topics that are not born any more."""
    return frozenset(key for key, history in histories.items() if history.fatal)
