"""
What the streams driver writes into Redis, as bytes: envelopes of jobs, states, padded ids. No I/O.

An *envelope* is a job in one field of the log::

    offset:length of origin:length of content type:origin content-type body

*offset* counts the bytes of the bodies that came before it in the same append, so any stretch of the
log can be weighed by looking at its two ends (and at the marks in ``sizes``). *origin*: the traceparent (origin.py).

States and letters: see keys. The scripts write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pbus.core.job import Delivery, Push
from pbus.core.plain import Plain
from pbus.storage import origin
from pbus.storage.driver import CLAIM_BYTES, Appended, DeadGroup, DeadLetter, Entry, JobRecord, Place, Want
from pbus.storage.stored_run import StoredRun

NEVER_BACK = b""
"""State of a delivery of a plain job that was never handed out before."""
_OPTIONS: Final = ord("o")
_REFUSED: Final = {"J": "jobs", "B": "bytes", "W": "whole", "T": "topic"}
ROW: Final = 8
"""Values of a row of ``Packed``."""
PAGE_BYTES: Final = CLAIM_BYTES
"""About so many bytes of bodies are in one page of jobs."""


@dataclass(slots=True)
class Packed:
    """
    One queue's part of an append.

    Attributes:
        envelopes: One a push.
        size: Bytes of their bodies.
        with_options: Some of them have options.
        rows: ``ROW`` values of each push that is no plain job of a span of one: place, span, delay ms,
            ttl ms, key, dedupe key, the only topic, ms that the dedupe key counts (0: as the queue says).
    """

    envelopes: list[bytes]
    size: int
    with_options: bool
    rows: list[Any]


def packed(pushes: Sequence[Push]) -> Packed:
    """The pushes of one queue in one append."""
    if type(pushes) is Plain:
        return _packed_plain(pushes.bodies)
    envelopes: list[bytes] = []
    rows: list[Any] = []
    offset, with_options = 0, False
    for push in pushes:
        options = push.options
        if push.traceparent or push.content_type or options is not None:
            trace, kind = origin.written(push).encode(), push.content_type.encode()
            envelopes.append(b"%d:%d:%d:%b%b%b" % (offset, len(trace), len(kind), trace, kind, push.body))
        else:
            envelopes.append(b"%d:0:0:%b" % (offset, push.body))
        offset += len(push.body)
        if options is not None:
            with_options = True
            rows += (
                len(envelopes) - 1, push.span, options.delay_ms, options.ttl_ms, options.key, options.dedupe,
                options.only, round(options.dedupe_s * 1000),
            )
        elif push.span > 1:
            rows += (len(envelopes) - 1, push.span, 0, 0, "", "", "", 0)
    return Packed(envelopes, offset, with_options, rows)


def _packed_plain(bodies: Sequence[bytes]) -> Packed:
    sizes = list(map(len, bodies))
    starts = accumulate(sizes, initial=0)
    return Packed([b"%d:0:0:%b" % pair for pair in zip(starts, bodies, strict=False)], sum(sizes), False, [])


def groups(pushes: Sequence[Push]) -> list[int]:
    """
    The groups of an append, as its script reads them.

    Returns:
        A group: number of its stretches, then three of each: its queue (from 1, in the order in which they first
        occur), place of its first push among those of that queue, place after its last.
    """
    slots: dict[str, int] = {}
    sizes: list[int] = []
    flat: list[int] = []
    end = head = 0
    for at, push in enumerate(pushes):
        if push.whole:
            end, head = at + push.whole, len(flat)
            flat.append(0)
        slot = slots.setdefault(push.queue, len(slots) + 1)
        if slot > len(sizes):
            sizes.append(0)
        if at < end:
            if flat[head] and flat[-3] == slot:
                flat[-1] += 1
            else:
                flat[head] += 1
                flat += (slot, sizes[slot - 1], sizes[slot - 1] + 1)
        sizes[slot - 1] += 1
    return flat


def open_envelope(envelope: bytes) -> tuple[bytes, str, str]:
    """
    Body, origin (origin.py) and content type.

    Raises:
        ValueError: these bytes are no envelope (somebody else wrote into the log).
    """
    _, trace, kind, rest = envelope.split(b":", 3)
    if trace == b"0" and kind == b"0":
        return rest, "", ""
    first, second = int(trace), int(trace) + int(kind)
    return rest[second:], rest[:first].decode(), rest[first:second].decode()


def open_packed(packed_body: bytes) -> tuple[int, str, bytes]:
    """Ttl in ms, key, and the envelope of a body as it lies in ``bodies``."""
    if packed_body[0] != _OPTIONS:
        return 0, "", packed_body
    length, _, rest = packed_body[1:].partition(b":")
    _, ttl, key = rest[: int(length)].split(b":", 2)
    return int(ttl), key.decode("utf-8", "surrogateescape"), rest[int(length) :]


class AppendedRun(StoredRun):
    """``StoredRun`` by the ids of a stream."""

    __slots__ = ("first", "ms")

    def __init__(self, ms: int, first: int, size: int, backlog: int, topics: int) -> None:
        super().__init__(size, backlog, topics)
        self.ms = ms
        self.first = first

    def _id(self, place: int) -> str:
        return f"{self.ms}-{self.first + place}"

    def _part(self, start: int, size: int) -> AppendedRun:
        return AppendedRun(self.ms, self.first + start, size, self.backlog, self.topics)


def appended(answer: bytes, count: int) -> Sequence[Appended]:
    """One entry a push of a queue (*count*), from ``batch ms seq stored backlog topics``, then what was not stored."""
    _, ms, seq, stored, backlog, topics, *gaps = answer.split()
    first, waiting, to = int(seq), int(backlog), int(topics)
    prefix = ms.decode() + "-"
    if not gaps:
        return AppendedRun(int(ms), first, int(stored), waiting, to)
    missing = {int(place): what.decode() for place, _, what in (gap.partition(b":") for gap in gaps)}
    answers = []
    for place in range(count):
        what = missing.get(place)
        if what is None:
            answers.append(Appended(f"{prefix}{first}", waiting, to))
            first += 1
        elif what[0] == "=":
            answers.append(Appended(what[1:], waiting, to, duplicate=True))
        else:
            answers.append(Appended("", waiting, to, refused=_REFUSED[what]))
    return answers


def deliveries(want: Want, back: Sequence[bytes], fresh: Sequence[bytes]) -> list[Delivery]:
    """What a want got: *back* is id, state, body of each that was back, *fresh* id, body."""
    found = []
    for at in range(0, len(back), 3):
        state = read_state(back[at + 1])
        body, traceparent, content_type = open_envelope(open_packed(back[at + 2])[2])
        found.append(origin.told(Delivery(
            back[at].decode(), want.queue, want.topic, body, state.attempts + 1, state.crashes, state.redelivered,
            traceparent, content_type, state.first_ms, want.owner, state.key, state.forgiven,
        )))
    for at in range(0, len(fresh), 2):
        envelope, key = fresh[at + 1], ""
        if envelope[0] == _OPTIONS:
            _, key, envelope = open_packed(envelope)
        body, text, content_type = open_envelope(envelope)
        delivery = Delivery(
            fresh[at].decode(), want.queue, want.topic, body, 1, 0, False, text, content_type, 0, want.owner, key
        )
        found.append(origin.told(delivery) if text else delivery)
    return found


class Past(NamedTuple):
    """What a delivery has come to; ``first_ms``: when its first counted attempt ended (unix ms)."""

    attempts: int = 0
    crashes: int = 0
    redelivered: bool = False
    first_ms: int = 0
    forgiven: int = 0
    key: str = ""


def read_state(state: bytes) -> Past:
    """A state as the scripts write it (keys)."""
    if state == NEVER_BACK:
        return Past()
    attempts, crashes, redelivered, first_ms, forgiven, _expires, _where, key = state.split(b":", 7)
    return Past(
        int(attempts.lstrip(b"s")), int(crashes), redelivered == b"1", int(first_ms), int(forgiven),
        key.decode("utf-8", "surrogateescape"),
    )


def id_order(job_id: str) -> tuple[int, int]:
    """Sort key that puts older jobs first."""
    ms, _, seq = job_id.partition("-")
    return int(ms), int(seq)


class Letter(NamedTuple):
    """A dead letter as the scripts keep it."""

    past: Past
    reason: str
    fingerprint: str
    error: str


def read_letter(letter: bytes) -> Letter:
    """``length of state:length of reason:length of fingerprint:state reason fingerprint text``."""
    state, reason, fingerprint, rest = letter.split(b":", 3)
    first, second = int(state), int(state) + int(reason)
    third = second + int(fingerprint)
    words = [part.decode("utf-8", "replace") for part in (rest[first:second], rest[second:third], rest[third:])]
    return Letter(read_state(rest[:first]), *words)


def dead_letter(queue: str, topic: str, job_id: bytes, at_ms: int, letter: bytes) -> DeadLetter:
    read = read_letter(letter)
    return DeadLetter(
        queue, topic, job_id.decode(), at_ms, read.past.attempts, read.past.crashes, read.reason, read.error,
        read.fingerprint,
    )


def dead_group(queue: str, topic: str, row: Sequence[Any]) -> DeadGroup:
    """A row of dead_groups.lua."""
    fingerprint, count, total, first_ms, last_ms, sample, letter = row
    read = read_letter(letter)
    return DeadGroup(
        queue, topic, fingerprint.decode(), count, total, first_ms, last_ms, read.reason, read.error, sample.decode()
    )


_STATES: Final = {"again": "ready", "waiting": "ready", "log": "ready", "claims": "running"}


def _place(kind: str, state: bytes, detail: int, owner: str) -> Place:
    if kind == "dead":
        read = read_letter(state)
        past = read.past
        return Place("dead", past.attempts, past.crashes, past.redelivered, past.first_ms, at_ms=detail,
                     reason=read.reason, error=read.error, fingerprint=read.fingerprint)
    past = read_state(state)
    waits = kind == "waiting"
    return Place(_STATES.get(kind, kind), past.attempts, past.crashes, past.redelivered, past.first_ms,
                 due_ms=detail, owner="" if waits else owner, behind=owner if waits else "")


def entry(job_id: bytes, fields: Sequence[bytes]) -> Entry:
    """An entry of the log. One that somebody else wrote there is shown as it is."""
    try:
        _, _, key = fields[1].split(b":", 2) if fields[0] == b"o" else (b"", b"", b"")
        body, traceparent, _ = open_envelope(fields[-1])
    except ValueError:
        return Entry(job_id.decode(), fields[-1])
    return Entry(
        job_id.decode(), body, origin.read(traceparent).traceparent, key.decode("utf-8", "surrogateescape")
    )


def job_record(queue: str, row: Sequence[Any]) -> JobRecord:
    """A row of records.lua."""
    job_id = row[0].decode()
    ttl_ms, key, envelope = open_packed(row[1])
    body, text, content_type = open_envelope(envelope)
    traceparent, replay_of, only = origin.read(text)
    topics = {
        name.decode(): _place(kind.decode(), state, int(detail), owner.decode())
        for name, kind, state, detail, owner in row[2:]
        if not only or name.decode() == only
    }
    expires_ms = id_order(job_id)[0] + ttl_ms if ttl_ms else 0
    return JobRecord(job_id, queue, body, traceparent, content_type, key, expires_ms, topics, replay_of)
