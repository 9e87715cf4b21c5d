"""
What the streams driver writes into Redis, as bytes: envelopes of jobs, states, padded ids. No I/O.

An *envelope* is a job in one field of the log::

    offset:length of traceparent:length of content type:traceparent content-type body

*offset* counts the bytes of the bodies that were pushed before it in the same append, so retention
by bytes can weigh any stretch of the log by looking at its two ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from pbus.core.job import Delivery, Push
from pbus.storage.driver import Appended, DeadLetter, Want

NEVER_BACK = b""
"""State of a delivery that was never handed out before."""


def envelopes(pushes: Sequence[Push]) -> tuple[list[bytes], int]:
    """The envelopes of one queue's pushes in one append, and how many bytes their bodies have."""
    packed: list[bytes] = []
    offset = 0
    for push in pushes:
        if push.traceparent or push.content_type:
            trace, kind = push.traceparent.encode(), push.content_type.encode()
            packed.append(b"%d:%d:%d:%b%b%b" % (offset, len(trace), len(kind), trace, kind, push.body))
        else:
            packed.append(b"%d:0:0:%b" % (offset, push.body))
        offset += len(push.body)
    return packed, offset


def open_envelope(envelope: bytes) -> tuple[bytes, str, str]:
    """
    Body, traceparent and content type.

    Raises:
        ValueError: these bytes are no envelope (somebody else wrote into the log).
    """
    _, trace, kind, rest = envelope.split(b":", 3)
    if trace == b"0" and kind == b"0":
        return rest, "", ""
    first, second = int(trace), int(trace) + int(kind)
    return rest[second:], rest[:first].decode(), rest[first:second].decode()


def appended(answer: bytes) -> list[Appended]:
    """One entry a push of a queue, from ``batch ms seq count backlog topics``."""
    _, ms, seq, count, backlog, topics = map(int, answer.split())
    return [Appended(f"{ms}-{number}", backlog, topics) for number in range(seq, seq + count)]


def deliveries(want: Want, back: Sequence[bytes], fresh: Sequence[bytes]) -> list[Delivery]:
    """What a want got: *back* is id, state, envelope of each that was back, *fresh* id, envelope."""
    found = [
        _delivery(want, back[at], back[at + 2], *read_state(back[at + 1])) for at in range(0, len(back), 3)
    ]
    found += [_delivery(want, fresh[at], fresh[at + 1], 0, 0, False, 0) for at in range(0, len(fresh), 2)]
    return found


def _delivery(
    want: Want, job_id: bytes, envelope: bytes, attempts: int, crashes: int, redelivered: bool, first_ms: int
) -> Delivery:
    body, traceparent, content_type = open_envelope(envelope)
    return Delivery(
        job_id.decode(), want.queue, want.topic, body, attempts + 1, crashes, redelivered, traceparent, content_type,
        first_ms, want.owner,
    )


def read_state(state: bytes) -> tuple[int, int, bool, int]:
    """Counted attempts, crashes, redelivered, and when the first counted attempt ended (unix ms)."""
    if state == NEVER_BACK:
        return 0, 0, False, 0
    attempts, crashes, redelivered, first_ms = state.split(b":")
    return int(attempts), int(crashes), redelivered == b"1", int(first_ms)


def unpadded(member: bytes) -> str:
    """The job id of a member that sorts as ids do."""
    ms, _, seq = member.decode().partition("-")
    return f"{int(ms)}-{int(seq)}"


def id_order(job_id: str) -> tuple[int, int]:
    """Sort key that puts older jobs first."""
    ms, _, seq = job_id.partition("-")
    return int(ms), int(seq)


def dead_letter(queue: str, topic: str, job_id: str, at_ms: int, letter: bytes) -> DeadLetter:
    """The dead letter that the scripts wrote as ``attempts:crashes:length of reason:reason text``."""
    attempts, crashes, length, rest = letter.split(b":", 3)
    reason, error = rest[: int(length)], rest[int(length) :]
    return DeadLetter(
        queue, topic, job_id, at_ms, int(attempts), int(crashes), reason.decode(), error.decode("utf-8", "replace")
    )
