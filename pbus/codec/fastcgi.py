"""
FastCGI 1.0 as a web server speaks it to a RESPONDER: records out, an answer in; no I/O.

    +---------+------+------------+----------------+----------------+----------+
    | version | type | request id | content length | padding length | reserved |   8 bytes,
    |  1 byte |   1  |      2     |        2       |        1       |     1    |   big endian
    +---------+------+------------+----------------+----------------+----------+
    | content, then padding                                                     |
    +----------------------------------------------------------------------------+

    request   BEGIN_REQUEST  PARAMS..  PARAMS(0)  STDIN..  STDIN(0)
    answer    (STDOUT | STDERR)..  END_REQUEST(application status 4, protocol status 1, reserved 3)

One request at a time a connection, so every record bears REQUEST_ID. Whatever is not exactly this
is a ReplyError: after it nothing on the connection can be trusted. Source: FastCGI Specification
1.0, sections 3.3 to 5.5; php-fpm differs where comments say so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pbus.codec import headers

VERSION: Final = 1
REQUEST_ID: Final = 1

BEGIN_REQUEST: Final = 1
END_REQUEST: Final = 3
PARAMS: Final = 4
STDIN: Final = 5
STDOUT: Final = 6
STDERR: Final = 7

REQUEST_COMPLETE: Final = 0
CANT_MPX_CONN: Final = 1
OVERLOADED: Final = 2
UNKNOWN_ROLE: Final = 3

MAX_CONTENT: Final = 65_528
"""Longest content we write: php-fpm gives up on PARAMS above 0xfffc, the format ends at 65,535."""

EXCERPT_BYTES: Final = 64 * 1024
LIMIT_BYTES: Final = 8 * 1024 * 1024

_HEAD: Final = struct.Struct(">BBHHBB")
_END_BODY: Final = struct.Struct(">IB3x")
_RESPONDER: Final = 1
_KEEP_CONN: Final = 1
_STDOUT_KEPT: Final = headers.MAX_BLOCK_BYTES + EXCERPT_BYTES


class ReplyError(ValueError):
    """The peer's bytes are no answer: the connection is of no further use."""


def record(kind: int, content: bytes = b"", request_id: int = REQUEST_ID) -> bytes:
    """
    One record without padding.

    Raises:
        ValueError: *content* does not fit into one record.
    """
    if len(content) > MAX_CONTENT:
        raise ValueError(f"a record holds {MAX_CONTENT} bytes, not {len(content)}")
    return _HEAD.pack(VERSION, kind, request_id, len(content), 0, 0) + content


PARAMS_END: Final = record(PARAMS)
STDIN_END: Final = record(STDIN)
GET_VALUES: Final = record(9, b"\x0f\x00FCGI_MPXS_CONNS", request_id=0)
"""A management record: asks the application, not a script; answered by GET_VALUES_RESULT."""


def begin(keep: bool = True) -> bytes:
    """BEGIN_REQUEST for a responder; *keep*: the application leaves the connection open."""
    return record(BEGIN_REQUEST, struct.pack(">HB5x", _RESPONDER, _KEEP_CONN if keep else 0))


def name_value(name: bytes, value: bytes) -> bytes:
    """One parameter as the specification writes it: both lengths (1 or 4 bytes), name, value."""
    if len(name) < 128 and len(value) < 128:
        return b"%c%c%b%b" % (len(name), len(value), name, value)
    return _length(len(name)) + _length(len(value)) + name + value


def _length(size: int) -> bytes:
    return bytes((size,)) if size < 128 else struct.pack(">I", size | 0x8000_0000)


def params(pairs: Mapping[str, str]) -> bytes:
    """
    PARAMS records without the closing empty one.

    php-fpm parses each record on its own, so no pair is ever cut in two.

    Raises:
        ValueError: one pair alone is longer than a record.
    """
    return b"".join(record(PARAMS, content) for content in _packed(pairs))


def _packed(pairs: Mapping[str, str]) -> Iterable[bytes]:
    content = b""
    for name, value in pairs.items():
        pair = name_value(name.encode(), value.encode())
        if content and len(content) + len(pair) > MAX_CONTENT:
            yield content
            content = b""
        content += pair
    if content:
        yield content


