"""Every kind of answer that an HTTP endpoint may give, and what becomes of the job that got it."""

from __future__ import annotations

import gzip
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.http_stub import HttpRequest, response
from tests.support.talker import CLOSE, HANG, RESET, Drip, Plan

MB = 1024 * 1024
OK = response(200, b"fine")
PART = b"HTTP/1.1 200 Yes\r\nContent-Length: 100\r\n\r\nhalf of it"
BOMB = gzip.compress(bytes(200 * MB), 9)


@dataclass(frozen=True)
class Case:
    """
    One answer and what becomes of its job.

    Attributes:
        plan: What the first try gets (later ones get OK).
        end: ``done``, or the reason of the dead letter.
        after_s: It is busy: the second try, of the same attempt, comes after so long.
        always: Every try gets it: a kept connection that ends without a byte is no answer, so it is sent once more.
    """

    name: str
    plan: Plan
    end: str
    after_s: float = 0.0
    always: bool = False


class Endless:
    """A body in chunks that never ends."""

    def __init__(self, head: bytes, chunk: bytes) -> None:
        self._head, self._chunk = head, chunk

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        while True:
            yield self._chunk


def cases() -> Iterator[Case]:
    for status in (200, 201, 202, 204, 206, 299):
        yield Case(str(status), (response(status),), "done")
    for status in (400, 401, 403, 413, 415, 422):
        yield Case(str(status), (response(status),), "permanent")
    for status in (101, 402, 405, 409, 418, 451, 499, 500, 501, 502, 504, 507, 599):
        yield Case(str(status), (response(status),), "failed")
    for status in (429, 503):
        yield Case(f"{status}", (response(status),), "done", 0.9)
        yield Case(f"{status} for 2 s", (response(status, Retry_After="2"),), "done", 1.9)
        yield Case(f"{status} for ever so long", (response(status, Retry_After="soon"),), "done", 0.9)
    for ending in (CLOSE, RESET):
        for size in (0, 5, 30, len(PART) - 1):
            yield Case(f"{ending} after {size}", (PART[:size], ending), "crashed", always=not size)
        chunked = b"HTTP/1.1 200 Yes\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf"
        yield Case(f"{ending} in a chunk", (chunked, ending), "crashed")
    yield Case("a byte a second", (Drip(PART, 1.0),), "timeout")
    yield Case("half, then nothing", (PART, HANG), "timeout")
    yield Case("nothing", (HANG,), "timeout")
    for number in range(8):
        yield Case(f"endless {number}", Endless(b"HTTP/1.1 200 Yes\r\n\r\n", bytes(64 * 1024)), "failed")
    head = b"HTTP/1.1 200 Yes\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield Case("endless chunks", Endless(head, b"10000\r\n" + bytes(65_536) + b"\r\n"), "failed")
    yield Case("endless headers", Endless(b"HTTP/1.1 200 Yes\r\n", b"X-More: " + b"y" * 9000 + b"\r\n"), "failed")
    yield Case("interim for ever", Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50), "failed")
    yield Case("a bomb", (response(200, BOMB, Content_Encoding="gzip"),), "done")
    yield Case("two lengths", (b"HTTP/1.1 200 Yes\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",), "failed")
    yield Case("no HTTP", (b"SSH-2.0-OpenSSH_9.6\r\n", CLOSE), "failed")


class Try(NamedTuple):
    """One request of a job: when it came, and what it said about itself."""

    at_s: float
    attempt: str
    redelivered: str


class Endpoint:
    """Answers the first try of each job as its case says, the later ones with OK; remembers when they came."""

    def __init__(self, cases: dict[str, Case]) -> None:
        self._cases = cases
        self.tries: dict[str, list[Try]] = defaultdict(list)

    def plan(self, request: HttpRequest, _: int) -> Plan:
        name = request.body.decode()
        headers = request.headers
        self.tries[name].append(Try(time.monotonic(), headers["X-Pbus-Attempt"], headers["X-Pbus-Redelivered"]))
        case = self._cases.get(name)
        return case.plan if case is not None and (case.always or len(self.tries[name]) == 1) else (OK,)
