"""
What fires now, for whoever asks this node: ``pbus status`` gets the first of it, ``/metrics`` how many of what.

Rule: out of memory. Who decides knows it; the other nodes of a store read what was decided, each LATE_S. While a store
is away what was known last stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pbus.core.alarm_texts import ACK, ALARM, SILENCE, ack_of, alarms_of, silence_of
from pbus.core.alarms import Alarm, Board, Policy
from pbus.storage.driver import Driver

LATE_S: Final = 5.0
SHOWN: Final = 50
"""Those that ``pbus status`` can say something about."""


class Standing:
    """Of one store, or of what no store can keep. One owner: who decides there."""

    def __init__(self) -> None:
        self._alarms: Sequence[tuple[Alarm, str, str]] = ()
        self._read_s = -LATE_S

    def see(self, board: Board, wall_s: float) -> None:
        """The *board* of who decides, as it is now (Unix time)."""
        found = [each for each in board.alarms.values() if not each.over_s]
        acks = [(each, board.ack(each)) for each in found]
        self._alarms = [(each, board.state(each, wall_s), ack.by if ack else "") for each, ack in acks]

    def follow(self, driver: Driver, now_s: float, wall_s: float) -> None:
        """Somebody else decides: read it now and then (monotonic seconds, Unix time). Raises StorageError."""
        if now_s - self._read_s < LATE_S:
            return
        self._read_s = now_s
        board = Board(Policy(), alarms_of(one.text for one in driver.documents(ALARM)))
        if any(not each.over_s for each in board.alarms.values()):
            board.acks = {ack.id: ack for one in driver.documents(ACK) if (ack := ack_of(one.text))}
            board.silences = [each for one in driver.documents(SILENCE) if (each := silence_of(one.text))]
        self.see(board, wall_s)

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self._alarms)

    def rows(self) -> list[dict[str, Any]]:
        """The newest SHOWN of them, for people and programs."""
        newest = sorted(self._alarms, key=lambda each: (-each[0].fired_s, each[0].id))[:SHOWN]
        return [
            {
                "id": alarm.id, "state": state, "by": by, "kind": alarm.kind, "subject": alarm.subject,
                "system": alarm.system, "text": alarm.text, "since_s": alarm.since_s,
            }
            for alarm, state, by in newest
        ]

    def counts(self) -> Counter[tuple[str, str, str]]:
        """(kind, queue, topic) -> how many; what is about no topic has two empty names."""
        return Counter((alarm.kind, *_path(alarm.subject)) for alarm, _, _ in self._alarms)


def told(standings: Iterable[Standing]) -> dict[str, Any]:
    """Fields ``rows`` and ``total`` of all of them."""
    known = list(standings)
    rows = sorted((row for each in known for row in each.rows()), key=lambda row: -row["since_s"])
    return {"rows": rows[:SHOWN], "total": sum(each.total for each in known)}


def counted(standings: Iterable[Standing]) -> list[list[Any]]:
    """Rows of kind, queue, topic, how many."""
    sums = sum((each.counts() for each in standings), Counter[tuple[str, str, str]]())
    return [[*names, count] for names, count in sorted(sums.items())]


def _path(subject: str) -> tuple[str, str]:
    """``gift/credit 1f3a..`` is of gift/credit; ``bus-1`` and ``php`` of none."""
    queue, is_topic, topic = subject.partition(" ")[0].partition("/")
    return (queue, topic) if is_topic else ("", "")
