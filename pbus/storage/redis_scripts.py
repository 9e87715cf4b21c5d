"""
The Lua scripts of the streams driver: one method a file of lua/, which documents its keys, arguments
and answer. A method composes the command; what goes back through the network is read beside it.

A script is called by its digest; a Redis that does not know it (restart, SCRIPT FLUSH) is sent the
text, which executes it and teaches it in one go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any, Final

from pbus.core.job import Move, Settlement
from pbus.core.names import Owner
from pbus.storage.driver import CLAIM_BYTES, QueueSpec, TopicNumbers, Want
from pbus.storage.keys import BEATS, FENCED, QueueKeys
from pbus.storage.redis_link import Words

ANSWER_MS: Final = 600_000
"""How long the answer to an append is kept for a repetition."""
SETTLED_MS: Final = 60_000
"""How long the answer to a settle is kept; only the call itself repeats it."""
TRIM_ENTRIES: Final = 10_000
TRIM_BYTES: Final = 8 * 1024 * 1024
"""Most log entries dropped, and most bytes of bodies put aside, by one trim of a queue."""

_LETTERS: Final = {Move.RETRY: "T", Move.BURY: "B", Move.RELEASE: "L"}


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Any]

    def by_digest(self) -> Words:
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.arguments)

    def by_text(self) -> Words:
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


class Script:
    """One file of lua/."""

    __slots__ = ("digest", "text")

    def __init__(self, name: str) -> None:
        self.text = resources.files("pbus.storage").joinpath("lua", f"{name}.lua").read_text("utf-8")
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Group:
    """Settlements of one topic and owner; the places say where their bits belong."""

    topic: str
    owner: str
    acks: list[str]
    others: list[Any]
    ack_places: list[int]
    other_places: list[int]


class Scripts:
    """All of them."""

    def __init__(self) -> None:
        self._append = Script("append")
        self._claim = Script("claim")
        self._settle = Script("settle")
        self._declare = Script("declare")
        self._due = Script("due")
        self._promote = Script("promote")
        self._trim = Script("trim")
        self._numbers = Script("numbers")
        self._held = Script("held")
        self._owners = Script("owners")
        self._beat = Script("beat")
        self._fence = Script("fence")
        self._forget = Script("forget")

    def load(self) -> list[Words]:
        """Commands that teach them all to a Redis, so that no first call is sent twice."""
        return [("SCRIPT", "LOAD", script.text) for script in vars(self).values()]

    def append(self, owner: str, batch: int, parts: Iterable[tuple[QueueKeys, Sequence[bytes], int]]) -> Call:
        """*parts*: per queue its keys, the envelopes, the bytes of their bodies."""
        keys: list[str] = []
        arguments: list[Any] = [Owner.parse(owner).boot, batch, ANSWER_MS]
        for queue, envelopes, size in parts:
            keys += (queue.queue, queue.log, queue.sizes, queue.taken, queue.fenced, queue.batch + owner)
            arguments += (queue.name, queue.bell, size, len(envelopes))
            arguments += envelopes
        return Call(self._append, keys, arguments)

    def claim(self, queue: QueueKeys, wants: Sequence[Want]) -> Call:
        """*wants*: all of this queue."""
        keys = [queue.queue, queue.log, queue.cursors, queue.taken, queue.fenced]
        arguments: list[Any] = [queue.name, CLAIM_BYTES]
        for want in wants:
            topic = queue.topic(want.topic)
            keys += (topic.claims + want.owner, topic.owners, topic.again, topic.bodies)
            keys += (topic.totals, topic.dead, topic.letters)
            arguments += (want.topic, want.owner, Owner.parse(want.owner).boot, want.count, int(want.exclusive))
        return Call(self._claim, keys, arguments)

    def settle(self, queue: QueueKeys, session: str, number: int, groups: Iterable[Group], *, fenced: bool) -> Call:
        """*fenced*: ask whether the owners' boots were fenced (not on behalf of the dead)."""
        keys = [queue.log, queue.fenced, queue.settled + session]
        arguments: list[Any] = [number, SETTLED_MS, queue.bell]
        for group in groups:
            topic = queue.topic(group.topic)
            keys += (topic.claims + group.owner, topic.owners, topic.again, topic.delayed)
            keys += (topic.dead, topic.letters, topic.bodies, topic.totals)
            boot = Owner.parse(group.owner).boot if fenced else ""
            arguments += (group.owner, boot, len(group.acks), len(group.other_places))
            arguments += group.acks
            arguments += group.others
        return Call(self._settle, keys, arguments)

    def declare(self, queue: QueueKeys, spec: QueueSpec, fenced: Sequence[bytes], seen: Sequence[str]) -> Call:
        """*seen*: for each topic of *spec* the id it was last seen at, or empty."""
        keys = [queue.queue, queue.log, queue.cursors, queue.taken, queue.fenced]
        arguments: list[Any] = [round(spec.retention_s * 1000), spec.retention_bytes, len(fenced), *fenced]
        for topic, job_id in zip(spec.topics, seen, strict=True):
            arguments += (topic.name, topic.start, job_id)
        return Call(self._declare, keys, arguments)

    def due(self, topics: Iterable[tuple[QueueKeys, str]]) -> Call:
        return Call(self._due, [queue.topic(topic).delayed for queue, topic in topics], ())

    def promote(self, queue: QueueKeys, topics: Iterable[str], limit: int) -> Call:
        keys: list[str] = []
        for name in topics:
            topic = queue.topic(name)
            keys += (topic.delayed, topic.again)
        return Call(self._promote, keys, (limit, queue.bell))

    def trim(self, queue: QueueKeys, topics: Iterable[str]) -> Call:
        keys = [queue.queue, queue.log, queue.sizes, queue.cursors]
        arguments: list[Any] = [TRIM_ENTRIES, TRIM_BYTES, queue.name]
        for name in topics:
            topic = queue.topic(name)
            keys += (topic.owners, topic.bodies)
            arguments += (topic.claims, name)
        return Call(self._trim, keys, arguments)

    def numbers(self, queue: QueueKeys, topics: Iterable[str]) -> Call:
        keys = [queue.queue, queue.log, queue.cursors, queue.taken]
        arguments: list[str] = []
        for name in topics:
            topic = queue.topic(name)
            keys += (topic.again, topic.delayed, topic.dead, topic.owners, topic.totals)
            arguments += (name, topic.claims)
        return Call(self._numbers, keys, arguments)

    def held(self, owner: str, topics: Iterable[tuple[QueueKeys, str]]) -> Call:
        return Call(self._held, [queue.topic(topic).claims + owner for queue, topic in topics], ())

    def owners(self, topics: Iterable[tuple[QueueKeys, str]]) -> Call:
        return Call(self._owners, [queue.topic(topic).owners for queue, topic in topics], ())

    def beat(self, boot: str) -> Call:
        return Call(self._beat, (BEATS, FENCED), (boot,))

    def fence(self, boot: str, queues: Iterable[QueueKeys]) -> Call:
        return Call(self._fence, (BEATS, FENCED, *(queue.fenced for queue in queues)), (boot,))

    def forget(self, boot: str, queues: Iterable[QueueKeys]) -> Call:
        return Call(self._forget, (BEATS, FENCED, *(queue.fenced for queue in queues)), (boot,))


