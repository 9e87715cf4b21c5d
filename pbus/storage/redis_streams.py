"""
The Redis streams driver: a queue is a stream used as a log, a topic is a cursor in it and its claims.

No consumer groups: a compare-and-set, counters and attempts need scripts around a pending list anyway,
and own cursors and claims behave the same on 6.2 and 7. One script does what has to be atomic; its
text is in lua/, its keys in ``keys``. Redis' clock makes the ids and the stored times.

Durability is the server's: what it forgets after a power failure (appendfsync everysec) is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from pbus.clock import Clock
from pbus.core.job import Delivery, Push, Settlement
from pbus.core.plain import Plain
from pbus.errors import BootError, Conflict, Exit, MaybeStored, StorageError, Unavailable
from pbus.storage import keys, redis_codec
from pbus.storage.driver import (
    Appended, Bell, Capabilities, Fill, Held, Promoted, QueueNumbers, Running, TopicNumbers, Want,
)
from pbus.storage.open import StoreTarget
from pbus.storage.redis_bell import RedisBell
from pbus.storage.redis_calls import NotDeclared, Unknown, raising
from pbus.storage.redis_documents import RedisDocuments
from pbus.storage.redis_halves import RedisHalves
from pbus.storage.redis_people import IDS_A_CALL, RedisPeople
from pbus.storage.redis_scripts import grouped, read_numbers
from pbus.storage.redis_statistics import RedisStatistics
from pbus.storage.redis_store import info

OLDEST: Final = (6, 2)
"""Oldest server version: XTRIM MINID, exclusive ranges."""
POLICY_EVERY_S: Final = 60.0
"""How often ``check`` looks whether the eviction policy is still right."""

Wanted = tuple[int, Want]
"""A want and its place among those of the call."""


class RedisStreamsDriver(RedisPeople, RedisStatistics, RedisDocuments, RedisHalves):
    """
    ``driver.Driver`` on one Redis server. Many calls at once are fine (threads, greenlets).

    Args:
        target: Where the store is.
        clock: For deadlines, never for stored times.
    """

    capabilities = Capabilities(blocking=False, many_nodes=True, atomic_fan_out=True)

    def __init__(self, target: StoreTarget, clock: Clock | None = None) -> None:
        super().__init__(target, clock)
        self._policy_checked_s = 0.0

    # --- the store itself -------------------------------------------------------------------------

    def open(self) -> None:
        """No write: a node can start on a full store, to empty it."""
        version = info(self._calls.one(("INFO", "server"))).get("redis_version", "0")
        found = re.match(r"(\d+)\.(\d+)", version)
        if found is None or (int(found[1]), int(found[2])) < OLDEST:
            text = f"Redis {version} is too old; pbus needs {OLDEST[0]}.{OLDEST[1]} or newer"
            raise BootError(self._calls.say(text), Exit.CONFIG)
        problem = self._policy_problem()
        if problem:
            raise BootError(problem, Exit.CONFIG)
        self._calls.all(self._scripts.load())

    def close(self) -> None:
        self._calls.close()

    def check(self) -> None:
        """A write that needs no memory: at maxmemory claims and settles go on (see ``StoreFull``)."""
        self._calls.one(("DEL", keys.CHECK))
        if self._clock.monotonic_s() - self._policy_checked_s >= POLICY_EVERY_S:
            problem = self._policy_problem()
            if problem:
                raise Unavailable(problem)

    def fill(self) -> Fill:
        """What Redis uses of its maxmemory."""
        fields = info(self._calls.one(("INFO", "memory")))
        used, most = int(fields.get("used_memory", 0)), int(fields.get("maxmemory", 0))
        return Fill(min(1.0, used / most), max(0, most - used)) if most else Fill()

    def checkpoint(self) -> int:
        """Nothing: the server keeps its own files."""
        return 0

    def _policy_problem(self) -> str:
        """Why this server would throw jobs away, or nothing."""
        policy = info(self._calls.one(("INFO", "memory"))).get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            return self._calls.say(
                f"maxmemory-policy is {policy}, so Redis may delete jobs; set it to noeviction (redis.conf, CONFIG SET)"
            )
        self._policy_checked_s = self._clock.monotonic_s()
        return ""

    # --- jobs -------------------------------------------------------------------------------------

    def append(self, owner: str, batch: int, pushes: Sequence[Push]) -> Sequence[Appended]:
        """One script for all queues of the call: all of it is stored, or nothing."""
        if not pushes:
            return []
        by_queue, has_groups = _by_queue(pushes)
        parts = [(self._queue(queue), redis_codec.packed(of_queue)) for queue, of_queue in by_queue.items()]
        groups = redis_codec.groups(pushes) if has_groups else ()
        try:
            answers = self._of_queue(self._scripts.append(owner, batch, parts, groups))
        except Unknown as error:
            raise MaybeStored(str(error)) from None
        except (Unavailable, Conflict):
            raise
        except StorageError as error:
            # A script that failed in its middle (a key of another kind) may have stored something.
            raise MaybeStored(str(error)) from None
        stored = {
            queue: redis_codec.appended(answer, len(of_queue))
            for (queue, of_queue), answer in zip(by_queue.items(), answers, strict=True)
        }
        if len(stored) == 1:
            return next(iter(stored.values()))
        following = {queue: iter(items) for queue, items in stored.items()}
        return [next(following[push.queue]) for push in pushes]

    def claim(self, wants: Sequence[Want]) -> list[Delivery]:
        by_queue: dict[str, list[Wanted]] = {}
        for place, want in enumerate(wants):
            if want.count > 0:
                by_queue.setdefault(want.queue, []).append((place, want))
        if not by_queue:
            return []
        calls = [
            self._scripts.claim(self._queue(queue), [want for _, want in placed]) for queue, placed in by_queue.items()
        ]
        answers = self._some(list(by_queue), self._declared(calls, repeat=False))
        found: dict[int, list[Delivery]] = {}
        dropped = 0
        for placed, of_queue in zip(by_queue.values(), answers, strict=True):
            for (place, want), (back, fresh, lost, *gone) in zip(placed, of_queue or (), strict=False):
                self.expired += [(want.queue, want.topic, job.decode()) for ids in gone for job in ids]
                found[place] = redis_codec.deliveries(want, back, fresh)
                if fresh:
                    self._seen[want.queue, want.topic] = fresh[-2].decode()
                if lost:
                    dropped += lost < 0
                    self._missed(want, lost)
        if dropped and dropped == len(found):
            raise self._unknown(wants[0].queue)
        return [delivery for place in sorted(found) for delivery in found[place]]

    def _missed(self, want: Want, lost: int) -> None:
        """*lost* jobs of a topic are in no log any more; -1: the topic was dropped."""
        if lost < 0:
            self._tell(want.queue, self._unknown(want.queue))
        else:
            self._log.critical("store.forgot", queue=want.queue, topics=[want.topic], jobs=lost)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return self._settle(settlements, fenced=True)

    def give_back(self, owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        mine = [item if item.owner == owner else replace(item, owner=owner) for item in settlements]
        return self._settle(mine, fenced=False)

    def reassign(self, owner: str, heir: str, claims: Sequence[tuple[str, str, str]]) -> list[bool]:
        """One script a queue, all in one round trip; repeated after a lost reply, which changes nothing."""
        places: dict[str, dict[str, list[int]]] = {}
        for place, (queue, topic, _) in enumerate(claims):
            places.setdefault(queue, {}).setdefault(topic, []).append(place)
        if not places:
            return []
        calls = [
            self._scripts.reassign(
                self._queue(queue), owner, heir, {name: [claims[at][2] for at in of] for name, of in topics.items()}
            )
            for queue, topics in places.items()
        ]
        with self._calls.session() as session:
            answers = self._calls.each(session, calls, repeat=True)
        taken = [False] * len(claims)
        for (queue, topics), answer in zip(places.items(), answers, strict=True):
            if self._is_broken(answer):
                self._tell(queue, answer)
                continue
            order = [place for of in topics.values() for place in of]
            for place, bit in zip(order, raising([answer])[0], strict=True):
                taken[place] = bit == ord("1")
        return taken

    def _settle(self, settlements: Sequence[Settlement], *, fenced: bool) -> list[bool]:
        by_queue: dict[str, list[tuple[int, Settlement]]] = {}
        for place, item in enumerate(settlements):
            by_queue.setdefault(item.queue, []).append((place, item))
        if not by_queue:
            return []
        groups = {queue: grouped(placed) for queue, placed in by_queue.items()}
        with self._calls.session() as session:
            # The answer is kept for this session's next repetition: after a lost reply it is still exact.
            number = session.next_number()
            calls = [
                self._scripts.settle(self._queue(queue), session.name, number, of_queue, fenced=fenced)
                for queue, of_queue in groups.items()
            ]
            answers = self._calls.each(session, calls, repeat=True)
        took_effect = [False] * len(settlements)
        for (queue, of_queue), answer in zip(groups.items(), answers, strict=True):
            if self._is_broken(answer):  # it would fail for ever, and with it whatever is settled beside it
                self._tell(queue, answer)
                continue
            bits = raising([answer])[0].partition(b" ")[2]
            if len(groups) == 1 and bits.count(b"1") == len(settlements):  # nearly always
                return [True] * len(settlements)
            following = iter(bits)
            for group in of_queue:
                for place in (*group.ack_places, *group.other_places):
                    took_effect[place] = next(following) == ord("1")
        return took_effect

    def promote_due(self, limit: int = 1000, queues: Sequence[str] | None = None) -> Promoted:
        topics = self._all_topics() if queues is None else self._topics_of(queues)
        if not topics:
            return Promoted()
        next_ms, due = self._calls.one(self._scripts.due(topics))
        if not due:
            return Promoted(next_in_s=None if next_ms is None else next_ms / 1000)
        by_queue: dict[str, list[str]] = {}
        for place in due:
            queue, topic = topics[place]
            by_queue.setdefault(queue.name, []).append(topic)
        calls = [self._scripts.promote(self._queue(queue), names, limit) for queue, names in by_queue.items()]
        moved: dict[tuple[str, str], int] = {}
        with self._calls.session() as session:
            answers = self._some(list(by_queue), self._calls.each(session, calls, repeat=True))
        for (queue_name, names), answer in zip(by_queue.items(), answers, strict=True):
            counts, gone = answer or ((), ())
            moved.update({(queue_name, name): count for name, count in zip(names, counts, strict=False) if count})
            self.expired += [
                (queue_name, name, job.decode()) for name, ids in zip(names, gone, strict=False) for job in ids
            ]
        next_ms, _ = self._calls.one(self._scripts.due(topics))
        return Promoted(moved, None if next_ms is None else max(0.0, next_ms / 1000))

    def trim(self) -> int:
        catalogue = self._catalogue()
        calls = [self._scripts.trim(self._queue(queue), topics) for queue, topics in catalogue.items()]
        if not calls:
            return 0
        with self._calls.session() as session:
            answers = self._calls.each(session, calls, repeat=True)
        # A lost cursor is made again by who claims with it: that process knows where it was.
        kept = [0 if isinstance(answer, NotDeclared) else answer for answer in answers]
        return sum(count or 0 for count in self._some(list(catalogue), kept))

    # --- looking ----------------------------------------------------------------------------------

    def backlog(self, queue: str) -> int:
        found = self._queue(queue)
        head, flat = self._calls.all([("HMGET", found.queue, "pushed", "shadows"), ("HGETALL", found.taken)])
        pushed, shadows = head[0], frozenset((head[1] or b"").split(b","))
        if pushed is None and queue not in self._specs:
            raise self._unknown(queue)
        taken = [int(count) for name, count in zip(flat[::2], flat[1::2], strict=True) if name not in shadows]
        return max(0, int(pushed or 0) - min(taken)) if taken else 0

    def numbers(self, queues: Sequence[str] | None = None) -> dict[tuple[str, str], TopicNumbers]:
        wanted = None if queues is None else frozenset(queues)
        catalogue = {
            queue: topics for queue, topics in self._catalogue().items()
            if topics and (wanted is None or queue in wanted)
        }
        if not catalogue:
            return {}
        calls = [self._scripts.numbers(self._queue(queue), topics) for queue, topics in catalogue.items()]
        with self._calls.session() as session:
            answers = self._some(list(catalogue), self._calls.each(session, calls, repeat=True))
        return {
            (queue, topic): read_numbers(row)
            for (queue, topics), rows in zip(catalogue.items(), answers, strict=True)
            for topic, row in zip(topics, rows or (), strict=False)
            if row
        }

    def queue_numbers(self) -> dict[str, QueueNumbers]:
        queues = list(self._catalogue())
        if not queues:
            return {}
        with self._calls.session() as session:
            calls = [self._scripts.queue_numbers(self._queue(queue)) for queue in queues]
            answers = self._some(queues, self._calls.each(session, calls, repeat=True))
        return {queue: QueueNumbers(*row) for queue, row in zip(queues, answers, strict=True) if row}

    def held(self, owner: str) -> list[Held]:
        topics = self._all_topics()
        claims: list[Held] = []
        for place, flat in self._calls.one(self._scripts.held(owner, topics)) if topics else ():
            queue, topic = topics[place]
            for job_id, state in zip(flat[::2], flat[1::2], strict=True):
                past = redis_codec.read_state(state)
                claims.append(
                    Held(queue.name, topic, job_id.decode(), past.attempts, past.crashes, past.forgiven, past.key)
                )
        return sorted(claims, key=lambda claim: redis_codec.id_order(claim.id))

    def holders(self, queue: str, topic: str, ids: Sequence[str]) -> list[str]:
        """One read for up to 1,000 ids."""
        found: list[str] = []
        for at in range(0, max(1, len(ids)), IDS_A_CALL):
            part = ids[at : at + IDS_A_CALL]
            found += [name.decode() for name in self._of_queue(self._scripts.holders(self._queue(queue), topic, part))]
        return found

    def running(self, queue: str, topic: str, limit: int = 1000) -> list[Running]:
        """Sorted here, where nobody else has to wait for it."""
        claims = [
            (job_id.decode(), owner, state)
            for owner, flat in self._of_queue(self._scripts.running(self._queue(queue), topic))
            for job_id, state in zip(flat[::2], flat[1::2], strict=True)
        ]
        claims.sort(key=lambda claim: redis_codec.id_order(claim[0]))
        return [
            Running(job_id, owner.decode(), redis_codec.read_state(state).attempts)
            for job_id, owner, state in claims[: max(0, limit)]
        ]

    def owners(self) -> list[str]:
        topics = self._all_topics()
        return sorted(name.decode() for name in self._calls.one(self._scripts.owners(topics))) if topics else []

    def bell(self, name: str, queues: Sequence[str]) -> Bell:  # noqa: ARG002 - a connection needs no name
        return RedisBell(self._address, self._timeout_s, queues, self._clock)

    # --- boots ------------------------------------------------------------------------------------

    def beat(self, node: str, boot: str) -> None:  # noqa: ARG002 - owners carry the node's name
        self._calls.one(self._scripts.beat(boot))

    def beats(self) -> dict[str, int]:
        flat = self._calls.one(("HGETALL", keys.BEATS))
        return {boot.decode(): int(count) for boot, count in zip(flat[::2], flat[1::2], strict=True)}

    def fence(self, boot: str) -> None:
        """One write: refused in the store and in every queue that anybody has declared."""
        self._calls.one(self._scripts.fence(boot, map(self._queue, self._catalogue())))

    def forget(self, boot: str) -> None:
        self._calls.one(self._scripts.forget(boot, map(self._queue, self._catalogue())))


def _by_queue(pushes: Sequence[Push]) -> tuple[Mapping[str, Sequence[Push]], bool]:
    """The pushes of each queue, in their order, and whether there are groups among them."""
    if type(pushes) is Plain:
        return {pushes.queue: pushes}, False
    by_queue: dict[str, list[Push]] = {}
    whole = 0
    for push in pushes:
        by_queue.setdefault(push.queue, []).append(push)
        whole |= push.whole
    return by_queue, bool(whole)
