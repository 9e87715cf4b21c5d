"""
The brake: a topic that fails almost always (a poisoned deploy) is tried gently until it works again.

    free --failed_percent of the window--> braked --a probe succeeds--> recovering --1, 2, 4 .. full--> free
                                           |    ^                            |
                                           +----+ the next one waits 2x      +--a step fails--> braked

While it is braked one job at a time is tried, each time another one; while it recovers, a few. A failure in
that time uses up no attempt (``sparing``), and when the brake trips, the failures of its window that share the
most frequent group get theirs back: they are told by ``Tripped``.

Rule: pure. Time is passed in and monotonic, nobody is called. One brake a topic and delivery child.
"""

from __future__ import annotations

import collections
import enum
from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = 30
"""The window moves in steps of this part of it."""
FAILURES_KEPT: Final = 20_000
"""Of a window with more failures than this, the newest get their attempts back."""


class Result(enum.Enum):
    """What the end of one attempt says about the handler."""

    WORKED = "worked"
    FAILED = "failed"
    NOTHING = "nothing"     # it was not called, or was busy


class Mode(enum.Enum):
    """Where the brake is."""

    FREE = "free"
    BRAKED = "braked"
    RECOVERING = "recovering"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakePolicy:
    """
    When it trips and how it is let go.

    Attributes:
        failed_percent: Of the attempts that ended within the window.
        min_jobs: It judges no fewer jobs than this.
        window_s: Seconds.
        probe_first_s, probe_max_s: Wait before the first probe, and the longest one.
    """

    failed_percent: int = 90
    min_jobs: int = 50
    window_s: float = 30.0
    probe_first_s: float = 1.0
    probe_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Ended:
    """
    One attempt that is over.

    Attributes:
        id: Whose.
        result: What it says.
        group: Of a failure: the fingerprint of its error.
        error: Of a failure: its text, for people.
        forgivable: Of a failure: it used up an attempt that may be given back.
    """

    id: str
    result: Result
    group: str = ""
    error: str = ""
    forgivable: bool = False


@dataclass(frozen=True, slots=True)
class Tripped:
    """
    The brake has just tripped.

    Attributes:
        jobs, failed: What it judged: attempts that ended within the window, and those that failed.
        group, error: The most frequent group of errors, and a text of it.
        forgive: Id -> how many attempts it gets back.
    """

    jobs: int
    failed: int
    group: str
    error: str
    forgive: dict[str, int]


@dataclass(slots=True)
class _Bucket:
    """Attempts that ended within one part of the window."""

    number: int
    worked: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Window:
    """What ended within the last ``window_s``."""

    bucket_s: float
    buckets: collections.deque[_Bucket] = field(default_factory=collections.deque)
    failures: collections.deque[tuple[int, Ended]] = field(default_factory=collections.deque)
    jobs: collections.Counter[str] = field(default_factory=collections.Counter)
    worked: int = 0
    failed: int = 0

    def work(self, count: int, now_s: float) -> None:
        """So many attempts went well."""
        self._bucket(now_s).worked += count
        self.worked += count

    def fail(self, ended: Ended, now_s: float) -> None:
        """An attempt that did not."""
        bucket = self._bucket(now_s)
        bucket.failed += 1
        self.failed += 1
        self.failures.append((bucket.number, ended))
        self.jobs[ended.id] += 1
        if len(self.failures) > FAILURES_KEPT:
            self._drop_failure()

    def _bucket(self, now_s: float) -> _Bucket:
        """That of this moment; older ones that are out of the window are gone."""
        number = int(now_s / self.bucket_s)
        if self.buckets and self.buckets[-1].number == number:
            return self.buckets[-1]
        self._forget(number - BUCKETS)
        self.buckets.append(_Bucket(number))
        return self.buckets[-1]

    def _forget(self, number: int) -> None:
        """Everything up to that bucket is too old."""
        while self.buckets and self.buckets[0].number <= number:
            old = self.buckets.popleft()
            self.worked -= old.worked
            self.failed -= old.failed
        while self.failures and self.failures[0][0] <= number:
            self._drop_failure()

    def _drop_failure(self) -> None:
        _, ended = self.failures.popleft()
        self.jobs[ended.id] -= 1
        if not self.jobs[ended.id]:
            del self.jobs[ended.id]


