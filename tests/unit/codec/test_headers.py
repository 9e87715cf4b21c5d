"""Header blocks and Retry-After."""

from __future__ import annotations

import pytest

from pbus.codec import headers


@pytest.mark.parametrize("data", [b"A: b\r\n\r\nrest", b"A: b\n\nrest", b"A: b\r\n\nrest", b"A: b\n\r\nrest"])
def test_find_end_knows_every_line_end(data):
    begin, after = headers.find_end(data)
    assert (data[:begin], data[after:]) == (b"A: b", b"rest")


@pytest.mark.parametrize("data", [b"", b"A: b", b"A: b\r\n", b"A: b\r\n\r"])
def test_find_end_waits_for_the_empty_line(data):
    assert headers.find_end(data) is None


def test_fields_are_lower_case_stripped_and_joined():
    block = b"Code:200\r\nX-A:  one \r\nx-a: two\r\nEmpty:"
    assert headers.fields(block) == {"code": "200", "x-a": "one, two", "empty": ""}


def test_fields_of_nothing():
    assert headers.fields(b"") == {}


@pytest.mark.parametrize(
    "block", [b"Warning", b"PHP Warning:  x\r\nCode: 200", b"A: b\r\n folded", b": x", b"A : b", b"A: b\r\n\0: c"]
)
def test_fields_refuses_what_is_no_header(block):
    with pytest.raises(ValueError, match="not a header"):
        headers.fields(block)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0), (" 120 ", 120.0), ("0", 0.0), ("-1", None), ("1.5", None), ("", None), ("soon", None),
        ("9" * 30, None), ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0), ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:13:30 GMT", None),
    ],
)
def test_retry_after(value, seconds):
    assert headers.retry_after_s(value, 1_700_000_000.0) == seconds
