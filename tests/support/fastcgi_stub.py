"""A FastCGI application for tests that answers whatever the test plans (see ``talker``)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from tests.support.talker import Plan, Talker

_HEAD = struct.Struct(">BBHHBB")


@dataclass(frozen=True)
class FastcgiRequest:
    """What arrived: parameters, body, and whether the connection is to be kept."""

    params: dict[str, str]
    body: bytes
    keep: bool

    @property
    def form(self) -> dict[str, str]:
        """Fields of the body, each once."""
        return {name: values[0] for name, values in parse_qs(self.body.decode("ascii"), keep_blank_values=True).items()}


class FastcgiStub(Talker[FastcgiRequest]):
    """An application on a unix socket (or a loopback port) that answers by *plan*."""

    def __init__(self, plan: Callable[[FastcgiRequest, int], Plan], *, tcp: bool = False) -> None:
        super().__init__(_read_request, plan, tcp=tcp)


def answering(plan: Callable[[FastcgiRequest, int], Plan]) -> Callable[[FastcgiRequest, int], Plan]:
    """A plan that takes every topic at a ping; *plan* sees the jobs only, numbered from 0."""
    jobs = itertools.count()

    def answered(request: FastcgiRequest, _: int) -> Plan:
        return (DONE,) if request.form["type"] == "ping" else plan(request, next(jobs))

    return answered


def record(
    kind: int, content: bytes = b"", *, version: int = 1, request_id: int = 1, padding: int = 0,
    length: int | None = None,
) -> bytes:
    """One record, with as many lies in its head as a test wants."""
    size = len(content) if length is None else length
    return _HEAD.pack(version, kind, request_id, size, padding, 0) + content + b"\0" * padding


def stdout(content: bytes) -> bytes:
    """STDOUT, padded to eight bytes as php-fpm does."""
    return record(6, content, padding=-len(content) % 8)


def stderr(content: bytes) -> bytes:
    """STDERR."""
    return record(7, content, padding=-len(content) % 8)


def end(protocol_status: int = 0, app_status: int = 0) -> bytes:
    """END_REQUEST with its eight bytes."""
    return record(3, struct.pack(">IB3x", app_status, protocol_status))


def answer(head: str, body: bytes = b"") -> bytes:
    """A whole answer: header lines without the empty one, and a body."""
    content = head.encode() + b"\r\n\r\n" + body
    pieces = [content[at : at + 65_528] for at in range(0, len(content), 65_528)]
    return b"".join(stdout(piece) for piece in pieces) + end()


DONE = answer("X-Powered-By: stub\r\nCode: 200\r\nContent-type: text/html", b"ok")


def _read_request(stream: Any) -> FastcgiRequest | None:
    params = b""
    body = b""
    keep = False
    while True:
        head = stream.read(8)
        if len(head) < 8:
            return None
        _, kind, _, length, padding, _ = _HEAD.unpack(head)
        content = stream.read(length)
        stream.read(padding)
        if kind == 9:
            return None  # a management record: many applications just close
        if kind == 1:
            keep = bool(content[2] & 1)
        elif kind == 4:
            params += content
        elif kind == 5 and not length:
            return FastcgiRequest(_pairs(params), body, keep)
        elif kind == 5:
            body += content


def _pairs(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        name_size, at = _size(data, at)
        value_size, at = _size(data, at)
        name = data[at : at + name_size].decode()
        found[name] = data[at + name_size : at + name_size + value_size].decode()
        at += name_size + value_size
    return found


def _size(data: bytes, at: int) -> tuple[int, int]:
    if data[at] < 128:
        return data[at], at + 1
    return int.from_bytes(data[at : at + 4], "big") & 0x7FFF_FFFF, at + 4
