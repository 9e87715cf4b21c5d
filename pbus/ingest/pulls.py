"""
Pulls at most once: RPOP, LPOP, BRPOP, BLPOP. Any mix of L and R is first in, first out.

Rule: only topics with a ``pull`` handler are taken from; the topic's own deliveries are nobody else's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pbus.codec.resp_reply import NULL, NULL_ARRAY, bulk, encode, error
from pbus.core.names import topic_path
from pbus.ingest import programs, streams
from pbus.ingest.holder import TokenPop
from pbus.ingest.pops import Pop, Read
from pbus.ingest.puller import Puller
from pbus.ingest.sent import Popped
from pbus.ingest.takings import Refused, same_storage, topic_of_key

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection


def pop(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``RPOP queue/topic [n]``: a body, or with *n* an array of bodies; nil when there is none."""
    if len(arguments) > 3:
        return error(f"ERR wrong number of arguments for '{arguments[0].decode('latin-1').lower()}' command")
    count = _count(arguments[2]) if len(arguments) == 3 else None
    if count is not None and count < 0:
        return error("ERR value is out of range, must be positive")
    if connection.access.kind == "pepper":
        return programs.pop(connection, arguments)
    try:
        topics = [topic_of_key(connection, arguments[1])]
    except Refused as refused:
        return error(str(refused))
    if count == 0:
        return encode([], connection.protocol)
    connection.wait()
    wanted = Pop(connection, topics, count or 1, None, many=count is not None, keys=arguments[1:2])
    connection.take(wanted, connection.server.puller(topics[0]))
    return None


def blocking_pop(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``BRPOP queue/topic [queue/topic ..] timeout``: key and body; nil when the time is over (0: never)."""
    timeout_s = _timeout_s(arguments[-1])
    if timeout_s is None:
        return error("ERR timeout is not a float or out of range")
    if timeout_s < 0:
        return error("ERR timeout is negative")
    try:
        topics = [topic_of_key(connection, key) for key in arguments[1:-1]]
        same_storage(connection, topics)
    except Refused as refused:
        return error(str(refused))
    connection.wait()
    server = connection.server
    deadline_s = server.clock.monotonic_s() + timeout_s if timeout_s else math.inf
    wanted = Pop(connection, topics, 1, deadline_s, many=False, keys=arguments[1:-1])
    connection.take(wanted, server.puller(topics[0]))
    return None


def answer(connection: Connection, over: Pop) -> None:
    """The reply to a pop that is over, in the form its command and its queue ask for."""
    if isinstance(over, Read):
        streams.answer(connection, over)
        return
    if over.error:
        connection.reply(error(over.error))
        return
    if not over.got:
        nothing = NULL_ARRAY if over.many or over.blocks else NULL
        connection.reply(nothing[connection.protocol])
        return
    if isinstance(over, TokenPop):
        programs.hand_over(connection, over)
        return
    taker = over.taker
    assert isinstance(taker, Puller)
    connection.reply(_reply(connection, over), Popped(taker, over.got))


def _reply(connection: Connection, over: Pop) -> bytes:
    got, first = over.got, over.got[0]
    directory = connection.server.directory
    if directory.queues[first.queue].pepper:
        body = bulk(programs.popped(connection, got))
    elif over.many:
        return encode([delivery.body for delivery in got], connection.protocol)
    else:
        body = bulk(first.body)
    if not over.blocks:
        return body
    paths = [topic.path for topic in over.topics]
    return b"*2\r\n" + bulk(over.keys[paths.index(topic_path(first.queue, first.topic))]) + body


def _count(text: bytes) -> int:
    """The number, or -1 where there is none."""
    return int(text) if text.isdigit() and len(text) < 19 else -1


def _timeout_s(text: bytes) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and b"_" not in text else None
