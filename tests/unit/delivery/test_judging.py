"""What the desk remembers of topics when it judges: who was busy since when, and the brake."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.core.brake import Brake, BrakePolicy, Mode
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Rules, Verdict
from pbus.core.retry import RetryPolicy
from pbus.delivery import judging
from pbus.delivery.judging import Judging
from tests.support.memory_store import delivery

PATH = ("gift", "credit")


class Bench:
    def __init__(self, **rules: Any) -> None:
        self.clock = FakeClock()
        self.brake = Brake(BrakePolicy(min_jobs=3, probe_first_s=1.0, probe_max_s=30.0))
        self.judging = Judging({PATH: Rules(**rules)}, {PATH: self.brake}, self.clock)
        self._number = 0

    def end(self, verdict: Verdict, each: Delivery | None = None) -> Settlement:
        self._number += 1
        each = each or delivery(f"{self._number}-0")
        now_s = self.clock.monotonic_s()
        return self.judging.judge(each, Outcome(verdict=verdict, error="boom"), now_s, int(now_s * 1000))

    def trip(self, verdict: Verdict = Verdict.FAILED, **fields: Any) -> dict[str, int]:
        """Three failures; what they get back."""
        for number in range(3):
            self.end(verdict, Delivery(**{**_fields(delivery(f"{number}-1")), **fields}))
        ((path, tripped),) = self.judging.tripped()
        assert path == PATH
        return tripped.forgive


def _fields(each: Delivery) -> dict[str, Any]:
    return {name: getattr(each, name) for name in Delivery.__slots__}


def test_a_delivery_is_busy_since_its_own_first_busy_answer() -> None:
    bench = Bench(busy_limit_s=60.0)
    assert not bench.end(Verdict.BUSY, delivery("1-0")).counts
    bench.clock.advance(60.0)
    assert not bench.end(Verdict.BUSY, delivery("2-0")).counts
    assert bench.end(Verdict.BUSY, delivery("1-0")).counts


@pytest.mark.parametrize("between", [Verdict.DONE, Verdict.FAILED, Verdict.RETRY_ASKED])
def test_any_other_answer_of_the_handler_ends_being_busy(between: Verdict) -> None:
    bench = Bench(busy_limit_s=60.0)
    bench.end(Verdict.BUSY, delivery("1-0"))
    bench.clock.advance(60.0)
    bench.end(between, delivery("1-0"))
    assert not bench.end(Verdict.BUSY, delivery("1-0")).counts


@pytest.mark.parametrize("between", [Verdict.DOWN, Verdict.RELEASED, Verdict.UNSURE, Verdict.NOT_REGISTERED])
def test_what_is_no_answer_of_the_handler_does_not(between: Verdict) -> None:
    bench = Bench(busy_limit_s=60.0)
    bench.end(Verdict.BUSY, delivery("1-0"))
    bench.clock.advance(60.0)
    bench.end(between, delivery("1-0"))
    assert bench.end(Verdict.BUSY, delivery("1-0")).counts


def test_what_is_remembered_of_the_busy_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "BUSY_KEPT", 100)
    bench = Bench(busy_limit_s=60.0)
    for number in range(1_000):
        bench.end(Verdict.BUSY, delivery(f"{number}-0"))
    assert len(bench.judging._busy) == 100
    bench.clock.advance(60.0)
    assert bench.end(Verdict.BUSY, delivery("999-0")).counts


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.TIMEOUT, Verdict.CRASHED, Verdict.PERMANENT])
def test_failures_trip_the_brake_and_get_their_attempts_back(verdict: Verdict) -> None:
    assert Bench().trip(verdict) == {"0-1": 1, "1-1": 1, "2-1": 1}


@pytest.mark.parametrize(
    "verdict",
    [verdict for verdict in Verdict
     if verdict not in (Verdict.FAILED, Verdict.TIMEOUT, Verdict.CRASHED, Verdict.PERMANENT)],
)
def test_nothing_else_trips_it(verdict: Verdict) -> None:
    bench = Bench()
    for _ in range(10):
        bench.end(verdict)
    assert (bench.judging.tripped(), bench.brake.mode) == ([], Mode.FREE)


def test_what_the_handler_gave_up_on_gets_one_more_chance_and_no_second_one() -> None:
    assert Bench().trip(Verdict.PERMANENT, attempt=2, forgiven=1) == {}


def test_a_topic_that_tries_once_gets_nothing_back() -> None:
    assert Bench(retry=RetryPolicy(attempts=1)).trip() == {}


@pytest.mark.parametrize("verdict", [Verdict.TIMEOUT, Verdict.CRASHED])
def test_what_may_have_run_gets_nothing_back_where_that_must_not_be_repeated(verdict: Verdict) -> None:
    assert Bench(hold=True).trip(verdict) == {}


def test_a_braked_topic_uses_up_no_attempt_until_it_is_over() -> None:
    bench = Bench()
    bench.trip()
    late = bench.end(Verdict.FAILED)
    assert (late.move, late.counts, late.delay_s) == (Move.RETRY, False, 60.0)
    bench.clock.advance(1.0)
    assert bench.brake.room(bench.clock.monotonic_s(), 1) == 1
    for number in (100, 101):
        bench.brake.claimed(f"{number}-0")
        bench.end(Verdict.DONE, delivery(f"{number}-0"))
    assert bench.brake.mode is Mode.FREE
    assert bench.end(Verdict.FAILED).counts


def test_an_answer_to_a_probe_stirs_the_claimer_and_no_other_answer_does() -> None:
    bench = Bench()
    bench.trip()
    assert not bench.judging.stirred
    bench.end(Verdict.FAILED)
    assert bench.judging.stirred


def test_a_topic_without_a_brake_is_judged_all_the_same() -> None:
    judge = Judging({PATH: Rules()}, {}, FakeClock())
    assert judge.judge(delivery(), Outcome(verdict=Verdict.FAILED), 0.0, 0).move is Move.RETRY
    assert judge.judge(delivery(), Outcome(verdict=Verdict.DONE), 0.0, 0).move is Move.ACK
