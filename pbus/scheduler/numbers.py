"""
Answers the master's question for the numbers of topics: from the store at the call, or the last known.

Rule: an answer is sent within ``ANSWER_S`` whatever the store does. A store that hangs is waited for
by its own greenlet, never by the answer.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.errors import StorageError
from pbus.scheduler.roster import Store
from pbus.storage.driver import TopicNumbers
from pbus.storage.pauses import pausers

ANSWER_S: Final = 1.5


class Source:
    """
    The numbers of one storage. ``refresh`` runs in a greenlet of its own; who asks waits with a limit.

    Asking is a count: a look that began after you asked is yours, however many asked at once.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self.name = store.name
        self._store = store
        self._clock = clock
        self._changed = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._over = False
        self._known: Mapping[tuple[str, str], TopicNumbers] = {}
        self._pausers: Mapping[tuple[str, str], str] = {}
        self._read_at: float | None = None
        self._problem = "not read"

    def ask(self) -> int:
        """A fresh look is wanted; its number, for ``wait``."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def wait(self, number: int, timeout_s: float) -> bool:
        """Whether the look *number* was made within *timeout_s*."""
        with self._changed:
            return self._changed.wait_for(lambda: self._answered >= number, timeout_s)

    def serve(self) -> None:
        """Look whenever somebody asks, until ``end``."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._asked > self._answered)
                if self._over:
                    return
                number = self._asked
            self.refresh()
            with self._changed:
                self._answered = number
                self._changed.notify_all()

    def end(self) -> None:
        """``serve`` returns."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def refresh(self) -> None:
        """One look at the store; when it fails the last known numbers stay, with a problem."""
        try:
            with self._store.lock:
                if not self._store.ready:
                    self._problem = f"storage {self.name} is away"
                    return
                self._known = self._store.driver.numbers()
                paused_ms = {path: each.paused_ms for path, each in self._known.items() if each.paused_ms}
                self._pausers = pausers(self._store.driver, paused_ms)
        except StorageError as error:
            self._problem = f"storage {self.name}: {error}"
            return
        except Exception as error:  # noqa: BLE001 a driver's bug must not end the answers: it is said in them
            self._problem = f"storage {self.name}: {type(error).__name__}: {error}"
            return
        self._read_at, self._problem = self._clock.monotonic_s(), ""

    def topics(self) -> list[dict[str, Any]]:
        """The last known numbers, a map a topic."""
        return [
            {
                "queue": queue, "topic": topic, **dataclasses.asdict(numbers),
                "paused_by": self._pausers.get((queue, topic), ""),
            }
            for (queue, topic), numbers in self._known.items()
        ]

    def problem(self, fresh: bool) -> str:
        """Why the numbers are not of this moment; empty when they are."""
        problem = self._problem or ("" if fresh else f"storage {self.name} does not answer")
        if not problem:
            return ""
        if self._read_at is None:
            return f"numbers of topics are not known yet: {problem}"
        return f"numbers of topics are {self._clock.monotonic_s() - self._read_at:.0f} s old: {problem}"


def answer(sources: Sequence[Source], clock: Clock, timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """The fields of the ``numbers`` frame: ``topics``, and a ``problem`` when they are not of this moment."""
    asked = [(source, source.ask()) for source in sources]
    deadline = clock.monotonic_s() + timeout_s
    problems = [
        source.problem(source.wait(number, max(0.0, deadline - clock.monotonic_s()))) for source, number in asked
    ]
    return {
        "topics": [topic for source in sources for topic in source.topics()],
        "problem": "; ".join(problem for problem in problems if problem),
    }
