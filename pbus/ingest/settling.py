"""
How the claims of an ingest child on one store end: written in batches by the puller's greenlet.

    reply of a pop has left, or not ----------------> ends --+
    connection closed --which is the oldest?--judge-> ends --+--one settle--> the store
    XACK, PBUS.NACK of what this child holds ----------------+
    XACK, PBUS.NACK of anything else --who holds it?--> given back in its holder's name

Rule: an end that we owe is kept until the store has it; an ack is answered at once, with an error when it could not
be written, and is the client's to repeat. Our list of claims is compared with the store's when somebody acks them
by way of other children, when an answer was lost, and before a reader is called slow or crashed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import gevent.event

from pbus.clock import Clock
from pbus.codec.resp_reply import error, integer
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Verdict, judge
from pbus.errors import StorageError
from pbus.ingest.access import TopicEntry
from pbus.ingest.account import Account
from pbus.ingest.committer import Ticket
from pbus.ingest.claims import Claim, Claims, Key, Left, Reader
from pbus.storage.driver import Held, JobRecord

AGAIN_S: Final = 0.5
"""Between two tries of what the store did not take."""
COMPARE_S: Final = 5.0
"""The store's list of our claims is looked at so often while some are open."""
CROWDED_S: Final = 0.1
"""The same while somebody waits for one of them to end, at most; longer when it shows nothing."""
CROWDED_MOST_S: Final = 1.0
SETTLE_COUNT: Final = 1_000
"""Ends of one call: a Redis does nothing else while it buries them (0.1 ms each), and no call may take 5 s."""
MOVES: Final = 3
"""How often the holder of a claim is asked for: it may change while connections pass from child to child."""
SHARE: Final = 20
"""Looking at it takes at most one part in so many of the time."""
_DONE: Final = Outcome(verdict=Verdict.DONE)
_BACK: Final = Outcome(verdict=Verdict.RELEASED)


class Source(Protocol):
    """The store, as ends of claims see it; its calls raise StorageError."""

    name: str
    away: str

    def settle(self, settlements: list[Settlement]) -> list[bool]: ...

    def give_back(self, owner: str, settlements: list[Settlement]) -> list[bool]: ...

    def holders(self, queue: str, topic: str, ids: list[str]) -> list[str]: ...

    def held(self) -> list[Held]: ...

    def held_by(self, owner: str) -> list[Held]: ...

    def job(self, queue: str, id: str) -> JobRecord | None: ...

    def reassign(self, owner: str, heir: str, claims: list[Key]) -> list[bool]: ...

    def promote(self, queues: Sequence[str]) -> None: ...

    def soon_due(self, delay_s: float) -> None: ...


class Asker(Protocol):
    """A connection that waits for the answer to its ack."""

    def join(self) -> Ticket: ...

    def conclude(self, ticket: Ticket, reply: bytes) -> None: ...


class Ask:
    """
    One XACK or PBUS.NACK, until it is answered.

    Args:
        connection: Who asks; the answer has its place among its replies.
        topic: Whose deliveries.
        ids: Which.
        outcome: What became of them.
    """

    __slots__ = ("_connection", "_failure", "_ticket", "elsewhere", "ids", "outcome", "took", "topic")

    def __init__(self, connection: Asker, topic: TopicEntry, ids: Sequence[str], outcome: Outcome) -> None:
        self._connection = connection
        self._ticket = connection.join()
        self._failure = ""
        self.topic = topic
        self.ids = ids
        self.outcome = outcome
        self.elsewhere: list[str] = []                # not held by this child
        self.took = 0

    def fail(self, text: str) -> None:
        """It is answered with this error."""
        self._failure = text

    def answer(self) -> None:
        """Say how many took effect, or why nobody can say."""
        self._connection.conclude(self._ticket, error(self._failure) if self._failure else integer(self.took))


@dataclass(slots=True)
class End:
    """A claim that is over on our side; ``delivery`` None: nobody was ever told of it."""

    settlement: Settlement
    outcome: Outcome
    delivery: Delivery | None


class Arrival:
    """
    Claims that were another child's and are to be ours.

    Attributes:
        owner: Whose they are.
        claims: As we shall keep them.
        ours: Keys of those that we hold now; None: nobody knows.
        done: Set when it is known, or cannot be.
    """

    __slots__ = ("claims", "done", "ours", "owner")

    def __init__(self, owner: str, claims: Sequence[Claim]) -> None:
        self.owner = owner
        self.claims = claims
        self.ours: set[Key] | None = None
        self.done = gevent.event.Event()


