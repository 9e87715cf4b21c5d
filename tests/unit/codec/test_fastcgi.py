"""FastCGI records: what php-fpm must be sent, and what counts as an answer however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec import fastcgi
from tests.support import fastcgi_stub as stub

text = st.text(st.characters(codec="utf-8"), max_size=300)


def read(data: bytes, size: int | None = None) -> fastcgi.ReplyReader:
    reader = fastcgi.ReplyReader()
    for at in range(0, len(data), size or len(data) or 1):
        reader.feed(data[at : at + (size or len(data))])
    return reader


def records(data: bytes) -> list[tuple[int, bytes]]:
    """(type, content) of each record."""
    found = []
    while data:
        length = int.from_bytes(data[4:6], "big")
        found.append((data[1], data[8 : 8 + length]))
        data = data[8 + length + data[6] :]
    return found


@given(st.dictionaries(text.filter(bool), text, max_size=40))
def test_params_survive_the_way(pairs):
    found = {}
    for kind, content in records(fastcgi.params(pairs)):
        assert kind == fastcgi.PARAMS
        found.update(stub._pairs(content))  # each record on its own, as php-fpm does
    assert found == pairs


def test_params_never_cut_a_pair_in_two():
    pairs = {f"NAME_{i}": "v" * 40_000 for i in range(5)}
    contents = [content for _, content in records(fastcgi.params(pairs))]
    assert [stub._pairs(content) for content in contents] == [{name: value} for name, value in pairs.items()]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 65_000])
def test_name_value_lengths(size):
    assert stub._pairs(fastcgi.name_value(b"N", b"v" * size)) == {"N": "v" * size}
    assert stub._pairs(fastcgi.name_value(b"n" * max(1, size), b"")) == {"n" * max(1, size): ""}


def test_params_refuses_a_pair_longer_than_a_record():
    with pytest.raises(ValueError, match="a record holds 65528 bytes"):
        fastcgi.params({"N": "v" * 65_528})


@pytest.mark.parametrize("size", [0, 1, 65_527, 65_528, 65_529, 65_535, 65_536, 200_000])
def test_stdin_is_split_and_closed(size):
    body = bytes(i % 251 for i in range(size))
    parts = records(fastcgi.stdin(body))
    assert b"".join(content for _, content in parts) == body
    assert {kind for kind, _ in parts} == {fastcgi.STDIN}
    assert [content for _, content in parts].index(b"") == len(parts) - 1


@pytest.mark.parametrize(("keep", "flag"), [(True, 1), (False, 0)])
def test_begin_says_whether_the_connection_is_kept(keep, flag):
    assert records(fastcgi.begin(keep)) == [(1, bytes((0, 1, flag, 0, 0, 0, 0, 0)))]


REPLY = (
    stub.stderr(b"PHP message: one") + stub.stdout(b"Code: 200\r\n\r\nhel") + stub.stderr(b", two")
    + stub.record(42, b"management", request_id=0) + stub.stdout(b"lo") + stub.stdout(b"") + stub.end(app_status=255)
)


@pytest.mark.parametrize("size", range(1, len(REPLY) + 1))
def test_reader_takes_any_cut(size):
    reader = read(REPLY, size)
    assert (bytes(reader.stdout), bytes(reader.stderr)) == (b"Code: 200\r\n\r\nhello", b"PHP message: one, two")
    assert (reader.complete, reader.keep, reader.app_status, reader.protocol_status) == (True, True, 255, 0)


@pytest.mark.parametrize("size", range(len(REPLY)))
def test_reader_is_incomplete_before_the_last_byte(size):
    reader = read(REPLY[:size])
    reader.eof()
    assert not reader.complete
    assert not reader.keep
    assert reader.started is (size > 0)


@given(st.lists(st.tuples(st.sampled_from("oe"), st.binary(max_size=300), st.integers(0, 255)), max_size=12), st.data())
def test_reader_keeps_stdout_and_stderr_apart(parts, data):
    wire = b"".join(stub.record(6 if kind == "o" else 7, content, padding=pad) for kind, content, pad in parts)
    wire += stub.end()
    reader = fastcgi.ReplyReader()
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        reader.feed(wire[:size])
        wire = wire[size:]
    assert bytes(reader.stdout) == b"".join(content for kind, content, _ in parts if kind == "o")
    assert bytes(reader.stderr) == b"".join(content for kind, content, _ in parts if kind == "e")
    assert reader.keep


@given(st.binary(max_size=400))
def test_reader_answers_garbage_with_reply_error_only(garbage):
    try:
        reader = read(garbage, 7)
    except fastcgi.ReplyError:
        return
    assert not reader.complete or garbage[:1] == b"\x01"


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (stub.record(6, b"x", version=2), "version 2"),
        (stub.record(6, b"x", version=0), "version 0"),
        (b"HTTP/1.1 400 Bad Request\r\n", "version 72"),
        (stub.record(6, b"x", request_id=2), "request 2"),
        (stub.record(3, b"\0" * 8, request_id=65_535), "request 65535"),
        (stub.record(1, b"\0" * 8), "record type 1"),
        (stub.record(42, b""), "record type 42"),
        (stub.record(3, b"\0" * 7), "END_REQUEST of 7 bytes"),
        (stub.record(3, b"\0" * 9), "END_REQUEST of 9 bytes"),
        (stub.record(3), "END_REQUEST of 0 bytes"),
    ],
)
def test_reader_refuses(wire, text):
    with pytest.raises(fastcgi.ReplyError, match=text):
        read(stub.stdout(b"Code: 200\r\n\r\n") + wire)


@pytest.mark.parametrize("extra", [stub.stdout(b"more"), b"\x01", stub.DONE])
def test_reader_does_not_keep_a_connection_that_says_more(extra):
    reader = read(stub.DONE + extra)
    assert (reader.complete, reader.keep) == (True, False)


@pytest.mark.parametrize("status", [fastcgi.CANT_MPX_CONN, fastcgi.OVERLOADED, fastcgi.UNKNOWN_ROLE, 77])
def test_reader_reads_the_protocol_status(status):
    assert read(stub.end(status)).protocol_status == status


def test_reader_keeps_an_excerpt_and_reads_on():
    chunk = stub.stdout(b"Code: 200\r\n\r\n" + b"x" * 60_000) + stub.stderr(b"e" * 60_000)
    reader = read(chunk + (stub.stdout(b"y" * 60_000) + stub.stderr(b"f" * 60_000)) * 30 + stub.end())
    assert reader.complete
    assert len(reader.stdout) == 128 * 1024
    assert len(reader.stderr) == 64 * 1024
    assert len(fastcgi.cgi_answer(reader.stdout)[1]) == 64 * 1024


def test_reader_gives_up_above_8_mib():
    with pytest.raises(fastcgi.ReplyError, match="larger than 8 MiB"):
        read(stub.stdout(b"x" * 65_528) * 129)


def test_reader_gives_up_on_empty_records_without_end():
    with pytest.raises(fastcgi.ReplyError, match="larger than 8 MiB"):
        read(stub.stderr(b"") * (1024 * 1024 + 1))


def test_cgi_answer_splits_headers_and_body():
    assert fastcgi.cgi_answer(b"Code: 200\r\n\r\nbody\r\n\r\n") == (b"Code: 200", b"body\r\n\r\n")


@pytest.mark.parametrize("stdout", [b"", b"no header", b"Code: 200\r\n", b"A: " + b"x" * 70_000 + b"\r\n\r\nbody"])
def test_cgi_answer_refuses_what_has_no_header_block(stdout):
    with pytest.raises(ValueError, match="no header block"):
        fastcgi.cgi_answer(stdout)


@pytest.mark.parametrize("body", [b"", b"x=1", bytes(range(256)) * 600])
def test_parts_of_a_request_are_what_it_was_made_of(body):
    pairs = {"SCRIPT_FILENAME": "/srv/x", "EMPTY": "", "LONG": "v" * 300, "N" * 200: "w\u00f6r", "HUGE": "h" * 60_000}
    request = fastcgi.begin() + fastcgi.params(pairs) + fastcgi.PARAMS_END + fastcgi.stdin(body)
    assert fastcgi.request_parts(request) == (pairs, body)


# -- what most calls are ------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.binary(max_size=127), st.binary(max_size=200)), max_size=5),
    st.binary(max_size=100) | st.sampled_from([b"x" * size for size in (65_528, 65_529, 131_057)]),
    st.sampled_from([b"", fastcgi.name_value(b"MORE", b"100%")]), st.sampled_from([{}, {"A%B": "%b%c"}]),
)
def test_template_writes_what_the_parts_are(pairs, body, more, constant):
    begin = fastcgi.begin() + fastcgi.params(constant)
    request = fastcgi.Requests(begin, tuple(name for name, _ in pairs)).request(
        [value for _, value in pairs], body, more
    )
    varying = b"".join(fastcgi.name_value(*pair) for pair in pairs) + more
    assert request == begin + fastcgi.record(fastcgi.PARAMS, varying) + fastcgi.PARAMS_END + fastcgi.stdin(body)


def test_template_refuses_what_no_record_holds():
    requests = fastcgi.Requests(fastcgi.begin(), (b"URI",))
    with pytest.raises(ValueError, match="a record holds"):
        requests.request([b"x" * 65_529], b"body")
    with pytest.raises(ValueError, match="127 bytes"):
        fastcgi.Requests(b"", (b"N" * 128,))


_piece = st.sampled_from([
    stub.stdout(b"Code: 200\r\n\r\nok"), stub.stdout(b""), stub.record(6, b"Code: 200\r\n\r\n", padding=200),
    stub.stdout(b"y" * 300), stub.stderr(b"warning"), stub.end(), stub.end(2), stub.record(3, b"short"),
    stub.record(10, b"value", request_id=0), stub.record(6, b"x", request_id=2), stub.record(6, b"x", version=2), b"z",
])


@given(st.lists(_piece, max_size=3).map(b"".join) | st.binary(max_size=60), st.integers(0, 40))
def test_answer_read_at_once_is_what_the_reader_reads(data, cut):
    """Whatever is read at once is whole and clean, and says the same to the reader."""
    data = data[: len(data) - cut] if cut < 20 else data
    found = fastcgi.at_once(data)
    if found is not None:
        reader = read(data)
        assert (reader.keep, bytes(reader.stdout), reader.stderr) == (True, found[0], b"")
        assert reader.protocol_status == found[1]


def test_usual_answer_is_read_at_once():
    data = stub.answer("Code: 200", b"ok")
    assert fastcgi.at_once(data) == (b"Code: 200\r\n\r\nok", fastcgi.REQUEST_COMPLETE)
    assert [fastcgi.at_once(data[:size]) for size in range(len(data))] == [None] * len(data)
    assert fastcgi.at_once(data + b"\0") is None
