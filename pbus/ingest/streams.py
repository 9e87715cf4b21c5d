"""
Pulls at least once: XREADGROUP, XACK, PBUS.NACK. A topic is the consumer group of its name, its queue the stream.

    XREADGROUP GROUP topic consumer [COUNT n] [BLOCK ms] [NOACK] STREAMS queue [queue ..] > [> ..]
    XACK queue topic id [id ..]
    PBUS.NACK queue topic id [DELAY ms] [REASON text] [DEAD]

Rule: what is read is its connection's until it is settled, from any connection of the identity; what is not when the
connection closes goes back. Wording of what is not ours: Redis 7 t_stream.c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import gevent

from pbus.codec import stream_ids
from pbus.codec.resp_reply import NULL_ARRAY, bulk, error
from pbus.codec.stream_ids import Id
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.errors import StorageError
from pbus.ingest.access import TopicEntry
from pbus.ingest.claims import Claim
from pbus.ingest.pops import REPLY_BYTES, Read
from pbus.ingest.puller import Puller
from pbus.ingest.sent import ReadOut
from pbus.ingest.settling import Ask
from pbus.ingest.takings import ACKED, TAKEN, Refused, same_storage, topic_of_group
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

COUNT: Final = 16
"""Jobs of one reply and topic where the client does not say."""
NACKED: Final = "its consumer gave it back"
LONGEST_DELAY_MS: Final = 315_360_000_000
"""Ten years, as of a push."""
_LARGEST: Final = 2**63 - 1
_BAD_NUMBER: Final = "ERR value is not an integer or out of range"
_SYNTAX: Final = "ERR syntax error"
_DOLLAR: Final = (
    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by "
    "specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set."
)


@dataclass(slots=True)
class _Words:
    """What an XREADGROUP says."""

    group: bytes = b""
    consumer: bytes = b""
    count: int = COUNT
    block_ms: int | None = None
    keeps: bool = True
    keys: list[bytes] = field(default_factory=list)
    starts: list[Id | None] = field(default_factory=list)


def read(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XREADGROUP``: claim jobs of topics, or show what was read and not acked."""
    try:
        words = _words(arguments, connection.server.limits.option_bytes)
        topics = [topic_of_group(connection, key, words.group) for key in words.keys]
        same_storage(connection, topics)
    except Refused as refused:
        return error(str(refused))
    server = connection.server
    past = any(start is not None for start in words.starts)
    deadline_s = None
    if words.block_ms is not None and not past:
        deadline_s = server.clock.monotonic_s() + words.block_ms / 1000 if words.block_ms else math.inf
    connection.wait()
    wanted = Read(
        connection, topics, words.count, deadline_s, keys=words.keys, consumer=words.consumer, starts=words.starts,
        reader=connection.reads(), keeps=words.keeps,
    )
    connection.take(wanted, server.puller(topics[0]))
    return None


