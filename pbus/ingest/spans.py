"""
What an ingest child tells an OpenTelemetry receiver: a span for each push that was stored, and for each attempt of
programs and pull consumers, from the claim to its ack.

Rule: as ``stories``: after the replies, lossy, and no producer waits for it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pbus.clock import Clock
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome
from pbus.core.span import read, sent
from pbus.ingest.stories import peer_of
from pbus.ingest.whole import Whole
from pbus.storage.driver import Appended
from pbus.supervisor.attempt_spans import AttemptSpans

if TYPE_CHECKING:
    from pbus.ingest.committer import Ticket

REMEMBERED: Final = 10_000
"""Jobs in the hands of programs whose spans are known; they come back as names only."""
_Key = tuple[str, str, str, str]


class IngestSpans:
    """
    One per store of an ingest child. One owner: the store.

    Args:
        attempts: Of the child.
        owner: In whose name the child claims; what others hold comes back without its trace.
        clock: When something ended.
    """

    def __init__(self, attempts: AttemptSpans, owner: str, clock: Clock) -> None:
        self._attempts = attempts
        self._owner = owner
        self._clock = clock
        self._away: collections.OrderedDict[_Key, Delivery] = collections.OrderedDict()

    def received(self, batch: Sequence[Ticket], appended: Sequence[Appended], took_s: float) -> None:
        """The tickets of an append that took so long were answered."""
        end_ns = int(self._clock.wall_s() * 1e9)
        times_ns, at = (end_ns - int(took_s * 1e9), end_ns), 0
        for ticket in batch:
            end = at + ticket.count
            try:
                self._received(ticket, appended[at:end], times_ns)
            except Exception:  # noqa: BLE001 - a bug here is a missing span
                self._attempts.pump.lost()
            at = end

    def _received(self, ticket: Ticket, appended: Sequence[Appended], times_ns: tuple[int, int]) -> None:
        peer = None
        trace_of, tell = self._attempts.sampler.trace, self._attempts.pump.tell
        for push, answer in zip(ticket.pushes, appended, strict=True):
            if answer.refused or answer.duplicate:
                continue
            where = trace_of(push.traceparent, answer.id)
            if where is None:
                continue
            if peer is None:
                submitter: Any = ticket.connection
                address, _, name, _ = peer_of(submitter.client if type(ticket) is Whole else submitter)
                peer = address, name
            tell(sent(push, answer.id, where, peer, times_ns))

    def claimed(self, deliveries: Iterable[Delivery]) -> None:
        """These are about to be handed out."""
        deliveries = list(deliveries)
        self._attempts.claimed(deliveries)
        for each in deliveries:
            if each.span and each.owner != self._owner:
                self._away[_key(each)] = dataclasses.replace(each, body=b"")
                if len(self._away) > REMEMBERED:
                    self._away.popitem(last=False)

    def read(self, deliveries: Iterable[Delivery]) -> None:
        """A client was handed these of one topic; several of them are a batch."""
        batch = [each for each in deliveries if each.span]
        if len(batch) < 2:
            return
        try:
            self._attempts.pump.tell(read(batch, self._clock.wall_s()))
        except Exception:  # noqa: BLE001 - a bug here is a missing span
            self._attempts.pump.lost()

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        """An attempt of a program or of a pull consumer is over, and the store has it."""
        known = self._away.pop(_key(delivery), delivery) if not delivery.span else delivery
        self._attempts.ended(known, outcome, settlement, self._clock.wall_s())

    def popped(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """These were handed out, and are done by that."""
        now_s = self._clock.wall_s()
        for each in deliveries:
            ack = Settlement(owner=each.owner, queue=each.queue, topic=each.topic, id=each.id, move=Move.ACK)
            self._attempts.ended(each, outcome, ack, now_s)


def _key(delivery: Delivery) -> _Key:
    return delivery.owner, delivery.queue, delivery.topic, delivery.id
