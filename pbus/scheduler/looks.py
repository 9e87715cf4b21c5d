"""
Looks at the numbers of topics for the autoscaler: one call a storage and second, at the full second.

Every ALL_S all topics are looked at; between, those of queues where something waits, runs or ended lately: a topic
at rest wakes up when a delivery child says that it has something in hand. What was seen is kept for charts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from pbus.clock import Clock
from pbus.scheduler.roster import Store
from pbus.scheduler.sampler import Sampler
from pbus.storage.driver import QueueNumbers, TopicNumbers

ALL_S: Final = 5.0

Numbers = Mapping[tuple[str, str], TopicNumbers]


class Looks:
    """The duty. *nodes* answers how many living nodes use the storage."""

    name = "looks"

    def __init__(self, store: Store, sampler: Sampler, clock: Clock, nodes: Callable[[], int]) -> None:
        self._store = store
        self._sampler = sampler
        self._clock = clock
        self._nodes = nodes
        self._all_at_s = -math.inf
        self.every_s = ALL_S
        """Between two looks at everything; who has to know sooner makes it less."""
        self.latest: Numbers | None = None
        """Of all topics, at most ALL_S old; None: not looked yet since the store is back."""
        self._queues = frozenset(spec.name for spec in store.queues)
        self.known: dict[tuple[str, str], TopicNumbers] = {}
        """As each topic was when it was looked at last, for charts: what is away stays as it was."""
        self.queues: Mapping[str, QueueNumbers] = {}
        self.took_s = 0.0
        """The last look."""
        self._all_read_s: float | None = None

    def turn(self) -> float:
        now_s = self._clock.monotonic_s()
        every = now_s >= self._all_at_s
        queues = self._queues if every else self._queues & {path.partition("/")[0] for path in self._sampler.awake()}
        if every:
            self._all_at_s = now_s + self.every_s - self._step_s / 2
        if queues:
            numbers = self._store.driver.numbers(None if every else sorted(queues))
            self.took_s = self._clock.monotonic_s() - now_s
            self._know(numbers, every)
            self.latest = numbers if every else self.latest
            self._sampler.looked(numbers, self._clock.monotonic_s(), self._nodes())
        return self._step_s - self._clock.monotonic_s() % self._step_s

    @property
    def _step_s(self) -> float:
        return min(1.0, self.every_s)

    def _know(self, numbers: Numbers, every: bool) -> None:
        if every:
            self.known = dict(numbers)
            self.queues = self._store.driver.queue_numbers()
            self._all_read_s = self._clock.monotonic_s()
        else:
            self.known.update(numbers)

    @property
    def age_s(self) -> float:
        """How old the oldest of what is known may be; infinite: nothing is known."""
        return math.inf if self._all_read_s is None else self._clock.monotonic_s() - self._all_read_s

    def interrupted(self) -> None:
        """The next look is one at everything."""
        self._all_at_s, self.latest = -math.inf, None
