"""
Stored jobs of a Pepperbus, moved into a store of pbus, each to the one topic it waits for.

    QUEUE::TOPIC::list          waits            -> ready; what failed before keeps its number of attempts
    QUEUE::TOPIC::list_retry    failed           -> ready, with the attempts it has made; none left: dead letter
    QUEUE::TOPIC::list_timeout  given up         -> dead letter

    every topic of the queue is paused
    chunk of a list -> append -> cancel for the other topics -> settle as it was -> removed from the list
    what the import paused is resumed

Rule: a job leaves its list only when the store has it as it should be. The append carries the old id as its dedupe
key, so a chunk that was appended before is found again, however far it had come. Nobody else may take jobs meanwhile:
the caller has stopped the old bus, and keeps this one from starting.
Source: huajiao-tv/pepperbus, storage.go and job.go. Lists are pushed at the left, the oldest job is at the right.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pbus.cli.pepperbus_config import OldTopic
from pbus.core.fingerprint import fingerprint
from pbus.core.job import Delivery, Move, Push, PushOptions, Settlement
from pbus.core.names import Owner
from pbus.cli.stores import Refused
from pbus.storage.driver import Driver, Want

PAGE: Final = 500
CHUNK: Final = 20_000
"""Jobs that are settled in one sweep over the topic: each sweep passes all that is ready there."""
DEDUPE_S: Final = 30 * 86_400.0
"""The dedupe keys of the import count so long, if the bus is not started before it is repeated."""
BOOT: Final = "import-pepperbus-"
LISTS: Final = ("list_timeout", "list_retry", "list")
"""Suffixes, in the order in which they are moved: what is old goes first."""
PAUSED_KEY: Final = "pbus::import::paused"
"""In the old Redis: topics that the import has paused, for the case that it is killed."""
_GIVEN_UP: Final = "given up by Pepperbus"
_TRACE: Final = re.compile(r"(?!0{32})[0-9a-f]{32}\Z")


class Lists(Protocol):
    """The old Redis, as far as it is needed."""

    def llen(self, key: str) -> Any: ...

    def lrange(self, key: str, start: int, end: int) -> Any: ...

    def lrem(self, key: str, count: int, value: bytes) -> Any: ...

    def sadd(self, key: str, *values: str) -> Any: ...

    def srem(self, key: str, *values: str) -> Any: ...

    def smembers(self, key: str) -> Any: ...


@dataclass(slots=True)
class OldJob:
    """
    A stored job.

    Attributes:
        raw: As it is in its list.
        key: What it is known by.
        made: How many attempts it has had.
        dead: It was given up.
    """

    raw: bytes
    key: str
    body: bytes
    traceparent: str
    made: int
    dead: bool


@dataclass(slots=True)
class Moved:
    """
    What became of one list.

    Attributes:
        ready, dead: Jobs, by where they are now.
        known: Of them, those that an import before this one had stored.
        bad: Values that are no jobs; they stay in the list.
        gone: Somebody else took them from the list meanwhile.
    """

    ready: int = 0
    dead: int = 0
    known: int = 0
    bad: list[str] = field(default_factory=list)
    gone: int = 0


def key_of(topic: OldTopic, suffix: str) -> str:
    """The list's key in the old Redis."""
    return f"{topic.queue}::{topic.topic}::{suffix}"


def read_job(raw: bytes, suffix: str, attempts: int) -> OldJob:
    """
    One value of a list.

    Args:
        attempts: How often the topic runs a job in all.

    Raises:
        ValueError: it is no job; says why.
    """
    try:
        job = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(job, dict) or not isinstance(job.get("content"), str):
        raise ValueError("no job: it has no text 'content'")
    if job.get("encoding") not in (None, ""):
        raise ValueError(f"its encoding {job['encoding']!r} is unknown")
    name = job.get("id")
    key = name if isinstance(name, str) and name else hashlib.sha256(raw).hexdigest()
    made = max(_count(job.get("RetryTimes")), _count(job.get("retrying")))
    trace = job.get("inTraceId")
    parent = f"00-{trace}-{key_digest(key)}-00" if isinstance(trace, str) and _TRACE.match(trace) else ""
    dead = suffix == "list_timeout" or made >= attempts
    return OldJob(raw, key, job["content"].encode("utf-8", "surrogatepass"), parent, made, dead)


