"""
What a store must look like, kept in a few lists: the reference for random interleavings.

Moves are looked up in ``core.job.TABLE``; nothing here knows how a driver works.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pbus.core.job import Delivery, Move, Settlement, State, successor


@dataclass
class Place:
    """One delivery: where it is and what it has come to."""

    id: str
    body: bytes
    state: State = State.READY
    owner: str = ""
    attempts: int = 0
    crashes: int = 0
    redelivered: bool = False
    due: bool = False
    from_log: bool = True


@dataclass
class Topic:
    """A topic's deliveries in the order of their jobs, and its totals."""

    places: dict[str, Place] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    dead: int = 0
    redelivered: int = 0

    def push(self, job_id: str, body: bytes) -> None:
        self.places[job_id] = Place(job_id, body)

    def claim(self, owner: str, count: int, exclusive: bool) -> list[Delivery]:
        """What a claim must answer: id, body, attempt, crashes, redelivered, owner; the rest is left empty."""
        if exclusive and any(place.owner not in ("", owner) for place in self.places.values()):
            return []
        ready = [place for place in self.places.values() if place.state is State.READY]
        ready.sort(key=lambda place: place.from_log)  # stable: what came back first, each in the order of jobs
        claimed = []
        for place in ready[:count]:
            self._go(place, Move.CLAIM)
            place.owner = owner
            place.from_log = False
            self.redelivered += place.redelivered
            claimed.append(Delivery(place.id, "", "", place.body, place.attempts + 1, place.crashes,
                                    place.redelivered, "", "", 0, owner))
        return claimed

    def settle(self, settlement: Settlement) -> bool:
        place = self.places.get(settlement.id)
        if place is None or place.owner != settlement.owner or successor(place.state, settlement.move) is None:
            return False
        self._go(place, settlement.move)
        place.owner = ""
        if settlement.move is Move.ACK:
            self.done += 1
            return True
        place.attempts += settlement.counts
        place.crashes += settlement.crash
        place.redelivered |= settlement.redelivered
        place.due = settlement.delay_s == 0.0
        self.failed += settlement.counts or settlement.crash
        self.dead += settlement.move is Move.BURY
        return True

    def promote(self) -> int:
        due = [place for place in self.places.values() if place.state is State.DELAYED and place.due]
        for place in due:
            self._go(place, Move.DUE)
        return len(due)

    def held(self, owner: str) -> list[Place]:
        return [place for place in self.places.values() if place.owner == owner]

    def count(self, state: State) -> int:
        return sum(place.state is state for place in self.places.values())

    @property
    def due(self) -> int:
        """Delayed and due."""
        return sum(place.state is State.DELAYED and place.due for place in self.places.values())

    @property
    def unclaimed(self) -> int:
        """Never claimed so far."""
        return sum(place.from_log for place in self.places.values())

    @staticmethod
    def _go(place: Place, move: Move) -> None:
        state = successor(place.state, move)
        assert state is not None, f"the model itself made {place.state} {move}"
        place.state = state


def seen(delivery: Delivery) -> Delivery:
    """The part of a claimed delivery that the model knows."""
    return replace(delivery, queue="", topic="", traceparent="", content_type="", first_ms=0)
