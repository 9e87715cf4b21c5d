"""
Attempts of one consumer that ended well and were read together: nearly all there are, so they go through the desk as
one thing instead of one by one (4 us a job of the delivery child less).

Rule: nothing here decides. Whoever wants to know of each attempt is told of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Verdict


@dataclass(slots=True)
class Finished:
    """
    At least one; all of one owner, queue and topic, in the order in which they ended. Read-only by agreement.

    Attributes:
        deliveries: What was attempted.
        runs_s: Seconds that each took.
        target: Where they ran.
        ended_s: When they were read (unix seconds).
    """

    deliveries: Sequence[Delivery]
    runs_s: Sequence[float]
    target: str
    ended_s: float

    @property
    def path(self) -> tuple[str, str]:
        """(queue, topic)."""
        return self.deliveries[0].queue, self.deliveries[0].topic

    @property
    def owner(self) -> str:
        """Who held the claims."""
        return self.deliveries[0].owner

    def each(self) -> Iterator[tuple[Delivery, Outcome]]:
        """One by one."""
        for delivery, run_s in zip(self.deliveries, self.runs_s, strict=True):
            yield delivery, Outcome(verdict=Verdict.DONE, run_s=run_s, target=self.target)

    def settlements(self) -> list[Settlement]:
        """How these claims end: what ``core.outcome.judge`` says of ``done``."""
        queue, topic = self.path
        owner, ack = self.owner, Move.ACK
        return [
            Settlement(owner=owner, queue=queue, topic=topic, id=each.id, move=ack, redelivered=each.redelivered)
            for each in self.deliveries
        ]

    def only(self, took_effect: Sequence[bool]) -> Finished | None:
        """Those of them that took effect; None: not one did."""
        if all(took_effect):
            return self
        kept = [place for place, ours in enumerate(took_effect) if ours]
        if not kept:
            return None
        deliveries = [self.deliveries[place] for place in kept]
        return Finished(deliveries, [self.runs_s[place] for place in kept], self.target, self.ended_s)


class Ears(NamedTuple):
    """
    Who hears of many at once.

    Attributes:
        measure: At once, before they are written.
        trace: Once they are written; None: nobody keeps what becomes of jobs.
    """

    measure: Callable[[Finished], None]
    trace: Callable[[Finished], None] | None
