"""
A job's way to one topic: the places a delivery can be, and what moves it.

    push --> ready --claim--> running --ack-----> done
               ^                 | |--retry---> delayed --due--> ready
               |                 | |--bury----> dead --revive--> ready
               +-----release-----+

Rule: ``TABLE`` is the only place that says which move is allowed. Drivers carry it out as a
compare-and-set on the owner of the claim, and the conformance suite checks them against it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class State(enum.StrEnum):
    """Where a delivery is. ``done``, ``cancelled`` and ``expired`` are ends."""

    READY = "ready"
    RUNNING = "running"
    DELAYED = "delayed"
    DEAD = "dead"
    DONE = "done"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Move(enum.StrEnum):
    """What happens to a delivery; claims are settled by ack, retry, bury or release."""

    CLAIM = "claim"
    ACK = "ack"
    RETRY = "retry"
    BURY = "bury"
    RELEASE = "release"
    DUE = "due"
    REVIVE = "revive"


TABLE: Final[dict[tuple[State, Move], State]] = {
    (State.READY, Move.CLAIM): State.RUNNING,
    (State.RUNNING, Move.ACK): State.DONE,
    (State.RUNNING, Move.RETRY): State.DELAYED,
    (State.RUNNING, Move.BURY): State.DEAD,
    (State.RUNNING, Move.RELEASE): State.READY,
    (State.DELAYED, Move.DUE): State.READY,
    (State.DEAD, Move.REVIVE): State.READY,
}

SETTLES: Final = frozenset({Move.ACK, Move.RETRY, Move.BURY, Move.RELEASE})


def successor(state: State, move: Move) -> State | None:
    """Where *move* takes a delivery that is in *state*; None where it is not allowed."""
    return TABLE.get((state, move))


@dataclass(slots=True)
class Push:
    """
    A job as it came from a producer; read-only by agreement (freezing it triples the cost of making one).

    Attributes:
        queue: Its queue, a declared name (aliases are resolved before).
        body: The bytes, opaque.
        traceparent: W3C trace context or empty.
        content_type: What the producer said the body is, or empty.
    """

    queue: str
    body: bytes
    traceparent: str = ""
    content_type: str = ""


@dataclass(slots=True)
class Delivery:
    """
    A claimed job on its way to one topic; its owner keeps it until it settles or dies. Read-only, as Push is.

    Attributes:
        id: Job id, ``<unix ms>-<sequence>``.
        queue, topic: Whose delivery it is.
        body: The bytes as pushed.
        attempt: 1-based number of the attempt about to be made.
        crashes: How often this delivery killed its consumer so far.
        redelivered: Somebody may have run (part of) it before.
        traceparent, content_type: As pushed.
        first_ms: When its first counted attempt ended, unix ms by the store; 0 before.
        owner: Who holds the claim.
    """

    id: str
    queue: str
    topic: str
    body: bytes
    attempt: int
    crashes: int
    redelivered: bool
    traceparent: str
    content_type: str
    first_ms: int
    owner: str


@dataclass(slots=True, kw_only=True)
class Settlement:
    """
    How one claim ends. Read-only, as Push is.

    Attributes:
        owner: Who must still hold the claim for this to have any effect.
        queue, topic, id: Which delivery.
        move: ACK, RETRY, BURY or RELEASE.
        counts: The attempt counts (RETRY and BURY of an ordinary failure: True). Not looked at by ACK.
        crash: It killed its consumer; counted apart from attempts. Not looked at by ACK.
        redelivered: Whoever gets it next is told that it may have run before; once said it stays.
        delay_s: RETRY: seconds until it is due again.
        reason: RETRY, BURY: class of the failure, a short stable word (``failed``, ``timeout``..).
        error: RETRY, BURY: text for people, at most 2 KiB.
    """

    owner: str
    queue: str
    topic: str
    id: str
    move: Move
    counts: bool = False
    crash: bool = False
    redelivered: bool = False
    delay_s: float = 0.0
    reason: str = ""
    error: str = ""
