"""
A job's way to one topic: the places a delivery can be, what moves it, and who may.

    push -----> ready --claim--> running --ack-----> done
      |         ^ ^ |              | |               ^
      |         | | +---release----+ |               |accept
      |         | |                  +--bury---> dead+
      |         | +-------revive------------------+
      |         +-----due-----+      +--retry--+
      +--with delay------> delayed <-----------+
                              |
    ready, delayed --cancel--> cancelled        ready, delayed --expire--> expired

Rule: ``TABLE`` is the only place that says which move is allowed. Drivers carry it out (a settle as a
compare-and-set on the owner of the claim), and the conformance suite checks them against it.

A delivery whose key is held by another one of its topic is ready, but is not claimed before that one
has ended. A dead letter that is deleted, or dropped by its bounds, stays counted as dead.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final, NamedTuple


class State(enum.StrEnum):
    """Where a delivery is. ``done``, ``cancelled``, ``expired`` are ends; ``dead`` is one until it is revived."""

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
    EXPIRE = "expire"
    CANCEL = "cancel"
    REVIVE = "revive"
    ACCEPT = "accept"
    FORGIVE = "forgive"


class By(enum.StrEnum):
    """Who may cause a move."""

    OWNER = "owner"       # the process that holds the claim, or whoever knows that it is dead
    CLAIMER = "claimer"   # a child that has room for work
    STORE = "store"       # time: the store itself while it claims or promotes
    PERSON = "person"     # an operator, or a producer about its own jobs
    BRAKE = "brake"       # a delivery child whose topic was braked


class Rule(NamedTuple):
    """A line of ``TABLE``: where the move leads, and who may cause it."""

    to: State
    by: By


TABLE: Final[dict[tuple[State, Move], Rule]] = {
    (State.READY, Move.CLAIM): Rule(State.RUNNING, By.CLAIMER),
    (State.RUNNING, Move.ACK): Rule(State.DONE, By.OWNER),
    (State.RUNNING, Move.RETRY): Rule(State.DELAYED, By.OWNER),
    (State.RUNNING, Move.BURY): Rule(State.DEAD, By.OWNER),
    (State.RUNNING, Move.RELEASE): Rule(State.READY, By.OWNER),
    (State.DELAYED, Move.DUE): Rule(State.READY, By.STORE),
    (State.READY, Move.EXPIRE): Rule(State.EXPIRED, By.STORE),
    (State.DELAYED, Move.EXPIRE): Rule(State.EXPIRED, By.STORE),
    (State.READY, Move.CANCEL): Rule(State.CANCELLED, By.PERSON),
    (State.DELAYED, Move.CANCEL): Rule(State.CANCELLED, By.PERSON),
    (State.DEAD, Move.REVIVE): Rule(State.READY, By.PERSON),
    (State.DEAD, Move.ACCEPT): Rule(State.DONE, By.PERSON),
    # An attempt given back: the delivery stays where it waits; a dead one waits again.
    (State.READY, Move.FORGIVE): Rule(State.READY, By.BRAKE),
    (State.DELAYED, Move.FORGIVE): Rule(State.DELAYED, By.BRAKE),
    (State.DEAD, Move.FORGIVE): Rule(State.READY, By.BRAKE),
}

SETTLES: Final = frozenset({Move.ACK, Move.RETRY, Move.BURY, Move.RELEASE})
ENDS: Final = frozenset({State.DONE, State.DEAD, State.CANCELLED, State.EXPIRED})


def successor(state: State, move: Move) -> State | None:
    """Where *move* takes a delivery that is in *state*; None where it is not allowed."""
    rule = TABLE.get((state, move))
    return rule.to if rule else None


@dataclass(slots=True)
class PushOptions:
    """
    What a producer may ask for beside the body, and what a replay says of its copies. Read-only by agreement.

    Attributes:
        delay_ms: Not handed out earlier than this after the push; 0: at once.
        dedupe: A second push with it, within the queue's window, is answered with the first one's id; empty: none.
        ttl_ms: Not begun any more so long after the push: it expires; 0: never.
        key: Deliveries of one key never overlap within a topic and keep their order; empty: none.
        only: For this topic alone, as what came back to it: before its log; no other topic ever gets it. Not in a
            group (``Push.whole``). Empty: for all.
        replay_of: Id of the job that this one is run again for; empty: none.
        dedupe_s: How long ``dedupe`` counts; 0.0: as long as the queue says.
    """

    delay_ms: int = 0
    dedupe: str = ""
    ttl_ms: int = 0
    key: str = ""
    only: str = ""
    replay_of: str = ""
    dedupe_s: float = 0.0


@dataclass(slots=True)
class Push:
    """
    A job as it came from a producer; read-only by agreement (freezing it triples the cost of making one).

    Attributes:
        queue: Its queue, a declared name (aliases are resolved before).
        body: The bytes, opaque.
        traceparent: W3C trace context or empty.
        content_type: What the producer said the body is, or empty.
        options: None: a plain push, nearly all of them.
        span: How many pushes from this one on are one command, stored all or none; 0: it belongs to
            an earlier one. All of a span are of one queue. One with ``dedupe`` has span 1.
        whole: How many pushes from this one on are stored all or none, over their spans and queues (a
            transaction); 0: it is not the first of such a group.
    """

    queue: str
    body: bytes
    traceparent: str = ""
    content_type: str = ""
    options: PushOptions | None = None
    span: int = 1
    whole: int = 0


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
        key: As pushed; empty: none.
        forgiven: Of the attempts before this one, how many the retry policy does not count (given
            back by the brake, or made before somebody revived it).
        claimed_s: When this process had it, unix seconds; 0.0: not known.
        replay_of: As pushed; empty: it is no replay.
        span: Trace context of the span of this attempt, where spans are exported (``core.span``); empty: it has none.
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
    key: str = ""
    forgiven: int = 0
    claimed_s: float = field(default=0.0, compare=False)
    replay_of: str = ""
    span: str = field(default="", compare=False)


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
        key_rest_s: BURY of a delivery with a key: the key rests so long before the next one of it is
            handed out (a handler that nobody could kill may still run). A RETRY holds its key anyway.
        reason: RETRY, BURY: class of the failure, a short stable word (``failed``, ``timeout``..).
        error: RETRY, BURY: text for people, at most 2 KiB.
        fingerprint: BURY: the group of its error (``core.fingerprint``), 16 hex digits.
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
    key_rest_s: float = 0.0
    reason: str = ""
    error: str = ""
    fingerprint: str = ""
