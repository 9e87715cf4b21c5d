"""
Looking as one looks at a stream: XRANGE, XREVRANGE, XPENDING, XINFO.

    stream      the log of the queue: what waits, and what retention keeps
    group       a topic
    pending     its open claims, of every owner on every node
    consumer    as a client of this child called itself, else the process that holds the claim

Rule: reads only, all of them bounded. Shapes are those of Redis 7 in RESP2 and RESP3; what Redis keeps and
pbus does not is null where Redis may say null, else 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pbus.codec import stream_ids
from pbus.codec.resp_reply import NULL_ARRAY, Value, encode, error, integer
from pbus.codec.stream_ids import Id
from pbus.ingest.access import QueueEntry, TopicEntry
from pbus.ingest.looks import Refused, queue_of, topic_of
from pbus.ingest.rows import Act
from pbus.storage.driver import Entry, JobRecord, QueueNumbers, TopicNumbers

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection
    from pbus.ingest.store import Store

MOST_JOBS: Final = 1_000
"""Most entries of one reply; about RANGE_BYTES of bodies is the other bound."""
RANGE_BYTES: Final = 4 * 1024 * 1024
MOST_CLAIMS: Final = 10_000
"""The oldest open claims of a topic that one command looks at."""
MOST_ROWS: Final = 1_000
"""Those of them that one reply lists."""
_FULL: Final = 10
"""Entries that XINFO STREAM FULL shows when nobody says how many."""
_NOT_INTEGER: Final = "ERR value is not an integer or out of range"
_SYNTAX: Final = "ERR syntax error"


@dataclass(frozen=True, slots=True)
class Open:
    """An open claim as people see it. ``idle_ms``: since it was read here; of another process' since its push."""

    id: str
    consumer: bytes
    idle_ms: int
    deliveries: int


def refusing(act: Act) -> Act:
    """*act*, whose ``Refused`` and ``ValueError`` are replies."""

    @functools.wraps(act)
    def answer(connection: Connection, arguments: list[bytes]) -> bytes | None:
        try:
            return act(connection, arguments)
        except (Refused, ValueError) as refusal:
            return error(str(refusal))

    return answer


def _store(connection: Connection, queue: QueueEntry) -> Store:
    return connection.server.stores[queue.storage]


# -- XRANGE, XREVRANGE ----------------------------------------------------------------------------


