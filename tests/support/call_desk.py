"""
Calls without a bus: a desk that keeps every outcome, deliveries made by hand, waiting under gevent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

from pbus.clock import Clock, SystemClock
from pbus.config import schema
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome
from pbus.delivery.backends import Backends
from pbus.delivery.call_lane import CallLane, make_call_lane
from pbus.delivery.rests import Rests

OWNER = "node/boot/1.1"


def delivery(number: int = 1, body: bytes = b"{}", **fields: Any) -> Delivery:
    """A claimed delivery of ``gift/credit``."""
    values: dict[str, Any] = {
        "id": f"1800000000000-{number}", "queue": "gift", "topic": "credit", "body": body, "attempt": 1, "crashes": 0,
        "redelivered": False, "traceparent": "", "content_type": "", "first_ms": 0, "owner": OWNER,
    }
    return Delivery(**(values | fields))


class JobClock(SystemClock):
    """
    The machine's clock, and each outcome moves it by *job_s* more.

    So what may last for some time lasts for at most ``time / job_s`` jobs, however fast the machine is.
    """

    def __init__(self, job_s: float) -> None:
        self._job_s = job_s
        self._moved_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self._moved_s

    def job_done(self) -> None:
        """An outcome came."""
        self._moved_s += self._job_s


class CallDesk:
    """
    Stands in for the desk and, with ``pump``, for the claimer.

    Args:
        clock: A JobClock is moved by each outcome.

    Attributes:
        outcomes: (job id, outcome) in order.
        wakes: How often a lane asked to be looked at.
    """

    def __init__(self, clock: Clock) -> None:
        self.outcomes: list[tuple[str, Outcome]] = []
        self.wakes = 0
        self._clock = clock

    def finish(self, delivery: Delivery, outcome: Outcome) -> None:
        """See ``lane.Desk.finish``."""
        self.outcomes.append((delivery.id, outcome))
        if isinstance(self._clock, JobClock):
            self._clock.job_done()

    def wake(self) -> None:
        """See ``lane.Desk.wake``."""
        self.wakes += 1

    @property
    def verdicts(self) -> list[str]:
        """Of all outcomes, in order."""
        return [outcome.verdict.value for _, outcome in self.outcomes]


def eventually(condition: Callable[[], Any], timeout_s: float, what: str | Callable[[], str]) -> Any:
    """``waiting.until`` for a test whose code runs in greenlets of this thread: they go on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() >= deadline
        answer = condition()
        if answer:
            return answer
        if late:
            raise AssertionError(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        gevent.sleep(0.001)


def pump(lane: CallLane, desk: CallDesk, jobs: list[Delivery], timeout_s: float = 10.0) -> None:
    """Give *jobs* to the lane as it wants them, until each has an outcome."""
    waiting = list(jobs)
    wanted = len(desk.outcomes) + len(jobs)

    def turn() -> bool:
        for want in lane.wants():
            taken, waiting[: want.count] = waiting[: want.count], []
            if taken:
                lane.accept(taken)
        return len(desk.outcomes) >= wanted

    eventually(turn, timeout_s, lambda: f"{wanted} outcomes: {desk.verdicts}, {lane.state} {lane.reason}")


class Calls:
    """
    One call lane on its own backends, with a desk that keeps outcomes. Use it as a context.

    Args:
        handler: ``schema.FastcgiHandler`` or ``schema.HttpHandler``.
        backend: Settings of the backend (its addresses decide; ``handler`` names it ``b``).
        slots: Calls at once.
        queue, topic: Whose lane.
        backends: Share somebody else's pools.
        rests: How long it rests.
        clock: Instead of the machine's: a still one keeps connections for ever, a ``JobClock`` for some jobs at most.
        system: Business system of the queue.
        topic_settings: Further keys of the topic (``timeout_s``, ``retry``).
    """

    def __init__(
        self, handler: schema.FastcgiHandler | schema.HttpHandler, *, backend: schema.Backend | None = None,
        slots: int = 1, queue: str = "gift", topic: str = "credit", backends: Backends | None = None,
        rests: Rests | None = None, clock: Clock | None = None, system: str = "", **topic_settings: Any,
    ) -> None:
        clock = clock or SystemClock()
        key = "http" if isinstance(handler, schema.HttpHandler) else "fastcgi"
        settings: dict[str, Any] = {
            key: handler, "concurrency": schema.Concurrency(min=slots, max=slots), "timeout_s": 10.0
        }
        self._own = backends is None
        self.backends = backends or Backends({"b": backend} if backend else {}, processes=1, index=0, clock=clock)
        self.desk = CallDesk(clock)
        self.lane = make_call_lane(
            queue, topic, schema.Topic(**(settings | topic_settings)), concurrency=slots, backends=self.backends,
            desk=self.desk, owner=OWNER, clock=clock, rests=rests, system=system,
        )

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.lane.kill()
        if self._own:
            self.backends.close()
        gevent.sleep(0)

    def run(self, *jobs: Delivery, timeout_s: float = 10.0) -> list[Outcome]:
        """Outcomes of *jobs* in the order they came."""
        before = len(self.desk.outcomes)
        pump(self.lane, self.desk, list(jobs), timeout_s)
        return [outcome for _, outcome in self.desk.outcomes[before:]]

    def run_one(self, job: Delivery | None = None) -> Outcome:
        """The outcome of one job."""
        return self.run(job or delivery())[0]
