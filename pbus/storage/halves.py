"""
Halves of comparisons: how one of a topic and its shadow ended a job, until the other one has, in whatever process.

Rule: lossy and bounded. Of a shadow there are at most MOST, each of at most HALF_BYTES, none for longer than KEEP_S:
the oldest go first, and what is lost is a comparison, never a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from pbus.core.shadow import HALF_BYTES as HALF_BYTES

KEEP_S: Final = 600.0
MOST: Final = 2_000


class Waiting(NamedTuple):
    """A half: of the *shadow*, or of its topic; *id* is the job's, *text* what ``Half.to_text`` wrote."""

    id: str
    shadow: bool
    text: str


class Met(NamedTuple):
    """
    Attributes:
        others: Per half the other one, which is not kept any more; None: it has not come, and this one is kept.
        dropped: Halves of this shadow that were given up in this call: too old, or too many.
    """

    others: Sequence[str | None]
    dropped: int


class KeepsHalves(Protocol):
    """A part of ``driver.Driver``."""

    def meet(self, queue: str, topic: str, halves: Sequence[Waiting]) -> Met:
        """
        Bring *halves* of comparisons of the shadow *topic* together with those that others brought before.

        Atomic: of two callers with the two halves of a job, exactly one gets the other's. Not idempotent, and never
        repeated by the driver: after a lost reply those comparisons are lost. A second half of one side replaces the
        first.

        Raises:
            Unavailable: nobody declared it, or the store is away.
            StorageError: a half that is too long.
        """
