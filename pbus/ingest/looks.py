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
    directory, access = connection.server.directory, connection.access
    queue, topic = directory.queue(key), None
    if queue is None:
        queue, topic = directory.topic(key)
        if queue is None:
            return error(f"NOQUEUE there is no queue '{shown(key)}'")
        if topic is None and (access.kind != "nobody" or access.may_push(queue)):
            return error(f"NOTOPIC there is no topic '{shown(key)}'")
    if access.may_look(queue, topic):
        return queue, topic
    if access.kind == "nobody":
        return error(f"NOAUTH {shown(key)} needs AUTH {queue.name} PASSWORD first")
    return error(f"NOPERM {access.name} may not look at {shown(key)}")
