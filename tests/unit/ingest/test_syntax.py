"""The syntax of a command as argument specifications."""

from __future__ import annotations

import pytest

from pbus.ingest.syntax import Argument, parse


def test_values_are_named_by_their_words() -> None:
    assert parse("queue start n seconds") == (
        Argument("queue", "key"), Argument("start", "string"), Argument("n", "integer"), Argument("seconds", "double"),
    )


def test_what_is_repeated_is_one_argument() -> None:
    assert parse("queue body [body ...]") == (Argument("queue", "key"), Argument("body", "string", multiple=True))
    assert parse("[section [section ...]]") == (Argument("section", "string", optional=True, multiple=True),)


def test_capitals_belong_to_what_follows_them() -> None:
    assert parse("[COUNT n] [NOACK]") == (
        Argument("n", "integer", "COUNT", optional=True), Argument("noack", "pure-token", "NOACK", optional=True),
    )
    assert parse("GROUP topic consumer STREAMS queue [queue ...] id [id ...]") == (
        Argument("topic-consumer", "block", "GROUP", parts=(
            Argument("topic", "string"), Argument("consumer", "string"),
        )),
        Argument("queue-id", "block", "STREAMS", parts=(
            Argument("queue", "key", multiple=True), Argument("id", "string", multiple=True),
        )),
    )


def test_marks_take_nothing_along() -> None:
    assert parse("queue * BODY body") == (
        Argument("queue", "key"), Argument("*", "pure-token", "*"), Argument("body", "string", "BODY"),
    )


def test_choices_are_told_apart() -> None:
    assert parse("<id | $> [<COUNT | LIST> [n]]") == (
        Argument("id-or-$", "oneof", parts=(Argument("id", "string"), Argument("$", "pure-token", "$"))),
        Argument("count-or-list-n", "block", optional=True, parts=(
            Argument("count-or-list", "oneof", parts=(
                Argument("count", "pure-token", "COUNT"), Argument("list", "pure-token", "LIST"),
            )),
            Argument("n", "integer", optional=True),
        )),
    )


@pytest.mark.parametrize("text", ["[queue", "queue]", "<a | b", "a | b", "[]", "<a | >", "<a ] b>"])
def test_brackets_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of its texts
        parse(text)
