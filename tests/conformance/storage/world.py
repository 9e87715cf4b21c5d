"""What the tests of every driver share: a store, its drivers, and short words for the shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pbus.core.job import Delivery, Move, Push, PushOptions, Settlement
from pbus.storage.driver import Appended, Driver, Held, Promoted, QueueSpec, TopicNumbers, TopicSpec, Want
from pbus.storage.open import StoreTarget, make
from tests.conformance.storage.places import Place
from tests.support.waiting import until

ALICE = "n1/b1/1.1"
BOB = "n1/b1/2.2"
CAROL = "n1/b2/1.1"
"""Two processes of one boot, one of another."""

NOBODYS = ["1-0", "99999999999999-0", "1700000000000-99999999999999999999", "rubbish", "", "1-2-3", "-5", "0-0"]
"""Job ids that no store gave out, and what is none."""


def gift(*topics: str, name: str = "gift", start: str = "now", retention_s: float = 3600.0,
         retention_bytes: int = 1 << 28, dead_keep_s: float = 0.0, dead_max: int = 0, **bounds: Any) -> QueueSpec:
    """Queue ``gift`` with these topics (``credit`` when none is named); *bounds* as in ``QueueSpec``."""
    specs = tuple(TopicSpec(topic, start, dead_keep_s, dead_max) for topic in topics or ("credit",))
    return QueueSpec(name, specs, retention_s, retention_bytes, **bounds)


def pushes(*bodies: str, queue: str = "gift") -> list[Push]:
    return [Push(queue, body.encode()) for body in bodies]


def command(*bodies: str, queue: str = "gift") -> list[Push]:
    """Pushes of one command: stored all or none."""
    return [Push(queue, body.encode(), span=0 if at else len(bodies)) for at, body in enumerate(bodies)]


def group(*commands: Sequence[Push]) -> list[Push]:
    """Pushes of a transaction: *commands* (lists of pushes) stored all or none."""
    first, *more = [push for one in commands for push in one]
    return [replace(first, whole=1 + len(more)), *more]


def asked(body: str, queue: str = "gift", **options: Any) -> Push:
    """One push with *options* (``core.job.PushOptions``)."""
    return Push(queue, body.encode(), options=PushOptions(**options))


def pass_ms(span_ms: int) -> None:
    """Let so much time pass, by the clock that every store of this machine goes by."""
    end_ns = time.time_ns() + span_ms * 1_000_000
    until(lambda: time.time_ns() > end_ns, 5.0, "some ms pass")


def accounted(numbers: TopicNumbers) -> int:
    """Deliveries that a topic knows of, wherever they are: as many as jobs were pushed since it started."""
    return (numbers.ready + numbers.running + numbers.delayed + numbers.dead + numbers.done_total
            + numbers.cancelled_total + numbers.expired_total + numbers.forgotten_total)


def settlement(delivery: Delivery, move: Move, **how: Any) -> Settlement:
    """How the claim on *delivery* ends."""
    return Settlement(
        owner=delivery.owner, queue=delivery.queue, topic=delivery.topic, id=delivery.id, move=move, **how
    )


class World:
    """
    An empty store and everything a test does to it.

    Attributes:
        url: Where it is.
        store: A driver of node n1, open, with queue ``gift`` and topic ``credit``.
    """

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self.url = place.empty()
        self._drivers: list[Driver] = []
        self._batches: dict[str, int] = {}
        self.store = self.driver(gift())

    def driver(self, *specs: QueueSpec, timeout_s: float = 5.0, node: str = "n1") -> Driver:
        """Another driver on the same store, as a second process has it."""
        store = make(StoreTarget("main", self.url, "", timeout_s, node))
        self._drivers.append(store)
        store.open()
        store.declare(specs)
        return store

    def declare(self, *specs: QueueSpec) -> None:
        self.store.declare(specs)

    def reopen(self) -> None:
        """As after a restart of the process."""
        self.store.close()
        self.store.open()

    def append(self, *bodies: str, queue: str = "gift", owner: str = ALICE) -> list[Appended]:
        """Push *bodies* under the owner's next batch number."""
        return self.push(*pushes(*bodies, queue=queue), owner=owner)

    def push(self, *jobs: Push, owner: str = ALICE) -> list[Appended]:
        """Append *jobs* in one call, under the owner's next batch number."""
        self._batches[owner] = self._batches.get(owner, 0) + 1
        return list(self.store.append(owner, self._batches[owner], jobs))

    def ask(self, body: str, **options: Any) -> Appended:
        """Push one job with *options*."""
        (answer,) = self.push(asked(body, **options))
        return answer

    def claim(self, count: int = 1, topic: str = "credit", *, queue: str = "gift", owner: str = ALICE,
              exclusive: bool = False) -> list[Delivery]:
        return self.store.claim([Want(owner, queue, topic, count, exclusive)])

    def bodies(self, count: int = 100, topic: str = "credit", *, queue: str = "gift") -> list[str]:
        """Claim, and look at nothing but the bodies."""
        return [delivery.body.decode() for delivery in self.claim(count, topic, queue=queue)]

    def where(self, topic: str = "credit", queue: str = "gift") -> tuple[int, int, int, int]:
        """Ready, running, delayed, dead of a topic."""
        numbers = self.numbers(topic, queue)
        return numbers.ready, numbers.running, numbers.delayed, numbers.dead

    def buried(self, *bodies: str, **how: Any) -> list[str]:
        """Push, claim and bury jobs; their ids."""
        ids = [one.id for one in self.append(*bodies)]
        for delivery in self.claim(len(bodies)):
            assert self.settle(delivery, Move.BURY, **({"counts": True, "reason": "failed"} | how))
        return ids

    def settle(self, delivery: Delivery, move: Move, **how: Any) -> bool:
        (answer,) = self.store.settle([settlement(delivery, move, **how)])
        return answer

    def give_back(self, owner: str, held: Sequence[Held], **how: Any) -> list[bool]:
        """Release what a dead owner held, as the scheduler does."""
        how = {"move": Move.RELEASE, "redelivered": True} | how
        released = [
            Settlement(owner=owner, queue=claim.queue, topic=claim.topic, id=claim.id, **how) for claim in held
        ]
        return self.store.give_back(owner, released)

    def promoted(self, wanted: int) -> Promoted:
        """Promote until *wanted* deliveries became ready in all."""
        moved: dict[tuple[str, str], int] = {}
        last = Promoted()

        def enough() -> bool:
            nonlocal last
            last = self.store.promote_due()
            for path, count in last.moved.items():
                moved[path] = moved.get(path, 0) + count
            return sum(moved.values()) >= wanted

        until(enough, 5.0, f"{wanted} deliveries become due")
        return replace(last, moved=moved)

    def numbers(self, topic: str = "credit", queue: str = "gift") -> TopicNumbers:
        return self.store.numbers()[queue, topic]

    def rings(self, act: Callable[[], object]) -> bool:
        """Whether an ear at queue ``gift`` that has heard everything so far hears *act*."""
        ear = self.driver(gift()).bell("delivery.0", ["gift"])
        try:
            until(lambda: ear.wait(0.05) == frozenset(), 5.0, "it is quiet")
            act()
            return ear.wait(5.0) == {"gift"}
        finally:
            ear.close()

    def close(self) -> None:
        for store in self._drivers:
            store.close()
