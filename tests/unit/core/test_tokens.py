"""A token is good for the process it was made for, and for nobody who cannot make one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core import tokens
from pbus.core.names import Owner

KEY = b"k" * 32
OWNER = Owner("bus-1", "b7", 3, 12)


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_a_token_says_what_it_was_made_for(kind: str) -> None:
    assert tokens.read(KEY, tokens.make(KEY, kind, OWNER, "gift/credit")) == tokens.Token(kind, OWNER, "gift/credit")


def test_a_token_of_another_master_is_none() -> None:
    assert tokens.read(KEY, tokens.make(b"other", tokens.PUSH, OWNER, "gift/credit")) is None


def test_a_pepper_token_cannot_be_turned_into_one_that_pushes() -> None:
    text = tokens.make(KEY, tokens.PEPPER, OWNER, "gift/credit")
    assert tokens.read(KEY, text.replace("pepper:", "push:", 1)) is None


@given(st.text(max_size=200))
def test_any_other_text_is_no_token(text: str) -> None:
    assert tokens.read(KEY, text) is None


@given(st.integers(0, 120), st.characters(codec="ascii"))
def test_a_changed_character_is_no_token(place: int, character: str) -> None:
    text = tokens.make(KEY, tokens.PUSH, OWNER, "gift/credit")
    changed = text[:place] + character + text[place + 1 :]
    assert changed == text or tokens.read(KEY, changed) is None
