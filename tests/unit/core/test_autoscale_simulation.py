"""The autoscaler in simulation: a step, a backend that is full, noise, and what must never happen on the way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from pbus.core.autoscale_simulation import Farm, Load, Outcome, arrivals, recorded, simulate
from pbus.core.autoscale_terms import Limit, TopicRules, TopicSample

CATCH_UP_S = 10.0
NEEDED = 16
"""Handlers of 20 ms that do 800 jobs/s."""
CALM_S, LOAD_S = 30.0, 60.0
WIDE = TopicRules(least=1, most=64, catch_up_s=CATCH_UP_S)


def work(*loads: Load, seed: int = 1) -> list[tuple[float, float]]:
    return list(arrivals(loads, random.Random(seed).random))


def turns(numbers: Sequence[int]) -> int:
    """Changes of direction."""
    steps = [after - before for before, after in itertools.pairwise(numbers) if after != before]
    return sum(one * two < 0 for one, two in itertools.pairwise(steps))


def changes(numbers: Sequence[int]) -> int:
    return sum(before != after for before, after in itertools.pairwise(numbers))


class Step:
    """10 jobs/s, then as many as 16 handlers can do, then 10 again. *phase_s*: the step comes so long after a tick."""

    def __init__(self, phase_s: float, farm: Farm, spread: float, is_even: bool, seed: int) -> None:
        low = {"per_s": 10.0, "service_s": 0.02, "spread": spread, "is_even": is_even}
        self.begin_s = CALM_S + phase_s
        self.end_s = self.begin_s + LOAD_S
        jobs = work(Load(for_s=self.begin_s, **low), Load(for_s=LOAD_S, **{**low, "per_s": 800.0}),
                    Load(for_s=70.0, **low), seed=seed)
        self.run = simulate(jobs, WIDE, self.end_s + 65.0, farm=farm)

    @property
    def wanted_under_load(self) -> list[int]:
        return [m.decision.wanted for m in self.run.moments if self.begin_s < m.at_s <= self.end_s]

    @property
    def normal_after_s(self) -> float:
        """Until no more wait than one for each handler, or until the tick that sees it."""
        return next(m.at_s for m in self.run.moments
                    if m.at_s > self.begin_s + 2 and m.sample.ready <= NEEDED) - self.begin_s

    @property
    def at_least_again_after_s(self) -> float:
        return next(m.at_s for m in self.run.moments if m.at_s > self.end_s and m.sample.places == 1) - self.end_s


@pytest.mark.parametrize("start_s", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("phase_s", [0.05, 0.25, 0.5, 0.75, 0.95])
def test_a_step_is_caught_up_in_time_with_little_overshoot_and_no_swinging(phase_s: float, start_s: float) -> None:
    step = Step(phase_s, Farm(start_s=start_s), spread=0.0, is_even=True, seed=1)

    assert step.normal_after_s <= CATCH_UP_S + 3
    assert max(step.wanted_under_load) <= NEEDED * 1.25
    assert turns(step.wanted_under_load) <= 2
    assert turns(step.run.wanted) <= 2
    assert step.at_least_again_after_s <= 60
    assert step.run.interrupted == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_step_by_chance_is_caught_up_too_and_nothing_swings(seed: int) -> None:
    step = Step(seed / 6, Farm(start_s=0.3, overhead_s=0.0005), spread=0.5, is_even=False, seed=seed)

    assert step.normal_after_s <= CATCH_UP_S + 4  # 3 and the tick
    assert max(step.wanted_under_load) <= NEEDED * 1.4
    assert turns(step.run.wanted) <= 2
    assert step.at_least_again_after_s <= 60


def test_time_on_the_way_to_the_handler_is_made_up_for() -> None:
    """Handlers say 20 ms, places are taken for 26: by the handlers' word alone the backlog would grow for ever."""
    jobs = work(Load(for_s=30, per_s=10, service_s=0.02), Load(for_s=60, per_s=800, service_s=0.02))

    run = simulate(jobs, WIDE, 90.0, farm=Farm(overhead_s=0.006))

    assert run.moments[-1].sample.ready <= 2 * NEEDED
    assert run.moments[-1].decision.wanted >= 21  # 800/s x 26 ms


# -- the backend is the bottleneck ----------------------------------------------------------------------


def full_backend(rules: TopicRules, seed: int, spread: float = 0.5, farm: Farm | None = None) -> Outcome:
    """A backend of 4 processes of 20 ms, and twice as many jobs as it can do."""
    jobs = work(Load(for_s=20, per_s=10, service_s=0.02, spread=spread, is_even=False),
                Load(for_s=160, per_s=400, service_s=0.02, spread=spread, is_even=False), seed=seed)
    return simulate(jobs, rules, 180.0, farm=farm or Farm(processes=4, overhead_s=0.001))


