"""Filters of replays: what they mean, and that what is wrong is shown where it is."""

from __future__ import annotations

import pytest

from pbus.core.replay_filter import DEEPEST, FilterError, Job, parse

JOB = Job(
    "1000-0", "gift", "credit", b'{"uid": 88123, "vip": false, "items": [{"sku": "a b"}], "big": 12345678901234567890}',
    error="connect timeout after 5 s", reason="failed", fingerprint="00ff", attempts=3, crashes=0, key="k",
    content_type="application/json", age_s=7200.0,
)


@pytest.mark.parametrize("text", [
    "", "  ", "attempts = 3", "attempts == 3 and crashes = 0", "attempts>=3", "not attempts > 3", "error ~ timeout",
    "error ~ 'timeout after'", 'reason in (timeout, "failed")', "$.uid = 88123", "$.uid in (1, 88123)",
    "$.items.0.sku = 'a b'", "not $.vip", "$.nothing != 5", "age > 1h", "age <= 2h", "size > 10", "group = 00ff",
    "attempts = 1 or attempts = 3", "attempts = 3 and (reason = x or key = k)", "NOT error ~ x AND key = k",
    "$.big = 12345678901234567890", "error !~ refused", "$.items.1.sku != x", "body ~ '\"uid\": 88'", "queue < z",
])
def test_expression_means_the_job(text: str) -> None:
    assert parse(text)(JOB)


@pytest.mark.parametrize("text", [
    "attempts = 4", "$.nothing", "$.nothing = ''", "$.nothing < 5", "$.vip", "crashes", "error ~ TIMEOUT",
    "$.big = 12345678901234567891", "age < 1h", "not (attempts = 3)", "attempts = 3 and reason = x", "$.uid.x = 1",
    "attempts = 1 or attempts = 2 and key = k", "$.uid in (1, 2)",
])
def test_expression_does_not_mean_the_job(text: str) -> None:
    assert not parse(text)(JOB)


@pytest.mark.parametrize(("text", "at", "said"), [
    ("attempts >=", 12, "expected a value"),
    ("atempts > 1", 1, "there is no field 'atempts'; fields: id queue"),
    ("error ~ 'open", 9, "this text has no end"),
    ("(attempts = 3", 14, "expected ')' for the '(' of character 1"),
    ("attempts = 3 key = k", 14, "expected 'and', 'or' or the end, not 'key'"),
    ("attempts = 3 and", 17, "expected a field"),
    ("reason in failed", 11, "expected '(' after 'in'"),
    ("reason in (a b)", 14, "expected ',' or ')'"),
    ("$uid = 1", 1, "a value of the body is $.name"),
    ("attempts = and", 12, "expected a value, not the word 'and'"),
    ("attempts ! 3", 10, "nothing begins with '!'"),
    ("= 3", 1, "expected a field"),
])
def test_what_is_wrong_is_shown_where_it_is(text: str, at: int, said: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)

    first, shown, mark = str(caught.value).split("\n")
    assert first.startswith(f"filter, character {at}: ")
    assert said in first
    assert (shown, mark) == (f"  {text}", " " * (1 + at) + "^")


def test_an_expression_is_neither_endless_nor_bottomless() -> None:
    for text in ("(" * 10_000, "not " * (DEEPEST + 1) + "key", "x" * 5000, "(" * (DEEPEST + 1) + "key"):
        with pytest.raises(FilterError):
            parse(text)


def test_a_body_that_is_no_json_has_no_values() -> None:
    job = Job("1-0", "gift", "credit", b"\xff{")

    assert not parse("$.uid = 1")(job)
    assert parse("$.uid != 1 and size = 2")(job)
