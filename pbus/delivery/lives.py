"""
What the scoreboard and the kernel know of a consumer process, for the lane that feeds it.

Rule: a row belongs to a process only if its serial number says so; rows of the dead are reused.
"""

from __future__ import annotations

from pbus.clock import Clock
from pbus.core.names import Owner
from pbus.delivery.consumer_hand import Life
from pbus.supervisor import process
from pbus.supervisor.scoreboard import Scoreboard, SlotView


class Lives:
    """Reads the scoreboard; writes nothing."""

    def __init__(self, scoreboard: Scoreboard, clock: Clock) -> None:
        self._scoreboard = scoreboard
        self._clock = clock

    def look(self, owner: str, pid: int) -> Life:
        """
        What is known of the process *pid* that owns claims as *owner*.

        A process is over when the master says so or the kernel does (a master that is dead itself
        says nothing any more); how it ended only the master knows.
        """
        who = Owner.parse(owner)
        row = self._scoreboard.slot(who.slot).read()
        if row.n != who.n:
            return Life(alive=process.birth(pid) != 0, current=None)
        alive = row.alive and process.is_same(row.pid, row.birth)
        return Life(alive=alive, current=row.current, current_s=self._age_s(row), exit_status=row.exit_status)

    def is_process(self, who: Owner, pid: int) -> bool:
        """Whether *pid* is the process that the master has forked under that name."""
        row = self._scoreboard.slot(who.slot).read()
        return row.n == who.n and row.pid == pid

    def orphans(self) -> list[tuple[SlotView, float]]:
        """
        Living consumers at work whose delivery child is dead, and for how long (s) their job runs.

        A consumer notices only between two jobs that nobody looks after it any more.
        """
        if not self._scoreboard.deaths:
            return []
        rows = self._scoreboard.living()
        links = {row.n for row in rows if row.role == "delivery"}
        lone = [row for row in rows if row.role == "consumer" and row.current and row.link not in links]
        return [(row, self._age_s(row)) for row in lone]

    def _age_s(self, row: SlotView) -> float:
        return max(0.0, self._clock.monotonic_s() - row.since_s) if row.current else 0.0
