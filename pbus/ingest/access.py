"""
Queues and topics as clients name them, and who may do what to them.

    identity     made by                         may
    nobody       connecting                      push to and look at queues without a password, pull from their
                                                 topics without one: from this machine only
    queue        AUTH gift PW                    push, look
    system       AUTH live PW                    the same, for every queue of that system
    topic        AUTH gift/credit PW             pull from and look at that topic
    push         AUTH TOKEN of a consumer        push to and look at every queue
    pepper       AUTH TOKEN of a program         take from its topic in the name of its process, give back, look at it

What nobody may do from this machine, everybody else on it may do too. A topic without a password of
its own takes its queue's. Rule: a name from the network is looked up, never used.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from pbus.codec.handover import Identity
from pbus.config.schema import Queue, System
from pbus.core import tokens
from pbus.core.names import Owner, topic_path
from pbus.core.outcome import Rules
from pbus.core.retry import RetryPolicy
from pbus.core.tokens import Token

Kind = Literal["nobody", "queue", "system", "topic", "push", "pepper"]
_NO_PASSWORD: Final = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class TopicEntry:
    """
    A topic as pulls and looks need it; ``open``: no password guards it (from this machine).

    ``slots``: calls or processes that it has on a node; 0: its jobs are pulled. ``by_token``: programs take them by
    their process' token; ``rules`` judge how that ends, ``exclusive``: for one process at a time.
    """

    queue: str
    name: str
    pull: bool
    max_open: int
    open: bool
    retry: RetryPolicy
    slots: int = 0
    by_token: bool = False
    exclusive: bool = False
    rules: Rules = field(default_factory=Rules)

    @property
    def path(self) -> str:
        """``gift/credit``."""
        return topic_path(self.queue, self.name)


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """
    A queue as pushes and looks need it; ``open``: no password guards it (from this machine).

    ``importance``: 1 to 3, 3 is refused first when the store fills. ``ttl_ms``: of pushes that say nothing; 0: none.
    """

    name: str
    system: str
    storage: str
    pepper: bool
    open: bool
    topics: Mapping[str, TopicEntry]
    importance: int = 2
    ttl_ms: int = 0


@dataclass(eq=False, slots=True)
class Access:
    """
    What a connection may do: its identity, and whether its peer is on this machine.

    Attributes:
        routes: Where keys lead that this identity has pushed to (``pushes.Route``); one entry a name.
        owner: Of a token: the process it was made for.
        lives: Of a token: whether that process does; without it the identity is void.
    """

    kind: Kind
    name: str
    local: bool
    routes: dict[bytes, Any] = field(default_factory=dict)
    owner: Owner | None = None
    lives: Callable[[], bool] | None = None

    @property
    def void(self) -> bool:
        """The process of its token is gone."""
        return self.lives is not None and not self.lives()

    def may_push(self, queue: QueueEntry) -> bool:
        """Whether it may push to *queue*."""
        if (queue.open and self.local) or self.kind == tokens.PUSH:
            return True
        return (self.kind, self.name) in (("queue", queue.name), ("system", queue.system))

    def may_look(self, queue: QueueEntry, topic: TopicEntry | None) -> bool:
        """Whether it may see the numbers of *queue*, or of one topic of it."""
        if self.may_push(queue):
            return True
        return topic is not None and (self.may_pull(topic) or self.takes_for(topic))

    def may_pull(self, topic: TopicEntry) -> bool:
        """Whether it may take jobs from *topic*."""
        return (topic.open and self.local) or (self.kind == "topic" and self.name == topic.path)

    def takes_for(self, topic: TopicEntry) -> bool:
        """Whether it takes jobs from *topic* in the name of its token's process."""
        return self.kind == tokens.PEPPER and self.name == topic.path


