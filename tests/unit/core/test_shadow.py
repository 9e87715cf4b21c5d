"""What counts as a difference between a topic and its shadow, and what is kept of many."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.shadow import (
    BODY_BYTES, EXAMPLES, HALF_BYTES, RATIOS, Half, Tally, differences, half_of, normalised, steps_of, tally_of,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def answer(body: bytes | Any = b"", *, done: bool = True, verdict: str = "", code: str = "200", run_s: float = 0.01,
           ignore: str = "") -> Half:
    output = body if isinstance(body, bytes) else json.dumps(body).encode()
    word = verdict or ("done" if done else "failed")
    return half_of(done, word, code, run_s, output, [steps_of(ignore)] if ignore else ())


def told(real: Half, shadow: Half) -> list[tuple[str, str, str]]:
    return [(each.what, each.path, each.text) for each in differences(real, shadow)]


def shuffled(value: Any) -> Any:
    """The same JSON with its keys the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(each) for each in value] if isinstance(value, list) else value


@given(JSON)
def test_body_is_the_same_in_any_order_and_layout(value: Any) -> None:
    one = json.dumps(value).encode()
    other = json.dumps(shuffled(value), indent=3, ensure_ascii=False).encode("utf-8", "surrogatepass")

    assert normalised(one) == normalised(other)
    assert normalised(normalised(one).encode()) == normalised(one)


@given(JSON, JSON)
def test_bodies_that_mean_something_else_differ_and_say_where(one: Any, other: Any) -> None:
    real, shadow = answer(one), answer(other)
    found = differences(real, shadow)

    assert bool(found) == (normalised(json.dumps(one).encode()) != normalised(json.dumps(other).encode()))
    assert all(each.what == "body" and each.text for each in found)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_bodies_that_are_no_json_are_compared_as_they_are(one: bytes, other: bytes) -> None:
    one, other = b"<" + one, b"<" + other

    assert bool(differences(answer(one), answer(other))) == (one != other)


@given(JSON | st.binary(max_size=3 * BODY_BYTES), st.text(max_size=100))
def test_half_is_bounded_and_survives_the_store(body: Any, code: str) -> None:
    half = answer(body, code=code)
    text = half.to_text()

    assert len(text.encode()) <= HALF_BYTES
    assert Half.read(text) == half or half.run_ms != round(half.run_ms, 3)


@pytest.mark.parametrize("body", [b'"' * BODY_BYTES, b"\x00" * BODY_BYTES, "ü".encode() * BODY_BYTES, b"<" * 60_000])
def test_half_of_the_worst_body_is_bounded(body: bytes) -> None:
    assert len(answer(body).to_text().encode()) <= HALF_BYTES


@pytest.mark.parametrize("text", ["", "{}", "[1]", "nonsense", "null", '[true, "done", "200", "x", "", ""]'])
def test_half_that_nobody_can_read_is_none(text: str) -> None:
    assert Half.read(text) is None


@pytest.mark.parametrize(("real", "shadow", "path"), [
    ({"a": 1}, {"a": 2}, "$.a"), ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "$.a[1].b"), ({}, {"x": 1}, "$.x"),
    ([1], [1, 2], "$[1]"), ({"a": True}, {"a": 1}, "$.a"), ("x", "y", "$"), ({"a": None}, {}, "$.a"),
])
def test_first_place_that_differs_is_named(real: Any, shadow: Any, path: str) -> None:
    ((what, place, _),) = told(answer(real), answer(shadow))

    assert (what, place) == ("body", path)


def test_numbers_are_what_they_are_worth() -> None:
    assert told(answer(b'{"a": 1.0, "b": 1e2}'), answer(b'{"b": 100, "a": 1}')) == []
    assert told(answer(b'{"a": 1e999}'), answer(b'{"a": 1e998}')) != []


def test_ignored_paths_do_not_count() -> None:
    one, other = {"time": 1, "rows": [{"at": 1, "v": 2}]}, {"time": 2, "rows": [{"at": 9, "v": 2}]}

    assert [place for _, place, _ in told(answer(one), answer(other))] == ["$.rows[0].at"]
    assert told(answer(one, ignore="$.time"), answer(other, ignore="$.time"))[0][1] == "$.rows[0].at"
    both = [steps_of("$.time"), steps_of("$.rows[*].at")]
    halves = [half_of(True, "done", "200", 0.1, json.dumps(each).encode(), both) for each in (one, other)]
    assert differences(*halves) == []


def test_outcome_and_code_differ_apart_and_errors_have_no_body() -> None:
    done, failed = answer({"a": 1}), answer({"a": 2}, done=False, code="500")

    assert [what for what, *_ in told(done, failed)] == ["outcome", "code"]
    assert told(failed, answer(b"another page", done=False, code="500")) == []
    assert told(answer(done=False, verdict="timeout", code=""), answer(done=False, code="500")) == []


def test_handler_without_an_answer_is_compared_by_its_outcome() -> None:
    assert told(answer({"a": 1}), answer(code="")) == []
    assert told(answer({"a": 1}), answer(b"")) == [("body", "$", "the shadow's is empty")]


def test_long_body_differs_without_a_place() -> None:
    real, shadow = answer({"a": "x" * BODY_BYTES}), answer({"a": "y" * BODY_BYTES})

    ((what, place, text),) = told(real, shadow)
    assert (what, place) == ("body", "")
    assert str(BODY_BYTES) in text


def test_deep_bodies_are_no_danger() -> None:
    deep = b"[" * 50_000 + b"]" * 50_000

    assert told(answer(deep), answer(deep)) == []
    differences(answer(b"[" * 900 + b"1" + b"]" * 900), answer(b"[" * 900 + b"2" + b"]" * 900))


def test_tally_counts_jobs_and_keeps_the_last_examples() -> None:
    tally = Tally()
    for number in range(30):
        tally.add(f"{number}-0", answer({"a": 1}), answer({"a": number % 2}, run_s=0.02))

    assert (tally.compared, tally.differ, tally.by) == (30, 15, {"body": 15})
    assert [each.id for each in tally.examples] == [f"{number}-0" for number in range(10, 30, 2)]
    assert tally.ratio(0.5) == pytest.approx(2.0, rel=0.13)


def test_tally_survives_the_store_and_adds_up() -> None:
    one, other = Tally(skipped=2), Tally()
    one.add("1-0", answer({"a": 1}), answer({"a": 2}))
    other.add("2-0", answer(), answer(done=False, code="500"))
    read = tally_of(one.to_text())

    assert read == one
    both = read.plus(tally_of(other.to_text()))
    assert (both.compared, both.differ, both.skipped) == (2, 2, 2)
    assert both.by == {"body": 1, "outcome": 1, "code": 1}
    assert [each.id for each in both.examples] == ["1-0", "2-0"]
    assert tally_of("nonsense") == tally_of("[]") == Tally()


def test_tally_of_the_worst_is_a_small_document() -> None:
    tally = Tally(ratios=dict.fromkeys(range(len(RATIOS) + 1), 10**9))
    for number in range(2 * EXAMPLES):
        real, shadow = answer({"\u0000" * 300: "\u0000" * 300}), answer({"b" * 3000: "c" * 90}, code="x" * 90)
        tally.add(f"{number}-0", real, shadow)

    assert len(tally.to_text()) < 64 * 1024


def test_ratio_of_nothing_is_not_known() -> None:
    assert Tally().ratio(0.9) is None
    assert Tally(ratios={0: 1}).ratio(0.5) == 0.01
    assert Tally(ratios={len(RATIOS): 1}).ratio(0.5) == 100.0
