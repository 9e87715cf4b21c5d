"""
What a storage driver must do, and what its callers may rely on.

A queue is a log; a topic is a cursor in it plus its claims. A driver keeps, per queue, the log of
pushed jobs and two counters, and per topic the cursor, the claims, what came back (``again``, read
before the log so that order returns), what is delayed, and the dead letters.

Rules
-----
* Methods are plain blocking calls. A driver with ``capabilities.blocking`` is called through one
  storage thread (``threaded.Threaded``); the others yield by themselves under gevent.
* Every settle is a compare-and-set on the owner of the claim: late answers change nothing.
* A driver raises nothing but ``errors.StorageError`` (and ``BootError`` from ``open``), and returns
  nothing of the library it is made of.
* No call takes longer than the storage's ``call_timeout``.
* Stored times are the store's own.
* A queue or topic that nobody ever declared is Unavailable, not an error of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from pbus.core.job import Delivery, Push, Settlement

CLAIM_BYTES: Final = 4 * 1024 * 1024
"""Bodies of one want: above this it is full, whatever its count says."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """
    What a driver can and cannot do.

    Attributes:
        blocking: Its calls block the thread (no socket gevent could wait on).
        many_nodes: Several nodes may use one store.
        atomic_fan_out: A push is one write, however many topics there are.
    """

    blocking: bool
    many_nodes: bool
    atomic_fan_out: bool


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as the store must know it. ``start`` is ``now`` or ``history`` (a new topic only)."""

    name: str
    start: str = "now"


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue as the store must know it; retention applies to jobs that every topic has settled."""

    name: str
    topics: tuple[TopicSpec, ...]
    retention_s: float
    retention_bytes: int


@dataclass(slots=True)
class Appended:
    """
    A stored push: its job id, the queue's backlog after it (never 0), how many topics get it.

    Read-only by agreement: freezing it triples the cost of making one, and there is one a push.
    """

    id: str
    backlog: int
    topics: int


@dataclass(frozen=True, slots=True)
class Want:
    """
    Room for work: up to *count* deliveries of a topic for *owner*, and about CLAIM_BYTES of bodies.

    ``exclusive``: granted only while no other owner holds a claim of this topic, over all children
    and nodes. Topics with concurrency 1 use it: their one owner runs its claims one after the
    other, in order, and may still be fed many at a time.
    """

    owner: str
    queue: str
    topic: str
    count: int
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A claim as the store lists it."""

    queue: str
    topic: str
    id: str
    attempts: int
    crashes: int


@dataclass(frozen=True, slots=True)
class TopicNumbers:
    """
    Where the deliveries of a topic are, now; totals are since the topic was created.

    ``oldest_wait_s`` is the age of the oldest ready delivery's job (by its id), 0.0 without one.
    ``ready`` includes what is delayed and due. ``failed`` counts attempts that failed (settled with
    ``counts`` or ``crash``), ``redelivered`` claims handed out with that flag.
    """

    ready: int = 0
    running: int = 0
    delayed: int = 0
    dead: int = 0
    oldest_wait_s: float = 0.0
    done_total: int = 0
    failed_total: int = 0
    dead_total: int = 0
    redelivered_total: int = 0


@dataclass(frozen=True, slots=True)
class Promoted:
    """
    Result of ``promote_due``: how many became ready, per (queue, topic), and seconds until the
    next one is due (None: nothing is delayed).
    """

    moved: Mapping[tuple[str, str], int] = field(default_factory=dict)
    next_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead delivery: when (unix ms), after how many attempts, why."""

    queue: str
    topic: str
    id: str
    at_ms: int
    attempts: int
    crashes: int
    reason: str
    error: str


class Bell(Protocol):
    """A child's ear: tells that a queue got jobs. Lossy by design; callers look again every 5 s."""

    def wait(self, timeout_s: float) -> frozenset[str] | None:
        """
        Block until it rings or *timeout_s* is over.

        Returns:
            Names of queues that got jobs; empty after the timeout; None: it was deaf for a while
            (just subscribed, reconnected), look at all of them.
        """

    def close(self) -> None:
        """Give its descriptors back; idempotent."""


