"""
Who waits for jobs: in the order they came, by topic, and by when their time is over.

Rule: a job for one of thousands who wait costs as much as for one of a few, so nothing here looks at all of them
but a look at everything (a store that is back).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Final

from pbus.ingest.access import TopicEntry
from pbus.ingest.pops import Pop

Path = tuple[str, str]
"""Queue and topic."""
_STALE: Final = 1_000
"""Ends of pops that were answered before theirs came; beyond so many they are thrown out."""


class Waiting:
    """Pops that are not over. One owner: the puller."""

    def __init__(self) -> None:
        self._pops: dict[Pop, int] = {}               # with their number, in the order they came
        self._lines: dict[str, dict[Path, dict[Pop, int]]] = {}  # by queue and topic; which of its topics that is
        self._ends: list[tuple[float, int, Pop]] = []  # a heap; an entry counts while it says what its pop says
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._pops)

    def __iter__(self) -> Iterator[Pop]:
        return iter(list(self._pops))

    def add(self, pop: Pop) -> None:
        """It waits from now on, behind everybody else."""
        self._pops[pop] = next(self._numbers)
        for place, topic in enumerate(pop.topics):
            lines = self._lines.setdefault(topic.queue, {})
            lines.setdefault(_path(topic), {}).setdefault(pop, place)
        self._note_end(pop)

    def remove(self, pop: Pop) -> None:
        """It is over."""
        if self._pops.pop(pop, None) is None:
            return
        for topic in pop.topics:
            lines = self._lines.get(topic.queue, {})
            line = lines.get(_path(topic), {})
            line.pop(pop, None)
            if not line:
                lines.pop(_path(topic), None)
            if not lines:
                self._lines.pop(topic.queue, None)

    def place_of(self, pop: Pop) -> int:
        """Who waits longer has the lower number; -1: it does not wait."""
        return self._pops.get(pop, -1)

    def end(self, pop: Pop, deadline_s: float) -> None:
        """Its time is over then."""
        pop.deadline_s = deadline_s
        self._note_end(pop)

    def next_end_s(self) -> float | None:
        """When the next one's time is over, monotonic; None: nobody's ever is."""
        while self._ends and not self._counts(self._ends[0]):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def ended(self, now_s: float) -> list[Pop]:
        """Those whose time is over."""
        found = []
        while (end_s := self.next_end_s()) is not None and end_s <= now_s:
            found.append(heapq.heappop(self._ends)[2])
        return found

    def heads(self, queue: str, enough: int) -> Iterator[Pop]:
        """Of each topic of *queue* those who have waited longest, until they have room for *enough* jobs."""
        for line in self._lines.get(queue, {}).values():
            room = 0
            for pop, place in line.items():
                yield pop
                room += pop.room(place)
                if room >= enough:
                    break

    def in_order(self, pops: Iterable[Pop]) -> list[Pop]:
        """Those of *pops* who wait, longest first."""
        return sorted({pop for pop in pops if pop in self._pops}, key=self._pops.__getitem__)

    def is_waited_for(self, path: Path) -> bool:
        """Whether somebody waits for jobs of a topic."""
        return path in self._lines.get(path[0], {})

    def _note_end(self, pop: Pop) -> None:
        if pop.deadline_s is None or pop.deadline_s == math.inf:
            return
        heapq.heappush(self._ends, (pop.deadline_s, self._pops[pop], pop))
        if len(self._ends) > 2 * len(self._pops) + _STALE:
            self._ends = [entry for entry in self._ends if self._counts(entry)]
            heapq.heapify(self._ends)

    def _counts(self, entry: tuple[float, int, Pop]) -> bool:
        return self._pops.get(entry[2]) == entry[1] and entry[2].deadline_s == entry[0]


def _path(topic: TopicEntry) -> Path:
    return topic.queue, topic.name