def ack(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XACK queue topic id [id ..]``: they are done; how many of them somebody held until now."""
    return _settle(connection, arguments, arguments[3:], Outcome(verdict=Verdict.DONE))


def nack(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``PBUS.NACK queue topic id [DELAY ms] [REASON text] [DEAD]``: it failed; 1, or 0 when nobody held it."""
    try:
        outcome = _failure(arguments[4:])
    except Refused as refused:
        return error(str(refused))
    return _settle(connection, arguments, arguments[3:4], outcome)


def answer(connection: Connection, over: Read) -> None:
    """The reply to a read that is over."""
    taker = over.taker
    assert isinstance(taker, Puller)
    if over.error and not over.got:
        connection.reply(error(over.error))
    elif any(start is not None for start in over.starts):
        gevent.spawn(_answer_with_past, connection, over, taker)
    else:
        parts = [(key, got) for key, got in zip(over.keys, over.got_of, strict=True) if got]
        _hand_over(connection, over, taker, parts)


# -- reading ------------------------------------------------------------------------------------------


def _hand_over(connection: Connection, over: Read, taker: Puller, parts: list[tuple[bytes, list[Delivery]]]) -> None:
    reply = _reply(parts, connection.protocol)
    connection.reply(reply, ReadOut(taker, over) if over.got else None)


def _reply(parts: list[tuple[bytes, list[Delivery]]], protocol: int) -> bytes:
    """As Redis answers: streams with their entries, each an id and its fields; nothing at all: nil."""
    if not parts:
        return NULL_ARRAY[protocol]
    out = [b"%%%d\r\n" % len(parts) if protocol == 3 else b"*%d\r\n" % len(parts)]
    for key, deliveries in parts:
        if protocol == 2:
            out.append(b"*2\r\n")
        out.append(bulk(key))
        out.append(b"*%d\r\n" % len(deliveries))
        out += [_entry(delivery) for delivery in deliveries]
    return b"".join(out)


def _entry(delivery: Delivery) -> bytes:
    attempt, redelivered = b"%d" % delivery.attempt, b"1" if delivery.redelivered else b"0"
    return b"".join((
        b"*2\r\n", bulk(delivery.id.encode()), b"*8\r\n$4\r\nbody\r\n", bulk(delivery.body),
        b"$7\r\nattempt\r\n", bulk(attempt), b"$11\r\nredelivered\r\n", bulk(redelivered),
        b"$11\r\ntraceparent\r\n", bulk((delivery.span or delivery.traceparent).encode()),
    ))


def _answer_with_past(connection: Connection, over: Read, taker: Puller) -> None:
    """The bodies of what it has read before are the store's."""
    try:
        parts = [
            (key, got if start is None else _past(connection, over, topic, start))
            for key, got, topic, start in zip(over.keys, over.got_of, over.topics, over.starts, strict=True)
            if start is not None or got
        ]
    except StorageError as failure:
        text = f"UNAVAILABLE {failure}: nothing taken, try again in 1 s"
    except Exception:                                 # one command, one reply, whatever it is; the log has it
        connection.server.log.exception("client.failed", peer=connection.peer)
        text = "ERR internal error, the log of the bus says more: nothing taken"
    else:
        _hand_over(connection, over, taker, parts)
        return
    taker.delivered(over.got, sent=False)
    connection.reply(error(text))


def _past(connection: Connection, over: Read, topic: TopicEntry, start: Id) -> list[Delivery]:
    """
    What this connection has read under this name and not settled, above *start*.

    Raises:
        StorageError: the store cannot be asked now.
    """
    store = connection.server.stores[connection.server.directory.queues[topic.queue].storage]
    mine = [claim for claim in over.reader.claims.values() if claim.topic is topic and claim.consumer == over.consumer]
    above = sorted((claim for claim in mine if _number_of(claim) > start), key=_number_of)
    found: list[Delivery] = []
    for claim in above[: over.count]:
        if over.size >= REPLY_BYTES:
            break
        record, delivery = store.job(topic.queue, claim.delivery.id), claim.delivery
        place = record.topics.get(topic.name) if record is not None else None
        if record is not None and place is not None and place.owner == delivery.owner:
            found.append(Delivery(
                delivery.id, delivery.queue, delivery.topic, record.body, delivery.attempt, delivery.crashes,
                delivery.redelivered, delivery.traceparent, delivery.content_type, delivery.first_ms, delivery.owner,
            ))
            over.size += len(record.body)
    return found


def _words(arguments: list[bytes], longest_name: int) -> _Words:
    words, at = _Words(), 1
    while at < len(arguments):
        option, more = arguments[at].upper(), len(arguments) - at - 1
        if option == b"GROUP" and more >= 2:
            words.group, words.consumer = arguments[at + 1 : at + 3]
            at += 3
        elif option == b"COUNT" and more:
            words.count = _integer(arguments[at + 1], _BAD_NUMBER)
            at += 2
        elif option == b"BLOCK" and more:
            words.block_ms = _integer(arguments[at + 1], "ERR timeout is not an integer or out of range")
            at += 2
        elif option == b"NOACK":
            words.keeps = False
            at += 1
        elif option == b"STREAMS" and more:
            _streams(words, arguments[at + 1:])
            break
        else:
            raise Refused(_SYNTAX)
    return _checked(words, longest_name)


def _checked(words: _Words, longest_name: int) -> _Words:
    if not words.keys:
        raise Refused(_SYNTAX)
    if not words.group:
        raise Refused("ERR Missing GROUP option for XREADGROUP")
    if len(words.consumer) > longest_name:            # each open claim keeps it
        raise Refused(f"BADVALUE the name of a consumer has at most {longest_name} bytes: {TAKEN}")
    if words.block_ms is not None and words.block_ms < 0:
        raise Refused("ERR timeout is negative")
    if words.count <= 0:                              # in Redis: no bound
        words.count = COUNT
    return words


def _streams(words: _Words, rest: list[bytes]) -> None:
    if len(rest) % 2:
        raise Refused(
            "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be specified."
        )
    half = len(rest) // 2
    words.keys = rest[:half]
    for text in rest[half:]:
        if text == b"$":
            raise Refused(_DOLLAR)
        words.starts.append(None if text == b">" else _number(text))


# -- settling -----------------------------------------------------------------------------------------


def _settle(
    connection: Connection, arguments: list[bytes], ids: list[bytes], outcome: Outcome
) -> bytes | None:
    try:
        topic = topic_of_group(connection, arguments[1], arguments[2], ACKED)
        asked = Ask(connection, topic, [stream_ids.written(_number(text)) for text in ids], outcome)
    except Refused as refused:
        return error(str(refused))
    connection.server.puller(topic).ask(asked)
    return None


def _failure(options: list[bytes]) -> Outcome:
    """What a PBUS.NACK says of the attempt."""
    reason, delay_s, dead, at = NACKED, None, False, 0
    while at < len(options):
        option, more = options[at].upper(), at + 1 < len(options)
        if option == b"DEAD":
            dead = True
            at += 1
        elif option == b"REASON" and more:
            reason = options[at + 1].decode("utf-8", "replace")
            at += 2
        elif option == b"DELAY" and more:
            delay_ms = _integer(options[at + 1], f"BADVALUE DELAY is a number of milliseconds: {ACKED}")
            if not 0 <= delay_ms <= LONGEST_DELAY_MS:
                raise Refused(f"BADVALUE DELAY is 0 to {LONGEST_DELAY_MS} ms: {ACKED}")
            delay_s = delay_ms / 1000
            at += 2
        else:
            known = "DELAY ms, REASON text and DEAD"
            raise Refused(f"BADVALUE PBUS.NACK takes {known}, not '{shown(options[at])}': {ACKED}")
    verdict = Verdict.PERMANENT if dead else Verdict.FAILED if delay_s is None else Verdict.RETRY_ASKED
    return Outcome(verdict=verdict, error=reason, delay_s=delay_s)


# -- ids and numbers ----------------------------------------------------------------------------------


def _number(text: bytes) -> Id:
    """
    A job id as a client writes it.

    Raises:
        Refused: it is none.
    """
    try:
        return stream_ids.parse(text)
    except ValueError as error:
        raise Refused(str(error)) from None


def _number_of(claim: Claim) -> Id:
    return _number(claim.delivery.id.encode())


def _integer(text: bytes, complaint: str) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 19 or abs(int(text)) > _LARGEST:
        raise Refused(complaint)
    return int(text)