class Driver(Protocol):
    """One storage, as one process sees it."""

    capabilities: Capabilities

    def open(self) -> None:
        """
        Connect or create, and check that the store can be trusted (eviction policy, version,
        damage, a second node on an embedded file).

        Raises:
            BootError: it can never work as it is (exit 75, 77, 78 with what to do).
            Unavailable: it is away now; ``open`` may be called again.
        """

    def close(self) -> None:
        """Give everything back; idempotent, never raises."""

    def check(self) -> None:
        """One cheap write round trip. Raises Unavailable with the reason when it cannot write."""

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        """
        Make sure that these queues and topics exist; a new topic starts as its spec says.

        Never removes anything. Idempotent, atomic per queue; must precede every other call that
        names a queue, in this process. Re-creates a missing cursor at the start of the log.
        """

    def append(self, owner: str, batch: int, pushes: Sequence[Push]) -> Sequence[Appended]:
        """
        Store jobs durably, each once for all topics of its queue, in the given order.

        Atomic per queue: all pushes of one queue or none. Idempotent by (owner, batch): a repeated
        call with the same number answers what the first one stored, and the driver itself repeats
        after a lost reply. *batch* grows by one per call of an owner; calls of one owner do not overlap.
        If we die here: what was stored is stored, nobody was told.

        Returns:
            One entry a push, same order. ``backlog`` is computed in the same write, after all pushes
            of this call for that queue.

        Raises:
            Unavailable: nothing of this call is stored.
            MaybeStored: the store went away in the middle for longer than ``call_timeout``.
            Conflict: this boot was fenced; nothing is stored.
        """

    def claim(self, wants: Sequence[Want]) -> list[Delivery]:
        """
        Take ready deliveries, oldest first (what came back before the log), for their owners.

        Atomic per queue. Not idempotent: after a lost reply the store lists claims that the child
        does not know of (``held``); it releases them.

        Raises:
            Unavailable: nothing, or something that ``held`` lists, was claimed.
            Conflict: an owner's boot was fenced; nothing was claimed.
        """

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """
        End claims. Each is a compare-and-set on (owner, queue, topic, id).

        Idempotent (a repeated one answers False and changes nothing). Atomic per queue.
        If we die here: the claim is settled or still owned by us, never half.

        Returns:
            Per settlement whether it took effect. False: settled before, or no longer ours.

        Raises:
            Unavailable: none of them, or some that a repetition will find settled.
            Conflict: the boot of one of the owners was fenced; nothing changed.
        """

    def held(self, owner: str) -> list[Held]:
        """
        Every open claim of *owner*, oldest first. Empty for an unknown owner.

        ``attempts`` and ``crashes`` are those that counted before this claim.
        """

    def owners(self) -> list[str]:
        """Owners with at least one open claim, of every node."""

    def promote_due(self, limit: int = 1000) -> Promoted:
        """
        Move delayed deliveries whose time has come to ready and ring the bell of their queues.

        At most *limit* per topic and call. Idempotent; safe from several nodes at once. A RETRY
        without a delay is due at once, and ready after the next call of this.
        """

    def trim(self) -> int:
        """
        Drop log entries that every topic has settled and that retention does not keep.

        Bodies that an open claim, a delayed or a dead delivery still needs are put aside first.
        Bounded work per call (about 10,000 entries). Returns how many entries were dropped; call
        again while it is not 0. Safe from several nodes at once.
        """

    def checkpoint(self) -> None:
        """Housekeeping of the store's files (SQLite: WAL checkpoint). May do nothing."""

    def backlog(self, queue: str) -> int:
        """
        Pushed jobs of *queue* that its slowest topic has not claimed.

        Retries do not count. 0 for a queue without topics.
        """

    def numbers(self) -> dict[tuple[str, str], TopicNumbers]:
        """Numbers of every declared topic, in one call; keys are (queue, topic)."""

    def dead_letters(self, queue: str, topic: str, limit: int = 100) -> list[DeadLetter]:
        """The newest *limit* dead letters of a topic, newest first."""

    def bell(self, name: str, queues: Sequence[str]) -> Bell:
        """An ear for pushes to *queues*; *name* is unique among the living children of this node."""

    def beat(self, node: str, boot: str) -> None:
        """Move this boot's counter by one. Raises Conflict when the boot was fenced."""

    def beats(self) -> dict[str, int]:
        """Boot -> counter, for every boot that is not fenced and not forgotten."""

    def fence(self, boot: str) -> None:
        """
        Declare *boot* dead: from this write on its claims, appends and settles are refused.

        Its claims stay listed under their owners; an observer ends them with ``give_back``. Idempotent.
        """

    def give_back(self, owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        """
        ``settle`` on behalf of a dead *owner*: works although its boot is fenced.

        Callers: the scheduler and the delivery child, for owners that are known to be dead. Every
        settlement names *owner*. What is released rings the bell of its queue, here and in ``settle``.
        """

    def forget(self, boot: str) -> None:
        """Remove what is kept about a dead boot that holds no claims any more. Idempotent."""
