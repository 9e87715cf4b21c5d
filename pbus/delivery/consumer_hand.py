"""
What a lane knows of one of its consumers, and how frames and ends of attempts are put.

    hand: id -> delivery, unanswered, in the order they are worked on

Rule: facts and their forms; what follows from them is decided in consumer_lane.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pbus.codec.frames import encode
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.pace import Pace

FRAME_BYTES: Final = 1024 * 1024
ERROR_BYTES: Final = 2000
"""An error text is cut at its end; where a job was stuck stands there."""
PLACE_CHARS: Final = 200

VERDICTS: Final = {
    "done": Verdict.DONE, "failed": Verdict.FAILED, "retry": Verdict.RETRY_ASKED, "permanent": Verdict.PERMANENT,
    "busy": Verdict.BUSY, "crashed": Verdict.CRASHED, "timeout": Verdict.TIMEOUT,
}
"""What a consumer may say of an attempt; the last two are for one that runs a program and outlives it."""


class Connection(Protocol):
    """What of consumer_link.Link is used here."""

    def send(self, data: bytes) -> None:
        """Queue *data*. Never blocks."""

    def finish(self) -> None:
        """End it when everything that was queued has been sent. Idempotent."""

    def close(self) -> None:
        """End it. Idempotent."""


@dataclass(frozen=True, slots=True)
class Life:
    """
    What is known of a consumer process from outside.

    Attributes:
        alive: It may still run user code.
        current: Id of the job it has begun, empty for none; None: nobody knows any more.
        current_s: For how long, seconds.
        exit_status: Its status, or minus the signal that ended it; None: not known (yet).
    """

    alive: bool
    current: str | None
    current_s: float = 0.0
    exit_status: int | None = None


@dataclass(slots=True)
class Consumer:
    """One consumer process of the lane."""

    owner: str
    pid: int
    link: Connection | None
    since_s: float
    hand: dict[str, Delivery] = field(default_factory=dict)  # unanswered, in the order they are worked on
    pace: Pace = field(default_factory=Pace)
    leaving: bool = False       # it takes nothing more
    overdue: str = ""           # the job that exceeded the timeout; the master was asked to kill
    asked_s: float = 0.0        # when
    place: str = ""             # in which line of the user's it was then
    stack: str = ""             # and how it came there
    fed_s: float = 0.0          # when it got its last frame
    recalled_s: float = 0.0     # when what waits was called back
    suspect: str = ""           # the job that looked overdue at the last tick
    dead_since_s: float = 0.0   # the process is gone; its status is waited for
    detached_s: float = 0.0     # when its connection ended
    severed: bool = False       # it lived on without one: results may have been lost on the way
    unwritten: set[str] = field(default_factory=set)  # ids of results that must be written before it gets more


def overdue_outcome(consumer: Consumer, timeout_s: float) -> Outcome:
    """The process was killed because of its job; the innermost lines of where it was are kept in any case."""
    text = f"no answer within {timeout_s:g} s, its consumer was killed"
    text += f" in {consumer.place[:PLACE_CHARS]}" if consumer.place else ""
    where, room = consumer.stack.encode("utf-8", "replace"), ERROR_BYTES - len(text.encode("utf-8", "replace"))
    if where:
        text += "\n" + (where if len(where) <= room else b"..." + where[-room:]).decode("utf-8", "ignore")
    return Outcome(
        verdict=Verdict.TIMEOUT, error=text, run_s=timeout_s, target=f"pid {consumer.pid}",
        stderr=where if len(where) > room else b"",
    )


def outcome_of(result: dict[str, Any], pid: int) -> Outcome:
    """What a ``result`` frame says."""
    return Outcome(
        verdict=VERDICTS.get(result["verdict"], Verdict.FAILED), error=result["error"], delay_s=result["delay"],
        run_s=result["run_s"], target=f"pid {pid}",
    )


def frames_of(deliveries: Sequence[Delivery]) -> Iterable[bytes]:
    """``jobs`` frames, each of about FRAME_BYTES at most."""
    jobs: list[list[Any]] = []
    size = 0
    for delivery in deliveries:
        if jobs and size + len(delivery.body) > FRAME_BYTES:
            yield encode("jobs", jobs=jobs)
            jobs, size = [], 0
        size += len(delivery.body)
        jobs.append([
            delivery.id, delivery.attempt, delivery.redelivered, delivery.body, delivery.span or delivery.traceparent,
            delivery.content_type, delivery.crashes, delivery.first_ms, delivery.forgiven,
        ])
        if delivery.replay_of:
            jobs[-1].append(delivery.replay_of)
    if jobs:
        yield encode("jobs", jobs=jobs)


def signal_name(exit_status: int | None) -> str:
    """The signal that ended a process, for people."""
    if exit_status is None:
        return "an unknown cause"
    try:
        return signal.Signals(-exit_status).name
    except ValueError:
        return f"signal {-exit_status}"
