"""What the tests of every driver share: a store, its drivers, and short words for the shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.storage.driver import Appended, Driver, Held, Promoted, QueueSpec, TopicNumbers, TopicSpec, Want
from pbus.storage.open import StoreTarget, make
from tests.conformance.storage.places import Place
from tests.support.waiting import until

ALICE = "n1/b1/1.1"
BOB = "n1/b1/2.2"
CAROL = "n1/b2/1.1"
"""Two processes of one boot, one of another."""


def gift(*topics: str, name: str = "gift", start: str = "now", retention_s: float = 3600.0,
         retention_bytes: int = 1 << 28) -> QueueSpec:
    """Queue ``gift`` with these topics (``credit`` when none is named)."""
    specs = tuple(TopicSpec(topic, start) for topic in topics or ("credit",))
    return QueueSpec(name, specs, retention_s, retention_bytes)


def pushes(*bodies: str, queue: str = "gift") -> list[Push]:
    return [Push(queue, body.encode()) for body in bodies]


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
        self._batches[owner] = self._batches.get(owner, 0) + 1
        return list(self.store.append(owner, self._batches[owner], pushes(*bodies, queue=queue)))

    def claim(self, count: int = 1, topic: str = "credit", *, queue: str = "gift", owner: str = ALICE,
              exclusive: bool = False) -> list[Delivery]:
        return self.store.claim([Want(owner, queue, topic, count, exclusive)])

    def bodies(self, count: int = 100, topic: str = "credit", *, queue: str = "gift") -> list[str]:
        """Claim, and look at nothing but the bodies."""
        return [delivery.body.decode() for delivery in self.claim(count, topic, queue=queue)]

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

    def close(self) -> None:
        for store in self._drivers:
            store.close()
