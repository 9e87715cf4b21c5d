"""
Which topic a client means that takes or settles jobs, and whether it may.

Rule: only topics with a ``pull`` handler are taken from; the topic's own deliveries are nobody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pbus.ingest.access import QueueEntry, TopicEntry
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

TAKEN = "nothing taken"
ACKED = "nothing acked"


class Refused(Exception):
    """A command that cannot be tried; the text is the error."""


def topic_of_key(connection: Connection, key: bytes) -> TopicEntry:
    """
    The topic of ``gift/credit``, or of a queue alone its only one that is pulled.

    Raises:
        Refused: there is none, or it is not for this client.
    """
    queue, topic = connection.server.directory.topic(key)
    return _allowed(connection, queue, topic, shown(key), TAKEN)


def topic_of_group(connection: Connection, stream: bytes, group: bytes, what: str = TAKEN) -> TopicEntry:
    """
    The topic that Redis would call the group *group* of the stream *stream*, a queue or an alias.

    Args:
        what: Ends the error.

    Raises:
        Refused: there is none, or it is not for this client.
    """
    queue = connection.server.directory.queue(stream)
    topic = queue.topics.get(group.decode("utf-8", "replace")) if queue is not None else None
    return _allowed(connection, queue, topic, f"{shown(stream)}/{shown(group)}", what)


def same_storage(connection: Connection, topics: Sequence[TopicEntry]) -> None:
    """
    One command is served by one store.

    Raises:
        Refused: they are of several.
    """
    directory = connection.server.directory
    if len({directory.queues[topic.queue].storage for topic in topics}) > 1:
        raise Refused("BADVALUE one command takes from topics of one storage only: nothing taken")


def _allowed(
    connection: Connection, queue: QueueEntry | None, topic: TopicEntry | None, name: str, what: str
) -> TopicEntry:
    access = connection.access
    if queue is None:
        raise Refused(f"NOQUEUE there is no queue '{name}': {what}")
    if topic is None:
        seen = [entry for entry in queue.topics.values() if access.may_look(queue, entry)]
        if not (seen or access.may_push(queue)):      # strangers learn no names
            if access.kind == "nobody":
                raise Refused(f"NOAUTH {name} needs AUTH {queue.name} PASSWORD first: {what}")
            raise Refused(f"NOPERM {access.name} may not take from {name}: {what}")
        pulls = ", ".join(entry.path for entry in seen if entry.pull) or "none"
        known = f"topics of {queue.name} that can be pulled: {pulls}"
        raise Refused(f"NOTOPIC '{name}' is no topic ({known}): {what}")
    if not access.may_pull(topic):
        if access.kind == "nobody":
            raise Refused(f"NOAUTH {topic.path} needs AUTH {topic.path} PASSWORD first: {what}")
        raise Refused(f"NOPERM {access.name} may not take from {topic.path}: {what}")
    if not topic.pull:
        raise Refused(f"BADVALUE {topic.path} has a handler; only topics with pull are taken from: {what}")
    return topic
