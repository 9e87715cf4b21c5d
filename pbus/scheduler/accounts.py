"""
What ends without a handler having said so is told: expired, cancelled, forgotten, and what nobody knows.

    numbers() --compare with the last look--> jobs.expired, jobs.cancelled, jobs.forgotten (a line a topic)
    dead_groups() of topics that hold -------> a problem while deliveries of unknown end wait for a person

Rule: the store's totals are the account, this only reads them aloud; a look that is missed is made up for by the
next one. The first look after a start has nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import structlog

from pbus.core.outcome import UNKNOWN, Rules
from pbus.scheduler.roster import Store
from pbus.storage.driver import TopicNumbers

LOOK_S: Final = 5.0

Path = tuple[str, str]
"""(queue, topic)."""


def _unread() -> None:
    return None


class Accounts:
    """The duty. Remembers the totals of its last look."""

    name = "accounts"

    def __init__(
        self, store: Store, rules: Mapping[Path, Rules], problem: Callable[[str, str], None],
        log: structlog.typing.FilteringBoundLogger, latest: Callable[[], Mapping[Path, TopicNumbers] | None] = _unread,
    ) -> None:
        """
        Args:
            rules: Which topics hold.
            latest: Numbers of all topics that somebody has read a moment ago; None: nobody has.
            problem: Raises, or with an empty text lifts, what ``pbus status`` shows.
        """
        self._store = store
        self._holding = {path for path, allowed in rules.items() if allowed.hold}
        self._problem = problem
        self._log = log.bind(storage=store.name)
        self._latest = latest
        self._known: dict[Path, TopicNumbers] | None = None
        self._told: set[Path] = set()

    def turn(self) -> float:
        numbers = dict(self._latest() or self._store.driver.numbers())
        for path, now in numbers.items():
            if self._known is not None:
                self._compare(path, self._known.get(path, TopicNumbers()), now)
            if path in self._holding:
                self._look_for_unknown(path, now)
        self._known = numbers
        return LOOK_S

    def interrupted(self) -> None:
        """What is known stays known: totals go on when the store is back."""

    def _compare(self, path: Path, before: TopicNumbers, now: TopicNumbers) -> None:
        """A topic that was removed and made again begins at nothing, which is no event."""
        where = {"queue": path[0], "topic": path[1]}
        expired = now.expired_total - before.expired_total
        if expired > 0:
            self._log.warning("jobs.expired", count=expired, total=now.expired_total, **where)
        forgotten = now.forgotten_total - before.forgotten_total
        if forgotten > 0:
            self._log.warning("jobs.forgotten", count=forgotten, total=now.forgotten_total, **where)
        cancelled = now.cancelled_total - before.cancelled_total
        if cancelled > 0:
            self._log.info("jobs.cancelled", count=cancelled, total=now.cancelled_total, **where)

    def _look_for_unknown(self, path: Path, now: TopicNumbers) -> None:
        """How many dead letters of that topic a person has to look at, because they may have run."""
        queue, topic = path
        groups = self._store.driver.dead_groups(queue, topic) if now.dead else []
        count = sum(group.count for group in groups if group.reason == UNKNOWN)
        if not count and path not in self._told:
            return
        text = f"{queue}/{topic}: nobody knows whether {count} of its jobs ran; look at 'pbus dead ls {queue}/{topic}'"
        text += ", then 'pbus job done' or 'pbus job retry'"
        self._problem(f"unknown.{queue}/{topic}", text if count else "")
        (self._told.add if count else self._told.discard)(path)
