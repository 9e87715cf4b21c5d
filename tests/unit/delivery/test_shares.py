"""Fair queueing of seats: by weight, by time, and nobody waits for ever."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.delivery.shares import Flow, Shares

ANYWHERE = "unix:/a"


class Simulation:
    """So many seats; each flow always has as many callers as it has slots, and each of its calls takes its time."""

    def __init__(self, seats: int) -> None:
        self.shares = Shares()
        self.free = seats
        self.now_s = 0.0
        self.used_s: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._runs: dict[str, float] = {}
        self._ends: list[tuple[float, int, Flow, float]] = []
        self._number = 0

    def topic(self, path: str, slots: int, run_s: float = 0.01, **weights: Any) -> None:
        flow = self.shares.join(path, **weights)
        self._runs[path] = run_s
        for _ in range(slots):
            self.shares.add(flow, object(), self.now_s)

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            while self.free and (found := self.shares.next(ANYWHERE)) is not None:
                flow = found[0]
                self.shares.began(flow)
                self.free -= 1
                self._number += 1
                heapq.heappush(self._ends, (self.now_s + self._runs[flow.path], self._number, flow, self.now_s))
            self.now_s, _, flow, since_s = heapq.heappop(self._ends)
            self.shares.ended(flow, since_s, self.now_s)
            self.free += 1
            self.used_s[flow.path] += self.now_s - since_s
            self.calls[flow.path] += 1
            self.shares.add(flow, object(), self.now_s)


def test_equal_topics_get_equal_parts_however_many_callers_one_has():
    it = Simulation(3)
    it.topic("a/flood", 50)
    for name in "bcd":
        it.topic(f"{name}/calm", 3)
    it.run(30.0)
    assert min(it.calls.values()) > 0.95 * max(it.calls.values())


def test_flooding_system_leaves_the_others_their_part():
    it = Simulation(4)
    for number in range(8):
        it.topic(f"flood/{number}", 8, system="flood")
    for name in ("one", "two", "three"):
        it.topic(f"{name}/topic", 8, system=name)
    it.run(30.0)
    fair_s = 4 * 30.0 / 4
    assert all(it.used_s[f"{name}/topic"] > 0.9 * fair_s for name in ("one", "two", "three"))


def test_weights_of_systems_and_topics_are_the_parts_they_get():
    it = Simulation(2)
    it.topic("a/x", 4, system="a", system_weight=3, weight=1)
    it.topic("a/y", 4, system="a", system_weight=3, weight=2)
    it.topic("b/z", 4, system="b")
    it.run(60.0)
    total_s = sum(it.used_s.values())
    assert it.used_s["a/x"] / total_s == pytest.approx(0.25, abs=0.03)
    assert it.used_s["a/y"] / total_s == pytest.approx(0.5, abs=0.03)
    assert it.used_s["b/z"] / total_s == pytest.approx(0.25, abs=0.03)


def test_slow_calls_get_no_more_time_than_fast_ones():
    it = Simulation(2)
    it.topic("a/slow", 8, run_s=0.5)
    it.topic("b/fast", 8, run_s=0.005)
    it.run(60.0)
    assert it.used_s["b/fast"] > 0.8 * it.used_s["a/slow"]


def test_one_that_used_what_nobody_wanted_owes_nothing():
    shares = Shares()
    busy, late = shares.join("a/x"), shares.join("b/y")
    shares.began(busy)
    served = []
    for number in range(20):
        shares.add(busy, f"a{number}", 1000.0)
        shares.add(late, f"b{number}", 1000.0)
    shares.ended(busy, 0.0, 1000.0)  # a thousand seconds, in the last of which others came
    for number in range(20):
        flow, _ = shares.next(ANYWHERE) or pytest.fail("somebody waits")
        served.append(flow.path)
        shares.began(flow)
        shares.ended(flow, 1000.0 + number, 1001.0 + number)
    assert Counter(served) == {"a/x": 10, "b/y": 10}


def test_one_that_comes_late_has_saved_nothing_up():
    it = Simulation(1)
    it.topic("a/x", 4)
    it.topic("b/y", 4)
    it.run(20.0)
    it.topic("c/late", 4)
    it.calls.clear()
    it.run(3.0)
    assert it.calls["c/late"] <= 1.2 * it.calls["a/x"]
    assert it.calls["a/x"] <= 1.2 * it.calls["c/late"]


def test_seats_go_only_where_a_topic_is_taken():
    shares = Shares()
    here, there = shares.join("a/x"), shares.join("b/y")
    here.shut.add("unix:/there")
    shares.add(here, "first", 0.0)
    assert shares.next("unix:/there") is None
    shares.add(there, "second", 0.0)
    assert shares.next("unix:/there") == (there, "second")
    assert shares.next("unix:/here") == (here, "first")


def test_callers_of_a_topic_are_served_in_turn_and_may_leave():
    shares = Shares()
    flow = shares.join("a/x")
    for caller in "abcd":
        shares.add(flow, caller, 0.0)
    assert shares.remove(flow, "b")
    assert not shares.remove(flow, "b")
    assert shares.next(ANYWHERE) == (flow, "a")
    assert shares.withdraw(flow) == ["c", "d"]
    assert (shares.waiting, shares.next(ANYWHERE)) == (0, None)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 6), st.floats(0.001, 0.5), st.integers(1, 5), st.integers(0, 2)), min_size=2,
             max_size=6),
)
def test_nobody_who_waits_starves(seats, topics):
    it = Simulation(seats)
    for number, (slots, run_s, weight, system) in enumerate(topics):
        it.topic(f"q/{number}", slots, run_s, weight=weight, system=f"s{system}", system_weight=1 + system)
    it.run(20.0)
    weights = sum(weight for _, _, weight, _ in topics)
    least_s = seats * 20.0 / 6 / weights / 4
    longest_s = max(run_s for _, run_s, _, _ in topics)
    for number, (slots, run_s, *_) in enumerate(topics):
        # Who asks again when its call has ended, with one caller, waits for a seat that somebody else has meanwhile.
        its_turn_each_time_s = slots * 20.0 / (longest_s + run_s) * run_s
        assert it.used_s[f"q/{number}"] > min(least_s, slots * 20.0 / 4, its_turn_each_time_s) - run_s - 0.5
