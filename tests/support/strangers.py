"""
Strangers: byte strings of all kinds, and many connections at once that say them.

    with Swarm(port, speeches(generate(chance, 1000), limits)) as swarm:
        swarm.run(1000)

Rule: what the answer ought to be is known by the parser of this process, one reply a command.
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hiredis

from pbus.codec.resp import Limits, RequestParser
from pbus.ingest.commands import ROWS
from tests.support.resp_events import take

VECTORS = sorted((Path(__file__).parents[1] / "conformance/resp").glob("*/*.resp"))
BOMBS = [path.read_bytes() for path in VECTORS
         if path.parent.name == "broken" and "limits" not in path.with_suffix(".json").read_text()]
SEEDS = [raw[:4096] for raw in (path.read_bytes() for path in VECTORS) if b"AUTH" not in raw.upper()]
"""Of the wire vectors: what gets an error and the end, and what others are made from."""
AT_ONCE = 16
NUMBERS = [b"0", b"1", b"2", b"3", b"-1", b"00", b"", b"17", b"10000", b"10001", b"1048576", b"1048577",
           b"1000000000", b"2147483647", b"2147483648", b"9223372036854775807", b"9223372036854775808", b"1" * 40,
           b"+1", b"1_0", b" 1"]
WORDS = [row.name.encode() for row in ROWS if row.name != "auth"]  # who guesses passwords is made to wait, on purpose
WORDS += [b"gift", b"gift/credit", b"safe", b"x" * 200, b'"', b"'", b'"a\\x41"', b"\x00", b"HTTP/1.1", b"Host:", b"*",
          b"1"]
POPS = ("rpop", "lpop", "brpop", "blpop", "xreadgroup", "exec")
"""What may have jobs to hand out."""


def generate(chance: random.Random, count: int) -> Iterator[bytes]:
    kinds = [_noise, _mutated, _mutated, _array, _array, _line]
    for _ in range(count):
        yield chance.choice(kinds)(chance)


def _noise(chance: random.Random) -> bytes:
    return chance.choice([b"", b"", b"*", b"$", b"*3\r\n$5\r\nLPUSH\r\n$"]) + chance.randbytes(chance.randrange(200))


def _mutated(chance: random.Random) -> bytes:
    """A vector with some of it changed, left out, said twice, or continued by another one."""
    raw = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randrange(1, 4)):
        place, end = chance.randrange(len(raw) + 1), chance.randrange(len(raw) + 1)
        change = chance.randrange(5)
        if change == 0:
            raw[place:place + 1] = chance.randbytes(1)
        elif change == 1:
            del raw[place:place + chance.randrange(1, 20)]
        elif change == 2:
            raw[place:place] = raw[place:end]
        elif change == 3:
            raw[place:place] = chance.choice(NUMBERS)
        else:
            raw[place:] = chance.choice(SEEDS)
    return bytes(raw[:8192])


def _array(chance: random.Random) -> bytes:
    """A command in good order but for its numbers, once in a while."""
    words = [chance.choice(WORDS) for _ in range(chance.randrange(1, 6))]
    count = chance.choice(NUMBERS) if chance.random() < 0.2 else b"%d" % len(words)
    parts = [b"*%b\r\n" % count]
    for word in words:
        size = chance.choice(NUMBERS) if chance.random() < 0.1 else b"%d" % len(word)
        parts.append(b"$%b\r\n%b\r\n" % (size, word))
    return b"".join(parts) * chance.randrange(1, 4)


def _line(chance: random.Random) -> bytes:
    words = [chance.choice(WORDS) for _ in range(chance.randrange(1, 6))]
    return chance.choice([b" ", b"  ", b"\t"]).join(words) + chance.choice([b"\r\n", b"\n", b"\r", b""])


@dataclass(frozen=True, slots=True)
class Speech:
    """
    What one connection says: strings up to the first after which nothing new can begin.

    It gets *most* answers, *least* of them before it asks for jobs: those of who has gone meanwhile stay in the bus.
    """

    raw: bytes
    strings: int
    least: int
    most: int


def speeches(strings: Iterator[bytes], limits: Limits) -> Iterator[Speech]:
    reader, said, events, count = RequestParser(limits), b"", list[Any](), 0
    for string in strings:
        said, count = said + string, count + 1
        events += take(reader, [string])
        most = _first(events, ["quit"]) + 1
        if most <= len(events) or reader.partial or (events and "error" in events[-1]):
            yield Speech(said, count, _first(events[:most], POPS), min(most, len(events)))
            reader, said, events, count = RequestParser(limits), b"", [], 0
    yield Speech(said, count, _first(events, POPS), len(events))


def _first(events: list[Any], names: Sequence[str]) -> int:
    """How many events come before the first command of one of these names."""
    found = (place for place, event in enumerate(events) if isinstance(event, list) and event[0].lower() in names)
    return next(found, len(events))


class Swarm:
    """
    Many connections, AT_ONCE of them at a time; each has said all it will, and listens to the end.

    Attributes:
        strings: Said on connections that were answered and closed.
        replies: How many they were told; ``errors``: how many of them were errors.
        longest_s: From connecting to the end.
    """

    def __init__(self, port: int, speeches: Iterator[Speech]) -> None:
        self.strings = self.replies = self.errors = 0
        self.longest_s = 0.0
        self._address = ("127.0.0.1", port)
        self._speeches = speeches
        self._poll = select.epoll()
        self._open: dict[int, _Open] = {}

    def run(self, strings: int) -> None:
        """Until so many were said in all."""
        more = True
        while more or self._open:
            more = more and self.strings < strings
            while more and len(self._open) < AT_ONCE:
                speech = next(self._speeches, None)
                if speech is None:
                    more = False
                else:
                    self._say(speech)
            for descriptor, _ in self._poll.poll(5.0) or self._hang():
                self._hear(self._open[descriptor])

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open.values():
            one.sock.close()
        self._poll.close()

    def _hang(self) -> list[tuple[int, int]]:
        if not self._open:
            return []
        raise AssertionError(f"not ended within 5 s: {[one.speech for one in self._open.values()]}")

    def _say(self, speech: Speech) -> None:
        sock = socket.create_connection(self._address, timeout=10)
        self._open[sock.fileno()] = _Open(sock, speech, time.monotonic())
        sock.sendall(speech.raw)
        sock.shutdown(socket.SHUT_WR)
        self._poll.register(sock, select.EPOLLIN)

    def _hear(self, one: _Open) -> None:
        said = one.sock.recv(1 << 18)
        if said:
            one.hear(said)
            return
        one.end()
        self.longest_s = max(self.longest_s, time.monotonic() - one.begun_s)
        self.strings += one.speech.strings
        self.replies += one.replies
        self.errors += one.errors
        self._poll.unregister(one.sock)
        del self._open[one.sock.fileno()]
        one.sock.close()


class _Open:
    """One of them that has not ended."""

    def __init__(self, sock: socket.socket, speech: Speech, begun_s: float) -> None:
        self.sock, self.speech, self.begun_s = sock, speech, begun_s
        self.replies = self.errors = 0
        self._reader = hiredis.Reader()

    def hear(self, said: bytes) -> None:
        self._reader.feed(said)
        while (reply := self._reader.gets()) is not False:
            self.replies += 1
            self.errors += isinstance(reply, hiredis.ReplyError)

    def end(self) -> None:
        """It is closed: everything was answered, and completely."""
        assert not self._reader.has_data(), f"half a reply to {self.speech}"
        wanted = range(self.speech.least, self.speech.most + 1)
        assert self.replies in wanted, f"{self.replies} replies to {self.speech}"