class Brake:
    """
    See above. One owner: the thread of its delivery child.

    Attributes:
        mode: Where it is.
        reason: Why it is not free, one sentence.
    """

    def __init__(self, policy: BrakePolicy) -> None:
        self._policy = policy
        self._window = _Window(policy.window_s / BUCKETS)
        self._full = 1
        self._wait_s = 0.0
        self._probe_at_s = 0.0
        self._limit = 0
        self._step_worked = self._step_failed = 0
        self._step_s = 0.0
        self._out: set[str] = set()  # claimed since it tripped, and not ended
        self._why = ""
        self.mode = Mode.FREE

    @property
    def reason(self) -> str:
        """Why it is not free; empty while it is."""
        if self.mode is Mode.FREE:
            return ""
        if self.mode is Mode.RECOVERING:
            return f"works again, {self._limit} at once for now; {self._why}"
        return f"{self._why}; one job is tried after {self._wait_s:g} s"

    @property
    def sparing(self) -> bool:
        """A failure uses up no attempt now."""
        return self.mode is not Mode.FREE

    @property
    def spared_s(self) -> float:
        """So long a spared failure waits at least, so that the next probe finds another job."""
        return 2 * self._policy.probe_max_s

    def room(self, now_s: float, full: int) -> int | None:
        """
        How many more deliveries may be claimed; None: the brake has no say.

        Args:
            now_s: Monotonic seconds.
            full: How many can be worked on at once: where its recovery ends.
        """
        self._full = max(1, full)
        if self.mode is Mode.FREE:
            return None
        if self.mode is Mode.BRAKED:
            return 0 if self._out or now_s < self._probe_at_s else 1
        if not self._out and now_s >= self._step_s + self._policy.window_s:
            self._release()  # nothing was left to run, and nothing speaks against it
            return None
        return max(0, self._limit - len(self._out))

    def due_s(self) -> float | None:
        """When a probe may be claimed (monotonic seconds); None: no time is waited for."""
        return self._probe_at_s if self.mode is Mode.BRAKED and not self._out else None

    def claimed(self, job_id: str) -> None:
        """A delivery was claimed in the room that was given."""
        if self.mode is not Mode.FREE:
            self._out.add(job_id)

    def worked(self, count: int, now_s: float) -> None:
        """So many attempts went well while the brake was free: ``ended`` without its cost, for nearly every job."""
        self._window.work(count, now_s)

    def ended(self, ended: Ended, now_s: float) -> Tripped | None:
        """
        An attempt is over.

        Attempts that began before it tripped say nothing while it is braked: the handler may have changed since.

        Returns:
            What tripped it, if this one did.
        """
        if self.mode is Mode.FREE:
            return self._count(ended, now_s)
        if ended.id in self._out:
            self._out.discard(ended.id)
            if self.mode is Mode.BRAKED:
                self._probed(ended, now_s)
            else:
                self._stepped(ended, now_s)
        return None

    # -- free -----------------------------------------------------------------------------------------

    def _count(self, ended: Ended, now_s: float) -> Tripped | None:
        window = self._window
        if ended.result is Result.WORKED:
            window.work(1, now_s)
        if ended.result is not Result.FAILED:
            return None
        window.fail(ended, now_s)
        if window.worked + len(window.jobs) < self._policy.min_jobs:
            return None
        if window.failed * 100 < self._policy.failed_percent * (window.worked + window.failed):
            return None
        return self._trip(now_s)

    def _trip(self, now_s: float) -> Tripped:
        window, self._window = self._window, _Window(self._policy.window_s / BUCKETS)
        groups = collections.Counter(ended.group for _, ended in window.failures)
        group = groups.most_common(1)[0][0]
        alike = [ended for _, ended in window.failures if ended.group == group]
        forgive = collections.Counter(ended.id for ended in alike if ended.forgivable)
        jobs = window.worked + window.failed
        self._why = f"{window.failed} of {jobs} attempts failed within {self._policy.window_s:g} s"
        self._brake(now_s)
        return Tripped(jobs, window.failed, group, alike[-1].error, dict(forgive))

    # -- braked ---------------------------------------------------------------------------------------

    def _brake(self, now_s: float) -> None:
        self.mode = Mode.BRAKED
        self._out.clear()
        self._rest(self._policy.probe_first_s, now_s)

    def _rest(self, wait_s: float, now_s: float) -> None:
        self._wait_s = min(wait_s, self._policy.probe_max_s)
        self._probe_at_s = now_s + self._wait_s

    def _probed(self, ended: Ended, now_s: float) -> None:
        if ended.result is Result.WORKED:
            self.mode = Mode.RECOVERING
            self._step(1, now_s)
        else:
            self._rest(self._wait_s * 2 if ended.result is Result.FAILED else self._wait_s, now_s)

    # -- recovering -----------------------------------------------------------------------------------

    def _stepped(self, ended: Ended, now_s: float) -> None:
        """A step is as many jobs as may run at once in it; then it is judged."""
        self._step_worked += ended.result is Result.WORKED
        self._step_failed += ended.result is Result.FAILED
        jobs = self._step_worked + self._step_failed
        if jobs < self._limit:
            return
        if self._step_failed * 100 >= self._policy.failed_percent * jobs:
            self._brake(now_s)
            return
        self._step(self._limit * 2, now_s)
        if self._limit > self._full:
            self._release()

    def _step(self, limit: int, now_s: float) -> None:
        self._limit, self._step_s = limit, now_s
        self._step_worked = self._step_failed = 0

    def _release(self) -> None:
        self.mode = Mode.FREE
        self._out.clear()
