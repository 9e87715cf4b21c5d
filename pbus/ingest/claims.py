"""
Open claims of an ingest child on one store: which delivery is with whom, under whose name, since when.

    claimed --reply handed to the kernel--> read by a connection --ack, nack--> ended
               |  never was                    |  the connection closes, its time is over
               +--> back                       +--> the oldest is to blame, the others are not

Rule: what is open is in ``Claims``, and in the ``Reader`` of the connection that read it; nobody else keeps a list.
Whether we still hold it is the store's word alone: it may have been acked by way of another child.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Rules, Verdict
from pbus.ingest.access import TopicEntry
from pbus.storage.driver import Held

Key = tuple[str, str, str]
"""Queue, topic, id."""
_TOPIC_GONE: Final = "its topic is in no configuration any more"


class Host(Protocol):
    """The connection that reads, as its claims see it."""

    def holds(self) -> None:
        """It has open claims from now on."""

    def time_over(self, claim: Claim) -> None:
        """The oldest claim is not settled within its topic's ``timeout``."""


class Keeper(Protocol):
    """Who settles the claims of one store."""

    def left(self, left: Left) -> None: ...

    def suspect(self, reader: Reader) -> None: ...

    def passed(self, keys: Iterable[Key]) -> None: ...


class Claim:
    """
    One open claim.

    Attributes:
        delivery: What was claimed; without its body as soon as a connection has read it.
        key: Queue, topic, id.
        topic: Whose delivery it is.
        keeper: Who settles it.
        since_s: When it was claimed, monotonic.
        reader: Who has read it; None: its reply has not left yet, or its reader is gone.
        consumer: The name under which it was read.
    """

    __slots__ = ("consumer", "delivery", "keeper", "key", "reader", "since_s", "topic")

    def __init__(self, delivery: Delivery, topic: TopicEntry, keeper: Keeper, since_s: float) -> None:
        self.delivery = delivery
        self.key: Key = (delivery.queue, delivery.topic, delivery.id)
        self.topic = topic
        self.keeper = keeper
        self.since_s = since_s
        self.reader: Reader | None = None
        self.consumer = b""


class Reader:
    """
    What one connection has read and nobody has settled, oldest first, of all stores. Owner: the connection.

    Attributes:
        claims: By key, in the order in which they were read.
        oldest_s: Since when the first of them is the first, monotonic.
    """

    __slots__ = ("_host", "claims", "oldest_s")

    def __init__(self, host: Host) -> None:
        self._host = host
        self.claims: dict[Key, Claim] = {}
        self.oldest_s = 0.0

    def add(self, claim: Claim, consumer: bytes, now_s: float) -> None:
        """It has read *claim* as *consumer*."""
        if not self.claims:
            self.oldest_s = now_s
            self._host.holds()
        claim.reader, claim.consumer = self, consumer
        claim.delivery = dataclasses.replace(claim.delivery, body=b"")
        self.claims[claim.key] = claim

    def remove(self, claim: Claim, now_s: float) -> None:
        """It is settled: the next one's time begins, if it was the oldest."""
        if next(iter(self.claims.values()), None) is claim:
            self.oldest_s = now_s
        self.claims.pop(claim.key, None)

    def overdue(self, now_s: float) -> Claim | None:
        """The oldest one, if it is the oldest for longer than its topic's ``timeout``."""
        oldest = next(iter(self.claims.values()), None)
        if oldest is None or not (limit_s := oldest.topic.rules.timeout_s):
            return None
        return oldest if now_s - self.oldest_s >= limit_s else None

    def look(self, now_s: float) -> None:
        """Have it found out whether time is over; the connection hears of it by ``time_over``."""
        oldest = self.overdue(now_s)
        if oldest is not None:
            oldest.keeper.suspect(self)

    def tell(self, now_s: float) -> None:
        """Tell the connection if its time is (still) over."""
        oldest = self.overdue(now_s)
        if oldest is not None:
            self._host.time_over(oldest)

    def leave(self, verdict: Verdict, error: str, *, gone: bool) -> None:
        """
        The connection is over: what it read goes back.

        Args:
            verdict: Of the oldest claim; the others may have run and are not to blame.
            error: Why, for people.
            gone: Whoever read them runs none of them any more.
        """
        parts: dict[Keeper, list[Claim]] = {}
        for claim in self.claims.values():
            claim.reader = None
            parts.setdefault(claim.keeper, []).append(claim)
        self.claims = {}
        for keeper, claims in parts.items():
            keeper.left(Left(claims, verdict, error, gone))
            verdict = Verdict.UNSURE


    def pass_on(self, lost: Collection[int]) -> None:
        """
        The connection is another child's, and so are its claims.

        Args:
            lost: Places of those whose topic that child does not know: they go back.
        """
        passed: dict[Keeper, list[Key]] = {}
        left: dict[Keeper, list[Claim]] = {}
        for place, claim in enumerate(self.claims.values()):
            claim.reader = None
            if place in lost:
                left.setdefault(claim.keeper, []).append(claim)
            else:
                passed.setdefault(claim.keeper, []).append(claim.key)
        self.claims = {}
        for keeper, keys in passed.items():
            keeper.passed(keys)
        for keeper, claims in left.items():
            keeper.left(Left(claims, Verdict.UNSURE, _TOPIC_GONE, False))


