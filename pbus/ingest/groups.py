"""
What libraries say about groups before they read: XGROUP, XAUTOCLAIM, XCLAIM.

Rule: nothing changes. A group is a topic, and topics come from the configuration; a consumer is whoever reads
under that name; a claim whose reader is gone goes back by itself, so there is never one to take over.
Wording of what is not ours: Redis 7, t_stream.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pbus.codec import stream_ids
from pbus.codec.resp_reply import encode, error, integer
from pbus.ingest.looks import topic_of
from pbus.ingest.stream_looks import open_claims, refusing
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

_ADVICE: Final = ": queues and topics are made in the configuration of the bus, [queue.NAME.topic.NAME] with pull = {}"
_FIXED: Final = "BADVALUE {}: topics are made and removed in the configuration of the bus: nothing is changed"
_OPTIONS: Final = {b"justid": 0, b"force": 0, b"idle": 1, b"time": 1, b"retrycount": 1, b"lastid": 1}
"""Of XCLAIM: how many values each takes."""


@refusing
def create(connection: Connection, arguments: list[bytes]) -> bytes:
    """``XGROUP CREATE queue topic id [MKSTREAM] [ENTRIESREAD n]``: it is there, or the configuration lacks it."""
    topic_of(connection, arguments[2], arguments[3], advice=_ADVICE)
    return error("BUSYGROUP Consumer Group name already exists")


@refusing
def create_consumer(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XGROUP CREATECONSUMER queue topic consumer``: 1, or 0 when one of that name holds claims."""
    found = topic_of(connection, arguments[2], arguments[3], advice=_ADVICE)
    name = arguments[4]

    def known() -> bytes:
        return integer(0 if any(claim.consumer == name for claim in open_claims(connection, *found)) else 1)

    connection.server.ask(connection, known)
    return None


@refusing
def delete_consumer(connection: Connection, arguments: list[bytes]) -> bytes:
    """``XGROUP DELCONSUMER queue topic consumer``: 0, nothing of what it holds is dropped."""
    topic_of(connection, arguments[2], arguments[3])
    return integer(0)


@refusing
def keep(connection: Connection, arguments: list[bytes]) -> bytes:
    """``XGROUP DESTROY``, ``XGROUP SETID``: refused."""
    queue, topic = topic_of(connection, arguments[2], arguments[3])
    return error(_FIXED.format(f"XGROUP {shown(arguments[1]).upper()} {queue.name} {topic.name}"))


@refusing
def autoclaim(connection: Connection, arguments: list[bytes]) -> bytes:
    """``XAUTOCLAIM queue topic consumer min-idle-ms start [COUNT n] [JUSTID]``: nothing is left to take over."""
    topic_of(connection, arguments[1], arguments[2])
    _idle(arguments[4], "XAUTOCLAIM")
    stream_ids.interval(arguments[5], b"+")
    words = [word.lower() for word in arguments[6:]]
    while words:
        word = words.pop(0)
        if word == b"count" and words:
            count = words.pop(0)
            if not count.isdigit() or len(count) > 18 or not int(count):
                raise ValueError("ERR COUNT must be > 0")
        elif word != b"justid":
            raise ValueError("ERR syntax error")
    return encode(["0-0", [], []], connection.protocol)


@refusing
def claim(connection: Connection, arguments: list[bytes]) -> bytes:
    """``XCLAIM queue topic consumer min-idle-ms id [id ...] [options]``: nothing is left to take over."""
    topic_of(connection, arguments[1], arguments[2])
    _idle(arguments[4], "XCLAIM")
    words = arguments[5:]
    while words and words[0][:1].isdigit():
        stream_ids.parse(words.pop(0))
    while words:
        word = words.pop(0)
        values = _OPTIONS.get(word.lower())
        if values is None or len(words) < values:
            raise ValueError(f"ERR Unrecognized XCLAIM option '{shown(word)}'")
        del words[:values]
    return encode([], connection.protocol)


def _idle(word: bytes, command: str) -> None:
    if not word.removeprefix(b"-").isdigit() or len(word) > 19:
        raise ValueError(f"ERR Invalid min-idle-time argument for {command}")
