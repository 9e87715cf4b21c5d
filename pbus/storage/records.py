"""
What a storage tells people: dead letters and their groups, where a job is on its way to each topic, what its log has.

Rule: shapes only; ``driver.Driver`` says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead delivery: when (unix ms), after how many attempts, why; ``fingerprint`` names the group of its error."""

    queue: str
    topic: str
    id: str
    at_ms: int
    attempts: int
    crashes: int
    reason: str
    error: str
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """
    Dead letters of a topic whose errors have one fingerprint.

    Attributes:
        count: Those that are there now.
        total: All that ever were.
        first_ms, last_ms: When the first and the newest one died, unix ms; the first stays when letters go.
        reason, error: Of the newest one, its whole text.
        sample: Id of the newest one.
    """

    queue: str
    topic: str
    fingerprint: str
    count: int
    total: int
    first_ms: int
    last_ms: int
    reason: str
    error: str
    sample: str


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where one delivery is: ``ready``, ``running``, ``delayed``, ``dead``, or ``ended`` (done, cancelled or expired:
    the store does not keep which). Times are unix ms, 0 where they do not apply. ``behind``: it is ready but for its
    key, which the job of that id holds; empty: it waits for nobody, or has not met the holder yet.
    """

    state: str
    attempts: int = 0
    crashes: int = 0
    redelivered: bool = False
    first_ms: int = 0
    due_ms: int = 0
    at_ms: int = 0
    owner: str = ""
    reason: str = ""
    error: str = ""
    fingerprint: str = ""
    behind: str = ""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job that the store still has, and where it is for each topic that gets it. ``expires_ms``: 0 without ttl."""

    id: str
    queue: str
    body: bytes
    traceparent: str
    content_type: str
    key: str
    expires_ms: int
    topics: Mapping[str, Place]
    replay_of: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A job as it is in its queue's log: what was pushed, not where it is."""

    id: str
    body: bytes
    traceparent: str = ""
    key: str = ""
