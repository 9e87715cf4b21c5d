"""
Pulls by RPOP and its relatives: claims for connections, longest-waiting first.

    pop --wait--> waiting --claim--> reply --handed to the kernel--> ack
                     |  ^ bell          |
                     |  |               +--connection gone before----> release
                     +--deadline--> nil

Rule: at most once. A claim ends when its reply has left this process, or goes back untouched. One
greenlet claims and settles for all connections of the child; another listens to the store's bell
while somebody is blocked, so nobody polls.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import gevent
import gevent.event
import structlog

from pbus.clock import Clock
from pbus.core.job import Delivery, Move, Settlement
from pbus.errors import StorageError
from pbus.ingest.access import TopicEntry
from pbus.ingest.ear import Ear
from pbus.storage.driver import Bell, Held, Want

CLAIM_COUNT: Final = 100
"""Deliveries of one claim; a pop that wants more gets them by several."""
REPLY_BYTES: Final = 16 * 1024 * 1024
"""Bodies of one reply; more than that is left in the topic."""
_SETTLE_AGAIN_S: Final = 0.5
_LONGEST_NAP_S: Final = 3600.0


class Source(Protocol):
    """The store, as pulls see it; its calls are made by one greenlet and raise StorageError."""

    name: str
    away: str

    def claim(self, wants: list[Want]) -> list[Delivery]: ...

    def settle(self, settlements: list[Settlement]) -> list[bool]: ...

    def held(self) -> list[Held]: ...

    def bell(self) -> Bell: ...


class Receiver(Protocol):
    """A connection, as its pop sees it; one that closes cancels its pop."""

    def popped(self, pop: Pop) -> None:
        """*pop* is over; ``pop.got`` or ``pop.error`` say how."""


class Taker(Protocol):
    """Who claims for a pop."""

    def cancel(self, pop: Pop) -> None: ...

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
        taker: Who serves it.
    """

    __slots__ = (
        "blocks", "connection", "count", "deadline_s", "error", "fresh", "got", "keys", "many", "over", "size",
        "taker", "topics",
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
        self.fresh = True                             # it has not looked once
        self.over = False

    @property
    def room(self) -> int:
        """How many more it may be given now."""
        return min(self.count - len(self.got), CLAIM_COUNT) if self.size < REPLY_BYTES else 0


class Puller:
    """Everything of one child that takes jobs from one store by Redis protocol."""

    def __init__(
        self, store: Source, owner: str, clock: Clock, log: structlog.typing.FilteringBoundLogger,
        done: Callable[[str, int], None] | None = None,
    ) -> None:
        """*done* hears how many jobs of a topic (``queue/topic``) were taken for good."""
        self._store = store
        self._done = done
        self._owner = owner
        self._clock = clock
        self._log = log
        self._waiting: dict[Pop, None] = {}           # in the order they came
        self._rung: set[str] = set()                  # queues to look at
        self._look_all = False
        self._open: collections.Counter[str] = collections.Counter()
        self._mine: set[tuple[str, str, str]] = set()  # the same, one by one
        self._doubt = False                           # a claim failed: the store may hold more for us than we know
        self._settlements: list[Settlement] = []
        self._wake = gevent.event.Event()
        self._ear = Ear(store.name, store.bell, self._is_anybody_blocked, self._heard, clock, log)
        self._settling = False
        self._limited = False                         # somebody found max_open reached
        self._ending = False

    def start(self) -> None:
        """Begin to claim and to listen."""
        gevent.spawn(self._run)
        self._ear.start()

    def stop(self) -> None:
        """The child is about to exit: the bell is hung down at its next sound."""
        self._ear.stop()

    @property
    def idle(self) -> bool:
        """No claim is open and nobody waits."""
        return not self._waiting and not self._settlements and not self._settling and not self._open.total()

    def add(self, pop: Pop) -> None:
        """Serve *pop* soon; its connection hears of it by ``popped``."""
        pop.taker = self
        self._waiting[pop] = None
        if pop.deadline_s is not None:
            if self._ending:
                pop.deadline_s = 0.0                  # it gets what is there, and waits for nothing
            self._ear.need()
        self._wake.set()

    def cancel(self, pop: Pop) -> None:
        """Its connection is gone. What is being claimed for it goes back."""
        if not pop.over:
            pop.over = True
            del self._waiting[pop]
            self.delivered(pop.got, sent=False)

    def end_blocked(self) -> None:
        """Drain: everybody who is blocked gets nothing now, and nobody blocks any more."""
        self._ending = True
        for pop in list(self._waiting):
            if pop.deadline_s is not None:
                pop.deadline_s = 0.0
        self._wake.set()

    def look(self) -> None:
        """Look at every topic somebody waits for: the store is back, or the bell was deaf."""
        self._look_all = True
        self._wake.set()

    def delivered(self, deliveries: Iterable[Delivery], sent: bool) -> None:
        """The reply that carried them has left (*sent*), or never will."""
        move = Move.ACK if sent else Move.RELEASE
        self._settlements += [
            Settlement(owner=each.owner, queue=each.queue, topic=each.topic, id=each.id, move=move)
            for each in deliveries
        ]
        self._wake.set()

    # -- the claiming greenlet ----------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(self._nap_s())
            self._wake.clear()
            try:
                if self._doubt and not self._store.away:
                    self._compare()
                if self._settlements:
                    self._settle()
                self._serve()
                self._expire()
            except Exception:  # noqa: BLE001 - the next pop is served all the same, and the log has it
                self._log.exception("pull.failed", storage=self._store.name)
                self._clock.sleep(_SETTLE_AGAIN_S)

    def _nap_s(self) -> float | None:
        """Until the next deadline, or the next try to settle."""
        deadlines = [pop.deadline_s for pop in self._waiting if pop.deadline_s is not None]
        nap_s = [min(_LONGEST_NAP_S, max(0.0, min(deadlines) - self._clock.monotonic_s()))] if deadlines else []
        return min([*nap_s, _SETTLE_AGAIN_S] if self._settlements else nap_s, default=None)

    def _compare(self) -> None:
        """A claim whose answer was lost may have taken jobs that nobody here knows of: they go back."""
        try:
            held = self._store.held()
        except StorageError:
            return
        self._doubt = False
        for claim in held:
            if (claim.queue, claim.topic, claim.id) not in self._mine:
                self._take(claim.queue, claim.topic, claim.id)
                self._settlements.append(Settlement(
                    owner=self._owner, queue=claim.queue, topic=claim.topic, id=claim.id, move=Move.RELEASE
                ))

    def _take(self, queue: str, topic: str, job_id: str) -> None:
        """A claim is ours until it is settled."""
        self._mine.add((queue, topic, job_id))
        self._open[f"{queue}/{topic}"] += 1

    def _settle(self) -> None:
        """Write how claims ended; what cannot be written stays and is repeated."""
        batch, self._settlements = self._settlements, []
        self._settling = True
        try:
            self._store.settle(batch)
        except StorageError:
            self._settlements = batch + self._settlements
            return
        finally:
            self._settling = False
        self._open.subtract([f"{each.queue}/{each.topic}" for each in batch])
        self._mine.difference_update([(each.queue, each.topic, each.id) for each in batch])
        if self._done is not None:
            acked = collections.Counter([f"{each.queue}/{each.topic}" for each in batch if each.move is Move.ACK])
            for path, count in acked.items():
                self._done(path, count)
        if self._limited:
            self._limited, self._look_all = False, True

    def _serve(self) -> None:
        """Claim for whoever has not looked yet, or whose topic has news, until nobody can be served."""
        rung, everything = self._rung, self._look_all
        self._rung, self._look_all = set(), False
        hungry = [
            pop for pop in self._waiting
            if pop.fresh or everything or any(topic.queue in rung for topic in pop.topics)
        ]
        for place in range(max((len(pop.topics) for pop in hungry), default=0)):
            self._round([pop for pop in hungry if not pop.over and place < len(pop.topics)], place)
        for pop in hungry:
            pop.fresh = False
            if not pop.over and (pop.got or pop.deadline_s is None):
                self._finish(pop)

    def _round(self, pops: list[Pop], place: int) -> None:
        """Let each of *pops* take from its topic number *place*."""
        while pops and not self._store.away:
            wants, budgets = self._wants(pops, place)
            if not wants:
                return
            try:
                deliveries = self._store.claim(wants)
            except StorageError:
                self._doubt = True
                return
            self._hand_out(pops, place, deliveries)
            short = {path for path, wanted in budgets.items() if self._count(deliveries, path) < wanted}
            pops = [pop for pop in pops if not pop.over and pop.room and pop.topics[place].path not in short]

    @staticmethod
    def _count(deliveries: Sequence[Delivery], path: str) -> int:
        return sum(f"{each.queue}/{each.topic}" == path for each in deliveries)

    def _wants(self, pops: list[Pop], place: int) -> tuple[list[Want], dict[str, int]]:
        """One want a topic, as far as its ``max_open`` allows; with how many each is for."""
        rooms: collections.Counter[TopicEntry] = collections.Counter()
        for pop in pops:
            rooms[pop.topics[place]] += pop.room
        wants, budgets = [], {}
        for topic, room in rooms.items():
            count = min(room, CLAIM_COUNT, topic.max_open - self._open[topic.path])
            if count > 0:
                wants.append(Want(self._owner, topic.queue, topic.name, count))
                budgets[topic.path] = count
            elif room:
                self._limited = True
        return wants, budgets

    def _hand_out(self, pops: list[Pop], place: int, deliveries: Sequence[Delivery]) -> None:
        """Oldest deliveries to whoever waits longest; what nobody can take goes back."""
        ready: dict[str, collections.deque[Delivery]] = collections.defaultdict(collections.deque)
        for delivery in deliveries:
            path = f"{delivery.queue}/{delivery.topic}"
            ready[path].append(delivery)
            self._take(delivery.queue, delivery.topic, delivery.id)
        for pop in pops:
            line = ready[pop.topics[place].path]
            while line and pop.room and not pop.over:
                delivery = line.popleft()
                pop.got.append(delivery)
                pop.size += len(delivery.body)
        for line in ready.values():
            self.delivered(line, sent=False)

    def _expire(self) -> None:
        now_s = self._clock.monotonic_s()
        for pop in [pop for pop in self._waiting if pop.deadline_s is not None and pop.deadline_s <= now_s]:
            self._finish(pop)

    def _finish(self, pop: Pop) -> None:
        self._waiting.pop(pop, None)
        pop.over = True
        if not pop.got and self._store.away:
            where = f"the store '{self._store.name}' is away ({self._store.away})"
            pop.error = f"UNAVAILABLE {where}: nothing taken, try again in 1 s"
        pop.connection.popped(pop)

    # -- the ear ------------------------------------------------------------------------------

    def _heard(self, queues: frozenset[str]) -> None:
        """Jobs have come to *queues*; empty: look at all of them."""
        self._rung |= queues
        self._look_all = self._look_all or not queues
        self._wake.set()

    def _is_anybody_blocked(self) -> bool:
        return any(pop.deadline_s is not None for pop in self._waiting)
