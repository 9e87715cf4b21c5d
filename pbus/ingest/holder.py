"""
Jobs that programs take by a token: held in the name of the token's process, found from any connection.

    RPOP --what it holds: acked--> waiting --claim--> reply --handed to the kernel--> held (a row of ``Handed``)
                                     | ^ bell          +--never was, or never read--> release
                                     +--deadline--> nil
    held --next RPOP, exit 0--> ack        --pushed back, exit, crash, timeout--> core.outcome.judge

Rule: what a process holds is asked of the store and what it was given is read from ``Handed``, never remembered,
so every ingest child gives the same answer. A claim that nobody handed over is not taken for done: it goes back.
One greenlet prepares, claims and expires for all programs of the child; a program waits with one command at a time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import gevent
import gevent.event
import structlog

from pbus.clock import Clock
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.names import Owner
from pbus.core.outcome import Outcome, Verdict, judge
from pbus.errors import StorageError
from pbus.ingest.access import TopicEntry
from pbus.ingest.account import Account
from pbus.ingest.ear import Ear
from pbus.ingest.pops import Pop, Receiver
from pbus.storage.driver import Bell, Held, JobRecord, Want
from pbus.supervisor.handed import Hand, Handed

NIL_AFTER_S: Final = 10.0
"""How long a program waits for a job before it is told that there is none."""
_AGAIN_S: Final = 0.5


class Source(Protocol):
    """The store, as programs see it; its calls raise StorageError."""

    name: str
    away: str

    def claim(self, wants: list[Want]) -> list[Delivery]: ...

    def settle(self, settlements: list[Settlement]) -> list[bool]: ...

    def held_by(self, owner: str) -> list[Held]: ...

    def job(self, queue: str, id: str) -> JobRecord | None: ...

    def bell_of_programs(self) -> Bell: ...


class TokenPop(Pop):
    """
    One RPOP under a token.

    Attributes:
        owner: The process in whose name the job is claimed.
        acked: What it held before is done.
        prepared: It is sure to hold nothing now.
    """

    __slots__ = ("acked", "fresh", "owner", "prepared")

    def __init__(self, connection: Receiver, topic: TopicEntry, owner: Owner, deadline_s: float) -> None:
        super().__init__(connection, [topic], 1, deadline_s)
        self.blocks = False                           # it is answered like RPOP
        self.fresh = True                             # it has not looked once
        self.owner = owner
        self.acked = False
        self.prepared = False


class Holder:
    """Everything of one child that programs do with jobs of one store."""

    def __init__(
        self, store: Source, handed: Handed, account: Account, clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._store = store
        self._handed = handed
        self._account = account
        self._clock = clock
        self._log = log
        self._waiting: dict[TokenPop, None] = {}      # in the order they came
        self._given: dict[Owner, Hand] = {}           # what ``Handed`` could not take: its disk is full
        self._returned: list[Settlement] = []         # never handed over, not written yet
        self._rung: set[str] = set()
        self._look_all = False
        self._wake = gevent.event.Event()
        self._ear = Ear(store.name, store.bell_of_programs, lambda: bool(self._waiting), self._heard, clock, log)
        self._ending = False
        self._parting: list[TokenPop] = []            # whose connections wait to go to another process
        self._busy = 0

    def start(self) -> None:
        """Begin to claim and to listen."""
        gevent.spawn(self._run)
        self._ear.start()

    def stop(self) -> None:
        """The child is about to exit."""
        self._ear.stop()
        self._handed.close()

    @property
    def idle(self) -> bool:
        """Nobody waits, and nothing is to be written."""
        return not self._waiting and not self._returned and not self._busy

    # -- for commands -----------------------------------------------------------------------------

    def add(self, pop: TokenPop) -> None:
        """Serve *pop* soon; its connection hears of it. One that its process waits with already ends with nothing."""
        for other in [other for other in self._waiting if other.owner == pop.owner]:
            self._finish(other)
        pop.taker = self
        if self._ending:
            pop.deadline_s = 0.0
        self._waiting[pop] = None
        self._ear.need()
        self._wake.set()

    def cancel(self, pop: Pop) -> None:
        """Its connection is gone. What is being claimed for it goes back."""
        if isinstance(pop, TokenPop) and not pop.over:
            pop.over = True
            del self._waiting[pop]
            self.delivered(pop.got, sent=False)

    def part(self, pop: Pop) -> None:
        """As ``Puller.part``."""
        if isinstance(pop, TokenPop):
            self._parting.append(pop)
        if not self._busy:
            self._part()

    def place_of(self, pop: TokenPop) -> int:  # noqa: ARG002 - each waits for its own
        """As ``Puller.place_of``."""
        return 0

    def _part(self) -> None:
        parting, self._parting = self._parting, []
        for pop in parting:
            if not pop.over:
                pop.over = pop.parted = True
                self._waiting.pop(pop, None)
                pop.connection.parted(pop)

    def end_blocked(self) -> None:
        """Drain: whoever waits gets what is there, or nothing, now."""
        self._ending = True
        for pop in self._waiting:
            pop.deadline_s = 0.0
        self._wake.set()

    def look(self) -> None:
        """Look at every topic somebody waits for: the store is back, or the bell was deaf."""
        self._look_all = True
        self._wake.set()

    def doubt(self) -> None:
        """
        A child has died: what it was claiming for a program may have reached the store after we asked.

        Call it for a while after a death, or such a job waits until its program asks for another one.
        """
        for pop in self._waiting:
            pop.prepared = False
        self._wake.set()

    def delivered(self, deliveries: Iterable[Delivery], sent: bool) -> None:
        """The reply that carried them has left (*sent*), or never will."""
        for each in deliveries:
            if sent:
                self._give(Owner.parse(each.owner), Hand(each.id, self._clock.monotonic_s()))
            else:
                self._release(each)

    def unread(self, delivery: Delivery, topic: TopicEntry) -> None:
        """The reply had left, but its client went without reading all of it: back, as ``on_unknown`` allows."""
        owner = Owner.parse(delivery.owner)
        hand = self._hand(owner)
        if hand is not None and hand.job_id == delivery.id:
            self._forget(owner)
            outcome = Outcome(verdict=Verdict.UNSURE, error="its program went in the middle of the reply")
            settlement = judge(delivery, outcome, topic.rules, int(self._clock.wall_s() * 1000), 0.0)
            self._returned.append(settlement)
            self._account.ended(delivery, outcome, settlement)
            self._wake.set()

    def again(self, owner: Owner, topic: TopicEntry, job_id: str, error: str) -> bool:
        """
        The program of *owner* gives the job back as failed; False: it does not hold it (any more).

        Raises:
            StorageError: the store cannot be asked now.
        """
        held = [one for one in self._held(owner, topic) if one.id == job_id]
        return bool(self._end(owner, topic, held, Verdict.FAILED, error))

    def settle(self, owner: Owner, topic: TopicEntry, verdict: Verdict, error: str) -> int:
        """
        The program of *owner* has ended: so does everything it holds, and whatever it waits for.

        Returns:
            How many claims that was.

        Raises:
            StorageError: the store cannot be asked now; nothing that was settled before comes back.
        """
        for pop in [pop for pop in self._waiting if pop.owner == owner]:
            self._finish(pop)
        return self._end(owner, topic, self._held(owner, topic), verdict, error)

    def overdue(self, owner: Owner, timeout_s: float, now_s: float) -> str:
        """
        Id of the job that *owner* has had in hand for longer than *timeout_s*; empty: none.

        Raises:
            StorageError: the store cannot be asked now.
        """
        hand = self._handed.read(owner)
        if hand is None or now_s - hand.since_s <= timeout_s:
            return ""
        return hand.job_id if any(held.id == hand.job_id for held in self._store.held_by(str(owner))) else ""

    # -- settling ---------------------------------------------------------------------------------

    def _give(self, owner: Owner, hand: Hand) -> None:
        self._given.pop(owner, None)
        if not self._handed.give(owner, *hand):
            self._log.error("handed.unwritten", owner=str(owner), job=hand.job_id)
            self._given[owner] = hand

    def _hand(self, owner: Owner) -> Hand | None:
        """What it was handed, by whichever ingest child."""
        return self._given.get(owner) or self._handed.read(owner)

    def _forget(self, owner: Owner) -> None:
        self._given.pop(owner, None)
        self._handed.take(owner)

    def _release(self, delivery: Delivery) -> None:
        """It goes back as it was: it never began."""
        self._returned.append(Settlement(
            owner=delivery.owner, queue=delivery.queue, topic=delivery.topic, id=delivery.id, move=Move.RELEASE
        ))
        self._wake.set()

    def _held(self, owner: Owner, topic: TopicEntry) -> list[Held]:
        claims = self._store.held_by(str(owner))
        return [held for held in claims if (held.queue, held.topic) == (topic.queue, topic.name)]

    def _end(self, owner: Owner, topic: TopicEntry, held: Sequence[Held], verdict: Verdict, error: str) -> int:
        """Settle claims: what was handed over by *verdict*, what was not goes back."""
        if not held:
            return 0
        hand = self._hand(owner)
        now_ms = int(self._clock.wall_s() * 1000)
        ended = []
        for one in held:
            outcome = Outcome(verdict=Verdict.UNSURE, error="it was claimed and maybe never handed over")
            if hand is not None and hand.job_id == one.id:
                run_s = max(0.0, self._clock.monotonic_s() - hand.since_s)
                outcome = Outcome(verdict=verdict, error=error, run_s=run_s, target=str(owner))
            delivery = self._delivery(owner, one)
            ended.append((delivery, outcome, judge(delivery, outcome, topic.rules, now_ms, random.random())))
        took_effect = self._store.settle([settlement for _, _, settlement in ended])
        if hand is not None and hand.job_id in [one.id for one in held]:
            self._forget(owner)
        for (delivery, outcome, settlement), ours in zip(ended, took_effect, strict=True):
            if ours:
                self._account.ended(delivery, outcome, settlement)
        if topic.exclusive:
            self.look()                               # whoever was refused it may have it now
        return sum(took_effect)

    def _delivery(self, owner: Owner, held: Held) -> Delivery:
        """The claim as judges see it; when its first attempt ended is asked for only where there was one."""
        first_ms, redelivered = 0, False
        if held.attempts:
            record = self._store.job(held.queue, held.id)
            place = record.topics.get(held.topic) if record is not None else None
            if place is not None:
                first_ms, redelivered = place.first_ms, place.redelivered
        return Delivery(
            id=held.id, queue=held.queue, topic=held.topic, body=b"", attempt=held.attempts + 1, crashes=held.crashes,
            redelivered=redelivered, traceparent="", content_type="", first_ms=first_ms, owner=str(owner),
            key=held.key, forgiven=held.forgiven,
        )

    # -- the claiming greenlet --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(self._nap_s())
            self._wake.clear()
            self._busy += 1
            try:
                self._write_returned()
                self._serve()
                self._expire()
            except Exception:  # noqa: BLE001 - the next pop is served all the same, and the log has it
                self._log.exception("pull.failed", storage=self._store.name)
                self._clock.sleep(_AGAIN_S)
            finally:
                self._busy -= 1
            if self._parting:
                self._part()

    def _nap_s(self) -> float | None:
        deadlines = [pop.deadline_s for pop in self._waiting if pop.deadline_s is not None]
        nap_s = [max(0.0, min(deadlines) - self._clock.monotonic_s())] if deadlines else []
        again = self._returned or any(not pop.prepared for pop in self._waiting)
        return min([*nap_s, _AGAIN_S] if again else nap_s, default=None)

    def _write_returned(self) -> None:
        """What cannot be written stays and is repeated."""
        if not self._returned:
            return
        batch, self._returned = self._returned, []
        try:
            self._store.settle(batch)
        except StorageError:
            self._returned = batch + self._returned

    def _serve(self) -> None:
        """Claim for whoever has not looked yet, or whose topic has news."""
        rung, everything = self._rung, self._look_all
        self._rung, self._look_all = set(), False
        hungry = [
            pop for pop in self._waiting
            if pop.fresh or not pop.prepared or everything or pop.topics[0].queue in rung
        ]
        for pop in hungry:
            if not pop.prepared:
                self._prepare(pop)
        self._claim([pop for pop in hungry if pop.prepared and not pop.over])

    def _prepare(self, pop: TokenPop) -> None:
        """Whoever asks for the next one has finished the one before; what it never got goes back."""
        if self._store.away:
            return
        try:
            topic = pop.topics[0]
            held = self._held(pop.owner, topic)
            hand = self._hand(pop.owner)
            if pop.acked and hand is not None:
                held = [one for one in held if one.id != hand.job_id]
            self._end(pop.owner, topic, held, Verdict.DONE, "")
        except StorageError:
            return                                    # tried again until its time is over
        pop.acked = pop.prepared = True

    def _claim(self, pops: list[TokenPop]) -> None:
        if not pops or self._store.away:
            return
        topics = [(pop, pop.topics[0]) for pop in pops]
        wants = [Want(str(pop.owner), topic.queue, topic.name, 1, topic.exclusive) for pop, topic in topics]
        try:
            deliveries = self._store.claim(wants)
        except StorageError:
            for pop in pops:                          # a lost reply may have claimed something: it goes back first
                pop.prepared = False
            return
        waiting = {str(pop.owner): pop for pop in pops if not pop.over}
        for pop in pops:
            pop.fresh = False
        for delivery in deliveries:
            taker = waiting.pop(delivery.owner, None)
            if taker is None:
                self._release(delivery)               # its client went meanwhile
            else:
                taker.got.append(delivery)
                self._finish(taker)

    def _expire(self) -> None:
        now_s = self._clock.monotonic_s()
        for pop in [pop for pop in self._waiting if pop.deadline_s is not None and pop.deadline_s <= now_s]:
            self._finish(pop)

    def _finish(self, pop: TokenPop) -> None:
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