def stdin(body: bytes) -> bytes:
    """The whole body as STDIN records, closed by the empty one."""
    if len(body) <= MAX_CONTENT:
        return (record(STDIN, body) if body else b"") + STDIN_END
    view = memoryview(body)
    parts: list[bytes | memoryview] = []
    for start in range(0, len(body), MAX_CONTENT):
        piece = view[start : start + MAX_CONTENT]
        parts += (_HEAD.pack(VERSION, STDIN, REQUEST_ID, len(piece), 0, 0), piece)
    parts.append(STDIN_END)
    return b"".join(parts)


class Requests:
    """
    Requests that differ in the values of a few parameters and in their bodies: what is the same is encoded once.

    Args:
        constant: What each begins with: BEGIN_REQUEST and PARAMS records.
        names: The parameters that differ, in their order, each of at most 127 bytes; ``request`` is given their values.
    """

    def __init__(self, constant: bytes, names: tuple[bytes, ...]) -> None:
        self._constant = constant
        self._names = names
        pairs = b"".join(_literal(b"%c" % len(name)) + b"%c" + _literal(name) + b"%b" for name in names)
        self._template = b"".join((
            _literal(constant), _literal(record(PARAMS)[:4]), b"%c%c\0\0", pairs, b"%b", _literal(PARAMS_END),
            _literal(record(STDIN)[:4]), b"%c%c\0\0%b", _literal(STDIN_END),
        ))
        self._fixed = sum(2 + len(name) for name in names)
        if any(len(name) > 127 for name in names):
            raise ValueError("a name has at most 127 bytes here")

    def request(self, values: Sequence[bytes], body: bytes, more: bytes = b"") -> bytes:
        """
        A whole request.

        Args:
            values: As many as there are names.
            body: What goes to STDIN.
            more: Pairs that few requests have, as ``name_value`` makes them.

        Raises:
            ValueError: the parameters do not fit into one record.
        """
        size, content = len(body), self._fixed + len(more)
        short = 0 < size <= MAX_CONTENT
        cells: list[int | bytes] = []
        for value in values:
            content += len(value)
            short = short and len(value) < 128
            cells += (len(value), value)
        if short and content <= MAX_CONTENT:  # nearly every one: one formatting is a third of the time of all parts
            return self._template % (content >> 8, content & 255, *cells, more, size >> 8, size & 255, body)
        pairs = b"".join(map(name_value, self._names, values))
        return b"".join((self._constant, record(PARAMS, pairs + more), PARAMS_END, stdin(body)))


def _literal(data: bytes) -> bytes:
    return data.replace(b"%", b"%%")


def request_parts(request: bytes) -> tuple[dict[str, str], bytes]:
    """Parameters and body of a whole request that was written here (each pair in one record)."""
    pairs: dict[str, str] = {}
    body = bytearray()
    at = 0
    while at < len(request):
        _, kind, _, size, padding, _ = _HEAD.unpack_from(request, at)
        at += _HEAD.size
        content = request[at : at + size]
        at += size + padding
        if kind == STDIN:
            body += content
        while kind == PARAMS and content:
            (name, value), content = _first_pair(content)
            pairs[name.decode()] = value.decode()
    return pairs, bytes(body)


def _first_pair(content: bytes) -> tuple[tuple[bytes, bytes], bytes]:
    sizes = []
    for _ in range(2):
        wide = content[0] >= 128
        sizes.append(int.from_bytes(content[:4], "big") & 0x7FFF_FFFF if wide else content[0])
        content = content[4:] if wide else content[1:]
    name, value = sizes
    return (content[:name], content[name : name + value]), content[name + value :]


