"""
How long attempts took on the other nodes of a store: out of the statistics that each node writes once a minute.

    minute    |----- 0 -----|----- 1 -----|----- 2 ..
    written                  ^ 0, by each node for itself
    read here                   ^ WRITTEN_S later, once for all topics of a queue

Rule: what is known of others is that of their last whole minute, so it is a minute old at most when it is read, and
two when it is replaced. A node that is alone reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pbus.core.statistics import Bucket, summed
from pbus.storage.driver import Driver

WRITTEN_S: Final = 3.0
"""After a full minute; by then every node has written its own."""
_SPAN_S: Final = 60


class Elsewhere:
    """One owner: the readings of a store. *node*: ours, which is known better."""

    def __init__(self, driver: Driver, node: str) -> None:
        self._driver = driver
        self._node = node
        self._minute = 0
        self._known: dict[str, dict[str, Bucket]] = {}

    def run(self, queue: str, topic: str, wall_s: float) -> Mapping[int, int]:
        """Attempts of the last whole minute before *wall_s* (Unix time), by class. Raises StorageError."""
        minute = (int(wall_s - WRITTEN_S) // _SPAN_S - 1) * _SPAN_S
        if minute != self._minute:
            self._minute, self._known = minute, {}
        if queue not in self._known:
            self._known[queue] = self._read(queue)
        found = self._known[queue].get(topic)
        return found.run if found is not None else {}

    def _read(self, queue: str) -> dict[str, Bucket]:
        topics: dict[str, Bucket] = {}
        for row in self._driver.statistics(queue, None, self._minute, self._minute + _SPAN_S, _SPAN_S):
            if row.node not in ("", self._node):
                topics[row.topic] = summed(topics[row.topic], row) if row.topic in topics else row
        return topics
