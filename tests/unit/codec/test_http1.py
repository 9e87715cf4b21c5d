"""HTTP/1.1 responses: whole ones are read however they are cut, cut ones are never taken for whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec import http1


def read(data: bytes, size: int | None = None, *, eof: bool = False) -> http1.ResponseReader:
    reader = http1.ResponseReader()
    for at in range(0, len(data), size or len(data) or 1):
        reader.feed(data[at : at + (size or len(data))])
    if eof:
        reader.eof()
    return reader


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2;name=value\r\nhe\r\n003\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("wire", [LENGTH, CHUNKED])
def test_reader_takes_any_cut(wire):
    for size in range(1, len(wire) + 1):
        reader = read(wire, size)
        assert (reader.status, bytes(reader.body), reader.complete, reader.keep) == (200, b"hello", True, True)


@pytest.mark.parametrize("wire", [LENGTH, CHUNKED])
def test_reader_never_takes_a_cut_response_for_a_whole_one(wire):
    for size in range(len(wire)):
        assert not read(wire[:size], eof=True).complete


@given(st.binary(max_size=2000), st.integers(1, 300), st.integers(1, 77))
def test_reader_chunks_of_any_size(body, chunk, cut):
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for at in range(0, len(body), chunk):
        part = body[at : at + chunk]
        wire += b"%x\r\n%b\r\n" % (len(part), part)
    reader = read(wire + b"0\r\n\r\n", cut)
    assert (bytes(reader.body), reader.complete) == (body, True)


def test_reader_without_length_ends_with_the_connection():
    wire = b"HTTP/1.1 200 OK\r\n\r\nhello"
    assert not read(wire).complete
    reader = read(wire, eof=True)
    assert (bytes(reader.body), reader.complete, reader.keep) == (b"hello", True, False)


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive", True),
        (b"HTTP/1.1 204 No Content", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0", True),
    ],
)
def test_reader_knows_when_the_connection_may_be_kept(head, keep):
    reader = read(head + b"\r\n\r\n")
    assert (reader.complete, reader.keep) == (True, keep)


def test_reader_does_not_keep_a_connection_that_says_more():
    reader = read(LENGTH + b"HTTP/1.1 200 OK\r\n")
    assert (reader.complete, reader.keep) == (True, False)


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 5000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
    ],
)
def test_reader_refuses(wire):
    with pytest.raises(http1.ReplyError):
        read(wire)


@given(st.binary(max_size=300))
def test_reader_answers_garbage_with_reply_error_only(garbage):
    try:
        reader = read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + garbage, 5)
    except http1.ReplyError:
        return
    assert not reader.complete or b"0" in garbage


def test_reader_keeps_an_excerpt_and_gives_up_above_8_mib():
    reader = read(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, 65_536)
    assert (reader.complete, len(reader.body)) == (True, 64 * 1024)
    with pytest.raises(http1.ReplyError, match="larger than 8 MiB"):
        read(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (8 * 1024 * 1024), 65_536)


def test_field_lines():
    assert http1.field_lines({"Host": "a", "X-Note": "礼"}) == "Host: a\r\nX-Note: 礼\r\n".encode()


@pytest.mark.parametrize(
    ("name", "value"), [("A", "b\r\nC: d"), ("A", "b\n"), ("A\r\nB", "c"), ("A B", "c"), ("A", "\0")]
)
def test_field_lines_refuses_what_breaks_the_framing(name, value):
    with pytest.raises(ValueError, match="not a header"):
        http1.field_lines({name: value})