class ReplyReader:
    """
    One answer, from its first byte to END_REQUEST, however it is cut. Owner: one call.

    Attributes:
        stdout: What the application wrote, as much as is kept (headers and 64 KiB of body).
        stderr: What it wrote to STDERR, at most 64 KiB.
        size: Bytes received in all.
        complete: END_REQUEST has been read to its last byte.
        protocol_status: Of END_REQUEST: REQUEST_COMPLETE, CANT_MPX_CONN, OVERLOADED, UNKNOWN_ROLE.
        app_status: Of END_REQUEST: exit status of the application.
    """

    __slots__ = (
        "_content",
        "_end",
        "_head",
        "_kind",
        "_padding",
        "_trailing",
        "app_status",
        "complete",
        "protocol_status",
        "size",
        "stderr",
        "stdout",
    )

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.size = 0
        self.complete = False
        self.protocol_status = REQUEST_COMPLETE
        self.app_status = 0
        self._head = b""        # a record's head that is not complete yet
        self._kind = 0          # type of the record being read, 0: one whose content is skipped
        self._content = 0       # bytes of its content still to come
        self._padding = 0       # and of its padding
        self._end = b""         # content of END_REQUEST so far
        self._trailing = False  # bytes after END_REQUEST: nobody asked for them

    @property
    def started(self) -> bool:
        """At least one byte of the answer came."""
        return self.size > 0

    @property
    def keep(self) -> bool:
        """The connection is clean: complete, nothing left over, nothing more than asked for."""
        return self.complete and not self._trailing and not self._padding

    def eof(self) -> None:
        """The peer closed; an answer without END_REQUEST stays incomplete."""

    def feed(self, data: bytes) -> None:
        """
        Take the next bytes of the stream.

        Raises:
            ReplyError: wrong version, request id, type or length, or more than 8 MiB.
        """
        self.size += len(data)
        if self.size > LIMIT_BYTES:
            raise ReplyError(f"the answer is larger than {LIMIT_BYTES // 1024 // 1024} MiB")
        if self._head:
            data, self._head = self._head + data, b""
        at, size = 0, len(data)
        while at < size:
            if self._content:
                part = data[at : at + self._content]
                self._content -= len(part)
                at += len(part)
                self._take(part)
            elif self._padding:
                skipped = min(self._padding, size - at)
                self._padding -= skipped
                at += skipped
            elif self.complete:
                self._trailing = True
                return
            elif size - at < _HEAD.size:
                self._head = data[at:]
                return
            else:
                self._begin_record(data, at)
                at += _HEAD.size

    def _begin_record(self, data: bytes, at: int) -> None:
        version, kind, request_id, self._content, self._padding, _ = _HEAD.unpack_from(data, at)
        if version != VERSION:
            raise ReplyError(f"version {version} in a record, {VERSION} expected")
        if request_id == 0:      # management records concern no request (section 3.3)
            self._kind = 0
        elif request_id != REQUEST_ID:
            raise ReplyError(f"a record of request {request_id}, {REQUEST_ID} was asked")
        elif kind == END_REQUEST and self._content != _END_BODY.size:
            raise ReplyError(f"END_REQUEST of {self._content} bytes, {_END_BODY.size} expected")
        elif kind not in (STDOUT, STDERR, END_REQUEST):
            raise ReplyError(f"record type {kind} in an answer")
        else:
            self._kind = kind

    def _take(self, part: bytes) -> None:
        if self._kind == STDOUT:
            if len(self.stdout) < _STDOUT_KEPT:
                self.stdout += part[: _STDOUT_KEPT - len(self.stdout)]
        elif self._kind == STDERR:
            if len(self.stderr) < EXCERPT_BYTES:
                self.stderr += part[: EXCERPT_BYTES - len(self.stderr)]
        elif self._kind == END_REQUEST:
            self._end += part
            if not self._content:
                self.app_status, self.protocol_status = _END_BODY.unpack(self._end)
                self.complete = True


_STDOUT_HEAD: Final = _HEAD.pack(VERSION, STDOUT, REQUEST_ID, 0, 0, 0)[:4]
_END_HEAD: Final = _HEAD.pack(VERSION, END_REQUEST, REQUEST_ID, _END_BODY.size, 0, 0)


def at_once(data: bytes) -> tuple[bytes, int] | None:
    """
    An answer that came whole and is the usual one: one STDOUT record and END_REQUEST, nothing else.

    Returns:
        What the application wrote, and the protocol status; None: another one, or not all of it (``ReplyReader``).
    """
    if len(data) < 24 or data[:4] != _STDOUT_HEAD:
        return None
    end = 8 + (data[4] << 8) + data[5]
    at = end + data[6]
    if len(data) != at + 16 or data[at : at + 8] != _END_HEAD:
        return None
    return data[8:end], data[at + 12]


def cgi_answer(stdout: bytes | bytearray) -> tuple[bytes, bytes]:
    """
    Header block and body of what a CGI program wrote (RFC 3875 section 6).

    Returns:
        The block, for ``headers.fields``, and at most 64 KiB of the body.

    Raises:
        ValueError: it does not begin with a block of at most 64 KiB.
    """
    end = headers.find_end(stdout)
    if end is None or end[0] > headers.MAX_BLOCK_BYTES:
        raise ValueError("no header block")
    return bytes(stdout[: end[0]]), bytes(stdout[end[1] : end[1] + EXCERPT_BYTES])
