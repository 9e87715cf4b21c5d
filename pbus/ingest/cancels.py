"""
Cancelling what has not begun: XDEL of a whole job, LREM of its way to one topic.

Rule: who may push may cancel. What is delayed or ready ends as cancelled, in one write; what runs, goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbus.codec import stream_ids
from pbus.codec.resp_reply import error, integer
from pbus.errors import StorageError
from pbus.ingest.access import QueueEntry
from pbus.ingest.looks import Refused
from pbus.ingest.stream_looks import refusing
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection


@refusing
def of_queue(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XDEL queue id [id ...]``: of every topic; how many jobs there was something to cancel of."""
    ids = [stream_ids.written(stream_ids.parse(word)) for word in arguments[2:]]
    queue = connection.server.directory.queue(arguments[1])
    if queue is None:
        raise Refused(f"NOQUEUE there is no queue '{shown(arguments[1])}': nothing is cancelled")
    _cancel(connection, queue, "", ids)
    return None


@refusing
def of_topic(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``LREM queue/topic count id``: of that topic; 1 or 0."""
    directory, (_, key, count, element) = connection.server.directory, arguments
    if not count.removeprefix(b"-").isdigit() or len(count) > 19:
        raise ValueError("ERR value is not an integer or out of range")
    if directory.queue(key) is not None:
        what = f"'{shown(key)}' is a queue; LREM takes queue/topic, XDEL takes the queue"
        raise Refused(f"NOTOPIC {what}: nothing is cancelled")
    queue, topic = directory.topic(key)
    if queue is None:
        raise Refused(f"NOQUEUE there is no queue '{shown(key)}': nothing is cancelled")
    _refuse_strangers(connection, queue)
    if topic is None:
        raise Refused(f"NOTOPIC there is no topic '{shown(key)}': nothing is cancelled")
    try:
        job = stream_ids.written(stream_ids.parse(element))
    except ValueError:
        what = f"'{shown(element)}' is no job id; LREM takes the id that XADD answered"
        raise Refused(f"BADVALUE {what}: nothing is cancelled") from None
    _cancel(connection, queue, topic.name, [job])
    return None


def _cancel(connection: Connection, queue: QueueEntry, topic: str, ids: list[str]) -> None:
    """Answer the command at hand with how many of *ids* were cancelled somewhere."""
    _refuse_strangers(connection, queue)
    store = connection.server.stores[queue.storage]

    def cancel() -> bytes:
        if store.away:
            return error(f"UNAVAILABLE {store.away}: nothing is cancelled, try again in 1 s")
        try:
            return integer(sum(count > 0 for count in store.cancel(queue.name, topic, ids)))
        except StorageError as failure:
            return error(f"UNAVAILABLE {failure}: what is cancelled is not known, say it again in 1 s")

    connection.server.ask(connection, cancel)


def _refuse_strangers(connection: Connection, queue: QueueEntry) -> None:
    access = connection.access
    if access.may_push(queue):
        return
    if access.kind == "nobody":
        raise Refused(f"NOAUTH {queue.name} needs AUTH {queue.name} PASSWORD first: nothing is cancelled")
    raise Refused(f"NOPERM {access.name} may not cancel jobs of {queue.name}: nothing is cancelled")
