"""
The Redis streams driver: a queue is a stream used as a log, a topic is a cursor in it and its claims.

No consumer groups: a compare-and-set, counters and attempts need scripts around a pending list anyway,
and own cursors and claims behave the same on 6.2 and 7. One script does what has to be atomic; its
text is in lua/, its keys in ``keys``. Redis' clock makes the ids and the stored times.

Durability is the server's: what it forgets after a power failure (appendfsync everysec) is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pbus.clock import Clock, SystemClock
from pbus.core.job import Delivery, Push, Settlement
from pbus.errors import BootError, Conflict, Exit, MaybeStored, StorageError, Unavailable
from pbus.storage import keys, redis_codec
from pbus.storage.driver import (
    Appended, Bell, Capabilities, DeadLetter, Held, Promoted, QueueSpec, TopicNumbers, TopicSpec, Want,
)
from pbus.storage.keys import QueueKeys
from pbus.storage.open import StoreTarget
from pbus.storage.redis_address import parse
from pbus.storage.redis_bell import RedisBell
from pbus.storage.redis_calls import Calls, NotDeclared, Unknown, raising
from pbus.storage.redis_link import Words
from pbus.storage.redis_scripts import Call, Scripts, grouped, read_numbers
from pbus.telemetry import log

OLDEST: Final = (6, 2)
"""Oldest server version: XTRIM MINID, exclusive ranges."""
POLICY_EVERY_S: Final = 60.0
"""How often ``check`` looks whether the eviction policy is still right."""

Wanted = tuple[int, Want]
"""A want and its place among those of the call."""


class RedisStreamsDriver:
    """
    ``driver.Driver`` on one Redis server. Many calls at once are fine (threads, greenlets).

    Args:
        target: Where the store is.
        clock: For deadlines, never for stored times.
    """

    capabilities = Capabilities(blocking=False, many_nodes=True, atomic_fan_out=True)

    def __init__(self, target: StoreTarget, clock: Clock | None = None) -> None:
        self._address = parse(target.url, target.password)
        self._clock = clock or SystemClock()
        self._timeout_s = target.call_timeout_s
        self._calls = Calls(self._address, target.call_timeout_s, self._clock)
        self._scripts = Scripts()
        self._log = log.get(storage=target.name)
        self._keys: dict[str, QueueKeys] = {}
        self._specs: dict[str, QueueSpec] = {}
        # Where this process last saw each topic's cursor: where it goes on if the store forgets it.
        self._seen: dict[tuple[str, str], str] = {}
        self._policy_checked_s = 0.0

    # --- the store itself -------------------------------------------------------------------------

    def open(self) -> None:
        """No write: a node can start on a full store, to empty it."""
        version = _info(self._calls.one(("INFO", "server"))).get("redis_version", "0")
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
        self._calls.one(("SET", keys.CHECK, "check", "PX", 60_000))
        if self._clock.monotonic_s() - self._policy_checked_s >= POLICY_EVERY_S:
            problem = self._policy_problem()
            if problem:
                raise Unavailable(problem)

    def checkpoint(self) -> None:
        """Nothing: the server keeps its own files."""

    def _policy_problem(self) -> str:
        """Why this server would throw jobs away, or nothing."""
        policy = _info(self._calls.one(("INFO", "memory"))).get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            return self._calls.say(
                f"maxmemory-policy is {policy}, so Redis may delete jobs; set it to noeviction (redis.conf, CONFIG SET)"
            )
        self._policy_checked_s = self._clock.monotonic_s()
        return ""

    # --- queues -----------------------------------------------------------------------------------

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        self._specs.update({spec.name: spec for spec in queues})
        self._declare(queues)

    def _declare(self, queues: Sequence[QueueSpec]) -> list[tuple[QueueSpec, list[bytes]]]:
        """What each queue had lost, by name of the topic (empty name: the queue itself)."""
        if not queues:
            return []
        with self._calls.session() as session:
            look: list[Words] = [("SMEMBERS", keys.FENCED), ("SMEMBERS", keys.TOPICS)]
            fenced, known = raising(self._calls.each(session, look, repeat=True))
            new = {member.encode() for spec in queues for member in _members(spec)}.difference(known)
            if new:
                raising(self._calls.each(session, [("SADD", keys.TOPICS, *sorted(new))], repeat=True))
            calls = [self._declaration(spec, fenced) for spec in queues]
            made = raising(self._calls.each(session, calls, repeat=True))
        return list(zip(queues, made, strict=True))

    def _declaration(self, spec: QueueSpec, fenced: Sequence[bytes]) -> Call:
        seen = [self._seen.get((spec.name, topic), "") for topic in _topics(spec)]
        return self._scripts.declare(self._queue(spec.name), spec, fenced, seen)

    def _declare_again(self, queue: str) -> None:
        """The store has forgotten *queue*, or a topic of it: go on with what is left of it."""
        spec = self._specs.get(queue)
        if spec is None:
            return
        again = replace(spec, topics=tuple(TopicSpec(topic.name, "history") for topic in spec.topics))
        for _, lost in self._declare([again]):
            if lost:
                topics = [name.decode() for name in lost if name]
                self._log.critical("store.forgot", queue=queue, topics=topics, whole_queue=b"" in lost)

    def _declared(self, commands: Sequence[Call], *, repeat: bool) -> list[Any]:
        """The answers of scripts that need their queues; those of a forgotten one are sent once more."""
        with self._calls.session() as session:
            answers = self._calls.each(session, commands, repeat=repeat)
        missing = {place: answer.queue for place, answer in enumerate(answers) if isinstance(answer, NotDeclared)}
        if missing:
            for queue in set(missing.values()):
                self._declare_again(queue)
            again = self._calls.all([commands[place] for place in missing], repeat=repeat)
            for place, answer in zip(missing, again, strict=True):
                answers[place] = answer
        return raising(answers)

    def _queue(self, name: str) -> QueueKeys:
        found = self._keys.get(name)
        if found is None:
            found = self._keys[name] = QueueKeys(name)
        return found

    def _catalogue(self) -> dict[str, list[str]]:
        """Topics of every queue that any node has declared, sorted."""
        members = {member for spec in self._specs.values() for member in _members(spec)}
        members.update(member.decode() for member in self._calls.one(("SMEMBERS", keys.TOPICS)))
        found: dict[str, list[str]] = {}
        for member in sorted(members):
            queue, _, topic = member.partition("/")
            topics = found.setdefault(queue, [])
            if topic:
                topics.append(topic)
        return found

    def _all_topics(self) -> list[tuple[QueueKeys, str]]:
        return [(self._queue(queue), topic) for queue, topics in self._catalogue().items() for topic in topics]

    # --- jobs -------------------------------------------------------------------------------------

    def append(self, owner: str, batch: int, pushes: Sequence[Push]) -> list[Appended]:
        """One script for all queues of the call: all of it is stored, or nothing."""
        if not pushes:
            return []
        by_queue: dict[str, list[tuple[int, Push]]] = {}
        for place, push in enumerate(pushes):
            by_queue.setdefault(push.queue, []).append((place, push))
        parts = [
            (self._queue(queue), *redis_codec.envelopes([push for _, push in placed]))
            for queue, placed in by_queue.items()
        ]
        try:
            answers = self._declared([self._scripts.append(owner, batch, parts)], repeat=True)[0]
        except Unknown as error:
            raise MaybeStored(str(error)) from None
        except (Unavailable, Conflict):
            raise
        except StorageError as error:
            # A script that failed in its middle (a key of another kind) may have stored something.
            raise MaybeStored(str(error)) from None
        stored: list[Any] = [None] * len(pushes)
        for placed, answer in zip(by_queue.values(), answers, strict=True):
            for (place, _), item in zip(placed, redis_codec.appended(answer), strict=True):
                stored[place] = item
        return stored

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
        found: dict[int, list[Delivery]] = {}
        for placed, answers in zip(by_queue.values(), self._declared(calls, repeat=False), strict=True):
            for (place, want), (back, fresh) in zip(placed, answers, strict=True):
                found[place] = redis_codec.deliveries(want, back, fresh)
                if fresh:
                    self._seen[want.queue, want.topic] = fresh[-2].decode()
        return [delivery for place in sorted(found) for delivery in found[place]]

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return self._settle(settlements, fenced=True)

    def give_back(self, owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        mine = [item if item.owner == owner else replace(item, owner=owner) for item in settlements]
        return self._settle(mine, fenced=False)

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
            answers = raising(self._calls.each(session, calls, repeat=True))
        took_effect = [False] * len(settlements)
        for of_queue, answer in zip(groups.values(), answers, strict=True):
            bits = iter(answer.partition(b" ")[2])
            for group in of_queue:
                for place in (*group.ack_places, *group.other_places):
                    took_effect[place] = next(bits) == ord("1")
        return took_effect

    def promote_due(self, limit: int = 1000) -> Promoted:
        topics = self._all_topics()
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
        for (queue_name, names), (_, counts) in zip(by_queue.items(), self._calls.all(calls), strict=True):
            moved.update({(queue_name, name): count for name, count in zip(names, counts, strict=True) if count})
        next_ms, _ = self._calls.one(self._scripts.due(topics))
        return Promoted(moved, None if next_ms is None else max(0.0, next_ms / 1000))

    def trim(self) -> int:
        calls = [self._scripts.trim(self._queue(queue), topics) for queue, topics in self._catalogue().items()]
        if not calls:
            return 0
        with self._calls.session() as session:
            answers = self._calls.each(session, calls, repeat=True)
        # A lost cursor is made again by who claims with it: that process knows where it was.
        return sum(raising([answer for answer in answers if not isinstance(answer, NotDeclared)]))

    # --- looking ----------------------------------------------------------------------------------

    def backlog(self, queue: str) -> int:
        found = self._queue(queue)
        pushed, taken = self._calls.all([("HGET", found.queue, "pushed"), ("HVALS", found.taken)])
        return max(0, int(pushed or 0) - min(map(int, taken))) if taken else 0

    def numbers(self) -> dict[tuple[str, str], TopicNumbers]:
        catalogue = {queue: topics for queue, topics in self._catalogue().items() if topics}
        if not catalogue:
            return {}
        calls = [self._scripts.numbers(self._queue(queue), topics) for queue, topics in catalogue.items()]
        return {
            (queue, topic): read_numbers(row)
            for (queue, topics), rows in zip(catalogue.items(), self._calls.all(calls), strict=True)
            for topic, row in zip(topics, rows, strict=True)
        }

    def held(self, owner: str) -> list[Held]:
        topics = self._all_topics()
        claims: list[Held] = []
        for place, flat in self._calls.one(self._scripts.held(owner, topics)) if topics else ():
            queue, topic = topics[place]
            for job_id, state in zip(flat[::2], flat[1::2], strict=True):
                attempts, crashes, *_ = redis_codec.read_state(state)
                claims.append(Held(queue.name, topic, job_id.decode(), attempts, crashes))
        return sorted(claims, key=lambda claim: redis_codec.id_order(claim.id))

    def owners(self) -> list[str]:
        topics = self._all_topics()
        return sorted(name.decode() for name in self._calls.one(self._scripts.owners(topics))) if topics else []

    def dead_letters(self, queue: str, topic: str, limit: int = 100) -> list[DeadLetter]:
        if limit <= 0:
            return []
        found = self._queue(queue).topic(topic)
        members = self._calls.one(("ZREVRANGE", found.dead, 0, limit - 1, "WITHSCORES"))
        if not members:
            return []
        ids = [redis_codec.unpadded(member) for member in members[::2]]
        letters = self._calls.one(("HMGET", found.letters, *ids))
        return [
            redis_codec.dead_letter(queue, topic, job_id, int(at_ms), letter)
            for job_id, at_ms, letter in zip(ids, members[1::2], letters, strict=True)
            if letter is not None  # revived or deleted between the two looks
        ]

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


def _topics(spec: QueueSpec) -> list[str]:
    return [topic.name for topic in spec.topics]


def _members(spec: QueueSpec) -> list[str]:
    """How the store lists the topics of a queue; one without topics is listed, too."""
    return [f"{spec.name}/{topic}" for topic in _topics(spec) or ("",)]


def _info(reply: bytes) -> Mapping[str, str]:
    """The fields of an answer to INFO."""
    lines: Iterable[str] = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
