"""
A storage in memory that can be told to be away: a fake of our own interface, for unit tests.

Rule: it keeps the promises of storage.driver that its users rely on (compare-and-set on the owner,
oldest first, what came back before the log) and nothing else; the conformance suite is for drivers.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

from pbus.core.job import Delivery, Move, Settlement
from pbus.errors import Unavailable
from pbus.storage.driver import Held, Want

Path = tuple[str, str]


def delivery(job_id: str = "1000-0", *, queue: str = "gift", topic: str = "credit", owner: str = "n/b/1.1",
             attempt: int = 1, crashes: int = 0, body: bytes = b"x", redelivered: bool = False) -> Delivery:
    """A claimed delivery with what a test does not care about filled in."""
    return Delivery(
        id=job_id, queue=queue, topic=topic, body=body, attempt=attempt, crashes=crashes, redelivered=redelivered,
        traceparent="", content_type="", first_ms=0, owner=owner,
    )


class MemoryStore:
    """
    Attributes:
        fail: Raised by every call while set.
        fail_after: Raised by the next claim or settle *after* it took effect (a lost reply).
        calls: Names of the calls made.
        ended: (id, move) of settlements that took effect, in order.
    """

    def __init__(self) -> None:
        self.fail: Exception | None = None
        self.fail_after: Exception | None = None
        self.calls: list[str] = []
        self.ended: list[tuple[str, Move]] = []
        self.settlements: list[Settlement] = []
        self.during_call: Callable[[], None] = lambda: None
        self._ready: dict[Path, list[Delivery]] = {}
        self._claims: dict[tuple[str, str, str], Delivery] = {}

    def put(self, *ids: str, queue: str = "gift", topic: str = "credit", body: bytes = b"x") -> None:
        """Make deliveries ready."""
        for job_id in ids:
            each = delivery(job_id, queue=queue, topic=topic, owner="", body=body)
            bisect.insort(self._ready.setdefault((queue, topic), []), each, key=lambda known: known.id)

    def declare(self, queues: Sequence[object]) -> None:
        self._enter("declare")

    def claim(self, wants: Sequence[Want]) -> list[Delivery]:
        self._enter("claim")
        given: list[Delivery] = []
        for want in wants:
            ready = self._ready.setdefault((want.queue, want.topic), [])
            others = any(
                (each.queue, each.topic) == (want.queue, want.topic) and each.owner != want.owner
                for each in self._claims.values()
            )
            if want.exclusive and others:
                continue
            for _ in range(min(want.count, len(ready))):
                each = ready.pop(0)
                claimed = delivery(each.id, queue=each.queue, topic=each.topic, owner=want.owner, body=each.body)
                self._claims[want.queue, want.topic, each.id] = claimed
                given.append(claimed)
        self._leave()
        return given

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        self._enter("settle")
        took_effect = [self._settle(each) for each in settlements]
        self._leave()
        return took_effect

    def held(self, owner: str) -> list[Held]:
        self._enter("held")
        return [Held(each.queue, each.topic, each.id, 0, 0) for each in self._claims.values() if each.owner == owner]

    def _settle(self, settlement: Settlement) -> bool:
        key = (settlement.queue, settlement.topic, settlement.id)
        claim = self._claims.get(key)
        if claim is None or claim.owner != settlement.owner:
            return False
        del self._claims[key]
        self.ended.append((settlement.id, settlement.move))
        self.settlements.append(settlement)
        if settlement.move is Move.RELEASE:
            self.put(settlement.id, queue=settlement.queue, topic=settlement.topic, body=claim.body)
        return True

    def _enter(self, name: str) -> None:
        self.calls.append(name)
        self.during_call()
        if self.fail is not None:
            raise self.fail

    def _leave(self) -> None:
        error, self.fail_after = self.fail_after, None
        if error is not None:
            raise error


AWAY = Unavailable("connection refused")
