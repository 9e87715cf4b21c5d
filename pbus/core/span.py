"""
Spans of OpenTelemetry: what a push and an attempt are in a distributed trace.

    producer's span <--parent-- send QUEUE <--parent-- process QUEUE/TOPIC   the first attempt of a push
                                     ^-------link----- process QUEUE/TOPIC   a retry, a redelivery, a replay
                                     ^------links----- receive QUEUE/TOPIC   a batch that a client read

Rule: pure, and nothing is stored: the id of a ``send`` span is made of queue and job id, so every process and node
knows it without asking. All spans of a job are in the trace that it brought, or in the one made of its id.
Source: OpenTelemetry semantic conventions 1.30 for messaging spans; W3C Trace Context, section 3.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.core.outcome import Outcome, Verdict
from pbus.core.traceparent import PATTERN, SPAN_DIGITS, is_made, trace_id

PRODUCER: Final = "producer"
CONSUMER: Final = "consumer"
CLIENT: Final = "client"
LINKS: Final = 128
"""Of one span, as many as the SDK keeps."""
TEXT_CHARS: Final = 1000
"""Of an error."""
_WHOLE: Final = 1 << 64
_NEVER_BEGAN: Final = frozenset({Verdict.RELEASED, Verdict.DOWN})
_PARENT: Final = slice(36, 52)

Attribute = str | int | bool


class Span(NamedTuple):
    """
    One span that is over.

    Attributes:
        name: For people, few different ones.
        kind: ``producer``, ``consumer`` or ``client``.
        trace: 32 hex digits.
        id: 16 hex digits.
        parent: The same of the span that caused it, in this trace; empty: none.
        links: Trace and id of each span that it belongs to without being its child.
        start_ns, end_ns: Unix nanoseconds.
        attributes: By their names of the conventions.
        error: For people; None: it went well.
    """

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Attribute]
    error: str | None = None


class Sampler:
    """
    Which jobs have spans: what the producer has decided holds; without a producer's trace a share of the jobs.

    Args:
        share: 0 to 1, by the trace id: every process decides the same.
    """

    __slots__ = ("_below",)

    def __init__(self, share: float) -> None:
        self._below = int(share * _WHOLE)

    def trace(self, traceparent: str, job_id: str) -> tuple[str, str] | None:
        """(trace, span of the producer or empty) of a job, by what it was pushed with; None: it has no spans."""
        match = PATTERN.match(traceparent)
        if match is not None and not is_made(traceparent):
            return (match[1], traceparent[_PARENT]) if int(match[2], 16) & 1 else None
        trace = match[1] if match is not None else trace_id("", job_id)
        return (trace, "") if int(trace[16:], 16) < self._below else None


def send_id(queue: str, job_id: str) -> str:
    """Id of the span of a push."""
    return _digest(f"send/{queue}/{job_id}")


def context_of(delivery: Delivery, trace: str) -> str:
    """Trace context of the attempt that is about to be made, as its handler gets it."""
    claim = f"{delivery.queue}/{delivery.topic}/{delivery.id}/{delivery.attempt}/{delivery.owner}/{delivery.claimed_s}"
    return f"00-{trace}-{_digest(claim)}-01"


def sent(push: Push, job_id: str, where: tuple[str, str], peer: tuple[str, str], times_ns: tuple[int, int]) -> Span:
    """
    The span of a push that was stored.

    Args:
        push: What was pushed.
        job_id: The job that it became.
        where: As ``Sampler.trace`` says.
        peer: Address and name of the client, each may be empty.
        times_ns: When its write began, and when it was stored; unix nanoseconds.
    """
    attributes: dict[str, Attribute] = {
        "messaging.system": "pbus",
        "messaging.operation.type": "send",
        "messaging.operation.name": "push",
        "messaging.destination.name": push.queue,
        "messaging.message.id": job_id,
        "messaging.message.body.size": len(push.body),
    }
    address, name = peer
    if name:
        attributes["messaging.client.id"] = _clean(name)
    if address:
        attributes["network.peer.address"] = address
    return Span(
        f"send {push.queue}", PRODUCER, where[0], send_id(push.queue, job_id), where[1], (), *times_ns, attributes
    )


def processed(delivery: Delivery, outcome: Outcome, settlement: Settlement, begun_s: float, ended_s: float) -> Span:
    """
    The span of an attempt that is over; its ``delivery.span`` is known.

    Args:
        begun_s, ended_s: Unix seconds.
    """
    context, job = delivery.span, delivery.replay_of or delivery.id
    send = send_id(delivery.queue, job)
    link = (trace_id(delivery.traceparent, job), send)
    again = delivery.attempt > 1 or delivery.redelivered or bool(delivery.replay_of)
    return Span(
        f"process {delivery.queue}/{delivery.topic}", CONSUMER, context[3:35], context[_PARENT],
        "" if again else send, (link,) if again else (), int(begun_s * 1e9), int(max(begun_s, ended_s) * 1e9),
        _attributes(delivery, outcome, settlement), _error(outcome, settlement),
    )


def read(deliveries: Sequence[Delivery], end_s: float) -> Span:
    """
    The span of jobs of one topic that a client read at once, in a trace of its own: no push of them is its parent.

    Args:
        deliveries: Those that have a span, one at least.
        end_s: When they were on their way, unix seconds.
    """
    first = deliveries[0]
    digest = hashlib.blake2b("/".join([each.span for each in deliveries]).encode(), digest_size=24).hexdigest()
    attributes: dict[str, Attribute] = {
        "messaging.system": "pbus",
        "messaging.operation.type": "receive",
        "messaging.operation.name": "receive",
        "messaging.destination.name": first.queue,
        "messaging.destination.subscription.name": first.topic,
        "messaging.consumer.group.name": first.topic,
        "messaging.batch.message_count": len(deliveries),
    }
    links = tuple((each.span[3:35], send_id(each.queue, each.id)) for each in deliveries[:LINKS])
    begun_s = first.claimed_s or end_s
    return Span(
        f"receive {first.queue}/{first.topic}", CLIENT, digest[:32], digest[32:], "", links,
        int(begun_s * 1e9), int(max(begun_s, end_s) * 1e9), attributes,
    )


def has_span(outcome: Outcome) -> bool:
    """Whether an attempt was made at all: what went back before it began has none."""
    return outcome.verdict not in _NEVER_BEGAN


def _attributes(delivery: Delivery, outcome: Outcome, settlement: Settlement) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {
        "messaging.system": "pbus",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": delivery.queue,
        "messaging.destination.subscription.name": delivery.topic,
        "messaging.consumer.group.name": delivery.topic,
        "messaging.message.id": delivery.id,
        "messaging.message.body.size": len(delivery.body),
        "pbus.attempt": delivery.attempt,
        "pbus.redelivered": delivery.redelivered,
        "pbus.settled": settlement.move.value,
    }
    if outcome.target:
        attributes["pbus.target"] = _clean(outcome.target)
    if delivery.replay_of:
        attributes["pbus.replay_of"] = delivery.replay_of
    if outcome.status:
        attributes["pbus.status"] = _clean(outcome.status)
    if outcome.verdict is not Verdict.DONE:
        attributes["error.type"] = outcome.verdict.value
    if settlement.fingerprint:
        attributes["pbus.fingerprint"] = settlement.fingerprint
    return attributes


def _error(outcome: Outcome, settlement: Settlement) -> str | None:
    if outcome.verdict is Verdict.DONE and settlement.move is Move.ACK:
        return None
    return _clean((settlement.error or outcome.error or outcome.verdict.value)[:TEXT_CHARS])


def _clean(text: str) -> str:
    """What protobuf takes: half a surrogate pair is no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=SPAN_DIGITS // 2).hexdigest()
