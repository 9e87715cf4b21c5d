"""Every process keeps the same jobs, and no writer more than its bytes."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.core.trace import (
    NOTES, PURGE, Attempt, Budget, Run, Shelf, caps, concerns, decision, is_kept, is_run, keeps_any, shelf_of,
)

IDS = [f"{1_800_000_000_000 + place // 8}-{place % 8}" for place in range(20_000)]


def attempt(verdict: str = "done", number: int = 1, run_us: int = 9_000) -> Attempt:
    return Attempt("1800000000000-0", "credit", number, 1_800_000_000_020, 3, 1, run_us, verdict, "ack", "php 1")


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_sampling_keeps_about_that_share_of_jobs(share: float) -> None:
    kept = sum(is_kept(job, share) for job in IDS)

    assert kept == pytest.approx(share * len(IDS), rel=0.2)


def test_sampling_with_a_larger_share_keeps_all_that_a_smaller_one_keeps() -> None:
    few = {job for job in IDS if is_kept(job, 0.1)}

    assert few < {job for job in IDS if is_kept(job, 0.11)}


def test_sampling_keeps_everything_or_nothing_at_its_ends() -> None:
    assert all(is_kept(job, 1.0) for job in IDS)
    assert not any(is_kept(job, 0.0) for job in IDS)


def test_sampling_keeps_a_range_when_it_keeps_one_of_its_ids() -> None:
    ids = [f"1800000000000-{place}" for place in range(40)]
    ranges = [(ids[at], ids[at + 3]) for at in range(0, 40, 4)]

    wanted = [any(is_kept(job, 0.1) for job in ids[at : at + 4]) for at in range(0, 40, 4)]

    assert True in wanted
    assert False in wanted
    assert [keeps_any(first, last, 0.1) for first, last in ranges] == wanted
    assert keeps_any("1800000000000-0", "1800000000009-0", 0.0), "nobody looks at each id of a long range"


def test_run_is_ids_that_follow_one_another() -> None:
    assert is_run("5-8", "5-10", 3)
    assert Run("5-8", 3).ids() == ["5-8", "5-9", "5-10"]
    assert is_run("5-8", "5-8", 1)
    assert not is_run("5-8", "5-11", 3), "somebody was refused in between"
    assert not is_run("5-8", "6-0", 3)


def test_shelf_is_the_long_one_for_what_failed_was_slow_or_came_after_a_failure() -> None:
    assert shelf_of(attempt(), slow_us=0) is Shelf.RECENT
    assert shelf_of(attempt(), slow_us=9_001) is Shelf.RECENT
    assert shelf_of(attempt(), slow_us=9_000) is Shelf.KEPT
    assert shelf_of(attempt("failed"), slow_us=0) is Shelf.KEPT
    assert shelf_of(attempt(number=2), slow_us=0) is Shelf.KEPT


def test_caps_of_all_shelves_are_no_more_than_the_storage_may_take() -> None:
    assert set(caps(1_000_003)) == set(Shelf)
    assert sum(caps(1_000_003).values()) <= 1_000_003


@pytest.mark.parametrize("overload", [1, 3, 10, 100])
def test_budget_never_gives_more_than_its_cap_within_keep(overload: int) -> None:
    cap, keep_s, step_s, size = 100_000, 600.0, 0.2, 20
    budget = Budget(cap, keep_s, 0.0)
    per_step = overload * cap / keep_s * step_s / size  # jobs
    given: list[int] = []
    due = 0.0
    for step in range(int(3 * keep_s / step_s)):
        now_s = step * step_s
        due += per_step * budget.share(now_s)
        spent = 0
        while due >= 1:
            due -= 1
            spent += size if budget.spend(size, now_s) else 0
        given.append(spent)

    window = int(keep_s / step_s)
    most = max(sum(given[at : at + window]) for at in range(0, len(given) - window, 50))
    assert most <= 0.95 * cap, "there is room for what is too old and not dropped yet"
    last = sum(given[-window:])
    assert last >= 0.45 * cap, "a long rush keeps what flows in"
    halves = sum(given[-window : -window // 2]), sum(given[-window // 2 :])
    assert halves[0] == pytest.approx(halves[1], rel=0.05), "evenly: new jobs are not starved by old ones"


def test_budget_keeps_a_short_rush_whole() -> None:
    budget = Budget(100_000, 3_600.0, 0.0)

    assert all(budget.share(0.0) == 1.0 and budget.spend(1_000, 0.0) for _ in range(20))
    assert budget.share(0.0) == 1.0
    assert not budget.spend(23_751, 0.0)
    assert budget.spend(23_750, 0.0)


def test_budget_gets_nothing_from_a_clock_that_goes_back() -> None:
    budget = Budget(1_000, 10.0, 100.0)
    assert budget.spend(437, 100.0)

    assert not budget.spend(1, 50.0)
    assert budget.spend(1, 51.0)


def test_budget_of_nothing_keeps_nothing() -> None:
    budget = Budget(0, 10.0, 0.0)

    assert budget.share(5.0) == 0.0
    assert not budget.spend(1, 5.0)


T0 = 1_800_000_000_000
JOB = f"{T0}-0"
NOTE = decision(NOTES, "credit", PURGE, T0 / 1000 + 5, "ann")


def ended(move: Move, after_s: float, topic: str = "credit") -> Attempt:
    return Attempt(JOB, topic, 1, T0 + int(after_s * 1000), 0, 0, 1, "x", move.value, "n1")


@pytest.mark.parametrize(("attempts", "is_met"), [
    ([], True), ([ended(Move.RETRY, 1)], True), ([ended(Move.ACK, 1)], False), ([ended(Move.BURY, 1)], False),
    ([ended(Move.RETRY, 1), ended(Move.ACK, 6)], False), ([ended(Move.ACK, 1, "other")], True),
    ([ended(Move.CANCEL, 1, "")], False), ([ended(Move.BURY, 1), ended(Move.REVIVE, 2)], True),
])
def test_a_purge_concerns_what_waited_then(attempts: list[Attempt], is_met: bool) -> None:
    assert concerns(NOTE, JOB, attempts) is is_met
    assert not concerns(NOTE, f"{T0 + 6_000}-0", []), "pushed after it"


def test_a_purge_does_not_concern_what_ran_just_then() -> None:
    assert concerns(NOTE, JOB, [ended(Move.RETRY, 1), ended(Move.RETRY, 2)])
    assert not concerns(NOTE, JOB, [ended(Move.RETRY, 1), ended(Move.RETRY, 6)])