def done_late(run: Outcome) -> float:
    """Jobs done in the last two minutes."""
    return sum(moment.sample.done_per_s for moment in run.moments[60:])


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_full_backend_gets_no_more_than_it_can_use_and_does_as_much_as_with_the_best_number(
    seed: int, spread: float
) -> None:
    best = max(done_late(full_backend(TopicRules(least=n, most=n), seed, spread)) for n in (5, 6, 64))

    run = full_backend(WIDE, seed, spread)

    assert max(run.wanted[40:]) <= 6
    assert done_late(run) >= 0.95 * best
    assert changes(run.wanted[60:]) <= 12  # two for each probe, and few besides
    assert run.moments[-1].decision.limited_by is Limit.LATENCY
    assert "only slower" in run.moments[-1].decision.reason
    assert run.interrupted == 0


def test_a_listen_queue_says_the_same_at_once() -> None:
    rules = TopicRules(least=1, most=64, catch_up_s=CATCH_UP_S, backend="php")

    run = full_backend(rules, 1, farm=Farm(processes=4, overhead_s=0.001, listen_queue=True))

    assert max(run.wanted[30:]) <= 6
    assert done_late(run) >= 0.95 * done_late(full_backend(TopicRules(least=8, most=8), 1))


def test_jobs_that_take_longer_are_no_full_backend() -> None:
    """From 20 ms to 60 ms, at any number at once: what looks like a limit is found out."""
    jobs = work(Load(for_s=20, per_s=10, service_s=0.02), Load(for_s=40, per_s=200, service_s=0.02),
                Load(for_s=120, per_s=600, service_s=0.06), seed=1)

    run = simulate(jobs, TopicRules(least=1, most=80, catch_up_s=CATCH_UP_S), 180.0, farm=Farm(start_s=0.3))

    assert run.wanted[-1] >= 36
    assert run.moments[-1].sample.ready <= 50


def test_a_full_backend_that_something_else_slows_down_keeps_its_places() -> None:
    """From 20 ms to 26 ms: less throughput is no reason for fewer places, which would be less throughput again."""
    jobs = work(Load(for_s=20, per_s=10, service_s=0.02), Load(for_s=40, per_s=1500, service_s=0.02, spread=0.3),
                Load(for_s=100, per_s=1500, service_s=0.026, spread=0.3), seed=1)

    run = simulate(jobs, WIDE, 160.0, farm=Farm(processes=24, overhead_s=0.001))

    late = run.moments[70:]
    assert sum(moment.sample.done_per_s for moment in late) / len(late) >= 0.93 * 24 / 0.026
    assert sorted(moment.decision.wanted for moment in late)[len(late) // 10] >= 20
    assert sorted(moment.decision.wanted for moment in late)[-len(late) // 10] <= 36


# -- a constant load ------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_s", [3.0, 50.0, 240.0, 800.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_at_a_constant_load_with_noise_the_number_rests(seed: int, per_s: float) -> None:
    jobs = work(Load(for_s=240, per_s=per_s, service_s=0.02, spread=1.0, is_even=False), seed=seed)

    run = simulate(jobs, WIDE, 240.0, farm=Farm(start_s=0.3))

    settled = run.wanted[60:]
    assert turns(settled) <= 1
    assert max(settled) - min(settled) <= max(2, 0.15 * max(settled))
    assert run.wait_s(50) < 0.05


def test_one_batch_of_jobs_starts_no_crowd() -> None:
    """1,000 jobs at once need 2 handlers more for ten seconds, and not the 20 of 1,000 jobs a second."""
    jobs = sorted([*work(Load(for_s=90, per_s=10, service_s=0.02)), *((40.5, 0.02) for _ in range(1000))])

    run = simulate(jobs, WIDE, 90.0)

    assert max(run.wanted) <= 8
    assert max(m.at_s for m in run.moments if m.sample.ready > 8) <= 40.5 + CATCH_UP_S + 3


def test_long_jobs_get_a_place_each_and_not_more() -> None:
    jobs = [(5.0, 30.0)] * 10

    run = simulate(sorted([*jobs, (1.0, 30.0)]), WIDE, 120.0)

    assert max(run.wanted) <= 11 + 3
    assert run.wanted[-1] <= 2
    assert run.interrupted == 0


# -- over records ---------------------------------------------------------------------------------------


def test_what_was_recorded_gives_the_same_work_again() -> None:
    known, unknown = TopicSample(arrivals_per_s=20.0, service_s=0.05, done_per_s=20.0), TopicSample(arrivals_per_s=40.0)
    samples = [known] * 5 + [unknown]

    jobs = list(arrivals(recorded(samples), random.Random(1).random))

    assert len(jobs) == 5 * 20 + 40
    assert {service_s for _, service_s in jobs} == {0.05}
    assert jobs == sorted(jobs)


def test_a_higher_least_waits_less_and_costs_more() -> None:
    jobs = work(Load(for_s=30, per_s=10, service_s=0.02), Load(for_s=30, per_s=400, service_s=0.02))

    few, many = (simulate(jobs, TopicRules(least=least, most=64), 65.0) for least in (1, 12))

    assert many.wait_s(99) < few.wait_s(99)
    assert many.place_hours > few.place_hours
    assert few.done == many.done == len(jobs)


def test_a_run_can_be_repeated() -> None:
    one, two = (full_backend(WIDE, 3) for _ in range(2))

    assert one.wanted == two.wanted
    assert [m.decision.reason for m in one.moments] == [m.decision.reason for m in two.moments]
