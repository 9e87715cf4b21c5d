"""Chance that can be replayed."""

from __future__ import annotations

import os

import pytest

from tests.support import seeds
from tests.support.mix import draw

SHARES = {"delay": 0.3, "ttl": 0.3, "key": 0.3, "dedupe": 0.5, "failing": 0.2, "doomed": 0.1, "slow": 0.2, "again": 0.5}


def drawn(name: str) -> list[object]:
    chance = seeds.generator("producer", name)
    return [draw(chance, SHARES, f"{name}-{number}") for number in range(50)]


def test_same_seed_draws_the_same_pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(seeds.VARIABLE, "4711")
    first, other = drawn("one"), drawn("two")
    assert drawn("one") == first
    assert [str(wish).replace("two", "one") for wish in other] != [str(wish) for wish in first]
    monkeypatch.setenv(seeds.VARIABLE, "4712")
    assert drawn("one") != first


def test_seed_that_nobody_gave_is_drawn_once_and_left_for_the_processes_of_the_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(seeds.VARIABLE, raising=False)
    seed = seeds.fix()
    assert seeds.fix() == seed
    assert os.environ[seeds.VARIABLE] == str(seed)


def test_pushes_carry_what_was_drawn_and_nothing_else() -> None:
    wish = draw(seeds.generator("all"), dict.fromkeys(SHARES, 1.0), "k.1-7", "sleep=1")
    assert sorted(wish.options) == ["dedupe", "delay", "key", "ttl"]
    assert wish.options["dedupe"] == "once-k.1-7"
    assert wish.orders.split()[0] == "sleep=1"
    assert draw(seeds.generator("none"), {}, "k") == draw(seeds.generator("other"), {"key": 0.0}, "k")
