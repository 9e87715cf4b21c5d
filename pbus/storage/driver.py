"""
What a storage driver must do, and what its callers may rely on.

A queue is a log; a topic is a cursor in it plus its claims. A driver keeps, per queue, the log of
pushed jobs, its counters and its dedupe keys, and per topic the cursor, the claims, what came back
(``again``, read before the log so that order returns), what is delayed, what waits for its key, and
the dead letters with the groups of their errors.

Where a push with options is
----------------------------
* Delay: one entry in the log, marked; in the same write every topic of the queue gets it as a delayed
  delivery. Claims pass over marked entries; only a topic made later (``from = "history"``) finds them
  there: those whose time has come are ready there, the others delayed until it comes.
* Ttl: judged whenever the delivery is about to be claimed or becomes due (also after a retry or a release),
  by the store's clock, against the time in its id. Then it has expired: counted, never handed out.
* Key: a delivery holds its key in its topic from its first claim until it ends; a retry, a release and
  a delay after a failure keep it. One that meets a held key on its way is set aside in order; whoever
  ends the holder makes the next one ready (``again``, before the log) and rings the bell: nobody polls.
  That one holds the key from then on: older ones that come meanwhile (revived, due) wait behind it, and
  when it is cancelled or expires the next one gets the key. While a key rests, its holder is delayed.
  Two of a key never run at once, not even for one owner. Any text is a key.
* Dedupe: the key is written with the job and read in the same write, before the bounds of the queue are
  looked at. A hit prolongs nothing; a push that was refused leaves no key.
* Shadow (``TopicSpec.sample``): claims pass over what is not in its sample, and over what would have to wait for
  its key. It has no part in the backlog, in what ``append`` refuses, in ``Appended.topics``, nor in how far ``trim``
  may go: of what is trimmed before it came to it, its sample is counted as forgotten. What it says is ready in the
  log is an estimate.
* Only: one marked entry in the log; in the same write its topic gets it as something that came back, and the others
  have taken it. Claims pass over it, those of a topic made later from history, too.

Numbers
-------
For every topic, at any moment between two calls::

    jobs pushed to it since it started = ready + running + delayed + dead
                                         + done_total + cancelled_total + expired_total + forgotten_total

A delivery is *taken* by its topic when it is claimed for the first time, cancelled or expired; the backlog
of a queue is the pushed jobs that its slowest topic has not taken. Delayed pushes are in it, retries are not. Of a
shadow the sum is that of its sample, as far as ``ready`` is known.

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
from pbus.storage.documents import KeepsDocuments
from pbus.storage.halves import KeepsHalves
from pbus.storage.records import DeadGroup as DeadGroup
from pbus.storage.records import DeadLetter as DeadLetter
from pbus.storage.records import Entry as Entry
from pbus.storage.records import JobRecord as JobRecord
from pbus.storage.records import Place as Place
from pbus.storage.statistics import KeepsStatistics

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
    """
    A topic as the store must know it.

    Attributes:
        start: ``now`` or ``history`` (a new topic only).
        dead_keep_s, dead_max: Bounds of its dead letters; 0: none. The oldest go first, counted as forgotten.
        sample: Not 0: it is a shadow, and sees the jobs of that sample (``core.sample``) only.
    """

    name: str
    start: str = "now"
    dead_keep_s: float = 0.0
    dead_max: int = 0
    sample: int = 0


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """
    A queue as the store must know it.

    Attributes:
        retention_s, retention_bytes: For jobs that every topic has settled.
        max_backlog, max_backlog_bytes: Spans that would go above are refused; 0: no bound. A span that is larger than
            the bound alone is stored when the backlog is empty (no jobs). A queue without topics is never full.
            What is for one topic only may count for all of them until the call that brings it is over.
        dedupe_window_s: How long a dedupe key counts, from its push on.
    """

    name: str
    topics: tuple[TopicSpec, ...]
    retention_s: float
    retention_bytes: int
    max_backlog: int = 0
    max_backlog_bytes: int = 0
    dedupe_window_s: float = 600.0


@dataclass(slots=True)
class Appended:
    """
    The answer to a push. Read-only by agreement: freezing it triples the cost of making one.

    Attributes:
        id: Job id; of a duplicate the first one's; empty when refused.
        backlog, topics: Of the queue, after all pushes of the call; the backlog of a stored push is never 0.
        duplicate: Its dedupe key was there already: nothing was stored, ``id`` is stored.
        refused: Empty: stored. ``jobs``, ``bytes``: above max_backlog, max_backlog_bytes; ``topic``: it is for a topic
            only that the queue does not have; ``whole``: another span of its group is refused, which says why.
    """

    id: str
    backlog: int
    topics: int
    duplicate: bool = False
    refused: str = ""


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
    """A claim as the store lists it; ``forgiven`` and ``key`` as in Delivery."""

    queue: str
    topic: str
    id: str
    attempts: int
    crashes: int
    forgiven: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """An open claim of a topic, for people; ``attempts`` are those that counted before it."""

    id: str
    owner: str
    attempts: int


@dataclass(frozen=True, slots=True)
class TopicNumbers:
    """
    Where the deliveries of a topic are, now; totals are since the topic was created.

    ``oldest_wait_s`` is the age of the oldest ready delivery's job (by its id), 0.0 without one.
    ``ready`` includes what is delayed and due, and what waits for its key. ``failed`` counts attempts that
    failed (settled with ``counts`` or ``crash``), ``redelivered`` claims handed out with that flag,
    ``forgotten`` dead letters that were deleted or dropped by their bounds. ``paused_ms``: since when, unix
    ms; 0: it is not. ``waiting``: of the ready ones, those that have met another one with their key.
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
    cancelled_total: int = 0
    expired_total: int = 0
    forgotten_total: int = 0
    paused_ms: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """
    What waits in a queue (jobs, bytes of their bodies), what its log keeps, and all that was ever pushed.

    Both are what the slowest topic has not taken: slowest by jobs, and slowest by bytes.
    """

    backlog: int = 0
    backlog_bytes: int = 0
    kept: int = 0
    pushed_total: int = 0


