"""
Numbers of topics on their way from the store to who asked: the master has no store, a child has.

Rule: every question is read from the store anew. When the child does not answer, what was known
last is given, with the reason; the master never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pbus.clock import Clock
from pbus.supervisor.handle import Handle

HEARS: Final = "numbers"
_ANSWER_S: Final = 3.0

Topics = Mapping[tuple[str, str], Mapping[str, Any]]
Then = Callable[["Numbers"], None]


@dataclass(frozen=True, slots=True)
class Numbers:
    """
    What is known.

    Attributes:
        topics: (queue, topic) -> ready, running, delayed, dead, oldest_wait_s, done_total, failed_total;
            those that were never read are missing.
        problem: Why they are not of this moment; empty when they are.
        alarms: ``rows`` and ``total`` of what fires (``scheduler.standing``).
    """

    topics: Topics = field(default_factory=dict)
    problem: str = ""
    alarms: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Question:
    child: int
    then: Then
    answer_by: float


class NumberDesk:
    """Open questions, and the last answer. One owner: the master."""

    def __init__(self, answerers: Callable[[], Iterable[Handle]], clock: Clock) -> None:
        """*answerers* gives the children that can ask the store now."""
        self._answerers = answerers
        self._clock = clock
        self._open: dict[int, _Question] = {}
        self._id = 0
        self._known: Topics = {}
        self._alarms: Mapping[str, Any] = {}
        self._known_at: float | None = None

    def ask(self, then: Then) -> None:
        """Have *then* called with the numbers: soon, or with the last known ones."""
        for child in self._answerers():
            self._id += 1
            self._open[self._id] = _Question(child.n, then, self._clock.monotonic_s() + _ANSWER_S)
            child.tell(HEARS, id=self._id)
            return
        then(self._stale("the scheduler is not running"))

    def heard(self, frame: dict[str, Any]) -> None:
        """A child answers: ``{id, topics: [{queue, topic, ..}], problem, alarms}``."""
        problem = frame.get("problem", "")
        topics = {(row["queue"], row["topic"]): row for row in frame.get("topics", ())}
        self._known = {**self._known, **topics} if problem else topics  # another store may not have been read
        self._alarms = frame.get("alarms", {})
        if not problem:
            self._known_at = self._clock.monotonic_s()
        question = self._open.pop(frame["id"], None)
        if question is not None:
            question.then(Numbers(self._known, problem, self._alarms))

    def settle(self) -> None:
        """Answer those whose child is gone or silent; a duty of every turn."""
        if not self._open:
            return
        alive = {child.n: child for child in self._answerers()}
        now = self._clock.monotonic_s()
        for number, question in list(self._open.items()):
            if question.child not in alive and alive and now < question.answer_by:
                other = next(iter(alive.values()))  # who was asked has been replaced
                self._open[number] = replace(question, child=other.n)
                other.tell(HEARS, id=number)
            elif question.child not in alive or now >= question.answer_by:
                del self._open[number]
                question.then(self._stale("the scheduler does not answer"))

    @property
    def next_s(self) -> float:
        """When ``settle`` has something to do by itself."""
        return min((question.answer_by for question in self._open.values()), default=float("inf"))

    def _stale(self, why: str) -> Numbers:
        if self._known_at is None:
            return Numbers({}, f"numbers of topics are not known yet: {why}", self._alarms)
        age_s = self._clock.monotonic_s() - self._known_at
        return Numbers(self._known, f"numbers of topics are {age_s:.0f} s old: {why}", self._alarms)