def grouped(settlements: Sequence[tuple[int, Settlement]]) -> list[Group]:
    """Settlements of one queue with their places, by topic and owner, acks apart from the others."""
    groups: dict[tuple[str, str], Group] = {}
    for place, item in settlements:
        group = groups.get((item.topic, item.owner))
        if group is None:
            group = groups[item.topic, item.owner] = Group(item.topic, item.owner, [], [], [], [])
        if item.move is Move.ACK:
            group.acks.append(item.id)
            group.ack_places.append(place)
        else:
            flags = item.counts + 2 * item.crash + 4 * item.redelivered
            delay_ms = max(0, round(item.delay_s * 1000))
            group.others += (item.id, _LETTERS[item.move], flags, delay_ms, item.reason, item.error)
            group.other_places.append(place)
    return list(groups.values())


def read_numbers(row: Sequence[int]) -> TopicNumbers:
    """A topic's row of the script's answer."""
    ready, running, delayed, dead, oldest_ms, done, failed, died, redelivered = row
    return TopicNumbers(
        ready=ready,
        running=running,
        delayed=delayed,
        dead=dead,
        oldest_wait_s=oldest_ms / 1000,
        done_total=done,
        failed_total=failed,
        dead_total=died,
        redelivered_total=redelivered,
    )
