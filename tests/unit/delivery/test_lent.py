"""Connections that an older delivery child still has are not given out again by the one that takes over."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.config import schema
from pbus.delivery.backends import Backends
from pbus.delivery.lent import Lent
from pbus.delivery.news import News

PLACE = "127.0.0.1:9000"


class Side:
    """One delivery child, as far as that goes."""

    def __init__(self, n: int, living: set[int], most: int = 4) -> None:
        self.told: list[dict[str, Any]] = []
        self.news = News(lambda _, **fields: self.told.append(fields))
        self.backends = Backends(
            {"b": schema.Backend(fastcgi=[PLACE], max_connections=most)}, processes=1, index=0, clock=FakeClock(),
            news=self.news,
        )
        (self.address,) = next(iter(self.backends)).addresses
        self.lent = Lent(n, self.backends, self.news, lambda total: total, lambda: living)


@pytest.fixture
def living() -> set[int]:
    return {7, 9}


def test_the_younger_one_has_what_the_older_one_has_given_back(living: set[int]) -> None:
    old, young = Side(7, living), Side(9, living)
    for taken, limit in ((3, 1), (1, 3), (0, 4)):
        old.address.taken = taken
        old.lent.tell()
        young.news.hear(old.told[-1])
        assert young.address.limit == limit


def test_what_has_not_changed_is_told_once(living: set[int]) -> None:
    old = Side(7, living)
    for _ in range(3):
        old.lent.tell()
    assert old.told == [{"about": ["lent", "7"], "taken": {}}], "and nothing is worth a word, too"


def test_who_has_died_has_nothing_any_more(living: set[int]) -> None:
    young = Side(9, living)
    young.news.hear({"about": ["lent", "7"], "taken": {PLACE: 4}})
    young.lent.look()
    assert young.address.limit == 0
    living.discard(7)
    young.lent.look()
    assert young.address.limit == 4


def test_of_younger_ones_nobody_takes_account(living: set[int]) -> None:
    old = Side(7, living)
    old.news.hear({"about": ["lent", "9"], "taken": {PLACE: 4}})
    assert old.address.limit == 4


def test_what_nobody_bounds_is_not_counted(living: set[int]) -> None:
    old = Side(7, living, most=0)
    old.address.taken = 3
    old.lent.tell()
    assert old.told[-1]["taken"] == {}


def test_who_takes_over_waits_for_the_living_not_for_what_a_dead_one_told(living: set[int]) -> None:
    young = Side(9, living)
    young.news.hear({"about": ["lent", "5"], "taken": {}})
    assert not young.lent.heard
    young.news.hear({"about": ["lent", "7"], "taken": {PLACE: 3}})
    assert young.lent.heard
