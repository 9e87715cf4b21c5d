"""Looking: LLEN, XLEN, HGETALL. The store is asked anew, once for all who ask at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbus.codec.resp_reply import encode, error, integer
from pbus.ingest.access import QueueEntry, TopicEntry
from pbus.ingest.words import shown
from pbus.storage.driver import TopicNumbers

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection


def backlog(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``LLEN queue``, ``LLEN queue/topic``, ``XLEN``: what waits."""
    found = _find(connection, arguments[1])
    if isinstance(found, bytes):
        return found
    queue, topic = found
    store = connection.server.stores[queue.storage]
    if topic is None:
        connection.server.ask(connection, lambda: integer(store.backlog(queue.name)))
    else:
        name = (queue.name, topic.name)
        connection.server.ask(connection, lambda: integer(store.look().topics.get(name, TopicNumbers()).ready))
    return None


def numbers(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``HGETALL queue``, ``HGETALL queue/topic``: counts by state, and rates; of a queue, the sums over its topics."""
    found = _find(connection, arguments[1])
    if isinstance(found, bytes):
        return found
    queue, topic = found
    store, protocol = connection.server.stores[queue.storage], connection.protocol
    topics = [topic] if topic is not None else list(queue.topics.values())

    def read() -> bytes:
        look = store.look_with_rates()
        counts = [look.topics.get((queue.name, each.name), TopicNumbers()) for each in topics]
        fields = {
            "ready": sum(count.ready for count in counts),
            "running": sum(count.running for count in counts),
            "delayed": sum(count.delayed for count in counts),
            "dead": sum(count.dead for count in counts),
            "oldest_wait_ms": int(1000 * max((count.oldest_wait_s for count in counts), default=0.0)),
            "in_per_s": _rate(look.in_per_s(queue.name)),
            "done_per_s": _rate(sum(look.done_per_s(queue.name, each.name) for each in topics)),
            "concurrency": sum(each.slots for each in topics),
        }
        # As Redis: the values of a hash are strings. phpredis shows the text ":0" where an integer comes.
        return encode({name: str(value) for name, value in fields.items()}, protocol)

    connection.server.ask(connection, read)
    return None


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}".removesuffix(".0")


def _find(connection: Connection, key: bytes) -> tuple[QueueEntry, TopicEntry | None] | bytes:
    """The queue, or queue and topic, of that name; or the refusal."""
    directory = connection.server.directory
    queue = directory.queue(key)
    try:
        if queue is not None:
            return queue_of(connection, key), None
        return _judged(connection, *directory.topic(key), key)
    except Refused as refused:
        return error(str(refused))


class Refused(Exception):
    """Something that may not be looked at; the text is the error."""


def queue_of(connection: Connection, key: bytes, *, advice: str = "") -> QueueEntry:
    """
    The queue of that name or alias, all of which may be looked at.

    Raises:
        Refused: it may not, or there is none; *advice* says what to do about that.
    """
    queue = connection.server.directory.queue(key)
    if queue is None:
        raise Refused(f"NOQUEUE there is no queue '{shown(key)}'{advice}")
    refuse_strangers(connection, queue, None, key)
    return queue


def topic_of(connection: Connection, key: bytes, name: bytes, *, advice: str = "") -> tuple[QueueEntry, TopicEntry]:
    """
    The topic *name* of that queue.

    Raises:
        Refused: as ``queue_of``.
    """
    queue = connection.server.directory.queue(key)
    topic = queue.topics.get(name.decode("utf-8", "replace")) if queue is not None else None
    return _judged(connection, queue, topic, b"%b/%b" % (key, name), advice)


def _judged(
    connection: Connection, queue: QueueEntry | None, topic: TopicEntry | None, key: bytes, advice: str = ""
) -> tuple[QueueEntry, TopicEntry]:
    if queue is None:
        raise Refused(f"NOQUEUE there is no queue '{shown(key.rpartition(b'/')[0] or key)}'{advice}")
    if topic is None:
        access = connection.access
        seen = next((entry for entry in queue.topics.values() if access.may_look(queue, entry)), None)
        refuse_strangers(connection, queue, seen, key)
        raise Refused(f"NOTOPIC there is no topic '{shown(key)}'{advice}")
    refuse_strangers(connection, queue, topic, key)
    return queue, topic


def refuse_strangers(connection: Connection, queue: QueueEntry, topic: TopicEntry | None, key: bytes) -> None:
    """
    Somebody who may not look there is told so.

    Raises:
        Refused: always then.
    """
    access = connection.access
    if access.may_look(queue, topic):
        return
    if access.kind == "nobody":
        raise Refused(_no_auth(queue, key))
    raise Refused(f"NOPERM {access.name} may not look at {shown(key)}")


def _no_auth(queue: QueueEntry, key: bytes) -> str:
    return f"NOAUTH {shown(key)} needs AUTH {queue.name} PASSWORD first"
