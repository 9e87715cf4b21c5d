"""Whatever a client says: one command, one reply, in order, and the connection lives until it says QUIT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import gevent
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.codec.resp import encode_command
from pbus.ingest.commands import ROWS
from pbus.ingest.guesses import Guesses
from tests.unit.ingest.door import Client, Door

BLOCKING = ("brpop", "blpop")
SHORT = b"0.001"
"""Seconds that a pop blocks: nobody pushes while it does."""
WORDS = [
    b"gift", b"gift/credit", b"gift/mail", b"mail/smtp", b"live:gift:list", b"old/any", b"safe", b"safe/own", b"empty",
    b"php/credit", b"nobody", b"*", b">", b"$", b"-", b"+", b"0-0", b"1000-1", b"1000-1-1", b"", b"\x00", b"\xff\r\n",
    b"body", b"delay", b"dedupe", b"ttl", b"key", b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    b"GROUP", b"STREAMS", b"COUNT", b"BLOCK", b"NOACK", b"credit", b"consumer", b"DEAD", b"REASON", b"CREATE",
    b"MKSTREAM",
    b"AUTH", b"pw", b"gift:pw", b"safe:pw", b"live:live-pw", b"SETNAME", b"2", b"3", b"4",
    b"setname", b"getname", b"id", b"list", b"info", b"reply", b"on", b"off", b"skip", b"setinfo",
    b"LIB-NAME", b"tracking",
    b"get", b"maxclients", b"docs", b"count", b"STREAM", b"GROUPS", b"CONSUMERS", b"FULL", b"FILTERBY", b"IDLE",
    b"1", b"7", b"-1", b"1.5", b"nan", b"inf", b"99999999999999999999", b"-9223372036854775809", b"9" * 400,
]
ARGUMENT = st.one_of(st.sampled_from(WORDS), st.binary(max_size=8), st.just(b"x" * 5000))


@st.composite
def commands(draw: st.DrawFn) -> list[bytes]:
    """Of the table or none of it, mostly with as many arguments as it wants."""
    row = draw(st.sampled_from([*ROWS, None]))
    name = row.name if row else draw(st.sampled_from(["monitor", "lrange", "", "\x00"]))
    words = [draw(st.sampled_from([name, name.upper(), name.capitalize()])).encode()]
    if row and row.subs and draw(st.booleans()):
        row = draw(st.sampled_from(row.subs))
        words.append(row.name.partition("|")[2].encode())
    wanted = abs(row.arity) - len(words) if row else 0
    more = draw(st.sampled_from([0, 0, 0, 1, 2, 3, -1]))
    words += draw(st.lists(ARGUMENT, min_size=max(0, wanted + more), max_size=max(0, wanted + more)))
    return [*words, SHORT] if name in BLOCKING else words


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


@given(st.lists(commands(), min_size=1, max_size=10), st.lists(st.integers(0, 2000), max_size=4), st.booleans())
@settings(max_examples=300)
def test_one_command_has_one_reply(door: Door, said: list[list[bytes]], marks: list[int], local: bool) -> None:
    door.server.guesses = Guesses(door.clock)         # or the hundredth wrong password would wait for its answer
    client = door.client(local)
    with structlog.testing.capture_logs() as logged:
        replies = _replies(client, said, marks)
        client.close()
        door.until(lambda: not door.server.connections, "the connection is gone")

    quits = [place for place, command in enumerate(said) if command[0].lower() == b"quit"]
    assert len(replies) == (quits[0] + 1 if quits else len(said)), replies
    assert [entry for entry in logged if entry["event"] == "client.failed"] == []


_SERIAL = itertools.count()


def _replies(client: Client, said: list[list[bytes]], marks: list[int]) -> list[object]:
    """What is answered before a last command whose answer is known, or before the end."""
    last = f"the last one {next(_SERIAL)}"
    raw = b"".join(map(encode_command, [*said, [b"RESET"], [b"ECHO", last.encode()]]))
    places = sorted({min(mark, len(raw)) for mark in marks} | {0, len(raw)})
    for begin, end in itertools.pairwise(places):
        client.send(raw[begin:end])
        gevent.sleep(0)
    replies: list[object] = []
    try:
        while (reply := client.read()) != last:
            replies.append(reply)
    except EOFError:
        return replies
    assert replies.pop() == "RESET"
    return replies
