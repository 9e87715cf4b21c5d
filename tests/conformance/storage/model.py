"""
What a store must look like, kept in a few lists: the reference for random interleavings.

Moves are looked up in ``core.job.TABLE``; nothing here knows how a driver works. Where a driver may choose
(when it notices that a job has expired, whom of a key it has met already), the model judges its choice.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pbus.core.job import Delivery, Move, Push, PushOptions, Settlement, State, successor
from pbus.storage.driver import Appended

PLAIN = PushOptions()
LONG_MS = 3_600_000
"""A delay, ttl or rest that no test sees the end of; shorter ones are over when the model hears of them."""


def in_order(job_id: str) -> tuple[int, int]:
    """Ids as numbers, so that they sort as they were given out."""
    ms, sequence = job_id.split("-")
    return int(ms), int(sequence)


@dataclass
class Place:
    """
    One delivery: where it is and what it has come to.

    Attributes:
        due: Delayed, and its time has come.
        late: Its ttl is over: it will expire when the store looks at it.
        in_log: It was never claimed nor moved: read after what came back.
        fresh: The topic has not taken it: it is in the backlog.
        hidden: Delayed when its topic was made from history: the store may not have noticed yet.
        since: When it came to wait where it is: grows from one arrival to the next.
    """

    id: str
    body: bytes
    key: str = ""
    state: State = State.READY
    owner: str = ""
    attempts: int = 0
    crashes: int = 0
    forgiven: int = 0
    redelivered: bool = False
    fingerprint: str = ""
    due: bool = False
    late: bool = False
    in_log: bool = True
    fresh: bool = True
    hidden: bool = False
    since: int = 0


@dataclass
class Topic:
    """
    A topic's deliveries in the order of their jobs, and its totals.

    Attributes:
        holds: Key -> delivery that was claimed under it and has not ended.
        resting: Keys that rest for longer than any test.
        totals: done, failed, dead, redelivered, cancelled, expired, forgotten.
        groups: Fingerprint -> how many died of it, ever.
    """

    dead_max: int = 0
    paused: bool = False
    places: dict[str, Place] = field(default_factory=dict)
    holds: dict[str, str] = field(default_factory=dict)
    resting: set[str] = field(default_factory=set)
    totals: collections.Counter[str] = field(default_factory=collections.Counter)
    groups: collections.Counter[str] = field(default_factory=collections.Counter)
    arrivals: int = 0

    def push(self, job_id: str, body: bytes, options: PushOptions = PLAIN, *, from_history: bool = False) -> None:
        if options.only and from_history:
            return
        place = Place(job_id, body, options.key, late=0 < options.ttl_ms < LONG_MS, in_log=not options.only)
        if options.delay_ms and not (from_history and options.delay_ms < LONG_MS):
            place.state, place.in_log, place.hidden = State.DELAYED, False, from_history
            place.due = options.delay_ms < LONG_MS
        self._arrive(place)
        self.places[job_id] = place

    # -- claims

    def claimed(self, owner: str, count: int, exclusive: bool, got: list[Delivery],
                ended: Callable[[str], bool]) -> None:
        """Judge what a claim answered, and follow it; *ended* asks the store about a job."""
        assert len(got) <= count
        if self.paused or (exclusive and any(place.owner not in ("", owner) for place in self.places.values())):
            assert got == []
            return
        noticed = self._notice_late(ended)
        plain = sorted(self._claimable(""), key=lambda place: (place.in_log, in_order(place.id)))
        plain_got = [one.id for one in got if not self.places[one.id].key]
        assert plain_got == [place.id for place in plain[: len(plain_got)]], "what came back, then the log, by age"
        for delivery in got:
            place = self.places[delivery.id]
            assert not place.key or place in self._next_of(place.key), f"{place.key} is held, or it is not the next"
            self._begin(place, owner)
            assert seen(delivery) == self.delivery(place)
        if len(got) < count:
            self._nothing_left(noticed)

    def _notice_late(self, ended: Callable[[str], bool]) -> set[str]:
        """Follow the store where it has noticed that jobs expired; their keys."""
        late = [place for place in self.places.values() if place.late and place.state is State.READY]
        gone = [place for place in late if ended(place.id)]
        for place in gone:
            self._end(place, Move.EXPIRE, "expired")
        return {place.key for place in gone if place.key}

    def _nothing_left(self, noticed: set[str]) -> None:
        """A claim that was not filled has left nothing; what a job that expired had held up may come a call later."""
        assert not self._claimable("")
        assert not any(place.late and not place.key and place.state is State.READY for place in self.places.values())
        for key in {place.key for place in self.places.values()} - noticed - {""}:
            assert not self._next_of(key), f"nobody holds {key}"

    def _claimable(self, key: str) -> list[Place]:
        return [place for place in self.places.values()
                if place.state is State.READY and place.key == key and not place.late]

    def _next_of(self, key: str) -> list[Place]:
        """
        Who may be claimed of *key*: the holder that waits again, else the oldest.

        One that was met while the key was held, and got it, keeps it when older ones come to wait meanwhile; and
        what came back may have been met before the log was read so far.
        """
        if key in self.resting:
            return []
        ready = self._claimable(key)
        if key in self.holds:
            return [place for place in ready if place.id == self.holds[key]]
        return [place for place in ready if not any(
            in_order(other.id) < in_order(place.id) and other.since <= place.since
            and (place.in_log or not other.in_log) for other in ready)]

    def _begin(self, place: Place, owner: str) -> None:
        self._go(place, Move.CLAIM)
        place.owner, place.in_log, place.fresh, place.hidden = owner, False, False, False
        self.totals["redelivered"] += place.redelivered
        if place.key:
            self.holds[place.key] = place.id

    def settle(self, settlement: Settlement) -> bool:
        place = self.places.get(settlement.id)
        if place is None or place.owner != settlement.owner or successor(place.state, settlement.move) is None:
            return False
        place.owner = ""
        if settlement.move is Move.ACK:
            self._end(place, Move.ACK, "done")
            return True
        place.attempts += settlement.counts
        place.crashes += settlement.crash
        place.redelivered |= settlement.redelivered
        self.totals["failed"] += settlement.counts or settlement.crash
        if settlement.move is Move.BURY:
            self._end(place, Move.BURY, "dead")
            place.fingerprint = settlement.fingerprint
            self.groups[place.fingerprint] += 1
            if place.key and settlement.key_rest_s:
                self.resting.add(place.key)
            return True
        self._go(place, settlement.move)
        place.due = settlement.delay_s == 0.0
        return True

    def reassign(self, owner: str, heir: str, job_id: str) -> bool:
        place = self.places.get(job_id)
        if place is None or place.owner not in (owner, heir):
            return False
        place.owner = heir
        return True

    # -- time, people, the brake

    def promote(self) -> int:
        ready = 0
        for place in [place for place in self.places.values() if place.state is State.DELAYED and place.due]:
            if place.late:
                self._end(place, Move.EXPIRE, "expired")
            else:
                self._go(place, Move.DUE)
                ready += 1
        return ready

    def cancel(self, job_id: str) -> bool:
        return self._person(job_id, Move.CANCEL, "cancelled")

    def purge(self) -> int:
        return sum([self.cancel(job_id) for job_id in self.places])

    def accept(self, job_id: str) -> bool:
        return self._person(job_id, Move.ACCEPT, "done")

    def forget_dead(self, job_id: str) -> bool:
        place = self.places.get(job_id)
        if place is None or place.state is not State.DEAD:
            return False
        del self.places[job_id]
        self.totals["forgotten"] += 1
        return True

    def revive(self, job_id: str) -> bool:
        place = self.places.get(job_id)
        if place is None or successor(place.state, Move.REVIVE) is None:
            return False
        self._go(place, Move.REVIVE)
        place.forgiven, place.crashes, place.redelivered = place.attempts, 0, True
        return True

    def forgive(self, job_id: str) -> bool:
        place = self.places.get(job_id)
        if place is None or successor(place.state, Move.FORGIVE) is None:
            return False
        self._go(place, Move.FORGIVE)
        place.forgiven = min(place.attempts, place.forgiven + 1)
        return True

    def _person(self, job_id: str, move: Move, total: str) -> bool:
        place = self.places.get(job_id)
        if place is None or successor(place.state, move) is None:
            return False
        self._end(place, move, total)
        return True

    # -- looking

    def may_run(self, place: Place) -> bool:
        """Whether it comes to its turn when everything before it is done, and no time passes."""
        holder = self.places.get(self.holds.get(place.key, ""), place)
        return (place.state is State.READY and holder.state is State.READY
                and not place.late and place.key not in self.resting)

    def held(self, owner: str) -> list[Place]:
        return [place for place in self.places.values() if place.owner == owner]

    def count(self, *states: State) -> int:
        return sum(place.state in states for place in self.places.values())

    @property
    def due(self) -> int:
        """Delayed and due."""
        return sum(place.state is State.DELAYED and place.due for place in self.places.values())

    @property
    def doubtful(self) -> tuple[int, int]:
        """How many of those counted ready a driver may call delayed (their key rests), and the other way round."""
        kept_back = {place.key for place in self.places.values() if place.key in self.resting}
        hidden = [place for place in self.places.values() if place.hidden and place.state is State.DELAYED]
        return len(kept_back), len(hidden)

    @property
    def untaken(self) -> list[Place]:
        """In the backlog of the queue, as far as this topic goes."""
        return [place for place in self.places.values() if place.fresh]

    @staticmethod
    def delivery(place: Place) -> Delivery:
        """What a claim must tell of it; the rest is left empty."""
        return Delivery(place.id, "", "", place.body, place.attempts + 1, place.crashes, place.redelivered, "", "", 0,
                        place.owner, place.key, place.forgiven)

    def _end(self, place: Place, move: Move, total: str) -> None:
        self._go(place, move)
        place.fresh = place.hidden = False
        self.totals[total] += 1
        if self.holds.get(place.key) == place.id:
            del self.holds[place.key]

    def _arrive(self, place: Place) -> None:
        self.arrivals += 1
        place.since = self.arrivals

    def _go(self, place: Place, move: Move) -> None:
        state = successor(place.state, move)
        assert state is not None, f"the model itself made {place.state} {move}"
        if place.state is not state:
            place.in_log = False
            self._arrive(place)
        place.state = state


@dataclass
class Queue:
    """
    A queue's pushes and bounds.

    Attributes:
        pushed: id -> body and options of every job.
        dedupe: Key -> id of the first push with it; no window ends within a test.
    """

    max_backlog: int = 0
    max_backlog_bytes: int = 0
    topics: dict[str, Topic] = field(default_factory=dict)
    pushed: dict[str, tuple[bytes, PushOptions]] = field(default_factory=dict)
    dedupe: dict[str, str] = field(default_factory=dict)

    def refusal(self, bodies: Iterable[bytes], ahead: Sequence[bytes] = ()) -> str:
        """Why a command of these bodies is refused now, or when *ahead* were stored first; empty: it is stored."""
        sizes, before = [len(body) for body in bodies], [len(body) for body in ahead]
        backlog, backlog_bytes = self.backlog + len(before), self.backlog_bytes + sum(before)
        if backlog == 0:
            return ""
        if self.max_backlog and backlog + len(sizes) > self.max_backlog:
            return "jobs"
        if self.max_backlog_bytes and backlog_bytes + sum(sizes) > self.max_backlog_bytes:
            return "bytes"
        return ""

    def push(self, job_id: str, body: bytes, options: PushOptions) -> None:
        self.pushed[job_id] = (body, options)
        if options.dedupe:
            self.dedupe[options.dedupe] = job_id
        for name, topic in self.topics.items():
            if options.only in ("", name):
                topic.push(job_id, body, options)

    @property
    def backlog(self) -> int:
        return max((len(topic.untaken) for topic in self.topics.values()), default=0)

    @property
    def backlog_bytes(self) -> int:
        return max((sum(len(place.body) for place in topic.untaken) for topic in self.topics.values()), default=0)


def commands(pushes: Sequence[Push]) -> list[Sequence[Push]]:
    """The spans of *pushes*."""
    heads = [at for at, push in enumerate(pushes) if push.span]
    return [pushes[at:end] for at, end in zip(heads, [*heads[1:], len(pushes)], strict=True)]


def units(pushes: Sequence[Push]) -> list[Sequence[Push]]:
    """What of *pushes* is stored all or none: groups, and the spans that are in none."""
    found: list[Sequence[Push]] = []
    at = 0
    while at < len(pushes):
        end = at + (pushes[at].whole or pushes[at].span)
        found.append(pushes[at:end])
        at = end
    return found


def push_all(queues: Mapping[str, Queue], pushes: Sequence[Push], answers: Sequence[Appended]) -> None:
    """
    Judge what an append answered to *pushes*, and follow it.

    What is for one topic only may count for all of them until the call is over.
    """
    at = 0
    given: dict[str, list[bytes]] = collections.defaultdict(list)
    for unit in units(pushes):
        _push_unit(queues, unit, answers[at : at + len(unit)], given)
        for push, answer in zip(unit, answers[at : at + len(unit)], strict=True):
            if push.options and push.options.only and answer.id and not answer.duplicate:
                given[push.queue].append(push.body)
        at += len(unit)
    for push, answer in zip(pushes, answers, strict=True):
        if answer.id and not answer.duplicate:
            assert answer.backlog == queues[push.queue].backlog
            assert answer.topics == len(queues[push.queue].topics)


def _push_unit(
    queues: Mapping[str, Queue], unit: Sequence[Push], answers: Sequence[Appended], given: Mapping[str, Sequence[bytes]]
) -> None:
    why = [one.refused for one in answers]
    assert why in (_refusals(queues, unit, {}), _refusals(queues, unit, given))
    if any(why):
        assert not any(one.id or one.duplicate for one in answers)
        return
    for push, answer in zip(unit, answers, strict=True):
        queue, asked = queues[push.queue], push.options or PLAIN
        if asked.dedupe in queue.dedupe:
            assert (answer.id, answer.duplicate) == (queue.dedupe[asked.dedupe], True)
        else:
            assert not answer.duplicate
            assert in_order(answer.id) > max(map(in_order, queue.pushed), default=(0, 0)), "ids go up"
            queue.push(answer.id, push.body, asked)


def _refusals(queues: Mapping[str, Queue], unit: Sequence[Push], given: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Per push of *unit* why it is refused; empty: it is stored, or a duplicate. *given*: counted before it, too."""
    ahead = collections.defaultdict(list, {name: list(bodies) for name, bodies in given.items()})
    keys: set[tuple[str, str]] = set()
    for command in commands(unit):
        name, bodies = command[0].queue, [push.body for push in command]
        only = command[0].options.only if command[0].options else ""
        dedupe = command[0].options.dedupe if command[0].options else ""
        if dedupe in queues[name].dedupe or (name, dedupe) in keys:
            continue
        why = queues[name].refusal(bodies, ahead[name]) if only in ("", *queues[name].topics) else "topic"
        if why:
            return [why if any(push is one for one in command) else "whole" for push in unit]
        ahead[name] += bodies
        if dedupe:
            keys.add((name, dedupe))
    return [""] * len(unit)


def seen(delivery: Delivery) -> Delivery:
    """The part of a claimed delivery that the model knows."""
    return replace(delivery, queue="", topic="", traceparent="", content_type="", first_ms=0)
