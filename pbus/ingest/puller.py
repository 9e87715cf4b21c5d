"""
Pulls by RPOP, XREADGROUP and their relatives: claims for connections, longest-waiting first.

    pop --wait--> waiting --claim--> reply --handed to the kernel--> ack, or read (``claims``): acked later
                     |  ^ bell          |
                     |  |               +--connection gone before----> release
                     +--deadline--> nil

Rule: a claim goes back untouched unless its reply has left this process. What was popped is done then, at most once;
what was read is its reader's until it is acked, at least once. One greenlet claims and settles for all connections
of the child; another listens to the store's bell while somebody is blocked, so nobody polls.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import gevent
import gevent.event
import structlog

from pbus.clock import Clock
from pbus.core.job import Delivery
from pbus.errors import StorageError
from pbus.ingest import settling
from pbus.ingest.access import TopicEntry
from pbus.ingest.account import Account
from pbus.ingest.claims import Claim, Claims, Key, Left, Reader
from pbus.ingest.ear import Ear
from pbus.ingest.pops import CLAIM_COUNT, Pop, Read
from pbus.ingest.settling import Arrival, Ask, Settling
from pbus.ingest.waiting import Path, Waiting
from pbus.storage.driver import Bell, Want

DRAINING_READ_S: Final = 0.5
"""A draining child lets a reader that still has claims wait so long for its nil: it may ask again and again."""
_AGAIN_S: Final = 0.5
_LONGEST_NAP_S: Final = 3600.0


class Source(settling.Source, Protocol):
    """The store, as pulls see it; its calls are made by one greenlet and raise StorageError."""

    def claim(self, wants: list[Want]) -> list[Delivery]: ...

    def bell(self) -> Bell: ...


class Puller:
    """Everything of one child that takes jobs from one store by Redis protocol."""

    def __init__(
        self, store: Source, owner: str, account: Account, clock: Clock, log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """*account* hears how what was taken has ended."""
        self._store = store
        self._owner = owner
        self._clock = clock
        self._log = log
        self._waiting = Waiting()
        self._fresh: list[Pop] = []                   # those that have not looked once
        self._rung: set[str] = set()                  # queues to look at
        self._look_all = False
        self._account = account
        self._settling = Settling(store, owner, account, clock)
        self._wake = gevent.event.Event()
        self._ear = Ear(store.name, store.bell, self._is_anybody_blocked, self._heard, clock, log)
        self._limited: set[str] = set()               # queues where somebody found max_open reached
        self._ending = False
        self._serving = False                         # claims may be on their way
        self._parting: list[Pop] = []                 # whose connections wait to go

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
        return not self._waiting and self._settling.idle

    @property
    def claims(self) -> Claims:
        """What is open, of every connection of this child."""
        return self._settling.claims

    def add(self, pop: Pop) -> None:
        """Serve *pop* soon; its connection hears of it by ``popped``."""
        pop.taker = self
        if self._ending:
            self._cut_short(pop)
        self._waiting.add(pop)
        self._fresh.append(pop)
        if pop.deadline_s is not None:
            self._ear.need()
        self._wake.set()

    def _cut_short(self, pop: Pop) -> None:
        """While draining: a pop gets what is there and waits for nothing; a read gets nothing that it has to ack."""
        now_s = self._clock.monotonic_s()
        if isinstance(pop, Read):
            pop.served = False
        if pop.deadline_s is not None:
            waits = isinstance(pop, Read) and pop.reader.claims
            pop.deadline_s = min(pop.deadline_s, now_s + DRAINING_READ_S) if waits else 0.0

    def cancel(self, pop: Pop) -> None:
        """Its connection is gone. What is being claimed for it goes back."""
        if not pop.over:
            pop.over = True
            self._waiting.remove(pop)
            self.delivered(pop.got, sent=False)

    def part(self, pop: Pop) -> None:
        """Its connection goes to another process: as soon as nothing is being claimed for it, it hears ``parted``."""
        self._parting.append(pop)
        if not self._serving:
            self._part()

    def _part(self) -> None:
        parting, self._parting = self._parting, []
        for pop in parting:
            if not pop.over:
                pop.over = pop.parted = True
                self._waiting.remove(pop)
                pop.connection.parted(pop)

    def place_of(self, pop: Pop) -> int:
        """Who waits longer has the lower number."""
        return self._waiting.place_of(pop)

    def arrive(self, arrival: Arrival) -> None:
        """Claims come from another child; it is told when they are ours."""
        self._settling.arrive(arrival)
        self._wake.set()

    def return_to(self, owner: str, claims: Iterable[Claim]) -> None:
        """Claims that came from *owner* are its again: their connection stays there."""
        self._settling.return_to(owner, claims)
        self._wake.set()

    def passed(self, keys: Iterable[Key]) -> None:
        """Claims are another child's now."""
        self._settling.passed(keys)
        self._wake.set()                              # there may be room

    def end_blocked(self) -> None:
        """Drain: everybody who is blocked gets nothing now, and nobody blocks any more."""
        self._ending = True
        for pop in self._waiting:
            if pop.deadline_s is not None:
                self._waiting.end(pop, 0.0)
        self._wake.set()

    def look(self) -> None:
        """Look at every topic somebody waits for: the store is back, or the bell was deaf."""
        self._look_all = True
        self._wake.set()

    def delivered(self, deliveries: Iterable[Delivery], sent: bool) -> None:
        """The reply that carried them has left (*sent*): they are done. Or it never will: they go back."""
        self._settling.finish(deliveries, sent)
        self._wake.set()

    def read(self, read: Read, sent: bool) -> None:
        """The reply to *read* has left (*sent*): what it carried is its reader's until it is acked."""
        if not (sent and read.keeps):
            self.delivered(read.got, sent)
            return
        self._account.read(read.got_of)
        now_s = self._clock.monotonic_s()
        for each in read.got:
            claim = self.claims.find(each.queue, each.topic, each.id)
            if claim is not None:                     # else somebody has acked it already
                read.reader.add(claim, read.consumer, now_s)
        self._wake.set()                              # there is a comparison to be made one day

    # -- for acks, and for connections that close -------------------------------------------------

    def ask(self, ask: Ask) -> None:
        """An ack or nack; its connection hears of it by ``reply``."""
        self._settling.add(ask)
        self._wake.set()

    def left(self, left: Left) -> None:
        """A connection is over that had read something."""
        self._settling.left(left)
        self._wake.set()

    def suspect(self, reader: Reader) -> None:
        """The time of its oldest claim seems to be over: it is told, if the store says that we still hold it."""
        self._settling.suspect(reader)
        self._wake.set()

    # -- the claiming greenlet ----------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(self._nap_s())
            self._wake.clear()
            self._serving = True
            try:
                if self._settling.turn(self._crowded):
                    self._rung, self._limited = self._rung | self._limited, set()
                self._serve()
                self._expire()
            except Exception:  # noqa: BLE001 - the next pop is served all the same, and the log has it
                self._log.exception("pull.failed", storage=self._store.name)
                self._clock.sleep(_AGAIN_S)
            finally:
                self._serving = False
            if self._parting:
                self._part()

    @property
    def _crowded(self) -> bool:
        """Somebody waits for claims to end: for room, or for the end of this child."""
        return self._ending or bool(self._limited and self._waiting)

    def _nap_s(self) -> float | None:
        """Until the next deadline, or until there is something to settle or to compare."""
        end_s = self._waiting.next_end_s()
        nap_s = [min(_LONGEST_NAP_S, max(0.0, end_s - self._clock.monotonic_s()))] if end_s is not None else []
        settling_s = self._settling.nap_s(self._crowded)
        return min(nap_s if settling_s is None else [*nap_s, settling_s], default=None)

    def _serve(self) -> None:
        """Claim for whoever has not looked yet, or whose topic has news, until nobody can be served."""
        hungry = self._hungry()
        plenty: set[Path] = set()
        for place in range(max((len(pop.topics) for pop in hungry), default=0)):
            plenty |= self._round([pop for pop in hungry if not pop.over and place < len(pop.topics)], place)
        for pop in hungry:
            if not pop.over and (pop.got or pop.deadline_s is None):
                self._finish(pop)
        if more := {path[0] for path in plenty if self._waiting.is_waited_for(path)}:
            self._rung |= more
            self._wake.set()

    def _hungry(self) -> list[Pop]:
        """Who is to be served now, longest-waiting first; of those who have looked before as many as a claim is for."""
        rung, everything, fresh = self._rung, self._look_all, self._fresh
        self._rung, self._look_all, self._fresh = set(), False, []
        if everything:
            return list(self._waiting)
        heads = [pop for queue in rung for pop in self._waiting.heads(queue, CLAIM_COUNT)]
        return self._waiting.in_order([*heads, *fresh])

    def _round(self, pops: list[Pop], place: int) -> set[Path]:
        """Let each of *pops* take from its topic number *place*; the topics where there may be more."""
        plenty: set[Path] = set()
        while pops and not self._store.away:
            wants, budgets = self._wants(pops, place)
            if not wants:
                break
            try:
                deliveries = self._store.claim(wants)
            except StorageError:
                self._settling.doubt()
                break
            counts = self._hand_out(pops, place, deliveries)
            short = {path for path, wanted in budgets.items() if counts[path] < wanted}
            plenty = (plenty | budgets.keys()) - short
            if len(short) == len(budgets):
                break
            pops = [
                pop for pop in pops
                if not pop.over and pop.room(place) and (pop.topics[place].queue, pop.topics[place].name) not in short
            ]
        return plenty

    def _wants(self, pops: list[Pop], place: int) -> tuple[list[Want], dict[Path, int]]:
        """One want a topic, as far as its ``max_open`` allows; with how many each is for."""
        rooms: collections.Counter[Path] = collections.Counter()
        topics: dict[Path, TopicEntry] = {}
        for pop in pops:
            topic = pop.topics[place]
            path = (topic.queue, topic.name)
            if rooms[path] < CLAIM_COUNT:             # thousands may be blocked
                topics[path] = topic
                rooms[path] += pop.room(place)
        wants, budgets = [], {}
        for path, room in rooms.items():
            count = min(room, CLAIM_COUNT, topics[path].max_open - self.claims.count(*path))
            if count > 0:
                wants.append(Want(self._owner, *path, count))
                budgets[path] = count
            elif room:
                self._limited.add(path[0])
        return wants, budgets

    def _hand_out(self, pops: list[Pop], place: int, deliveries: Sequence[Delivery]) -> collections.Counter[Path]:
        """Oldest deliveries to whoever waits longest; what nobody can take goes back. How many there were of each."""
        ready: dict[Path, collections.deque[Delivery]] = {}
        for delivery in deliveries:
            ready.setdefault((delivery.queue, delivery.topic), collections.deque()).append(delivery)
        counts = collections.Counter({path: len(line) for path, line in ready.items()})
        now_s, left = self._clock.monotonic_s(), len(deliveries)
        for pop in pops:
            if not left:
                break
            topic = pop.topics[place]
            line = ready.get((topic.queue, topic.name))
            while line and pop.room(place) and not pop.over:
                delivery, left = line.popleft(), left - 1
                self.claims.take(Claim(delivery, topic, self, now_s))
                pop.give(delivery, place)
        for line in ready.values():
            self.delivered(line, sent=False)
        return counts

    def _expire(self) -> None:
        for pop in self._waiting.ended(self._clock.monotonic_s()):
            self._finish(pop)

    def _finish(self, pop: Pop) -> None:
        self._waiting.remove(pop)
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
