"""The ``lines`` protocol: what is written of a job, what is understood of an answer, what bounds a reader."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec.lines import ANSWER_BYTES, ERROR_BYTES, LONGEST_WAIT_S, Answer, Encoder, LineReader, Malformed, answer

ENCODER = Encoder("gift", "credit")


def written(body: bytes = b"x", traceparent: str = "") -> dict[str, object]:
    line = ENCODER.job("1-0", 2, True, traceparent, body)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    said: dict[str, object] = json.loads(line)
    return said


def test_a_job_is_written_with_the_keys_that_are_promised_in_their_order() -> None:
    assert list(written()) == ["id", "queue", "topic", "attempt", "redelivered", "traceparent", "body"]
    assert written() == {
        "id": "1-0", "queue": "gift", "topic": "credit", "attempt": 2, "redelivered": True, "traceparent": "",
        "body": "x",
    }


@given(st.binary(max_size=200))
def test_any_body_comes_out_as_it_went_in(body: bytes) -> None:
    said = written(body)
    content = said["body"]
    assert isinstance(content, str)
    whole = base64.b64decode(content) if said.get("encoding") == "base64" else content.encode()
    assert whole == body


@given(st.text(max_size=50))
def test_text_is_never_base64(text: str) -> None:
    assert "encoding" not in written(text.encode("utf-8", "replace"))


@given(st.text(max_size=50))
def test_any_traceparent_keeps_the_line_whole(traceparent: str) -> None:
    assert isinstance(written(traceparent=traceparent)["traceparent"], str)


# -- answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id":"1-0","ok":true}', Answer("1-0", "done")),
        (' {"ok": true, "id": "1-0"} ', Answer("1-0", "done")),
        ('\ufeff{"id":"1-0","ok":true}', Answer("1-0", "done")),
        ('{"id":"1-0","ok":true,"error":["ignored"],"dead":3,"took_ms":2}', Answer("1-0", "done")),
        ('{"id":"1-0","ok":false,"error":"no money"}', Answer("1-0", "failed", "no money")),
        ('{"id":"1-0","ok":false,"error":"later","retry_after":2.5}', Answer("1-0", "retry", "later", 2.5)),
        ('{"id":"1-0","ok":false,"error":"now","retry_after":0}', Answer("1-0", "retry", "now", 0.0)),
        ('{"id":"1-0","ok":false,"error":"e","retry_after":1e300}', Answer("1-0", "retry", "e", LONGEST_WAIT_S)),
        ('{"id":"1-0","ok":false,"error":"never","dead":true}', Answer("1-0", "permanent", "never")),
        ('{"id":"1-0","ok":false,"error":"n","dead":true,"retry_after":3}', Answer("1-0", "permanent", "n")),
        ('{"id":"1-0","ok":false,"error":"x","dead":false,"retry_after":null}', Answer("1-0", "failed", "x")),
        ('{"id":"1-0","ok":false,"error":"a\\ud800b"}', Answer("1-0", "failed", "a?b")),
    ],
)
def test_an_answer_is_understood(line: str, expected: Answer) -> None:
    assert answer(line.encode()) == expected


def test_a_failure_without_a_text_gets_one() -> None:
    told = answer(b'{"id":"1-0","ok":false}')
    assert told is not None
    assert "no error" in told.error


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"id":"1-0","ok":false,"error":{"code":3}}', '"error" is an object'),
        ('{"id":"1-0","ok":false,"retry_after":"soon"}', '"retry_after" is "soon"'),
        ('{"id":"1-0","ok":false,"retry_after":true}', '"retry_after" is true'),
        ('{"id":"1-0","ok":false,"retry_after":-1}', '"retry_after" is -1'),
        ('{"id":"1-0","ok":false,"retry_after":NaN}', '"retry_after" is NaN'),
        ('{"id":"1-0","ok":false,"error":"x","dead":"yes"}', 'x; "dead" is "yes"'),
    ],
)
def test_a_wrong_type_beside_a_failure_is_told_with_it(line: str, what: str) -> None:
    told = answer(line.encode())
    assert told is not None
    assert told.verdict == "failed"
    assert what in told.error


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"id":"1-0","ok":tru}', "no JSON"),
        ("{'id': '1-0', 'ok': True}", "no JSON"),
        ('{"id":"1-0","ok":true', "no JSON"),
        ('{"ok":true}', '"id" is missing'),
        ('{"id":7,"ok":true}', '"id" is 7'),
        ('{"id":"1-0"}', '"ok" is missing'),
        ('{"id":"1-0","ok":"true"}', '"ok" is "true"'),
        ('{"id":"1-0","ok":1}', '"ok" is 1'),
        ('{"id":"1-0","ok":null}', '"ok" is null'),
    ],
)
def test_what_was_meant_as_an_answer_and_is_none_says_why(line: str, what: str) -> None:
    with pytest.raises(Malformed, match="answered") as raised:
        answer(line.encode())
    assert what in str(raised.value)


@pytest.mark.parametrize(
    "line",
    [
        "", "hello", "{", "{}", "[1]", '"ok"', "ok: true", '{"level":"info","msg":"x"}', "{debug}", "\x00",
        '{"level":"info","ok":true,"msg":"x"}', '{"id":"1-0","level":"info","msg":"x"}', '  "body": {', "{" * 10_000,
    ],
)
def test_anything_else_is_output(line: str) -> None:
    assert answer(line.encode()) is None


@given(st.binary(max_size=300))
def test_no_line_whatever_breaks_the_reader_of_answers(line: bytes) -> None:
    try:
        told = answer(line)
    except Malformed as error:
        assert error.args[0]  # noqa: PT017 - any of the three ends is right
    else:
        assert told is None or told.job_id is not None


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "ok", "error", "retry_after", "dead", "x"]), inner, max_size=6
    ),
    max_leaves=8,
))
def test_any_json_is_an_answer_output_or_a_clear_mistake(value: object) -> None:
    try:
        told = answer(json.dumps(value).encode())
    except Malformed as error:
        assert error.args[0]  # noqa: PT017 - any of the three ends is right
    else:
        assert told is None or told.verdict in ("done", "failed", "retry", "permanent")
        assert told is None or told.delay_s is None or 0 <= told.delay_s <= LONGEST_WAIT_S


def test_an_error_text_is_bounded() -> None:
    told = answer(json.dumps({"id": "1-0", "ok": False, "error": "ä" * 100_000}).encode())
    assert told is not None
    assert len(told.error.encode()) <= ERROR_BYTES


# -- the reader ------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))), st.data())
def test_lines_come_whole_however_they_were_cut_on_the_way(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, got = LineReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    assert got == lines
    assert reader.pending_bytes == 0


@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(1, 20))
def test_no_reader_keeps_more_than_its_limit(pieces: list[bytes], limit: int) -> None:
    reader, seen = LineReader(limit), 0
    for piece in pieces:
        lines = reader.feed(piece)
        seen += sum(len(line) for line in lines)
        assert all(len(line) <= limit for line in lines)
        assert reader.pending_bytes <= limit
    ends = b"".join(pieces).count(b"\n")
    whole = len(b"".join(pieces)) - ends
    assert whole - 2 * ends <= seen + reader.dropped_bytes + reader.pending_bytes <= whole


def test_a_line_without_an_end_is_handed_over_once_and_the_next_one_is_whole_again() -> None:
    reader = LineReader(10)
    assert reader.feed(b"x" * 25) == [b"x" * 10]
    assert reader.feed(b"x" * 25) == []
    assert reader.feed(b"xx\nnext\nla") == [b"next"]
    assert reader.dropped_bytes == 42
    assert reader.rest() == b"la"


def test_a_windows_line_end_is_a_line_end() -> None:
    assert LineReader().feed(b'{"id":"1-0","ok":true}\r\n') == [b'{"id":"1-0","ok":true}']


def test_an_answer_that_was_cut_says_that_it_was_too_long() -> None:
    reader = LineReader()
    (line,) = reader.feed(b'{"id":"1-0","ok":false,"error":"' + b"x" * ANSWER_BYTES + b'"}\n')
    with pytest.raises(Malformed, match="longer than"):
        answer(line)
