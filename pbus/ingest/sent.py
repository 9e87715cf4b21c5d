"""
What hangs on a reply's leaving this process: jobs that are done then, open then, or in a program's hand.

Rule: each is called once, with whether the reply has left; or passes with its connection to another child and is not
called at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

from pbus.codec.handover import HANDED, POPPED, READ, ClaimState, Sending
from pbus.core.job import Delivery
from pbus.ingest.access import TopicEntry
from pbus.ingest.claims import Claim, Key
from pbus.ingest.pops import Read

_OF_DELIVERY = {"body", "claimed_s"}
"""What does not pass: the reply has it, and when this process had it."""


class OnSent(Protocol):
    """Who waits for a reply to leave."""

    def __call__(self, sent: bool) -> None: ...

    def sendings(self) -> list[Sending]:
        """The same, for another process."""

    def passed(self) -> None:
        """Another process waits for it."""


class Unread(Protocol):
    """Who wants to know that a reply was never read."""

    def unread(self) -> None: ...

    def sendings(self) -> list[Sending]:
        """The same, for another process."""


class Giver(Protocol):
    """Who claimed, as these see it (``Puller``)."""

    def delivered(self, deliveries: Iterable[Delivery], sent: bool) -> None: ...

    def read(self, read: Read, sent: bool) -> None: ...

    def passed(self, keys: Iterable[Key]) -> None: ...


class Lender(Protocol):
    """Who claimed for a program (``Holder``)."""

    def delivered(self, deliveries: Iterable[Delivery], sent: bool) -> None: ...

    def unread(self, delivery: Delivery, topic: TopicEntry) -> None: ...


class Popped:
    """Jobs of a pop: done when the reply has left."""

    def __init__(self, taker: Giver, got: Sequence[Delivery]) -> None:
        self._taker = taker
        self._got = got

    def __call__(self, sent: bool) -> None:
        self._taker.delivered(self._got, sent=sent)

    def sendings(self) -> list[Sending]:
        return [Sending(kind=POPPED, claims=[state_of(each) for each in self._got])]

    def passed(self) -> None:
        self._taker.passed([(each.queue, each.topic, each.id) for each in self._got])


class ReadOut:
    """Jobs of a read: its reader's from then on."""

    def __init__(self, taker: Giver, read: Read) -> None:
        self._taker = taker
        self._read = read

    def __call__(self, sent: bool) -> None:
        self._taker.read(self._read, sent)

    def sendings(self) -> list[Sending]:
        if not self._read.keeps:
            return [Sending(kind=POPPED, claims=[state_of(each) for each in self._read.got])]
        return [Sending(kind=READ, claims=[state_of(each, self._read.consumer) for each in self._read.got])]

    def passed(self) -> None:
        self._taker.passed([(each.queue, each.topic, each.id) for each in self._read.got])


class HandedOver:
    """The job of a program: in its hand from then on, unless it goes without having read it."""

    def __init__(self, holder: Lender, delivery: Delivery, topic: TopicEntry) -> None:
        self._holder = holder
        self._delivery = delivery
        self._topic = topic

    def __call__(self, sent: bool) -> None:
        self._holder.delivered([self._delivery], sent)

    def unread(self) -> None:
        self._holder.unread(self._delivery, self._topic)

    def sendings(self) -> list[Sending]:
        return [Sending(kind=HANDED, claims=[state_of(self._delivery)])]

    def passed(self) -> None:
        """The claim is the program's, wherever it is served."""


class AllSent:
    """Several, in one reply."""

    def __init__(self, parts: Sequence[OnSent]) -> None:
        self._parts = parts

    def __call__(self, sent: bool) -> None:
        for part in self._parts:
            part(sent)

    def sendings(self) -> list[Sending]:
        return [sending for part in self._parts for sending in part.sendings()]

    def passed(self) -> None:
        for part in self._parts:
            part.passed()


class AllUnread:
    """Several, in one reply."""

    def __init__(self, parts: Sequence[Unread]) -> None:
        self._parts = parts

    def unread(self) -> None:
        for part in self._parts:
            part.unread()

    def sendings(self) -> list[Sending]:
        return [sending for part in self._parts for sending in part.sendings()]


def state_of(delivery: Delivery, consumer: bytes = b"", since_s: float = 0.0) -> ClaimState:
    """What of a claim passes."""
    carried = {
        each.name: getattr(delivery, each.name)
        for each in dataclasses.fields(Delivery) if each.name not in _OF_DELIVERY
    }
    return ClaimState(**carried, since_s=since_s, consumer=consumer)


def state_of_claim(claim: Claim) -> ClaimState:
    """The same of one that is open."""
    return state_of(claim.delivery, claim.consumer, claim.since_s)


def delivery_of(state: ClaimState, owner: str = "") -> Delivery:
    """What has passed, as *owner*'s (empty: whose it was)."""
    return Delivery(
        id=state.id, queue=state.queue, topic=state.topic, body=b"", attempt=state.attempt, crashes=state.crashes,
        redelivered=state.redelivered, traceparent=state.traceparent, content_type=state.content_type,
        first_ms=state.first_ms, owner=owner or state.owner, key=state.key, forgiven=state.forgiven,
        replay_of=state.replay_of,
    )
