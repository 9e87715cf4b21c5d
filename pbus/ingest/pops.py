"""
One command that takes jobs, while it waits and until it is answered.

Rule: a pop knows what it wants and what it has got; who gets what is its ``Taker``'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from pbus.core.job import Delivery
from pbus.ingest.access import TopicEntry
from pbus.ingest.claims import Reader

CLAIM_COUNT: Final = 100
"""Deliveries of one claim; a pop that wants more gets them by several."""
REPLY_BYTES: Final = 16 * 1024 * 1024
"""Bodies of one reply; more than that is left in the topic."""


class Receiver(Protocol):
    """A connection, as its pop sees it; one that closes cancels its pop."""

    def popped(self, pop: Pop) -> None:
        """*pop* is over; ``pop.got`` or ``pop.error`` say how."""

    def parted(self, pop: Pop) -> None:
        """*pop* is nobody's here any more (``Taker.part``)."""


class Taker(Protocol):
    """Who claims for a pop."""

    def add(self, pop: Any) -> None: ...

    def cancel(self, pop: Pop) -> None: ...

    def part(self, pop: Pop) -> None: ...

    def place_of(self, pop: Any) -> int: ...

    def delivered(self, deliveries: Iterable[Delivery], sent: bool) -> None: ...


class Pop:
    """
    One command that takes jobs.

    Attributes:
        connection: Who waits.
        topics: Where from, in order of preference.
        count: At most so many.
        deadline_s: Monotonic time at which it ends with nothing; None: it does not wait at all.
        many: It is answered with an array of bodies.
        keys: The names the client used, one a topic.
        got: What it takes away.
        error: Why it failed, for the client; empty otherwise.
        parted: Its connection goes to another process and asks there; nothing is claimed for it here.
        served: False: it is answered with nothing, as soon as it can be.
        taker: Who serves it.
    """

    __slots__ = (
        "blocks", "connection", "count", "deadline_s", "error", "got", "keys", "many", "over", "parted", "served",
        "size", "taker", "topics",
    )
    taker: Taker

    def __init__(
        self, connection: Receiver, topics: Sequence[TopicEntry], count: int, deadline_s: float | None, *,
        many: bool = False, keys: Sequence[bytes] = (),
    ) -> None:
        self.connection = connection
        self.topics = topics
        self.count = count
        self.deadline_s = deadline_s
        self.blocks = deadline_s is not None
        self.many = many
        self.keys = keys
        self.got: list[Delivery] = []
        self.size = 0
        self.error = ""
        self.over = False
        self.parted = False
        self.served = True

    def room(self, place: int) -> int:  # noqa: ARG002 - one count for all topics
        """How many more it may be given now of its topic number *place*."""
        if not self.served or self.size >= REPLY_BYTES:
            return 0
        return min(self.count - len(self.got), CLAIM_COUNT)

    def client_ended(self) -> None:
        """Its client sends nothing more: it would wait for nobody."""
        if self.blocks:
            self.served, self.deadline_s = False, None

    def give(self, delivery: Delivery, place: int) -> None:  # noqa: ARG002 - what is got is asked where it is from
        """It gets a delivery of its topic number *place*."""
        self.got.append(delivery)
        self.size += len(delivery.body)


class Read(Pop):
    """
    One XREADGROUP.

    Attributes:
        consumer: The name it reads under.
        starts: Per topic None: new jobs (``>``); else what it has read already, above this id.
        got_of: What it takes away, per topic; ``count`` is for each.
        reader: What its connection has read before.
        keeps: Its claims are open until they are acked; False (``NOACK``): done when the reply has left.
    """

    __slots__ = ("consumer", "got_of", "keeps", "reader", "starts")

    def __init__(
        self, connection: Receiver, topics: Sequence[TopicEntry], count: int, deadline_s: float | None, *,
        keys: Sequence[bytes], consumer: bytes, starts: Sequence[tuple[int, int] | None], reader: Reader, keeps: bool,
    ) -> None:
        super().__init__(connection, topics, count, deadline_s, keys=keys)
        self.consumer = consumer
        self.starts = starts
        self.reader = reader
        self.keeps = keeps
        self.got_of: list[list[Delivery]] = [[] for _ in topics]

    def room(self, place: int) -> int:
        """As ``Pop.room``: nothing of a topic whose past it asks for."""
        if self.starts[place] is not None or not self.served or self.size >= REPLY_BYTES:
            return 0
        return min(self.count - len(self.got_of[place]), CLAIM_COUNT)

    def client_ended(self) -> None:
        """As ``Pop.client_ended``; nobody is left to ack, and a claim that is not acked is a crash of its reader."""
        self.served, self.deadline_s = False, None

    def give(self, delivery: Delivery, place: int) -> None:
        """As ``Pop.give``."""
        super().give(delivery, place)
        self.got_of[place].append(delivery)
