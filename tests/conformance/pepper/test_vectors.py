"""
The Pepperbus contract for producers and RPOP, byte for byte.

Each ``vectors/NAME.resp`` is all that a client sends to a fresh bus, ``NAME.reply`` all that comes back. Trace ids
are random: in the replies they read TRACE. To add a case, add two files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import gevent
import hiredis
import pytest

from pbus.config.schema import PullHandler, Queue, Retry, Topic
from tests.unit.ingest.door import Client, Door

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*.resp"))
TRACE = re.compile(rb'"inTraceId":"[0-9a-f]{32}"')
PULL = Topic(pull=PullHandler(), retry=Retry(attempts=5, for_s=3600.0))
QUEUES = {
    "old": Queue(pepper=True, password="pw", topic={"credit": PULL, "mail": PULL}),
    "open": Queue(pepper=True, topic={"credit": Topic(pull=PullHandler(), retry=Retry(attempts=1))}),
    "new": Queue(topic={"credit": PULL}),
}


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door(queues=QUEUES)
    yield door
    door.close()


def conversation(client: Client, chunks: list[bytes], replies: int) -> bytes:
    """What comes back to *chunks*, until there are so many replies."""
    reader, raw = hiredis.Reader(), b""
    for chunk in chunks:
        client.send(chunk)
        gevent.sleep(0)
    with gevent.Timeout(5, AssertionError(f"{replies} replies are due, this came: {raw!r}")):
        while replies:
            data = client.socket.recv(65_536)
            if not data:
                break
            raw += data
            reader.feed(data)
            while replies and reader.gets() is not False:
                replies -= 1
    return TRACE.sub(b'"inTraceId":"TRACE"', raw)


def count(replies: bytes) -> int:
    """How many replies a file has, whose lengths are those of the wire."""
    reader = hiredis.Reader()
    reader.feed(replies.replace(b'"inTraceId":"TRACE"', b'"inTraceId":"' + b"0" * 32 + b'"'))
    found = 0
    while reader.gets() is not False:
        found += 1
    return found


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_conversation(door: Door, path: Path) -> None:
    wanted = path.with_suffix(".reply").read_bytes()

    assert conversation(door.client(), [path.read_bytes()], count(wanted)) == wanted


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_conversation_byte_by_byte(door: Door, path: Path) -> None:
    raw, wanted = path.read_bytes(), path.with_suffix(".reply").read_bytes()

    assert conversation(door.client(), [bytes([byte]) for byte in raw], count(wanted)) == wanted


def test_every_vector_has_its_replies() -> None:
    replies = {path.with_suffix(".resp") for path in (Path(__file__).parent / "vectors").glob("*.reply")}

    assert replies == set(VECTORS)
    assert len(VECTORS) >= 20