@dataclass(frozen=True, slots=True)
class Fill:
    """
    How full the store is.

    Attributes:
        share: 0..1 of what it may use (Redis: maxmemory; a file: its disk); 0.0 where nothing bounds it.
        free_bytes: What is left; None where nothing bounds it.
    """

    share: float = 0.0
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Promoted:
    """
    Result of ``promote_due``: how many became ready (if only to wait for their key), per (queue, topic),
    and seconds until the next one is due (None: nothing is delayed).
    """

    moved: Mapping[tuple[str, str], int] = field(default_factory=dict)
    next_in_s: float | None = None


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


Expired = tuple[str, str, str]
"""(queue, topic, id) of a delivery that a call of this process has ended, since its time to live was over."""
EXPIRED: Final = 10_000
"""Of these a driver remembers the newest, in a deque ``expired``, for who tells of them. A driver may have none."""


class Driver(KeepsStatistics, KeepsDocuments, KeepsHalves, Protocol):
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

        Atomic per queue: one write. In it each span is stored or refused as a whole, in order: a span
        above the queue's max_backlog is refused alone, the next one may fit. A group (``Push.whole``) is stored in
        one write over all its queues, or not at all: the first span of it that is refused says why, all
        others are ``whole``. A duplicate is not refused; in a group that is, it is ``whole`` like the others.
        Idempotent by (owner, batch): a repeated call with the same number answers what the first one stored, and
        the driver itself repeats after a lost reply. *batch* grows by one per call of an owner; calls of one owner
        do not overlap.
        *pushes* is a ``core.plain.Plain`` where they are bodies of one queue and nothing else.
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

        A paused topic has none. What has expired is ended, what has been cancelled is passed over, what
        meets a held key is set aside; none of that is handed out, nor counts for the want. Of it a call
        passes a bounded number; where there may be more it rings the bell.

        Atomic per queue. Not idempotent: after a lost reply the store lists claims that the child
        does not know of (``held``); it releases them.

        Raises:
            Unavailable: nothing, or something that ``held`` lists, was claimed.
            Conflict: an owner's boot was fenced; nothing was claimed.
        """

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """
        End claims. Each is a compare-and-set on (owner, queue, topic, id).

        Idempotent (a repeated one answers False and changes nothing). Atomic per queue. The end of a
        delivery with a key makes the next one of that key ready in the same write, and rings the bell.
        A BURY counts in the group of its fingerprint, and drops the oldest letters above ``dead_max``.
        If we die here: the claim is settled or still owned by us, never half.

        Returns:
            Per settlement whether it took effect. False: settled before, no longer ours, or its topic was dropped.

        Raises:
            Unavailable: none of them, or some that a repetition will find settled.
            Conflict: the boot of one of the owners was fenced; nothing changed.
        """

    def held(self, owner: str) -> list[Held]:
        """
        Every open claim of *owner*, oldest first. Empty for an unknown owner.

        ``attempts`` and ``crashes`` are those that counted before this claim.
        """

    def holders(self, queue: str, topic: str, ids: Sequence[str]) -> list[str]:
        """
        Who holds each of these deliveries; empty: nobody does (ready, ended, never pushed, no id).

        Of any owner and node, fenced ones too. By the time the caller reads it a claim may have ended: whoever
        acts on it settles, and is told.
        """

    def running(self, queue: str, topic: str, limit: int = 1000) -> list[Running]:
        """Open claims of a topic, of all owners and nodes, oldest job first; at most *limit*."""

    def owners(self) -> list[str]:
        """Owners with at least one open claim, of every node."""

    def promote_due(self, limit: int = 1000, queues: Sequence[str] | None = None) -> Promoted:
        """
        Move delayed deliveries whose time has come to ready (or to expired) and ring the bell of their queues.

        At most *limit* per topic and call. *queues*: only of these, ``next_in_s`` too; None: of all. Idempotent; safe
        from several nodes at once. A RETRY without a delay is due at once, and ready after the next call of this.
        """

    def trim(self) -> int:
        """
        Drop log entries that every topic has settled and that retention does not keep.

        Bodies that an open claim, a delayed, a waiting or a dead delivery still needs are put aside first.
        Also drops dead letters older than ``dead_keep_s`` and dedupe keys whose window is over.
        Bounded work per call (about 10,000 entries). Returns how many entries were dropped; call
        again while it is not 0. Safe from several nodes at once.
        """

    def checkpoint(self) -> int:
        """
        Housekeeping of the store's files (SQLite: WAL checkpoint). May do nothing.

        Returns:
            How large the log file had become, bytes: the larger, the sooner the next call should come.
        """

    def backlog(self, queue: str) -> int:
        """
        Pushed jobs of *queue* that its slowest topic has not taken: delayed pushes count, retries do not.

        0 for a queue without topics.
        """

    def numbers(self, queues: Sequence[str] | None = None) -> dict[tuple[str, str], TopicNumbers]:
        """
        Numbers of every topic that was ever declared and not dropped, in one call; keys are (queue, topic).

        *queues*: only of these (one that does not exist has no topics); None: of all.
        """

    def queue_numbers(self) -> dict[str, QueueNumbers]:
        """Numbers of every queue that was ever declared, in one call."""

    def fill(self) -> Fill:
        """How full the store is; a cheap read, asked about once a second by every ingest child."""

    # -- what people and producers do to deliveries; none of it needs an owner, all of it is refused for running ones.
    # Ids that nobody pushed, that are none, or that are named twice: 0 or False.

    def cancel(self, queue: str, topic: str, ids: Sequence[str]) -> list[int]:
        """
        End deliveries that are ready or delayed as cancelled; *topic* empty: of every topic, in one write.

        Returns:
            Per id how many deliveries were cancelled; 0: running, ended or unknown.
        """

    def purge(self, queue: str, topic: str) -> int:
        """
        Cancel everything of a topic that is ready or delayed, oldest first; dead letters stay.

        Bounded work per call (about 10,000 deliveries); call again while it is not 0.
        """

    def revive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """
        Make dead deliveries ready again, with all attempts of the policy before them.

        ``attempt`` goes on counting, ``forgiven`` becomes the attempts so far, ``crashes`` and
        ``first_ms`` 0; redelivered. One whose key is held waits for it. Rings the bell. False: not dead (any more).
        """

    def accept(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """Settle dead deliveries as done: a person knows that it is. False: not dead (any more)."""

    def forget_dead(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """Delete dead letters; they stay counted, as forgotten. False: not dead (any more)."""

    def forgive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        """
        Give an attempt back: ``forgiven`` + 1 of deliveries that are ready or delayed; a dead one becomes ready.

        Not idempotent: a repeated call gives another one back, at most all that were made (then it is True, and
        changes nothing more). False: running or ended.
        """

    def dead_letters(
        self, queue: str, topic: str, limit: int = 100, *, fingerprint: str = "", before: DeadLetter | None = None
    ) -> list[DeadLetter]:
        """
        The newest *limit* dead letters of a topic, newest first; of one group; those after *before* in that order.

        Bounded work: with *fingerprint* a page may be short although there are more, but is empty only at the end.
        """

    def dead_groups(self, queue: str, topic: str) -> list[DeadGroup]:
        """Groups of errors of a topic that have dead letters now, the largest first; at most 1,000."""

    def job(self, queue: str, id: str) -> JobRecord | None:
        """A job by its id; None: the store does not have its body (any more)."""

    def jobs(self, queue: str, after: str = "", limit: int = 100) -> list[JobRecord]:
        """
        Jobs of *queue* with an id above *after*, in order, as far as about 4 MiB of bodies: all of which the store
        has the body, in the log or put aside. Empty at the end.

        *after*: any text in the form of an id.
        """

    def records(self, queue: str, ids: Sequence[str]) -> list[JobRecord]:
        """
        Those of *ids* (at most 1,000) whose body the store has, in that order, as far as about 4 MiB of bodies.

        Empty only when it has none of them: whoever gets fewer asks again from the last one on.
        """

    def entries(self, queue: str, first: str, last: str, limit: int = 100, *, newest: bool = False) -> list[Entry]:
        """
        The log of *queue* from *first* to *last*, both included: what waits, and what retention keeps.

        Oldest or *newest* first; a page is at most *limit* (1,000) entries, as far as about 4 MiB of bodies, and empty
        only when there is none. Costs what it answers, however much is kept. *first*, *last*: any text in the form
        of an id.
        """

    def pause(self, queue: str, topic: str, paused: bool) -> None:
        """Nothing of a paused topic is claimed, on any node, until it is resumed (that rings the bell). Idempotent."""

    def drop_topic(self, queue: str, topic: str) -> bool:
        """
        Remove a topic with everything of it (``pbus topic rm --purge``). False: there is none of that name.

        Late settles of it answer False; claims get nothing of it, or are Unavailable where they are for nothing else.
        A child that declares it makes it again, empty.
        """

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

    def reassign(self, owner: str, heir: str, claims: Sequence[tuple[str, str, str]]) -> list[bool]:
        """
        Claims (queue, topic, id) of *owner* are those of *heir* from now on, with all that they carry: attempts,
        crashes, key; nothing is counted, nothing rings.

        Each is a compare-and-set on *owner*. Atomic per queue. Idempotent: a claim that *heir* has by an earlier call
        is answered as its own. Both live: this is no way to end what the dead held.
        If we die here: it is the one's or the other's, never nobody's.

        Returns:
            Per claim whether *heir* holds it now. False: settled before, somebody else's, or its topic was dropped.

        Raises:
            Unavailable: some may have changed hands; a repetition finds out.
            Conflict: the boot of one of the two was fenced; nothing changed.
        """

    def forget(self, boot: str) -> None:
        """Remove what is kept about a dead boot that holds no claims any more. Idempotent."""
