"""The brake: when it trips, how gently a braked topic is tried, and that it always comes back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import FakeClock
from pbus.core.brake import FAILURES_KEPT, Brake, BrakePolicy, Ended, Mode, Result, Tripped

POLICY = BrakePolicy()
FULL = 8


class Topic:
    """A brake, a clock, and a handler that works or does not."""

    def __init__(self, policy: BrakePolicy = POLICY, full: int = FULL) -> None:
        self.brake = Brake(policy)
        self.clock = FakeClock()
        self.full = full
        self.tripped: list[Tripped] = []
        self.numbers = itertools.count(1)

    def now_s(self) -> float:
        return self.clock.monotonic_s()

    def end(self, job_id: str, ok: bool, group: str = "g", *, forgivable: bool = True) -> None:
        result = Result.WORKED if ok else Result.FAILED
        tripped = self.brake.ended(Ended(job_id, result, "" if ok else group, "boom", forgivable), self.now_s())
        self.tripped += [tripped] if tripped else []

    def run(self, results: Iterable[bool], apart_s: float = 0.01) -> None:
        for ok in results:
            self.end(f"{next(self.numbers)}-0", ok)
            self.clock.advance(apart_s)

    def claim(self) -> list[str]:
        """As many as there is room for (at most ``full`` while it is free)."""
        room = self.brake.room(self.now_s(), self.full)
        ids = [f"{next(self.numbers)}-0" for _ in range(self.full if room is None else room)]
        for job_id in ids:
            self.brake.claimed(job_id)
        return ids

    def live(self, seconds: float, works: Callable[[float], bool], step_s: float = 0.05) -> list[tuple[float, int]]:
        """A handler that takes one step for each job; when how many began."""
        began: list[tuple[float, int]] = []
        running: list[str] = []
        end_s = self.now_s() + seconds
        while self.now_s() < end_s:
            for job_id in running:
                self.end(job_id, works(self.now_s()))
            running = self.claim()
            began.append((self.now_s(), len(running)))
            self.clock.advance(step_s)
        for job_id in running:
            self.end(job_id, works(self.now_s()))
        return began


@pytest.fixture
def topic() -> Topic:
    return Topic()


# -- when it trips --------------------------------------------------------------------------------


def test_a_topic_whose_jobs_all_fail_is_braked_at_min_jobs(topic: Topic) -> None:
    topic.run([False] * 49)
    assert topic.brake.mode is Mode.FREE
    topic.run([False])
    assert topic.brake.mode is Mode.BRAKED
    (tripped,) = topic.tripped
    assert (tripped.jobs, tripped.failed, tripped.group, tripped.error) == (50, 50, "g", "boom")
    assert topic.brake.reason == "50 of 50 attempts failed within 30 s; one job is tried after 1 s"


@pytest.mark.parametrize(("worked", "trips"), [(5, True), (6, False)])
def test_the_share_of_the_window_decides(topic: Topic, worked: int, trips: bool) -> None:
    topic.run([True] * worked + [False] * 50, apart_s=0.001)
    assert bool(topic.tripped) is trips


def test_what_is_older_than_the_window_does_not_count(topic: Topic) -> None:
    topic.run([True] * 1000, apart_s=0.0)
    topic.clock.advance(POLICY.window_s * 1.1)
    topic.run([False] * 50)
    assert topic.brake.mode is Mode.BRAKED


def test_one_job_that_fails_again_and_again_is_one_job(topic: Topic) -> None:
    for _ in range(500):
        topic.end("1-0", False)
        topic.clock.advance(0.01)
    assert topic.brake.mode is Mode.FREE


def test_slow_failures_never_fill_a_window(topic: Topic) -> None:
    topic.run([False] * 500, apart_s=POLICY.window_s / 40)
    assert topic.brake.mode is Mode.FREE


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=300))
def test_it_trips_exactly_when_the_window_says_so(results: list[tuple[bool, float]]) -> None:
    """Against a plain count over the same steps of the window."""
    policy = BrakePolicy(failed_percent=70, min_jobs=10, window_s=30.0)
    topic = Topic(policy)
    kept: list[tuple[int, bool]] = []
    for number, (ok, apart_s) in enumerate(results):
        topic.clock.advance(apart_s)
        step = int(topic.now_s() / 1.0)
        kept = [(at, known) for at, known in kept if at > step - 30] + [(step, ok)]
        failed = sum(not known for _, known in kept)
        expected = not ok and len(kept) >= 10 and failed * 100 >= 70 * len(kept)
        topic.end(f"{number}-0", ok)
        assert bool(topic.tripped) is expected
        if expected:
            return


# -- what is given back ---------------------------------------------------------------------------


def test_failures_of_the_most_frequent_group_get_their_attempts_back(topic: Topic) -> None:
    for number in range(30):
        topic.end(f"{number}-0", False, "poison")
    topic.end("0-0", False, "poison")
    for number in range(30, 49):
        topic.end(f"{number}-0", False, "other")
    topic.end("unknown-0", False, "poison", forgivable=False)
    (tripped,) = topic.tripped
    assert tripped.forgive == {"0-0": 2, **{f"{number}-0": 1 for number in range(1, 30)}}


def test_failures_before_the_window_keep_their_attempt_used(topic: Topic) -> None:
    topic.run([False] * 40, apart_s=0.0)
    topic.clock.advance(POLICY.window_s * 1.1)
    topic.run([False] * 50, apart_s=0.0)
    assert set(topic.tripped[0].forgive) == {f"{number}-0" for number in range(41, 91)}


def test_a_window_of_any_size_is_kept_in_bounds() -> None:
    topic = Topic(BrakePolicy(min_jobs=10**9))
    topic.run([False] * (FAILURES_KEPT + 5_000), apart_s=0.0)
    assert len(topic.brake._window.failures) == len(topic.brake._window.jobs) == FAILURES_KEPT


def test_an_attempt_is_given_back_once(topic: Topic) -> None:
    topic.run([False] * 50)
    topic.live(300.0, lambda _: False)
    assert len(topic.tripped) == 1


# -- while it is braked ---------------------------------------------------------------------------


def test_one_probe_at_a_time_after_1_2_4_up_to_30_seconds(topic: Topic) -> None:
    topic.run([False] * 50)
    began = topic.live(200.0, lambda _: False, step_s=0.01)
    probes = [at_s for at_s, count in began if count]
    assert {count for _, count in began} == {0, 1}
    waits = [round(later - earlier) for earlier, later in itertools.pairwise(probes)]
    assert waits[:6] == [2, 4, 8, 16, 30, 30]


def test_a_probe_that_is_out_is_waited_for_however_long_it_takes(topic: Topic) -> None:
    topic.run([False] * 50)
    topic.clock.advance(1.5)
    (probe,) = topic.claim()
    assert topic.brake.due_s() is None
    topic.clock.advance(3_600)
    assert topic.claim() == []
    topic.end(probe, False)
    assert topic.brake.due_s() == topic.now_s() + 2.0


def test_a_probe_that_never_reached_the_handler_says_nothing(topic: Topic) -> None:
    topic.run([False] * 50)
    for _ in range(5):
        topic.clock.advance(1.0)
        (probe,) = topic.claim()
        topic.brake.ended(Ended(probe, Result.NOTHING), topic.now_s())
    assert topic.brake.mode is Mode.BRAKED
    assert topic.brake.due_s() == topic.now_s() + 1.0


@pytest.mark.parametrize("ok", [True, False])
def test_what_began_before_it_tripped_says_nothing(topic: Topic, ok: bool) -> None:
    topic.run([False] * 50)
    due_s = topic.brake.due_s()
    topic.run([ok] * 100, apart_s=0.001)
    assert (topic.brake.mode, topic.brake.due_s()) == (Mode.BRAKED, due_s)


def test_failures_are_spared_from_the_trip_to_the_end_of_the_recovery(topic: Topic) -> None:
    assert not topic.brake.sparing
    topic.run([False] * 50)
    assert topic.brake.sparing
    topic.clock.advance(1.0)
    topic.end(topic.claim()[0], True)
    assert (topic.brake.mode, topic.brake.sparing) == (Mode.RECOVERING, True)
    topic.live(5.0, lambda _: True)
    assert (topic.brake.mode, topic.brake.sparing, topic.brake.reason) == (Mode.FREE, False, "")


# -- how it comes back ----------------------------------------------------------------------------


def test_it_recovers_by_1_2_4_up_to_all(topic: Topic) -> None:
    topic.run([False] * 50)
    topic.clock.advance(1.0)
    topic.end(topic.claim()[0], True)
    rooms = []
    while topic.brake.mode is Mode.RECOVERING:
        ids = topic.claim()
        rooms.append(len(ids))
        assert topic.claim() == []
        for job_id in ids:
            topic.end(job_id, True)
    assert rooms == [1, 2, 4, 8]
    assert topic.brake.room(topic.now_s(), FULL) is None


def test_a_recovery_without_work_is_over_after_a_window(topic: Topic) -> None:
    topic.run([False] * 50)
    topic.clock.advance(1.0)
    topic.end(topic.claim()[0], True)
    topic.clock.advance(POLICY.window_s - 0.1)
    assert topic.brake.room(topic.now_s(), FULL) == 1
    (running,) = topic.claim()
    topic.clock.advance(POLICY.window_s)
    assert topic.brake.mode is Mode.RECOVERING, "a job runs"
    topic.end(running, True)
    topic.clock.advance(POLICY.window_s)
    assert topic.brake.room(topic.now_s(), FULL) is None


def test_a_step_in_which_all_fail_brakes_again_from_the_first_wait_on(topic: Topic) -> None:
    topic.run([False] * 50)
    topic.clock.advance(1.0)
    topic.end(topic.claim()[0], True)
    topic.end(topic.claim()[0], True)
    for job_id in topic.claim():
        topic.end(job_id, False)
    assert (topic.brake.mode, topic.brake.due_s()) == (Mode.BRAKED, topic.now_s() + 1.0)
    assert len(topic.tripped) == 1


def test_a_poison_job_among_good_ones_does_not_brake_a_recovery(topic: Topic) -> None:
    topic.run([False] * 50)
    topic.clock.advance(1.0)
    topic.end(topic.claim()[0], True)
    topic.end(topic.claim()[0], True)
    first, second = topic.claim()
    topic.end(first, False)
    topic.end(second, True)
    assert (topic.brake.mode, len(topic.claim())) == (Mode.RECOVERING, 4)


def test_ten_minutes_of_failures_then_full_rate_within_forty_seconds() -> None:
    topic = Topic(full=64)
    repaired_s = topic.now_s() + 600.0
    began = topic.live(700.0, lambda now_s: now_s >= repaired_s)
    full_s = next(at_s for at_s, count in began if at_s >= repaired_s and count == 64)
    assert full_s - repaired_s <= 40.0
    assert len(topic.tripped) == 1
    assert sum(count for at_s, count in began if topic.tripped and at_s < repaired_s) < 64 + 50 + 64 + 30


@given(
    st.lists(st.tuples(st.floats(0.5, 60), st.integers(0, 100)), min_size=1, max_size=8),
    st.integers(1, 40), st.integers(0, 2**32),
)
def test_whatever_happens_it_is_gentle_and_comes_back(
    phases: list[tuple[float, int]], full: int, seed: int
) -> None:
    """Phases of (seconds, share of failures), then a handler that works: probes are single, and it ends free."""
    import random

    dice = random.Random(seed)
    policy = BrakePolicy(min_jobs=20, window_s=5.0, probe_first_s=0.2, probe_max_s=3.0)
    topic = Topic(policy, full)
    for seconds, percent in phases:
        for _ in range(int(seconds / 0.5)):
            before = topic.brake.mode
            ids = topic.claim()
            assert before is not Mode.BRAKED or len(ids) <= 1
            assert len(ids) <= max(full, 1)
            topic.clock.advance(0.5)
            for job_id in ids:
                topic.end(job_id, dice.randrange(100) >= percent)
    topic.live(policy.probe_max_s + 1.0 + 0.1 * (2 * full + 8), lambda _: True, step_s=0.1)
    assert topic.brake.mode is Mode.FREE
    assert not topic.brake._out
