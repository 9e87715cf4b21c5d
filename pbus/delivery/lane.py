"""
A lane: one topic inside one delivery child, from room for work to the outcome of each attempt.

The claimer asks every lane for its ``wants``, claims for all of them in one call, and hands each
claimed delivery to its lane. The lane runs it (FastCGI, HTTP, a consumer process) and reports the
outcome to the desk, which judges, settles in batches and tells who follows. So key order, batches,
outcome, settling and tracing exist once, whatever the handler is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pbus.core.job import Delivery
from pbus.core.outcome import Outcome
from pbus.delivery.finished import Finished
from pbus.storage.driver import Want


class Lane(Protocol):
    """One topic of this child. Everything runs in the child's one thread (greenlets)."""

    queue: str
    topic: str

    @property
    def state(self) -> str:
        """``running``, ``paused`` (not registered, misconfigured), ``down`` (backend away) or ``fatal``."""

    @property
    def reason(self) -> str:
        """Why it is not running, one sentence; empty while it is."""

    @property
    def concurrency(self) -> int:
        """Consumers or calls that can work at once now."""

    def wants(self) -> list[Want]:
        """Room for work at this moment; empty while paused, down, draining or full."""

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Claimed for this lane: each will be finished or released, exactly once. Never blocks."""

    def known(self, owner: str) -> set[str]:
        """Ids of the claims of *owner* that this lane has in hand (for the comparison with the store)."""

    def drain(self) -> None:
        """Take nothing new; release what has not begun; let the rest finish."""

    def kill(self) -> None:
        """The grace is over: stop what still runs and report it (verdict UNSURE)."""

    @property
    def busy(self) -> int:
        """Deliveries in hand: begun or not, and results without a receipt."""


class Desk(Protocol):
    """Where outcomes go. One per delivery child."""

    def finish(self, delivery: Delivery, outcome: Outcome) -> None:
        """
        The attempt is over: judge, settle (in a batch, soon), log and publish. Never blocks.

        An outcome that cannot be written now stays in memory and is repeated; it is never lost
        while this process lives and never turned into a release.
        """

    def done(self, finished: Finished) -> None:
        """The same as ``finish`` for each of them, in order."""

    def wake(self) -> None:
        """A lane has room again, or its state changed: look at ``wants`` soon."""