class Directory:
    """
    Every name that clients may use, and the identities behind passwords.

    Args:
        queues, systems: As configured.
        gone: Queues that are not configured any more, and only finish what they have.
    """

    def __init__(
        self, queues: Mapping[str, Queue], systems: Mapping[str, System], gone: frozenset[str] = frozenset()
    ) -> None:
        self.gone = gone
        self.queues = {name: _entry(name, queue) for name, queue in queues.items()}
        self._names: dict[bytes, QueueEntry] = {}
        self._passwords: dict[str, tuple[Kind, tuple[bytes, ...]]] = {}
        for name, queue in queues.items():
            self._names[name.encode()] = self.queues[name]
            self._names.update({alias.encode(): self.queues[name] for alias in queue.alias})
            self._add_passwords(name, queue)
        for name, system in systems.items():
            self._passwords.setdefault(name, ("system", tuple(_digest(word) for word in system.passwords)))
        self._secrets = frozenset(word for _, words in self._passwords.values() for word in words)
        self.any_open = any(queue.open for queue in self.queues.values())
        self._given: dict[tuple[str, str, bool], Access] = {}
        self._pushed: dict[bytes, Any] = {}           # routes of all push tokens: they may go everywhere

    def _add_passwords(self, name: str, queue: Queue) -> None:
        own = tuple(_digest(word) for word in queue.password.splitlines())
        self._passwords[name] = ("queue", own)
        for topic, settings in queue.topic.items():
            words = tuple(_digest(word) for word in settings.password.splitlines())
            self._passwords[topic_path(name, topic)] = ("topic", words or own)

    def queue(self, key: bytes) -> QueueEntry | None:
        """The queue of that name or alias."""
        return self._names.get(key)

    def topic(self, key: bytes) -> tuple[QueueEntry | None, TopicEntry | None]:
        """
        The queue and topic of ``gift/credit`` (or ``alias/credit``).

        A queue alone means its only pull topic, so that a program that pops from an alias goes on.
        Either part is None where there is no such thing.
        """
        queue = self._names.get(key)
        if queue is not None:
            pulls = [topic for topic in queue.topics.values() if topic.pull]
            return queue, pulls[0] if len(pulls) == 1 else None
        name, _, topic = key.rpartition(b"/")
        queue = self._names.get(name)
        return queue, queue.topics.get(topic.decode("utf-8", "replace")) if queue else None

    def nobody(self, local: bool) -> Access:
        """The identity of a connection before AUTH."""
        return self._access("nobody", "", local)

    def authenticate(self, name: str, password: bytes, local: bool) -> Access | None:
        """
        The identity *name* proves with *password*; None when it does not.

        What has no password is entered with an empty one, from this machine. Takes the same time
        for a wrong name as for a wrong password.
        """
        kind, digests = self._passwords.get(name, ("nobody", ()))
        may_be_empty = not digests and local and kind not in ("system", "nobody")
        # Always two comparisons: how many passwords a name has is nobody's business either.
        first, second = ((*digests, *digests) if digests else (_NO_PASSWORD, _NO_PASSWORD))[:2]
        digest = _digest_bytes(password)
        matches = hmac.compare_digest(digest, first) | hmac.compare_digest(digest, second)
        return self._access(kind, name, local) if matches and (digests or may_be_empty) else None

    def of_token(self, token: Token, local: bool, lives: Callable[[], bool]) -> Access:
        """
        The identity of a genuine token; one object a connection, gone with it.

        Args:
            lives: Whether the process it was made for does.
        """
        if token.kind == tokens.PUSH:
            return Access("push", token.path, local, self._pushed, token.owner, lives)
        return Access("pepper", token.path, local, {}, token.owner, lives)

    def identity(self, access: Access) -> Identity:
        """*access* as another process can look it up again."""
        _, digests = self._passwords.get(access.name, ("nobody", ()))
        if access.owner is not None:
            return Identity(kind=access.kind, name=access.name, local=access.local, owner=str(access.owner))
        proofs = [] if access.kind == "nobody" else [_proof(digest) for digest in digests]
        return Identity(kind=access.kind, name=access.name, local=access.local, proofs=proofs)

    def readmit(self, identity: Identity, lives: Callable[[Owner], bool]) -> Access:
        """
        Who that is here: the same where AUTH with the password of then still makes it so, else nobody.

        Args:
            lives: Whether the process of a token does.
        """
        kind, digests = self._passwords.get(identity.name, ("nobody", ()))
        if identity.owner:
            token = Token(identity.kind, Owner.parse(identity.owner), identity.name)
            return self.of_token(token, identity.local, partial(lives, token.owner))
        if digests:
            counts = any(_proof(digest) in identity.proofs for digest in digests)
        else:
            counts = not identity.proofs and identity.local and kind not in ("system", "nobody")
        return self._access(kind, identity.name, identity.local) if counts and kind == identity.kind else self.nobody(
            identity.local
        )

    def is_identity(self, name: str) -> bool:
        """Whether AUTH could ever make somebody *name*."""
        return name in self._passwords

    def showable(self, name: str, alone: bool) -> str:
        """
        *name* of a failed AUTH as people may see it; empty where it may be a password that somebody gave for a name.

        *alone*: there was no second argument. Then it is shown when it is, or resembles, a name that somebody bears.
        """
        if self.is_identity(name):
            return name
        if _digest(name) in self._secrets or (alone and not difflib.get_close_matches(name[:64], self._passwords, 1)):
            return ""
        return name

    def _access(self, kind: Kind, name: str, local: bool) -> Access:
        """One object per identity, shared by its connections: 10,000 of them know one cache."""
        key = (kind, name, local)
        access = self._given.get(key)
        if access is None:
            access = self._given[key] = Access(kind, name, local)
        return access

    def known(self, access: Access) -> bool:
        """Whether a connection has anything to do here: it is somebody, or something is open to it."""
        return access.kind != "nobody" or (access.local and self.any_open)


def _entry(name: str, queue: Queue) -> QueueEntry:
    topics = {}
    for topic, settings in queue.topic.items():
        pull = settings.pull
        topics[topic] = TopicEntry(
            queue=name, name=topic, pull=pull is not None, max_open=pull.max_open if pull is not None else 0,
            open=not queue.password and not settings.password, retry=settings.retry.policy,
            slots=0 if pull is not None else settings.concurrency.min,
            by_token=settings.command is not None and settings.command.protocol == "pepper",
            exclusive=settings.concurrency.max == 1, rules=settings.rules,
        )
    return QueueEntry(
        name=name, system=queue.system, storage=queue.storage, pepper=queue.pepper, open=not queue.password,
        topics=topics, importance=queue.importance, ttl_ms=round(queue.ttl_s * 1000),
    )


def _proof(digest: bytes) -> bytes:
    """What says that two processes mean the same password, and is none."""
    return hashlib.sha256(b"handover" + digest).digest()


def _digest(password: str) -> bytes:
    return _digest_bytes(password.encode())


def _digest_bytes(password: bytes) -> bytes:
    return hashlib.sha256(password).digest()