class Settling:
    """
    Everything of one child that ends claims on one store. One owner: its ``Puller``, whose greenlet calls ``turn``.

    Attributes:
        claims: What is open.
    """

    def __init__(self, store: Source, owner: str, account: Account, clock: Clock) -> None:
        self.claims = Claims()
        self._store = store
        self._owner = owner
        self._account = account
        self._clock = clock
        self._ends: list[End] = []
        self._asks: list[Ask] = []
        self._lefts: list[Left] = []
        self._suspects: dict[Reader, None] = {}
        self._arrivals: list[Arrival] = []
        self._returning: list[tuple[str, Claim]] = []
        self._doubt = False                           # the store may hold more for us than we know, or less
        self._compared_s = float("-inf")
        self._crowded_s = CROWDED_S
        self._writing = False

    @property
    def idle(self) -> bool:
        """Nothing is open and nothing is to be written."""
        return not (self.claims or self._ends or self._asks or self._lefts or self._writing)

    # -- what is to be done -----------------------------------------------------------------------

    def add(self, ask: Ask) -> None:
        """An ack or nack, answered after the next turn."""
        self._asks.append(ask)

    def finish(self, deliveries: Iterable[Delivery], sent: bool) -> None:
        """The reply that carried them has left (*sent*), and that is all we want to know; or it never will."""
        move, outcome = (Move.ACK, _DONE) if sent else (Move.RELEASE, _BACK)
        self._ends += [
            End(Settlement(owner=each.owner, queue=each.queue, topic=each.topic, id=each.id, move=move), outcome, each)
            for each in deliveries
        ]

    def left(self, left: Left) -> None:
        """The connection that read them is over."""
        self._lefts.append(left)

    def suspect(self, reader: Reader) -> None:
        """Its time seems to be over: it is told if that is true."""
        self._suspects[reader] = None

    def arrive(self, arrival: Arrival) -> None:
        """Claims come from another child; in one step with our list, which is compared with the store's."""
        self._arrivals.append(arrival)

    def return_to(self, owner: str, claims: Iterable[Claim]) -> None:
        """They are *owner*'s again; in one step with our list, as ``arrive``."""
        self._returning += [(owner, claim) for claim in claims]

    def passed(self, keys: Iterable[Key]) -> None:
        """They are another child's now."""
        now_s = self._clock.monotonic_s()
        for key in keys:
            self.claims.end(key, now_s)

    def doubt(self) -> None:
        """A claim failed: the store may hold more for us than we know."""
        self._doubt = True

    # -- the puller's greenlet --------------------------------------------------------------------

    def nap_s(self, crowded: bool) -> float | None:
        """How long nothing is to be done here by itself; None: for ever."""
        if self._store.away:
            return AGAIN_S if not self.idle else None
        if self._ends or self._lefts or self._doubt or self._returning:
            return AGAIN_S
        if not self.claims:
            return None
        return max(0.0, self._compared_s + self._gap_s(crowded) - self._clock.monotonic_s())

    def _gap_s(self, crowded: bool) -> float:
        return self._crowded_s if crowded else COMPARE_S

    def turn(self, crowded: bool) -> bool:
        """
        Write what there is to write.

        Args:
            crowded: Somebody waits for open claims to end.

        Returns:
            Whether some have ended, so that there is room again.
        """
        self._take_arrivals()
        if self._returning:
            self._return()
        before = len(self.claims)
        suspects, left = list(self._suspects), len(self._lefts)
        try:
            known = self._look(crowded)
        finally:
            self._answer_asks()                       # those that came meanwhile, too
        if known and not self._store.away and (suspects or left):
            self._find_out(suspects, left)
            self._write(())
        return len(self.claims) < before

    def _take_arrivals(self) -> None:
        """Have the store make them ours, one call for all of an owner."""
        arrivals, self._arrivals = self._arrivals, []
        for owner in {arrival.owner: None for arrival in arrivals}:
            theirs = [arrival for arrival in arrivals if arrival.owner == owner]
            keys = [claim.key for arrival in theirs for claim in arrival.claims]
            with contextlib.suppress(StorageError):   # who waits hears that nobody knows
                ours = dict(zip(keys, self._store.reassign(owner, self._owner, keys), strict=True))
                for arrival in theirs:
                    arrival.ours = {claim.key for claim in arrival.claims if ours[claim.key]}
                    self._keep([claim for claim in arrival.claims if ours[claim.key]])
        for arrival in arrivals:
            arrival.done.set()

    def _return(self) -> None:
        """Have the store give back what came and was not to stay; what it does not take is repeated."""
        returning, self._returning = self._returning, []
        for owner in {owner: None for owner, _ in returning}:
            claims = [claim for one, claim in returning if one == owner]
            try:
                self._store.reassign(self._owner, owner, [claim.key for claim in claims])
            except StorageError:
                self._returning += [(owner, claim) for claim in claims]
                continue
            for claim in claims:
                if claim in self.claims:
                    self.claims.end(claim.key, self._clock.monotonic_s())

    def _keep(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if claim not in self.claims:              # taken back: it never left our list
                self.claims.take(claim)

    def _answer_asks(self) -> None:
        """Write what was asked for, and all ends that are owed."""
        asks, self._asks = self._asks, []
        try:
            self._write(asks)
        except Exception:                             # one command, one reply, whatever it is
            for ask in asks:
                ask.fail("ERR internal error, the log of the bus says more: nobody knows what is acked")
            raise
        finally:
            for ask in asks:
                ask.answer()

    def _look(self, crowded: bool) -> bool:
        """Compare where that is due; whether all is known that has to be."""
        if self._store.away:
            return False
        now_s = self._clock.monotonic_s()
        asked = self._doubt or self._suspects or any(left.in_doubt for left in self._lefts)
        if asked or (self.claims and now_s >= self._compared_s + self._gap_s(crowded)):
            try:
                self._compare(now_s, crowded)
            except StorageError:
                return False
        return True

    def _find_out(self, suspects: Sequence[Reader], left: int) -> None:
        """Whose time is over, and how the first *left* end that were left behind; acks that came before are written."""
        now_s = self._clock.monotonic_s()
        for reader in suspects:
            self._suspects.pop(reader, None)
            reader.tell(now_s)
        lefts, self._lefts = self._lefts[:left], self._lefts[left:]
        for each in lefts:
            self._judge(each, now_s)

    def _compare(self, now_s: float, crowded: bool) -> None:
        unknown, settled = self.claims.compare(self._store.held())
        self._compared_s = self._clock.monotonic_s()
        self._doubt = False
        slow_s = SHARE * (self._compared_s - now_s)   # a long list takes its time
        idle_s = CROWDED_S if settled or not crowded else min(CROWDED_MOST_S, 2 * self._crowded_s)
        self._crowded_s = max(idle_s, slow_s)
        self._ends += [End(self._release(held), _BACK, None) for held in unknown]
        for claim in settled:
            self.claims.end(claim.key, now_s)

    def _release(self, held: Held) -> Settlement:
        return Settlement(owner=self._owner, queue=held.queue, topic=held.topic, id=held.id, move=Move.RELEASE)

    def _judge(self, left: Left, now_s: float) -> None:
        now_ms = int(self._clock.wall_s() * 1000)
        still = [claim for claim in left.claims if claim in self.claims]
        for place, claim in enumerate(still):
            outcome = left.outcome(claim, first=not place, now_s=now_s)
            settlement = judge(claim.delivery, outcome, left.rules(claim.topic), now_ms, random.random())
            self._ends.append(End(settlement, outcome, claim.delivery))

    def _write(self, asks: Sequence[Ask]) -> None:
        """All ends and acks of this turn. Ends that cannot be written stay."""
        if self._store.away:
            where = f"the store '{self._store.name}' is away ({self._store.away})"
            for ask in asks:
                ask.fail(f"UNAVAILABLE {where}: nothing is acked, try again in 1 s")
            return
        owed, self._ends = self._ends, []
        asked = [(ask, end) for ask in asks for end in self._own(ask)]
        self._writing = True
        try:
            took_effect = self._settle([*owed, *[end for _, end in asked]])
            for (ask, end), ours in zip(asked, took_effect[len(owed):], strict=True):
                ask.took += ours
                if not ours:                          # another child's by now, perhaps
                    ask.elsewhere.append(end.settlement.id)
            owed = []
            self._settle_elsewhere([ask for ask in asks if ask.elsewhere])
        except StorageError as failure:
            self._ends = owed + self._ends
            self._doubt = self._doubt or bool(asked)
            for ask in asks:
                ask.fail(f"UNAVAILABLE {failure}: maybe not all are acked, try again in 1 s")
        finally:
            self._writing = False

    def _own(self, ask: Ask) -> list[End]:
        """How the claims of *ask* end that this child holds; the others are noted."""
        now_s, now_ms = self._clock.monotonic_s(), int(self._clock.wall_s() * 1000)
        topic, ends = ask.topic, []
        for job_id in ask.ids:
            claim = self.claims.find(topic.queue, topic.name, job_id)
            if claim is None:
                ask.elsewhere.append(job_id)
            else:
                outcome = _after(ask.outcome, max(0.0, now_s - claim.since_s))
                settlement = judge(claim.delivery, outcome, topic.rules, now_ms, random.random())
                ends.append(End(settlement, outcome, claim.delivery))
        return ends

    def _settle(self, ends: Sequence[End]) -> list[bool]:
        """
        Write ends of our own claims; whether each took effect.

        Raises:
            StorageError: as the store says.
        """
        parts = [ends[at : at + SETTLE_COUNT] for at in range(0, len(ends), SETTLE_COUNT)]
        return [ours for part in parts for ours in self._settle_part(part)]

    def _settle_part(self, ends: Sequence[End]) -> list[bool]:
        took_effect = self._store.settle([end.settlement for end in ends])
        now_s, popped = self._clock.monotonic_s(), collections.defaultdict[str, list[Delivery]](list)
        plain = None if self._account.watched else _DONE
        for end, ours in zip(ends, took_effect, strict=True):
            one = end.settlement
            self.claims.end((one.queue, one.topic, one.id), now_s)
            if not ours or end.delivery is None:
                continue
            if end.outcome is plain:
                popped[f"{one.queue}/{one.topic}"].append(end.delivery)
            else:
                self._account.ended(end.delivery, end.outcome, one)
        for path, deliveries in popped.items():
            self._account.popped(path, deliveries)
        self._see_to_retries([end.settlement for end, ours in zip(ends, took_effect, strict=True) if ours])
        return took_effect

    def _see_to_retries(self, written: Sequence[Settlement]) -> None:
        """Retries that are due now are ready now; what is due soon is told to who looks after them."""
        retries = [one for one in written if one.move is Move.RETRY]
        for one in retries:
            if one.delay_s > 0:
                self._store.soon_due(one.delay_s)
        due = {one.queue for one in retries if one.delay_s <= 0}
        if due:
            self._store.promote(sorted(due))

    # -- claims of others -------------------------------------------------------------------------

    def _settle_elsewhere(self, asks: Sequence[Ask]) -> None:
        """
        Acks of what other children hold, in their names; one question a topic for all that ask.

        Raises:
            StorageError: as the store says.
        """
        for topic in {ask.topic: None for ask in asks}:
            wanted = [(ask, one) for ask in asks if ask.topic is topic for one in ask.elsewhere]
            for _ in range(MOVES):
                ids = list({job_id: None for _, job_id in wanted})
                owners = dict(zip(ids, self._store.holders(topic.queue, topic.name, ids), strict=True))
                missed: list[tuple[Ask, str]] = []
                for owner in {owner: None for owner in owners.values() if owner}:
                    missed += self._give_back(owner, [(ask, one) for ask, one in wanted if owners[one] == owner])
                wanted = missed
                if not wanted:
                    break

    def _give_back(self, owner: str, asked: Sequence[tuple[Ask, str]]) -> list[tuple[Ask, str]]:
        """Those that *owner* did not have any more: settled, or another child's by now."""
        now_ms, ends = int(self._clock.wall_s() * 1000), []
        for (ask, _), delivery in zip(asked, self._deliveries(owner, asked), strict=True):
            settlement = judge(delivery, ask.outcome, ask.topic.rules, now_ms, random.random())
            ends.append(End(settlement, ask.outcome, delivery))
        took_effect = self._store.give_back(owner, [end.settlement for end in ends])
        for (ask, _), end, ours in zip(asked, ends, took_effect, strict=True):
            ask.took += ours
            if ours and end.delivery is not None:
                self._account.ended(end.delivery, end.outcome, end.settlement)
        self._see_to_retries([end.settlement for end, ours in zip(ends, took_effect, strict=True) if ours])
        return [one for one, ours in zip(asked, took_effect, strict=True) if not ours]

    def _deliveries(self, owner: str, asked: Sequence[tuple[Ask, str]]) -> list[Delivery]:
        """The claims of another child as judges see them; its list of claims is long, so it is read once, if at all."""
        found = [self._delivery(owner, ask, job_id) for ask, job_id in asked]
        if all(each.attempt == 1 for each in found):
            return found
        forgiven = {(held.queue, held.topic, held.id): held.forgiven for held in self._store.held_by(owner)}
        return [
            dataclasses.replace(each, forgiven=forgiven.get((each.queue, each.topic, each.id), 0)) for each in found
        ]

    def _delivery(self, owner: str, ask: Ask, job_id: str) -> Delivery:
        """One of them; how often it was tried matters only where it is tried again."""
        attempts = crashes = first_ms = 0
        key, redelivered = "", False
        if ask.outcome.verdict is not Verdict.DONE or self._account.watched:
            record = self._store.job(ask.topic.queue, job_id)
            place = record.topics.get(ask.topic.name) if record is not None else None
            if place is not None and record is not None:
                attempts, crashes, first_ms = place.attempts, place.crashes, place.first_ms
                redelivered, key = place.redelivered, record.key
        return Delivery(
            id=job_id, queue=ask.topic.queue, topic=ask.topic.name, body=b"", attempt=attempts + 1, crashes=crashes,
            redelivered=redelivered, traceparent="", content_type="", first_ms=first_ms, owner=owner, key=key,
        )


def _after(outcome: Outcome, run_s: float) -> Outcome:
    """*outcome* of an attempt that took *run_s*."""
    return Outcome(verdict=outcome.verdict, error=outcome.error, delay_s=outcome.delay_s, run_s=run_s)
