"""The parts of the autoscaler: fair shares, pace, what the work is like, the cost of a thousand topics."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pbus.core.autoscale import State, decide
from pbus.core.autoscale_demand import Work, learn
from pbus.core.autoscale_pace import Pace, PacePolicy, follow
from pbus.core.autoscale_shares import Claim, shares
from pbus.core.autoscale_terms import NodeSample, TopicRules, TopicSample

POLICY = PacePolicy()

claims = st.lists(
    st.builds(Claim, path=st.text("abcdef", min_size=1, max_size=4), least=st.integers(0, 5), wanted=st.integers(0, 60),
              cost=st.sampled_from([0.0, 0.25, 1.0, 3.0]), weight=st.integers(1, 9), system=st.sampled_from("xy"),
              system_weight=st.just(1)),
    max_size=8, unique_by=lambda claim: claim.path,
)


@given(claims, st.floats(0, 200))
def test_shares_stay_between_least_and_wanted_and_within_the_budget(wants: list[Claim], budget: float) -> None:
    given_ = shares(wants, budget)

    least = sum(claim.least * claim.cost for claim in wants)
    assert all(claim.least <= given_[claim.path] <= max(claim.least, claim.wanted) for claim in wants)
    assert sum(given_[claim.path] * claim.cost for claim in wants) <= max(budget, least) + 1e-6


@given(claims, st.floats(0, 200))
def test_nothing_is_left_that_somebody_could_use(wants: list[Claim], budget: float) -> None:
    given_ = shares(wants, budget)

    left = budget - sum(given_[claim.path] * claim.cost for claim in wants)
    assert not [claim for claim in wants if given_[claim.path] < claim.wanted and claim.cost <= left - 1e-6]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 300))
def test_two_that_want_everything_get_it_by_weight(one: int, other: int, budget: int) -> None:
    given_ = shares([Claim(path="a", least=0, wanted=1000, weight=one),
                     Claim(path="b", least=0, wanted=1000, weight=other)], budget)

    assert sum(given_.values()) == budget
    assert abs(given_["a"] / one - given_["b"] / other) <= 1 / min(one, other) + 1e-9


def test_who_wants_little_leaves_the_rest_to_the_others() -> None:
    given_ = shares([Claim(path="a", least=1, wanted=3, weight=9), Claim(path="b", least=1, wanted=50)], 20)

    assert given_ == {"a": 3, "b": 17}


# -- pace -----------------------------------------------------------------------------------------------


def paced(needs: list[float], pace: Pace) -> list[int]:
    wanted = []
    for second, need in enumerate(needs):
        pace = follow(pace, need, float(second), POLICY)
        wanted.append(pace.wanted)
    return wanted


def test_a_large_rise_is_followed_at_once_and_a_small_one_after_the_cool_down() -> None:
    assert paced([10.0], Pace(wanted=4, changed_s=0.0)) == [10]
    assert paced([10.6] * 4, Pace(wanted=10, changed_s=0.0)) == [10, 10, 11, 11]


def test_a_rise_is_no_more_than_sixteen_or_twice_as_many_a_tick() -> None:
    assert paced([500.0] * 6, Pace(wanted=1)) == [17, 34, 68, 136, 272, 500]


def test_what_was_needed_lately_is_kept_and_then_goes_in_steps() -> None:
    wanted = paced([20.0] + [0.5] * 45, Pace(wanted=21))

    assert set(wanted[:15]) == {21}
    assert wanted == sorted(wanted, reverse=True)
    assert wanted[-1] == 1
    assert len(set(wanted)) >= 5


@given(st.lists(st.floats(9.6, 10.0), min_size=30, max_size=60))
def test_noise_within_the_band_changes_nothing(needs: list[float]) -> None:
    assert set(paced(needs, Pace(wanted=10))) == {10}


# -- what the work is like ------------------------------------------------------------------------------


def test_a_second_surprise_in_the_same_direction_is_believed() -> None:
    work = Work(arrivals_per_s=10.0, service_s=0.02)

    once = learn(work, TopicSample(arrivals_per_s=800.0), 1.0)
    twice = learn(once, TopicSample(arrivals_per_s=790.0), 1.0)

    assert once.arrivals_per_s < 200
    assert twice.arrivals_per_s == 790.0


def test_batches_every_other_second_are_taken_for_their_mean() -> None:
    work = Work(arrivals_per_s=500.0)
    for second in range(40):
        work = learn(work, TopicSample(arrivals_per_s=1000.0 * (second % 2)), 1.0)

    assert 400 < work.arrivals_per_s < 600


def test_one_slow_job_weighs_less_than_a_thousand() -> None:
    work = Work(service_s=0.02)

    one = learn(work, TopicSample(done_per_s=1.0, service_s=2.0), 1.0)
    thousand = learn(work, TopicSample(done_per_s=1000.0, service_s=2.0), 1.0)

    assert one.service_s is not None
    assert thousand.service_s is not None
    assert one.service_s < 0.1
    assert thousand.service_s > 1.8


# -- cost -----------------------------------------------------------------------------------------------


def test_a_thousand_topics_of_which_twenty_are_busy_cost_little() -> None:
    """It is one of several things that happen each second; a hundredth of a core is for all of them."""
    rules = {f"q/{number}": TopicRules(least=1, most=32) for number in range(1000)}
    idle = TopicSample(places=1)
    busy = TopicSample(arrivals_per_s=100.0, done_per_s=100.0, service_s=0.05, running=5, places=5)
    topics = {path: replace(busy) if number < 20 else idle for number, path in enumerate(rules)}
    state, spent_s = State(), []
    gc.collect()
    for second in range(60):
        begun_s = time.process_time()
        state, _ = decide(state, rules, NodeSample(at_s=float(second), topics=topics))
        spent_s.append(time.process_time() - begun_s)

    assert sorted(spent_s)[30] < 0.01
