"""Ids and intervals of streams, as Redis reads them."""

from __future__ import annotations

import pytest

from pbus.codec.stream_ids import FIRST, INVALID, LARGEST, LAST, after, before, interval, parse, written


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"1-2", (1, 2)), (b"1", (1, 7)), (b"0-0", (0, 0)), (b"18446744073709551615-18446744073709551615", LAST),
        (b"001-02", (1, 2)),
    ],
)
def test_id_is_read(text: bytes, wanted: tuple[int, int]) -> None:
    assert parse(text, 7) == wanted


@pytest.mark.parametrize(
    "text",
    [b"", b"-", b"+", b"1-", b"-1", b"a-1", b"1-b", b"1-2-3", b"1 -2", b"18446744073709551616-0", b"\xb2-1", b"1-*",
     b"+1-2", b"1_0-2", b"0" * 21 + b"-1"],
)
def test_what_is_no_id_is_refused_in_the_words_of_redis(text: bytes) -> None:
    with pytest.raises(ValueError, match=INVALID):
        parse(text)


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (b"-", b"+", (FIRST, LAST)),
        (b"5", b"5", ((5, 0), (5, LARGEST))),
        (b"(5-1", b"(7-0", ((5, 2), (6, LARGEST))),
        (b"(5", b"(5", ((5, 1), (5, LARGEST - 1))),
        (b"+", b"-", (LAST, FIRST)),
    ],
)
def test_interval_has_inclusive_ends(start: bytes, end: bytes, wanted: object) -> None:
    assert interval(start, end) == wanted


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        (b"(-", b"+", INVALID), (b"-", b"(+", INVALID), (b"x", b"+", INVALID), (b"-", b"((1", INVALID),
        (f"({LARGEST}-{LARGEST}".encode(), b"+", "ERR invalid start ID for the interval"),
        (b"-", b"(0-0", "ERR invalid end ID for the interval"),
    ],
)
def test_interval_of_nothing_sensible_is_refused(start: bytes, end: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        interval(start, end)


def test_neighbours_of_an_id() -> None:
    assert before((5, 0)) == (4, LARGEST)
    assert before((5, 3)) == (5, 2)
    assert after((4, LARGEST)) == (5, 0)
    assert after((5, 2)) == (5, 3)
    assert written((5, 2)) == "5-2"
