"""
What every part of the Redis driver stands on: its calls, the queues it knows, what is missing in the store.

Rule: one queue that fails does not hold up the others of its storage. Its error is told (once in
QUIET_S), and it is raised only where nothing else was asked for, or where the caller must know.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pbus.clock import Clock, SystemClock
from pbus.errors import Conflict, StorageError, Unavailable
from pbus.storage import keys
from pbus.storage.driver import EXPIRED, Expired, QueueSpec, TopicSpec
from pbus.storage.keys import QueueKeys
from pbus.storage.open import StoreTarget
from pbus.storage.redis_address import parse
from pbus.storage.redis_calls import Calls, NotDeclared, raising
from pbus.storage.redis_link import Words
from pbus.storage.redis_scripts import Call, Scripts
from pbus.telemetry import log

QUIET_S: Final = 60.0
"""A queue that goes on failing is told once in so long."""


class RedisStore:
    """
    One Redis as one process sees it, without the jobs in it.

    Args:
        target: Where the store is.
        clock: For deadlines, never for stored times.
    """

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
        self.expired: collections.deque[Expired] = collections.deque(maxlen=EXPIRED)
        self._told_s: dict[str, float] = {}

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        self._specs.update({spec.name: spec for spec in queues})
        self._make(queues, again=False)

    def _make(self, queues: Sequence[QueueSpec], *, again: bool) -> dict[str, tuple[list[str], list[str]]]:
        """Per queue the topics that it had lost (empty name: the queue itself), and those left out as dropped."""
        if not queues:
            return {}
        with self._calls.session() as session:
            look: list[Words] = [("SMEMBERS", keys.FENCED), ("SMEMBERS", keys.TOPICS)]
            fenced, known = raising(self._calls.each(session, look, repeat=True))
            calls = [self._declaration(spec, fenced, again=again) for spec in queues]
            made = raising(self._calls.each(session, calls, repeat=True))
            found = {
                spec.name: ([name.decode() for name in lost], [name.decode() for name in left_out])
                for spec, (lost, left_out) in zip(queues, made, strict=True)
            }
            new = {
                member.encode() for spec in queues for member in _members(spec, without=found[spec.name][1])
            }.difference(known)
            if new:
                raising(self._calls.each(session, [("SADD", keys.TOPICS, *sorted(new))], repeat=True))
        return found

    def _declaration(self, spec: QueueSpec, fenced: Sequence[bytes], *, again: bool) -> Call:
        seen = [self._seen.get((spec.name, topic.name), "") if again else "" for topic in spec.topics]
        return self._scripts.declare(self._queue(spec.name), spec, fenced, seen, again=again)

    def _make_again(self, queue: str) -> None:
        """The store has forgotten *queue*, or a topic of it: go on with what is left of it."""
        spec = self._specs.get(queue)
        if spec is None:
            return
        again = replace(spec, topics=tuple(replace(topic, start="history") for topic in spec.topics))
        lost, dropped = self._make([again], again=True)[queue]
        if dropped:  # it is gone on purpose, until somebody declares it
            self._specs[queue] = replace(spec, topics=tuple(one for one in spec.topics if one.name not in dropped))
        if lost:
            topics = [name for name in lost if name]
            self._log.critical("store.forgot", queue=queue, topics=topics, whole_queue="" in lost)

    def _declared(self, commands: Sequence[Call], *, repeat: bool) -> list[Any]:
        """
        The answers of scripts that need their queues, an exception in the place of one that failed; those of
        a forgotten queue are sent once more.
        """
        with self._calls.session() as session:
            answers = self._calls.each(session, commands, repeat=repeat)
        missing = {place: answer.queue for place, answer in enumerate(answers) if isinstance(answer, NotDeclared)}
        missing = {place: queue for place, queue in missing.items() if queue in self._specs}
        if missing:
            for queue in set(missing.values()):
                self._make_again(queue)
            with self._calls.session() as session:
                again = self._calls.each(session, [commands[place] for place in missing], repeat=repeat)
            for place, answer in zip(missing, again, strict=True):
                answers[place] = answer
        return answers

    def _of_queue(self, command: Call) -> Any:
        """The answer of a script of one queue, that may be sent twice."""
        return raising(self._declared([command], repeat=True))[0]

    def _some(self, queues: Sequence[str], answers: list[Any]) -> list[Any]:
        """
        *answers*, with None for each queue that failed while others did not; those are told.

        Raises:
            Conflict: one of them was refused as fenced.
            StorageError: none of them has an answer.
        """
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        for error in errors:
            if isinstance(error, Conflict) or len(errors) == len(answers):
                raise error
        for queue, answer in zip(queues, answers, strict=True) if errors else ():
            if isinstance(answer, Exception):
                self._tell(queue, answer)
        return [None if isinstance(answer, Exception) else answer for answer in answers]

    def _tell(self, queue: str, error: Exception) -> None:
        """Log that *queue* fails, seldom."""
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s.get(queue, -QUIET_S) >= QUIET_S:
            self._told_s[queue] = now_s
            self._log.error("store.queue_failed", queue=queue, reason=str(error))

    def _queue(self, name: str) -> QueueKeys:
        found = self._keys.get(name)
        if found is None:
            found = self._keys[name] = QueueKeys(name)
        return found

    def _catalogue(self) -> dict[str, list[str]]:
        """Topics of every queue that any node has declared, sorted; what of ours is missing is made again."""
        members = self._listed()
        missing = [
            spec.name for spec in self._specs.values() if not members.issuperset(_members(spec) if spec.topics else ())
        ]
        if missing:
            for queue in missing:
                self._make_again(queue)
            members = self._listed()
        found: dict[str, list[str]] = {}
        for member in sorted(members):
            queue, _, topic = member.partition("/")
            topics = found.setdefault(queue, [])
            if topic:
                topics.append(topic)
        return found

    def _listed(self) -> set[str]:
        return {member.decode() for member in self._calls.one(("SMEMBERS", keys.TOPICS))}

    def _topics_of(self, queues: Sequence[str]) -> list[tuple[QueueKeys, str]]:
        """Topics of some queues: cheaper than the catalogue of all."""
        found = [self._queue(name) for name in queues]
        names = self._calls.all([("HKEYS", queue.taken) for queue in found]) if found else []
        return [(queue, name.decode()) for queue, of_queue in zip(found, names, strict=True) for name in of_queue]

    def _all_topics(self) -> list[tuple[QueueKeys, str]]:
        return [(self._queue(queue), topic) for queue, topics in self._catalogue().items() for topic in topics]

    def _unknown(self, queue: str) -> Unavailable:
        return Unavailable(self._calls.say(f"queue {queue}, or a topic of it, was never declared to it"))

    @staticmethod
    def _is_broken(error: object) -> bool:
        """Whether *error* will be the same at every repetition: a key of another kind, a script that fails."""
        return isinstance(error, StorageError) and not isinstance(error, Unavailable | Conflict)


def _members(spec: QueueSpec, without: Sequence[str] = ()) -> list[str]:
    """How the store lists the topics of a queue; one without topics is listed, too."""
    topics: list[TopicSpec] = [topic for topic in spec.topics if topic.name not in without]
    return [f"{spec.name}/{topic.name}" for topic in topics] or [f"{spec.name}/"]


def info(reply: bytes) -> Mapping[str, str]:
    """The fields of an answer to INFO."""
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
