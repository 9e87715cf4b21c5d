"""Words of a shell, given to a real one."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.core.shell import assigned, printing, variable, word, words

NASTY = ["a b", "it's", "$(touch x)", "`x`", '"', "\\", "!", "*", "", "-n", "\u795d", "\x1b[31m", "\u202e", "a\nb"]


def said(line: str, **environment: str) -> bytes:
    clean = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(["sh"], input=line.encode(), capture_output=True, check=True, env=clean).stdout  # any length


@pytest.mark.parametrize("text", NASTY)
def test_a_word_is_what_it_was(text: str) -> None:
    assert said(f"printf '<%s>' {word(text)}") == f"<{text}>".encode()


def test_nothing_that_a_terminal_would_obey_is_in_a_line() -> None:
    line = words(NASTY) + printing("\x1b\u202e\u200b".encode())
    assert line.isprintable()


BODIES = [b"", b"%s%d\\n", b"a\n\n", b"\0\xff\r\n", b"-e x", "\u795d '$x'".encode(), bytes(range(256)) * 900]


@pytest.mark.parametrize("data", BODIES)
def test_a_printed_body_is_the_same_bytes(data: bytes) -> None:
    assert said(printing(data)) == data
    assert said(printing(data, ascii_only=True)) == data
    assert printing(data, ascii_only=True).isascii()


@settings(max_examples=20)
@given(st.binary(max_size=60))
def test_any_bytes_are_printed_as_they_are(data: bytes) -> None:
    assert said(printing(data)) == data


def test_a_secret_comes_from_a_variable() -> None:
    assert variable("X-Api-Key") == "PBUS_X_API_KEY"
    line = f"printf %s {assigned('X-Api-Key: ', 'X-Api-Key')}"
    assert said(line, PBUS_X_API_KEY="it's $x") == b"X-Api-Key: it's $x"
