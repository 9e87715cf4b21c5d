"""
What a connection carries, as records say it (codec/handover.py) and as this process has it.

Rule: names in a record are looked up again here: a queue, a topic or a password may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pbus.codec.handover import (
    COMMAND, GARBAGE, HANDED, POP, POPPED, READ, RUN, TOKEN, TOO_BIG, Blocked, ClaimState, Record, Said, Sending,
)
from pbus.codec.resp import Event, Run, TooBig
from pbus.core.job import Delivery
from pbus.errors import ProtocolError
from pbus.ingest import programs
from pbus.ingest.access import TopicEntry
from pbus.ingest.claims import Claim, Reader
from pbus.ingest.holder import TokenPop
from pbus.ingest.pops import Pop, Read
from pbus.ingest.puller import Puller
from pbus.ingest.sent import HandedOver, OnSent, Popped, ReadOut, Unread, delivery_of, state_of_claim
from pbus.ingest.takings import Refused, same_storage, topic_of_group, topic_of_key

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection
    from pbus.ingest.server import Server


class Stranded(Exception):
    """A connection that cannot be carried on here; the text says why."""


# -- commands that were parsed and not executed ---------------------------------------------------------------


def said(event: Event) -> Said:
    """For the record."""
    if isinstance(event, Run):
        return Said(kind=RUN, words=list(event.head), lasts=list(event.lasts))
    if isinstance(event, TooBig):
        return Said(kind=TOO_BIG, words=list(event.kept), text=event.what, size=event.size, limit=event.limit)
    if isinstance(event, ProtocolError):
        return Said(kind=GARBAGE, text=event.reply)
    return Said(kind=COMMAND, words=event)


def event(one: Said) -> Event:
    """
    Out of the record.

    Raises:
        Stranded: there is no such kind.
    """
    if one.kind == RUN:
        return Run(one.words, one.lasts)
    if one.kind == TOO_BIG:
        return TooBig(one.words, one.text, one.size, one.limit)
    if one.kind == GARBAGE:
        return ProtocolError(one.text, fatal=True)
    if one.kind == COMMAND:
        return one.words
    raise Stranded(f"a command of the kind {one.kind!r}")


# -- the command that it waits in -----------------------------------------------------------------------------


def blocked(pop: Pop) -> Blocked:
    """For the record."""
    topics = [(topic.queue, topic.name) for topic in pop.topics]
    keys = list(pop.keys) or [topic.path.encode() for topic in pop.topics]
    record = Blocked(
        kind=POP, keys=keys, topics=topics, count=pop.count, many=pop.many, deadline_s=float(pop.deadline_s or 0.0)
    )
    if isinstance(pop, Read):
        record.kind, record.consumer, record.keeps = READ, pop.consumer, pop.keeps
    elif isinstance(pop, TokenPop):
        record.kind, record.acked, record.prepared = TOKEN, pop.acked, pop.prepared
    return record


def wait_again(connection: Connection, record: Blocked) -> None:
    """
    Wait on, until the same moment.

    Raises:
        Refused: there is no such topic here, or it is not for this client.
    """
    if record.kind == TOKEN:
        _wait_as_program(connection, record)
        return
    if record.kind == READ:
        topics = [
            topic_of_group(connection, key, name.encode())
            for key, (_, name) in zip(record.keys, record.topics, strict=True)
        ]
    else:
        topics = [topic_of_key(connection, key) for key in record.keys]
    same_storage(connection, topics)
    if record.kind == READ:
        wanted: Pop = Read(
            connection, topics, record.count, record.deadline_s, keys=record.keys, consumer=record.consumer,
            starts=[None] * len(topics), reader=connection.reads(), keeps=record.keeps,
        )
    else:
        wanted = Pop(connection, topics, record.count, record.deadline_s, many=record.many, keys=record.keys)
    connection.take(wanted, connection.server.puller(topics[0]))


def _wait_as_program(connection: Connection, record: Blocked) -> None:
    topic, owner = programs.topic_of(connection, record.keys[0]), connection.access.owner
    if isinstance(topic, str) or owner is None:
        raise Refused(f"{topic}: nothing taken")
    wanted = TokenPop(connection, topic, owner, record.deadline_s)
    wanted.acked, wanted.prepared = record.acked, record.prepared
    connection.pop = wanted
    connection.server.holder(topic).add(wanted)


# -- jobs ----------------------------------------------------------------------------------------------------


def claims(reader: Reader | None) -> list[ClaimState]:
    """For the record: what was read and nobody has settled."""
    return [state_of_claim(claim) for claim in reader.claims.values()] if reader is not None else []


@dataclass(slots=True)
class Cargo:
    """
    The jobs of a connection that comes, as this process will hold them.

    Attributes:
        claims: What it has read.
        lost: Places in the record of those whose topic this process does not know.
        sendings: Jobs of each reply that has not left: how they end, and the claims among them.
        on_sent: The same, for the connection.
        unread: Who wants to know that its last reply was not read.
    """

    claims: list[Claim] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    sendings: list[tuple[Sending, list[Claim]]] = field(default_factory=list)
    on_sent: list[Callable[[Connection], OnSent]] = field(default_factory=list)
    unread: Unread | None = None

    @property
    def coming(self) -> Iterable[Claim]:
        """Everything whose owner is to be this process."""
        return [*self.claims, *[claim for _, claims in self.sendings for claim in claims]]

    def keep(self, ours: Callable[[Claim], bool]) -> None:
        """Only what is ours now; the rest was settled meanwhile."""
        self.claims = [claim for claim in self.claims if ours(claim)]
        for sending, of_reply in self.sendings:
            kept = [claim for claim in of_reply if ours(claim)]
            if kept:
                self.on_sent.append(_hanging(sending, kept))


def cargo_of(server: Server, record: Record) -> Cargo:
    """
    Its jobs, looked up here.

    Raises:
        Stranded: a job in a reply that has not left is of a topic that is gone.
    """
    cargo = Cargo()
    for place, state in enumerate(record.claims):
        claim = _claim_of(server, state)
        if claim is None:
            cargo.lost.append(place)
        else:
            cargo.claims.append(claim)
    for sending in record.sendings:
        if sending.kind == HANDED:
            program = _program_of(server, sending)
            cargo.on_sent.append(lambda _, program=program: program)  # type: ignore[misc]
            continue
        found = [_claim_of(server, state) for state in sending.claims]
        of_reply = [claim for claim in found if claim is not None]
        if len(of_reply) < len(found):
            raise Stranded("the topic of a job in its unsent reply is gone")
        cargo.sendings.append((sending, of_reply))
    for sending in record.unsure:
        cargo.unread = _program_of(server, sending)
    return cargo


def _topic(server: Server, state: ClaimState) -> TopicEntry | None:
    queue = server.directory.queues.get(state.queue)
    return queue.topics.get(state.topic) if queue is not None else None


def _claim_of(server: Server, state: ClaimState) -> Claim | None:
    topic = _topic(server, state)
    if topic is None or not topic.pull:
        return None
    claim = Claim(delivery_of(state, server.owner), topic, server.puller(topic), state.since_s)
    claim.consumer = state.consumer
    return claim


def _program_of(server: Server, sending: Sending) -> HandedOver:
    (state,) = sending.claims
    topic = _topic(server, state)
    if topic is None or not topic.by_token:
        raise Stranded("the topic of a program's job in its unsent reply is gone")
    return HandedOver(server.holder(topic), delivery_of(state), topic)


def _hanging(sending: Sending, kept: list[Claim]) -> Callable[[Connection], OnSent]:
    """What hangs on a reply, once there is a connection."""
    puller: Any = kept[0].keeper
    deliveries: list[Delivery] = [claim.delivery for claim in kept]

    def popped(_: Connection) -> OnSent:
        return Popped(puller, deliveries)

    def read_out(connection: Connection) -> OnSent:
        read = Read(
            connection, [claim.topic for claim in kept[:1]], len(kept), None, keys=(), consumer=kept[0].consumer,
            starts=[None], reader=connection.reads(), keeps=True,
        )
        read.got = deliveries
        return ReadOut(puller, read)

    assert isinstance(puller, Puller)
    return popped if sending.kind == POPPED else read_out
