"""Replies, in both protocols; read back by the parser that redis-py uses."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec import resp_reply

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def read(raw: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(raw)
    value = reader.gets()
    assert reader.gets() is False, "one value, nothing after it"
    return value


def in_resp2(value: Any) -> Any:
    """What is left of a value where maps and booleans do not exist."""
    if isinstance(value, dict):
        return [part for key, entry in value.items() for part in (key.encode(), in_resp2(entry))]
    if isinstance(value, list):
        return [in_resp2(entry) for entry in value]
    return int(value) if isinstance(value, bool) else value


def in_resp3(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.encode(): in_resp3(entry) for key, entry in value.items()}
    return [in_resp3(entry) for entry in value] if isinstance(value, list) else value


@given(VALUE)
def test_any_value_is_read_back_in_resp2(value: Any) -> None:
    assert read(resp_reply.encode(value, 2)) == in_resp2(value)


@given(VALUE)
def test_any_value_is_read_back_in_resp3(value: Any) -> None:
    assert read(resp_reply.encode(value, 3)) == in_resp3(value)


@pytest.mark.parametrize(("protocol", "wire"), [(2, b"$3\r\n1.5\r\n"), (3, b",1.5\r\n")])
def test_double(protocol: int, wire: bytes) -> None:
    assert resp_reply.encode(1.5, protocol) == wire


def test_error_stays_on_one_line() -> None:
    text = "UNAVAILABLE disk\r\n+OK\r\nfull: not stored"

    assert resp_reply.error(text) == b"-UNAVAILABLE disk +OK full: not stored\r\n"


def test_error_text_is_bounded() -> None:
    assert len(resp_reply.error("x" * 100_000)) < 1100


@pytest.mark.parametrize(("protocol", "wire"), [(2, b"*2\r\n+RO\r\n$1\r\nx\r\n"), (3, b"~2\r\n+RO\r\n$1\r\nx\r\n")])
def test_set_of_words(protocol: int, wire: bytes) -> None:
    assert resp_reply.encode(resp_reply.Unordered([resp_reply.Status("RO"), "x"]), protocol) == wire
