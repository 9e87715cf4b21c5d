"""
Errors that are back: all dead letters of a group had been settled, and now there are new ones.

Rule: a topic is asked for its groups only when its dead letters have changed, at most each LOOKS looks. What was
settled before this process looked for the first time is not known as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pbus.config.schema import Queue
from pbus.core.alarms import Reading
from pbus.storage.driver import Driver, TopicNumbers

LOOKS: Final = 3
_TEXT: Final = 200

Path = tuple[str, str]
"""(queue, topic)."""


class Returned:
    """One owner: the readings of a store."""

    def __init__(self, driver: Driver, queues: Mapping[str, Queue], look_s: float = 1.0) -> None:
        """*look_s*: so often is looked for alarms."""
        self._driver = driver
        self._queues = queues
        self._every_s = LOOKS * look_s
        self._looked_s = -self._every_s
        self._numbers: dict[Path, tuple[int, int]] = {}
        self._groups: dict[Path, dict[str, tuple[int, str]]] = {}
        """By fingerprint: how many ever were, what the newest one says."""
        self._back: set[str] = set()
        """``queue/topic fingerprint``."""

    def goes_on(self, subjects: Iterable[str]) -> None:
        """These were back when somebody looked last."""
        self._back.update(subjects)

    def look(self, known: Mapping[Path, TopicNumbers], now_s: float) -> list[Reading]:
        """One reading for each error that is back and has dead letters. Raises StorageError."""
        if now_s - self._looked_s >= self._every_s:
            self._looked_s = now_s
            for path, numbers in known.items():
                if self._tells(path) and self._numbers.get(path) != (numbers.dead, numbers.dead_total):
                    self._look_at(path, numbers)
        return [
            Reading(kind="error_back", subject=subject, value=1.0, system=self._queues[queue].system)
            for subject in sorted(self._back) if (queue := subject.partition("/")[0]) in self._queues
        ]

    def _tells(self, path: Path) -> bool:
        """It is of the configuration, and not a shadow."""
        queue = self._queues.get(path[0])
        topic = queue.topic.get(path[1]) if queue is not None else None
        return queue is not None and (topic is None or not topic.shadow_of)

    def sample(self, subject: str) -> str:
        """What such a dead letter says."""
        path, _, fingerprint = subject.partition(" ")
        queue, _, topic = path.partition("/")
        return self._groups.get((queue, topic), {}).get(fingerprint, (0, ""))[1]

    def _look_at(self, path: Path, numbers: TopicNumbers) -> None:
        groups = self._driver.dead_groups(*path) if numbers.dead else []
        before, name = self._groups.get(path), "/".join(path)
        self._groups[path] = {
            group.fingerprint: (group.total, (group.error or group.reason)[:_TEXT]) for group in groups
        }
        self._numbers[path] = numbers.dead, numbers.dead_total
        for group in groups:
            if before is None or not group.fingerprint:
                continue
            was = before.get(group.fingerprint)
            died = group.total - was[0] if was else group.count         # since the last look
            if group.count <= died < group.total:                       # so those before it are all settled
                self._back.add(f"{name} {group.fingerprint}")
        self._back -= {
            each for each in self._back
            if each.partition(" ")[0] == name and each.partition(" ")[2] not in self._groups[path]
        }
