"""
HTTP/1.1 as a client speaks it: one request out, one response in; no I/O.

    POST /path HTTP/1.1 CRLF (name: value CRLF)* CRLF body
    HTTP/1.1 200 OK CRLF (name: value CRLF)* CRLF body      body: Content-Length, chunked, or to EOF

Rule: a response that was cut short is never taken for a whole one: the standard library's client
reads ``HTTP/1.1 200 OK`` followed by EOF as a success. Anything ambiguous (two lengths, a chunk
size that is none) is a ReplyError. Source: RFC 9112 sections 2 to 7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pbus.codec import headers

EXCERPT_BYTES: Final = 64 * 1024
LIMIT_BYTES: Final = 8 * 1024 * 1024

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHUNK_LINE_BYTES: Final = 4096
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_NO_BODY: Final = frozenset({204, 304})
_CONTINUE_LIMIT: Final = 16


class ReplyError(ValueError):
    """The peer's bytes are no HTTP response: the connection is of no further use."""


def field_lines(fields: Mapping[str, str]) -> bytes:
    """
    Header lines, each with its CRLF.

    Raises:
        ValueError: a name or a value that would break the framing.
    """
    lines = []
    for name, value in fields.items():
        if _FIELD_NAME.match(name) is None or any(c in value for c in "\r\n\0"):
            raise ValueError(f"not a header: {name!r}: {value!r}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("utf-8")


class ResponseReader:
    """
    One response, however it is cut. Owner: one call.

    Attributes:
        status: Status of the final response, 0 before its head is complete.
        fields: Its headers, lower-case names.
        body: At most 64 KiB of it.
        size: Bytes received in all.
        complete: The response has been read to its last byte.
    """

    __slots__ = (
        "_buffer",
        "_close",
        "_left",
        "_phase",
        "_searched",
        "_seen",
        "body",
        "complete",
        "fields",
        "size",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        self.body = bytearray()
        self.size = 0
        self.complete = False
        self._buffer = bytearray()    # bytes that no phase has taken yet
        self._left = 0                # bytes still to come of the body or chunk
        self._phase = "head"          # head | length | close | chunk-size | chunk | chunk-end | trailer
        self._close = True            # the server closes after this response
        self._seen = 0                # 1xx responses skipped
        self._searched = 0            # no header block ends before this byte of the buffer

    @property
    def started(self) -> bool:
        """At least one byte of the response came."""
        return self.size > 0

    @property
    def keep(self) -> bool:
        """The connection may serve another request."""
        return self.complete and not self._close and not self._buffer

    def eof(self) -> None:
        """The peer closed: that completes a body without a length, and nothing else."""
        if self._phase == "close":
            self.complete = True

    def feed(self, data: bytes) -> None:
        """
        Take the next bytes of the stream.

        Raises:
            ReplyError: not HTTP/1.x, ambiguous framing, headers above 64 KiB, more than 8 MiB.
        """
        self.size += len(data)
        if self.size > LIMIT_BYTES:
            raise ReplyError(f"the answer is larger than {LIMIT_BYTES // 1024 // 1024} MiB")
        self._buffer += data
        while not self.complete and self._step():
            pass

    def _step(self) -> bool:
        """Take what the current phase can; False when it needs more bytes."""
        phase = self._phase
        if phase == "head":
            return self._read_head()
        if phase in ("length", "chunk", "close"):
            return self._read_content()
        if phase == "chunk-size":
            return self._read_chunk_size()
        if phase == "chunk-end":
            return self._read_chunk_end()
        return self._read_trailer()

    def _read_head(self) -> bool:
        buffer = self._buffer
        if not b"HTTP/1.".startswith(bytes(buffer[:7])):
            raise ReplyError(f"not an HTTP response: {bytes(buffer[:40])!r}")
        end = headers.find_end(buffer, self._searched)
        self._searched = max(0, len(buffer) - 3)
        if (end[0] if end else len(buffer)) > headers.MAX_BLOCK_BYTES:
            raise ReplyError(f"headers above {headers.MAX_BLOCK_BYTES // 1024} KiB")
        if end is None:
            return False
        head = bytes(buffer[: end[0]]) + b"\r\n"
        del buffer[: end[1]]
        self._searched = 0
        line = _STATUS_LINE.match(head)
        if line is None:
            raise ReplyError(f"not a status line: {head[:80]!r}")
        try:
            self.fields = headers.fields(head[line.end() : -2])
        except ValueError as error:
            raise ReplyError(str(error)) from error
        self._frame(int(line[2]), http_1_0=line[1] == b"0")
        return True

    def _frame(self, status: int, *, http_1_0: bool) -> None:
        """How long the body is (RFC 9112 section 6.3)."""
        if 100 <= status < 200 and status != 101:
            self._seen += 1
            if self._seen > _CONTINUE_LIMIT:
                raise ReplyError("interim responses without end")
            return
        self.status = status
        connection = self.fields.get("connection", "").lower()
        self._close = "close" in connection or (http_1_0 and "keep-alive" not in connection)
        coding = self.fields.get("transfer-encoding", "").lower()
        length = self.fields.get("content-length")
        if status in _NO_BODY:
            self.complete = True
        elif coding:
            if coding != "chunked":
                raise ReplyError(f"Transfer-Encoding: {coding}")
            self._phase = "chunk-size"
        elif length is not None:
            self._begin_length(length)
        else:
            self._phase, self._close = "close", True

    def _begin_length(self, length: str) -> None:
        values = {value.strip() for value in length.split(",")}
        value = values.pop()
        if values or not (value.isascii() and value.isdigit()) or len(value) > 15:
            raise ReplyError(f"Content-Length: {length[:80]}")
        self._phase, self._left = "length", int(value)
        self.complete = not self._left

    def _read_content(self) -> bool:
        size = len(self._buffer) if self._phase == "close" else min(self._left, len(self._buffer))
        if not size:
            return False
        room = EXCERPT_BYTES - len(self.body)
        if room > 0:
            self.body += self._buffer[: min(size, room)]
        del self._buffer[:size]
        if self._phase == "close":
            return False
        self._left -= size
        if not self._left:
            self.complete = self._phase == "length"
            self._phase = "chunk-end"
        return True

    def _read_chunk_size(self) -> bool:
        line = _CHUNK_SIZE.match(self._buffer)
        if line is None:
            if b"\n" in self._buffer or len(self._buffer) > _CHUNK_LINE_BYTES:
                raise ReplyError(f"not a chunk size: {bytes(self._buffer[:40])!r}")
            return False
        self._left = int(line[1], 16)
        del self._buffer[: line.end()]
        self._phase = "chunk" if self._left else "trailer"
        return True

    def _read_chunk_end(self) -> bool:
        if len(self._buffer) < 2 and not self._buffer.startswith(b"\n"):
            return False
        size = 1 if self._buffer.startswith(b"\n") else 2
        if bytes(self._buffer[:size]) not in (b"\n", b"\r\n"):
            raise ReplyError("a chunk is longer than it says")
        del self._buffer[:size]
        self._phase = "chunk-size"
        return True

    def _read_trailer(self) -> bool:
        """Trailer fields are read and dropped, to the empty line."""
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > _CHUNK_LINE_BYTES:
                raise ReplyError("a trailer without end")
            return False
        self.complete = not self._buffer[:end].strip(b"\r")
        del self._buffer[: end + 1]
        return True
