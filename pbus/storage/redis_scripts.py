"""
The Lua scripts of the streams driver: one method a file of lua/, which documents its keys, arguments
and answer. A method composes the command; what goes back through the network is read beside it.

A script is called by its digest; a Redis that does not know it (restart, SCRIPT FLUSH) is sent the
text, which executes it and teaches it in one go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any, Final

from pbus.core.job import Move, Settlement
from pbus.core.names import Owner
from pbus.storage.documents import MOST
from pbus.storage.driver import CLAIM_BYTES, DeadLetter, QueueSpec, TopicNumbers, Want
from pbus.storage.halves import Waiting
from pbus.storage.keys import BEATS, ENDINGS, FENCED, QueueKeys
from pbus.storage.redis_codec import ROW, Packed
from pbus.storage.redis_link import Words

ANSWER_MS: Final = 600_000
"""How long the answer to an append is kept for a repetition."""
SETTLED_MS: Final = 60_000
"""How long the answer to a settle is kept; only the call itself repeats it."""
TRIM_ENTRIES: Final = 10_000
TRIM_BYTES: Final = 8 * 1024 * 1024
"""Most log entries dropped, and most bytes of bodies put aside, by one trim of a queue."""
TRIM_LETTERS: Final = 1_000
"""Most dead letters dropped by one trim of a topic."""
PURGED: Final = 10_000
"""Most deliveries outside the log that one purge ends."""
GROUPS: Final = 1_000
"""Most groups of errors of a topic that are shown."""

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
    """
    One file of lua/, with the endings of keys where it says ``$name``, behind the library where it uses that.

    Raises:
        KeyError: ``keys`` knows no ending of that name.
    """

    __slots__ = ("digest", "text")

    def __init__(self, name: str) -> None:
        text = _file(name)
        if "library(" in text:
            text = _file("library") + text
        self.text = re.sub(r"\$(\w+)", lambda found: f"'{ENDINGS[found[1]]}'", text)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _file(name: str) -> str:
    return resources.files("pbus.storage").joinpath("lua", f"{name}.lua").read_text("utf-8")


@dataclass(slots=True)
class Group:
    """Settlements of one topic and owner; the places say where their bits belong."""

    topic: str
    owner: str
    acks: list[str]
    others: list[Any]
    ack_places: list[int]
    other_places: list[int]


NAMES: Final = (
    "append", "claim", "settle", "declare", "due", "promote", "trim", "numbers", "queue_numbers", "held", "owners",
    "beat", "fence", "forget", "cancel", "purge", "dead", "dead_page", "dead_groups", "records", "pause", "drop",
    "holders", "running", "statistics", "document", "meet", "reassign",
)
"""Every script; library.lua is part of others."""


class Scripts:
    """All of them, by name."""

    def __init__(self) -> None:
        self._scripts = {name: Script(name) for name in NAMES}

    def load(self) -> list[Words]:
        """Commands that teach them all to a Redis, so that no first call is sent twice."""
        return [("SCRIPT", "LOAD", script.text) for script in self._scripts.values()]

    def _call(self, name: str, queue: QueueKeys, *arguments: Any) -> Call:
        return Call(self._scripts[name], (queue.queue,), arguments)

    def append(
        self, owner: str, batch: int, parts: Iterable[tuple[QueueKeys, Packed]], groups: Iterable[int] = ()
    ) -> Call:
        """*parts*: per queue its keys and its pushes; *groups*: see ``redis_codec.groups``."""
        keys: list[str] = []
        arguments: list[Any] = [owner, Owner.parse(owner).boot, batch, ANSWER_MS]
        for queue, pushes in parts:
            keys.append(queue.queue)
            arguments += (queue.name, pushes.size, len(pushes.envelopes))
            arguments += pushes.envelopes
            arguments += (int(pushes.with_options), len(pushes.rows) // ROW)
            arguments += pushes.rows
        arguments += groups
        return Call(self._scripts["append"], keys, arguments)

    def claim(self, queue: QueueKeys, wants: Sequence[Want]) -> Call:
        """*wants*: all of this queue."""
        arguments: list[Any] = [queue.name, CLAIM_BYTES]
        for want in wants:
            arguments += (want.topic, want.owner, Owner.parse(want.owner).boot, want.count, int(want.exclusive))
        return Call(self._scripts["claim"], (queue.queue,), arguments)

    def settle(self, queue: QueueKeys, session: str, number: int, groups: Iterable[Group], *, fenced: bool) -> Call:
        """*fenced*: ask whether the owners' boots were fenced (not on behalf of the dead)."""
        arguments: list[Any] = [session, number, SETTLED_MS]
        for group in groups:
            boot = Owner.parse(group.owner).boot if fenced else ""
            arguments += (group.topic, group.owner, boot, len(group.acks), len(group.other_places))
            arguments += group.acks
            arguments += group.others
        return Call(self._scripts["settle"], (queue.queue,), arguments)

    def reassign(self, queue: QueueKeys, owner: str, heir: str, topics: Mapping[str, Sequence[str]]) -> Call:
        """*topics*: the ids of each."""
        arguments: list[Any] = [owner, Owner.parse(owner).boot, heir, Owner.parse(heir).boot]
        for topic, ids in topics.items():
            arguments += (topic, len(ids), *ids)
        return self._call("reassign", queue, *arguments)

    def declare(
        self, queue: QueueKeys, spec: QueueSpec, fenced: Sequence[bytes], seen: Sequence[str], *, again: bool
    ) -> Call:
        """
        *seen*: for each topic of *spec* the id it was last seen at, or empty. *again*: what the store has
        forgotten is made again, what somebody dropped is not.
        """
        arguments: list[Any] = [
            _ms(spec.retention_s), spec.retention_bytes, spec.max_backlog, spec.max_backlog_bytes,
            max(1, _ms(spec.dedupe_window_s)), "keep" if again else "new", len(fenced), *fenced,
        ]
        for topic, job_id in zip(spec.topics, seen, strict=True):
            arguments += (topic.name, topic.start, _ms(topic.dead_keep_s), topic.dead_max, job_id, topic.sample)
        return self._call("declare", queue, *arguments)

    def due(self, topics: Iterable[tuple[QueueKeys, str]]) -> Call:
        return Call(self._scripts["due"], [queue.topic(topic).delayed for queue, topic in topics], ())

    def promote(self, queue: QueueKeys, topics: Iterable[str], limit: int) -> Call:
        return self._call("promote", queue, limit, *topics)

    def trim(self, queue: QueueKeys, topics: Iterable[str]) -> Call:
        return self._call("trim", queue, TRIM_ENTRIES, TRIM_BYTES, TRIM_LETTERS, queue.name, *topics)

    def numbers(self, queue: QueueKeys, topics: Iterable[str]) -> Call:
        return self._call("numbers", queue, *topics)

    def queue_numbers(self, queue: QueueKeys) -> Call:
        return self._call("queue_numbers", queue)

    def held(self, owner: str, topics: Iterable[tuple[QueueKeys, str]]) -> Call:
        return Call(self._scripts["held"], [queue.topic(topic).claims + owner for queue, topic in topics], ())

    def holders(self, queue: QueueKeys, topic: str, ids: Sequence[str]) -> Call:
        return self._call("holders", queue, topic, queue.name, *ids)

    def running(self, queue: QueueKeys, topic: str) -> Call:
        return self._call("running", queue, topic, queue.name)

    def owners(self, topics: Iterable[tuple[QueueKeys, str]]) -> Call:
        return Call(self._scripts["owners"], [queue.topic(topic).owners for queue, topic in topics], ())

    def beat(self, boot: str) -> Call:
        return Call(self._scripts["beat"], (BEATS, FENCED), (boot,))

    def fence(self, boot: str, queues: Iterable[QueueKeys]) -> Call:
        return Call(self._scripts["fence"], (BEATS, FENCED, *(queue.fenced for queue in queues)), (boot,))

    def forget(self, boot: str, queues: Iterable[QueueKeys]) -> Call:
        return Call(self._scripts["forget"], (BEATS, FENCED, *(queue.fenced for queue in queues)), (boot,))

    def cancel(self, queue: QueueKeys, topic: str, ids: Sequence[str]) -> Call:
        return self._call("cancel", queue, topic, queue.name, *ids)

    def purge(self, queue: QueueKeys, topic: str) -> Call:
        return self._call("purge", queue, topic, queue.name, PURGED)

    def dead(self, queue: QueueKeys, topic: str, what: str, ids: Sequence[str]) -> Call:
        """*what*: revive, accept, forget or forgive."""
        return self._call("dead", queue, what, topic, queue.name, *ids)

    def dead_page(
        self, queue: QueueKeys, topic: str, limit: int, fingerprint: str, before: DeadLetter | None
    ) -> Call:
        after = (before.at_ms, before.id) if before else ("", "")
        return self._call(
            "dead_page", queue, topic, queue.name, limit, int(fingerprint != ""), fingerprint, *after
        )

    def dead_groups(self, queue: QueueKeys, topic: str) -> Call:
        return self._call("dead_groups", queue, topic, queue.name, GROUPS)

    def records(self, queue: QueueKeys, ids: Iterable[str]) -> Call:
        return self._call("records", queue, queue.name, CLAIM_BYTES, *ids)

    def pause(self, queue: QueueKeys, topic: str, paused: bool) -> Call:
        return self._call("pause", queue, topic, queue.name, int(paused))

    def drop(self, queue: QueueKeys, topic: str) -> Call:
        return self._call("drop", queue, topic)

    def statistics(
        self, queue: QueueKeys, buckets: Iterable[tuple[str, int]], totals: Mapping[str, int],
        rows: Sequence[Sequence[tuple[str, bytes]]],
    ) -> Call:
        """*buckets*: their keys and when they expire (Unix time); *rows*: of each bucket, by field."""
        arguments: list[Any] = [len(totals), *(word for item in totals.items() for word in item)]
        for (key, until_s), of_bucket in zip(buckets, rows, strict=True):
            arguments += (key, until_s, len(of_bucket), *(word for item in of_bucket for word in item))
        return self._call("statistics", queue, *arguments)

    def document(self, key: str, name: str, version: int, word: str, text: bytes | None) -> Call:
        """*text* None: drop it. *word*: no other call has it."""
        written = () if text is None else (text,)
        return Call(self._scripts["document"], (key,), (name, version, word, MOST, *written))

    def meet(self, queue: QueueKeys, topic: str, halves: Sequence[Waiting], bounds: tuple[int, int]) -> Call:
        """*bounds*: ms that a half waits, how many may."""
        words = [word for half in halves for word in (half.id, int(half.shadow), half.text)]
        return self._call("meet", queue, topic, queue.name, *bounds, *words)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


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
            delay_ms, rest_ms = max(0, _ms(item.delay_s)), max(0, _ms(item.key_rest_s))
            group.others += (item.id, _LETTERS[item.move], flags, delay_ms, rest_ms)
            group.others += (item.reason, item.fingerprint, item.error)
            group.other_places.append(place)
    return list(groups.values())


def read_numbers(row: Sequence[int]) -> TopicNumbers:
    """A topic's row of the script's answer."""
    ready, running, delayed, dead, oldest_ms, paused_ms, done, failed, died, redelivered, *ends = row
    cancelled, expired, forgotten, waiting = ends
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
        cancelled_total=cancelled,
        expired_total=expired,
        forgotten_total=forgotten,
        paused_ms=paused_ms,
        waiting=waiting,
    )