@dataclass(slots=True)
class Left:
    """Claims of a connection that is over, oldest first; the rest as in ``Reader.leave``."""

    claims: list[Claim]
    verdict: Verdict
    error: str
    gone: bool

    @property
    def in_doubt(self) -> bool:
        """Which of them is the oldest is to be asked: those before may be settled already."""
        return self.verdict is not Verdict.UNSURE and len(self.claims) > 1

    def outcome(self, claim: Claim, *, first: bool, now_s: float) -> Outcome:
        """What became of one of them; a crash of its reader costs the next one no time."""
        verdict = self.verdict if first else Verdict.UNSURE
        delay_s = 0.0 if verdict is Verdict.CRASHED else None
        run_s = max(0.0, now_s - claim.since_s)
        return Outcome(verdict=verdict, error=self.error, delay_s=delay_s, run_s=run_s)

    def rules(self, topic: TopicEntry) -> Rules:
        """What it is judged by: where the reader may be at it still, a key rests."""
        return dataclasses.replace(topic.rules, killable=self.gone)


class Claims:
    """Everything that this child holds of one store. One owner: its ``Settling``."""

    def __init__(self) -> None:
        self._open: dict[Key, Claim] = {}
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, claim: Claim) -> bool:
        return self._open.get(claim.key) is claim

    def take(self, claim: Claim) -> None:
        """It is ours until it is settled; one that we still list came back by way of another child."""
        self.end(claim.key, claim.since_s)
        self._open[claim.key] = claim
        self._counts[claim.key[:2]] += 1

    def find(self, queue: str, topic: str, id: str) -> Claim | None:
        """An open claim; None: not of this child."""
        return self._open.get((queue, topic, id))

    def end(self, key: Key, now_s: float) -> None:
        """It is settled, here or elsewhere."""
        claim = self._open.pop(key, None)
        if claim is not None:
            self._counts[key[:2]] -= 1
            if claim.reader is not None:
                claim.reader.remove(claim, now_s)

    def count(self, queue: str, topic: str) -> int:
        """How many of a topic are open."""
        return self._counts[queue, topic]

    def compare(self, held: Iterable[Held]) -> tuple[list[Held], list[Claim]]:
        """
        Our list beside that of the store.

        Returns:
            What only the store lists: claims whose answer was lost; what only we list: settled elsewhere.
        """
        listed = {(one.queue, one.topic, one.id): one for one in held}
        unknown = [one for key, one in listed.items() if key not in self._open]
        return unknown, [claim for key, claim in self._open.items() if key not in listed]
