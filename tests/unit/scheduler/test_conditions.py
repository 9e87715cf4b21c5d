"""Conditions: what a node says of itself fits into a document, and when its code changed."""

from __future__ import annotations

from pbus.clock import FakeClock
from pbus.scheduler.conditions import Condition, Conditions, _read
from pbus.storage.documents import TEXT_BYTES


def test_code_that_changed_is_noted_and_what_there_was_before_is_not() -> None:
    clock = FakeClock()
    conditions = Conditions("n1", "b1", clock)
    conditions.hear({"topics": {}, "codes": {"gift/credit": 2}})
    clock.advance(5.0)
    conditions.hear({"topics": {}, "codes": {"gift/credit": 2, "gift/mail": 1}})

    assert conditions.deployed_s == {"gift/mail": clock.wall_s()}


def test_a_deploy_is_new_code_of_its_topics() -> None:
    clock = FakeClock()
    conditions = Conditions("n1", "b1", clock)
    conditions.hear_of_deploy({"topics": ["gift/credit"]})

    assert conditions.deployed_s == {"gift/credit": clock.wall_s()}


def test_condition_comes_back_as_it_was() -> None:
    told = Condition("n1", "b1", {"gift/credit": ("fatal", "it ends")}, {"php": "unix:/x: refused"},
                     callers={"php": ["gift/credit"]})

    assert _read("n1", told.to_text()) == told
    assert [_read("n1", text) for text in ("", "[]", "{}", '{"boot": 1, "stopped": 2, "circuits": {}}')] == [None] * 4


def test_condition_with_a_thousand_topics_fits_and_tells_the_fatal_ones() -> None:
    stopped = {
        f"{'q' * 60}/{'t' * 60}{number}": ("fatal" if number % 10 else "down", "r" * 200) for number in range(1000)
    }
    text = Condition("n1", "b1", stopped).to_text()
    told = _read("n1", text)

    assert len(text) < TEXT_BYTES
    assert told is not None
    assert {state for state, _ in told.stopped.values()} == {"fatal"}