@refusing
def range_of(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XRANGE queue start end [COUNT n]``, ``XREVRANGE queue end start [COUNT n]``."""
    back = arguments[0].lower() == b"xrevrange"
    lower, upper = (arguments[3], arguments[2]) if back else (arguments[2], arguments[3])
    first, last = stream_ids.interval(lower, upper)
    count = _count(arguments[4:])
    queue = queue_of(connection, arguments[1])
    if count <= 0:
        return NULL_ARRAY[connection.protocol]
    store, protocol = _store(connection, queue), connection.protocol
    connection.spend()

    def read() -> bytes:
        return encode([_entry(one) for one in _range(store, queue.name, first, last, count, back=back)], protocol)

    connection.server.ask(connection, read)
    return None


def _count(words: Sequence[bytes]) -> int:
    """The number behind COUNT, MOST_JOBS without it or where it is more."""
    if not words:
        return MOST_JOBS
    if len(words) != 2 or words[0].lower() != b"count":
        raise ValueError(_SYNTAX)
    return min(MOST_JOBS, _integer(words[1]))


def _integer(word: bytes) -> int:
    digits = word.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 18:
        raise ValueError(_NOT_INTEGER)
    return int(word)


def _range(
    store: Store, queue: str, first: Id, last: Id, count: int, *, back: bool = False
) -> Sequence[Entry | JobRecord]:
    """What an interval has of the queue's log, within the bounds of a reply; of one id, the job wherever it is."""
    if first == last:
        job = store.job(queue, stream_ids.written(first))
        return [job] if job is not None else []
    found: list[Entry] = []
    size = 0
    while len(found) < count and size < RANGE_BYTES and first <= last:
        least, most = stream_ids.written(first), stream_ids.written(last)
        page = store.entries(queue, least, most, count - len(found), newest=back)
        if not page:
            break
        found += page
        size += sum(len(one.body) for one in page)
        end = _order(page[-1].id)
        first, last = (first, stream_ids.before(end)) if back else (stream_ids.after(end), last)
    return found


def _order(job_id: str) -> Id:
    ms, _, sequence = job_id.partition("-")
    return int(ms), int(sequence)


def _entry(one: Entry | JobRecord) -> Value:
    """A job as the entry that XADD made: its id, and its fields in turn."""
    fields: list[Value] = ["body", one.body]
    for name, value in (("key", one.key), ("traceparent", one.traceparent)):
        if value:
            fields += [name, value.encode("utf-8", "surrogateescape")]
    return [one.id, fields]


def _newest(store: Store, queue: str) -> Sequence[Entry | JobRecord]:
    return _range(store, queue, stream_ids.FIRST, stream_ids.LAST, 1, back=True)


# -- XPENDING -------------------------------------------------------------------------------------


@refusing
def pending(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XPENDING queue topic [[IDLE min-idle-ms] start end n [consumer]]``: open claims, in sum or one by one."""
    if len(arguments) == 3:
        _pending_in_sum(connection, arguments)
        return None
    words = arguments[3:]
    least_ms = 0
    if words[0].lower() == b"idle":
        if len(words) < 2:
            raise ValueError(_SYNTAX)
        least_ms, words = _integer(words[1]), words[2:]
    if len(words) not in (3, 4):
        raise ValueError(_SYNTAX)
    count = max(0, min(MOST_ROWS, _integer(words[2])))
    first, last = stream_ids.interval(words[0], words[1])
    consumer = words[3] if len(words) == 4 else None
    found = topic_of(connection, arguments[1], arguments[2])

    def listed(claims: list[Open]) -> bytes:
        wanted = [
            claim for claim in claims
            if first <= _order(claim.id) <= last and claim.idle_ms >= least_ms and consumer in (None, claim.consumer)
        ]
        rows: list[Value] = [[one.id, one.consumer, one.idle_ms, one.deliveries] for one in wanted[:count]]
        return encode(rows, connection.protocol)

    _ask(connection, *found, listed)
    return None


def _pending_in_sum(connection: Connection, arguments: list[bytes]) -> None:
    """How many, the oldest, the newest, and how many each consumer has (as text)."""
    queue, topic = topic_of(connection, arguments[1], arguments[2])
    protocol = connection.protocol

    def counted(claims: list[Open]) -> bytes:
        if not claims:
            return b"*4\r\n" + integer(0) + encode(None, protocol) * 2 + NULL_ARRAY[protocol]
        total = len(claims)
        if total >= MOST_CLAIMS:                      # there may be more
            total = _store(connection, queue).look().topics[queue.name, topic.name].running
        consumers: list[Value] = [[name, str(len(of_one))] for name, of_one in _by_consumer(claims).items()]
        return encode([total, claims[0].id, claims[-1].id, consumers], protocol)

    _ask(connection, queue, topic, counted)


def _by_consumer(claims: list[Open]) -> dict[bytes, list[Open]]:
    found: dict[bytes, list[Open]] = {}
    for claim in claims:
        found.setdefault(claim.consumer, []).append(claim)
    return dict(sorted(found.items()))


def _ask(connection: Connection, queue: QueueEntry, topic: TopicEntry, answer: Callable[[list[Open]], bytes]) -> None:
    """Answer the command at hand with *answer* to the open claims of *topic*."""
    connection.spend()
    connection.server.ask(connection, lambda: answer(open_claims(connection, queue, topic)))


def open_claims(connection: Connection, queue: QueueEntry, topic: TopicEntry) -> list[Open]:
    """
    The open claims of *topic*, oldest job first.

    Raises:
        StorageError: the store cannot be asked.
    """
    clock, store = connection.server.clock, _store(connection, queue)
    claims = store.running(topic.queue, topic.name, MOST_CLAIMS)
    now_ms, now_s = clock.wall_s() * 1000, clock.monotonic_s()
    found = []
    for claim in claims:
        reader = store.reading(queue.name, topic.name, claim.id)
        since_push_ms = int(now_ms) - _order(claim.id)[0]
        idle_ms = since_push_ms if reader is None else int((now_s - reader[1]) * 1000)
        name = claim.owner.encode() if reader is None else reader[0]
        found.append(Open(claim.id, name, max(0, idle_ms), claim.attempts + 1))
    return found


# -- XINFO ----------------------------------------------------------------------------------------


@refusing
def consumers(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XINFO CONSUMERS queue topic``: who holds open claims, and since when the newest of them."""
    found = topic_of(connection, arguments[2], arguments[3])

    def listed(claims: list[Open]) -> bytes:
        rows: list[Value] = []
        for name, of_one in _by_consumer(claims).items():
            idle_ms = min(claim.idle_ms for claim in of_one)
            rows.append({"name": name, "pending": len(of_one), "idle": idle_ms, "inactive": idle_ms})
        return encode(rows, connection.protocol)

    _ask(connection, *found, listed)
    return None


@refusing
def groups(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XINFO GROUPS queue``: the topics of it that may be looked at."""
    queue = connection.server.directory.queue(arguments[2])
    topics = list(queue.topics.values()) if queue is not None else []
    seen = [topic for topic in topics if queue is not None and connection.access.may_look(queue, topic)]
    if queue is None or not seen:
        queue = queue_of(connection, arguments[2])
    connection.spend()
    connection.server.ask(connection, lambda: encode(_groups(connection, queue, seen), connection.protocol))
    return None


def _groups(connection: Connection, queue: QueueEntry, topics: Sequence[TopicEntry]) -> list[Value]:
    store = _store(connection, queue)
    look, newest = store.look(), _newest(store, queue.name)
    found: list[Value] = []
    for topic in topics:
        numbers = look.topics.get((queue.name, topic.name), TopicNumbers())
        claims = open_claims(connection, queue, topic) if numbers.running else []
        found.append({
            "name": topic.name, "consumers": len(_by_consumer(claims)), "pending": numbers.running,
            "last-delivered-id": _last_delivered(numbers, claims, newest), "entries-read": _read(numbers),
            "lag": numbers.ready,
        })
    return found


def _read(numbers: TopicNumbers) -> int | None:
    """All that was ever pushed for a topic, but for what waits: with ``lag`` that is what was added. Null: nothing."""
    ended = numbers.done_total + numbers.cancelled_total + numbers.expired_total + numbers.forgotten_total
    return ended + numbers.dead + numbers.running + numbers.delayed or None


def _last_delivered(numbers: TopicNumbers, claims: Sequence[Open], newest: Sequence[Entry | JobRecord]) -> str:
    """The newest job that is sure to have been handed out; 0-0 when none is."""
    if not numbers.ready and not numbers.delayed and newest:
        return newest[0].id
    return claims[-1].id if claims else "0-0"


@refusing
def stream(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XINFO STREAM queue [FULL [COUNT n]]``: what the store has of the queue."""
    words = arguments[3:]
    if words and words[0].lower() != b"full":
        raise ValueError(_SYNTAX)
    count = _count(words[1:]) if len(words) > 1 else _FULL
    count = _FULL if count < 0 else count
    queue = queue_of(connection, arguments[2])
    read = _full if words else _stream
    connection.spend()
    connection.server.ask(connection, lambda: encode(read(connection, queue, count), connection.protocol))
    return None


def _stream(connection: Connection, queue: QueueEntry, count: int) -> Value:  # noqa: ARG001 - as _full
    store = _store(connection, queue)
    first, last = _range(store, queue.name, stream_ids.FIRST, stream_ids.LAST, 1), _newest(store, queue.name)
    return {
        **_facts(store.look().queues.get(queue.name, QueueNumbers()), first, last), "groups": len(queue.topics),
        "first-entry": _entry(first[0]) if first else None, "last-entry": _entry(last[0]) if last else None,
    }


def _facts(
    numbers: QueueNumbers, first: Sequence[Entry | JobRecord], last: Sequence[Entry | JobRecord]
) -> dict[str, Value]:
    """``length`` is what XLEN says; there is no tree of which anybody could tell the nodes."""
    return {
        "length": numbers.backlog, "radix-tree-keys": 0, "radix-tree-nodes": 0,
        "last-generated-id": last[0].id if last else "0-0", "max-deleted-entry-id": "0-0",
        "entries-added": numbers.pushed_total, "recorded-first-entry-id": first[0].id if first else "0-0",
    }


def _full(connection: Connection, queue: QueueEntry, count: int) -> Value:
    store = _store(connection, queue)
    entries = _range(store, queue.name, stream_ids.FIRST, stream_ids.LAST, count or MOST_JOBS)
    newest, look = _newest(store, queue.name), store.look()
    numbers = look.queues.get(queue.name, QueueNumbers())
    found: list[Value] = []
    for topic in queue.topics.values():
        of_topic = look.topics.get((queue.name, topic.name), TopicNumbers())
        claims = open_claims(connection, queue, topic) if of_topic.running else []
        found.append({
            "name": topic.name, "last-delivered-id": _last_delivered(of_topic, claims, newest),
            "entries-read": _read(of_topic), "lag": of_topic.ready, "pel-count": len(claims),
            "pending": _listed(connection, claims[:count or None], named=True),
            "consumers": [_consumer(connection, name, mine, count) for name, mine in _by_consumer(claims).items()],
        })
    return {**_facts(numbers, entries, newest), "entries": [_entry(one) for one in entries], "groups": found}


def _consumer(connection: Connection, name: bytes, claims: Sequence[Open], count: int) -> Value:
    seen_ms = _moment_ms(connection, min(claim.idle_ms for claim in claims))
    return {
        "name": name, "seen-time": seen_ms, "active-time": seen_ms, "pel-count": len(claims),
        "pending": _listed(connection, claims[:count or None], named=False),
    }


def _listed(connection: Connection, claims: Sequence[Open], *, named: bool) -> list[Value]:
    """Id, consumer where it is not said above, when it was read, how often."""
    return [
        [claim.id, *([claim.consumer] if named else []), _moment_ms(connection, claim.idle_ms), claim.deliveries]
        for claim in claims
    ]


def _moment_ms(connection: Connection, idle_ms: int) -> int:
    return int(connection.server.clock.wall_s() * 1000) - idle_ms
