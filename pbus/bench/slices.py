"""
Alternating slices: the base and pbus in turn, so that a busy moment of the machine meets both.

Rule: a pair in which other programs ran counts only when there are not enough without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pbus.bench.machine import CLOCK, Processor

ROUNDS: Final = 5
CLEAN: Final = 0.10
"""Share of a core that others may use in a slice that counts."""
_LOOK_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two slices that lie side by side, and what other programs used of a core meanwhile."""

    base: float
    pbus: float
    others: float


@dataclass(slots=True)
class Patience:
    """
    How hard to look for a quiet machine. One owner: a measurement.

    Attributes:
        quiet_s: Wait at most so long, before each pair, for other programs to be quiet.
        rounds: Pairs that count.
        tries: Pairs that are measured at most.
        made: Pairs that were measured.
        tell: Called with ``made`` after each.
    """

    quiet_s: float = 0.0
    rounds: int = ROUNDS
    tries: int = 2 * ROUNDS
    made: int = 0
    tell: Callable[[int], object] = lambda made: None  # noqa: ARG005 - nobody looks on

    def wait(self) -> None:
        """Until the machine is quiet, or ``quiet_s`` is over."""
        deadline_s = CLOCK.monotonic_s() + self.quiet_s
        while CLOCK.monotonic_s() < deadline_s:
            processor = Processor()
            CLOCK.sleep(_LOOK_S)
            if processor.others() < CLEAN:
                return

    def pairs(self, base: Callable[[], float], pbus: Callable[[], float]) -> list[Pair]:
        """
        Measure in turn (who is first changes) until ``rounds`` pairs were clean or ``tries`` were made.

        Returns:
            The ``rounds`` cleanest ones.
        """
        pairs: list[Pair] = []
        while len(pairs) < self.tries and sum(pair.others <= CLEAN for pair in pairs) < self.rounds:
            self.wait()
            processor = Processor()
            if len(pairs) % 2:
                ours, theirs = pbus(), base()
            else:
                theirs, ours = base(), pbus()
            pairs.append(Pair(theirs, ours, processor.others()))
            self._made()
        return sorted(pairs, key=lambda pair: pair.others)[: self.rounds]

    def values(self, measure: Callable[[], float]) -> list[tuple[float, float]]:
        """(value, share of others) of the ``rounds`` cleanest of at most ``tries`` measurements."""
        found: list[tuple[float, float]] = []
        while len(found) < self.tries and sum(others <= CLEAN for _, others in found) < self.rounds:
            self.wait()
            processor = Processor()
            value = measure()
            found.append((value, processor.others()))
            self._made()
        return sorted(found, key=lambda pair: pair[1])[: self.rounds]

    def _made(self) -> None:
        self.made += 1
        self.tell(self.made)