def _count(value: Any) -> int:
    """A number of attempts; the old bus wrote numbers and, in what consumers pushed back, true."""
    return max(0, int(value)) if isinstance(value, int) else 0


def key_digest(key: str) -> str:
    """16 hex digits that are no zeros."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:15] + "1"


class Import:
    """
    One run over the topics of one queue.

    Args:
        driver: The open store, whose queue is declared with DEDUPE_S.
        topics: Every topic of the queue, as the store has them.
        node: Name of this node, for the owner of claims.
        life: What tells this run from every other one.
        told: Called with (topic, list, jobs so far) after each page.
    """

    def __init__(
        self, driver: Driver, queue: str, topics: Sequence[str], node: str, life: str,
        told: Callable[[str, str, int], None],
    ) -> None:
        self._driver = driver
        self._queue = queue
        self._topics = topics
        self._owner = str(Owner(node, f"{BOOT}{life}", 0, 1))
        self._node = node
        self._told = told
        self._batch = 0

    # -- around it --------------------------------------------------------------------------------

    def pause(self, lists: Lists) -> None:
        """Nothing of the queue is handed out; remembered where another run finds it."""
        numbers = self._driver.numbers()
        for topic in self._topics:
            if not numbers[self._queue, topic].paused_ms:
                lists.sadd(PAUSED_KEY, f"{self._queue}/{topic}")
                self._driver.pause(self._queue, topic, True)

    def resume(self, lists: Lists) -> list[str]:
        """Resume what an import has paused, this one or one before; answers these topics."""
        ours = {name.decode() for name in lists.smembers(PAUSED_KEY)}
        resumed = [topic for topic in self._topics if f"{self._queue}/{topic}" in ours]
        for topic in resumed:
            self._driver.pause(self._queue, topic, False)
            lists.srem(PAUSED_KEY, f"{self._queue}/{topic}")
        return resumed

    def take_over(self) -> None:
        """Claims of an import that was killed go back."""
        for text in self._driver.owners():
            try:
                owner = Owner.parse(text)
            except ValueError:
                continue
            if owner.node == self._node and owner.boot.startswith(BOOT):
                held = [one for one in self._driver.held(text) if one.queue == self._queue]
                self._driver.give_back(text, [
                    Settlement(owner=text, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE)
                    for one in held
                ])

    # -- one topic --------------------------------------------------------------------------------

    def move(self, old: OldTopic, lists: Lists) -> dict[str, Moved]:
        """
        Move all lists of a topic.

        Raises:
            Refused: the queue takes no more.
            StorageError: the store is away; a repetition goes on from here.
        """
        moved = {suffix: Moved() for suffix in LISTS}
        for suffix in LISTS:
            if suffix == "list":
                self._pass(old, suffix, lists, moved[suffix], settled=True)
            self._pass(old, suffix, lists, moved[suffix], settled=suffix != "list")
        return moved

    def _pass(self, old: OldTopic, suffix: str, lists: Lists, moved: Moved, *, settled: bool) -> None:
        """Over one list, oldest first; *settled*: those jobs that are not simply ready, else all the others."""
        moved.bad.clear()
        kept = 0
        chunk: list[OldJob] = []
        while True:
            page = lists.lrange(key_of(old, suffix), -(kept + len(chunk) + PAGE), -(kept + len(chunk) + 1))
            for raw in reversed(page):
                job = self._wanted(raw, suffix, old, moved, settled)
                if job is not None:
                    chunk.append(job)
                else:
                    kept += 1                         # it stays, for the other pass or for a person
            if chunk and (len(page) < PAGE or len(chunk) >= CHUNK):
                self._move_chunk(old, suffix, chunk, lists, moved)
                chunk = []
            if len(page) < PAGE:
                return

    @staticmethod
    def _wanted(raw: bytes, suffix: str, old: OldTopic, moved: Moved, settled: bool) -> OldJob | None:
        try:
            job = read_job(raw, suffix, old.attempts)
        except ValueError as error:
            moved.bad.append(f"{raw[:80].decode('utf-8', 'replace')}: {error}")
            return None
        return job if (job.dead or job.made > 0) is settled else None

    def _move_chunk(self, old: OldTopic, suffix: str, jobs: Sequence[OldJob], lists: Lists, moved: Moved) -> None:
        by_id: dict[str, OldJob] = {}
        for start in range(0, len(jobs), PAGE):
            page = self._store(old, jobs[start : start + PAGE], moved)
            for topic in self._topics:
                if topic != old.topic:
                    self._driver.cancel(self._queue, topic, list(page))
            by_id |= page
        if any(job.dead or job.made for job in jobs):
            self._sweep(old.topic, by_id)
        for job in jobs:
            moved.gone += not lists.lrem(key_of(old, suffix), -1, job.raw)
        moved.dead += sum(job.dead for job in jobs)
        moved.ready += sum(not job.dead for job in jobs)
        self._told(old.topic, suffix, moved.dead + moved.ready)

    def _store(self, old: OldTopic, jobs: Sequence[OldJob], moved: Moved) -> dict[str, OldJob]:
        """Append them; by the id that each has here now."""
        self._batch += 1
        pushes = [
            Push(self._queue, job.body, job.traceparent, "", PushOptions(dedupe=f"pepperbus:{old.topic}:{job.key}"))
            for job in jobs
        ]
        appended = self._driver.append(self._owner, self._batch, pushes)
        if any(answer.refused for answer in appended):
            raise Refused(f"queue {self._queue} is full (max_backlog): raise that, then repeat the import")
        moved.known += sum(answer.duplicate for answer in appended)
        return {answer.id: job for answer, job in zip(appended, jobs, strict=True)}

    def _sweep(self, topic: str, jobs: Mapping[str, OldJob]) -> None:
        """
        Give jobs the attempts that they have had, and bury those that were given up.

        Everything that is ready is claimed, over and over, until nothing is left to be done; then it goes back. What
        was settled by a run before this one is not claimed any more.
        """
        aside: list[Settlement] = []
        self._driver.pause(self._queue, topic, False)
        try:
            while True:
                due = self._driver.promote_due().moved.get((self._queue, topic), 0)
                claimed = self._driver.claim([Want(self._owner, self._queue, topic, PAGE)])
                steps = [self._step(delivery, jobs.get(delivery.id)) for delivery in claimed]
                aside += [step for step in steps if step.move is Move.RELEASE]
                self._driver.settle([step for step in steps if step.move is not Move.RELEASE])
                if not claimed and not due:
                    return
        finally:
            for start in range(0, len(aside), PAGE):
                self._driver.settle(aside[start : start + PAGE])
            self._driver.pause(self._queue, topic, True)

    def _step(self, delivery: Delivery, job: OldJob | None) -> Settlement:
        """What brings a claimed delivery nearer to what it was: another attempt, the dead letters; or it is there."""
        move, counts, reason, error, group = Move.RELEASE, False, "", "", ""
        if job is not None and job.dead:
            # One attempt stands for all of them: each would be a round through the store.
            move, counts, reason, group = Move.BURY, True, "failed", fingerprint("failed", _GIVEN_UP)
            error = f"{_GIVEN_UP} after {max(1, job.made)} attempts"
        elif job is not None and delivery.attempt - 1 < job.made:
            move, counts, reason, error = Move.RETRY, True, "failed", "failed in Pepperbus"
        return Settlement(
            owner=self._owner, queue=self._queue, topic=delivery.topic, id=delivery.id, move=move, counts=counts,
            redelivered=job is not None, reason=reason, error=error, fingerprint=group,
        )
