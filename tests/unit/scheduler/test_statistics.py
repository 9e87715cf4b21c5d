"""Statistics: what happened since the last minute, told once, and told later when the store is away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pbus.core.statistics import Bucket
from pbus.errors import StoreFull, Unavailable
from pbus.scheduler.looks import Looks
from pbus.scheduler.sampler import Sampler
from pbus.scheduler.statistics import Processor, Statistics
from pbus.storage.driver import QueueNumbers, TopicNumbers
from pbus.storage.statistics import Known
from pbus.supervisor.histograms import Totals
from pbus.telemetry.metrics import BOUNDS
from tests.unit.scheduler.store import Bench, SchedulerStore, prepared

PATH = ("gift", "credit")
NOTHING = (0,) * (len(BOUNDS) + 1)
ZERO = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, NOTHING, NOTHING)


class Desk(Bench):
    """The duty over a store in memory, and what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = SchedulerStore()
        self.counted: dict[tuple[str, str], Totals] = {}
        store = prepared(self.driver)
        self.looks = Looks(store, Sampler({}), self.clock, lambda: 1)
        self.processor = Processor(self.clock)
        self.duty = Statistics(
            store, "bus-1", lambda: self.counted, self.looks, self.processor, self.clock, self.log
        )

    def minute(self) -> None:
        self.clock.advance(60.0)
        self.duty.turn()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def classes(**counts: int) -> tuple[int, ...]:
    return tuple(counts.get(f"c{place}", 0) for place in range(len(NOTHING)))


def test_rows_are_what_was_counted_since_the_last_minute(desk: Desk) -> None:
    begun_s = desk.clock.wall_s()
    first = Totals(5, 1, 1, 0, 0, 0, 1, 500, 2.5, 10.0, classes(c3=5), classes(c7=4, c8=2))
    desk.counted = {PATH: first}
    desk.minute()
    desk.counted = {PATH: replace(first, done=6, bytes=600, run_s=10.5, run=classes(c7=5, c8=2))}
    desk.minute()

    (one_s, (one,), _), (two_s, (two,), _) = desk.driver.put_rows
    assert (one.queue, one.topic, one.node, one.done, one.wait_us) == (*PATH, "bus-1", 5, 2_500_000)
    assert (one.run, one.wait) == ({7: 4, 8: 2}, {3: 5})
    assert two == Bucket(*PATH, "bus-1", 0, done=1, bytes=100, run_us=500_000, run={7: 1})
    assert begun_s < one_s < begun_s + 60 < two_s < begun_s + 120


def test_what_was_counted_before_it_began_is_not_told_again(desk: Desk) -> None:
    desk.counted = {PATH: replace(ZERO, done=100)}
    later = Statistics(
        prepared(desk.driver), "bus-1", lambda: desk.counted, desk.looks, desk.processor, desk.clock, desk.log
    )
    later.turn()

    assert desk.driver.put_rows == []


def test_minute_without_work_is_no_call(desk: Desk) -> None:
    desk.counted = {PATH: ZERO, ("other", "topic"): replace(ZERO, done=7)}       # that one is of another storage
    desk.minute()

    assert desk.driver.calls == []


@pytest.mark.parametrize("error", [Unavailable("away"), StoreFull("no room")])
def test_store_that_is_away_gets_it_with_the_next_minute_and_nobody_is_held_up(
    desk: Desk, error: Exception
) -> None:
    desk.counted = {PATH: replace(ZERO, done=1)}
    desk.driver.fail = error
    desk.minute()
    desk.driver.fail = None
    desk.counted = {PATH: replace(ZERO, done=3)}
    desk.minute()
    desk.minute()

    assert [rows[0].done for _, rows, _ in desk.driver.put_rows] == [3]


def test_totals_are_told_when_they_change_and_all_of_them_after_the_store_was_away(desk: Desk) -> None:
    desk.looks.queues = {"gift": QueueNumbers(pushed_total=10)}
    desk.looks.known = {PATH: TopicNumbers(expired_total=1)}
    desk.minute()
    desk.looks.queues = {"gift": QueueNumbers(pushed_total=12)}
    desk.minute()
    desk.minute()
    desk.duty.interrupted()
    desk.minute()

    queue, topic = {("gift", ""): Known(12)}, {PATH: Known(0, 1, 0)}
    assert [known for _, _, known in desk.driver.put_rows] == [{("gift", ""): Known(10)} | topic, queue, queue | topic]


def test_seconds_of_processors_are_cores_by_the_time_between_frames(desk: Desk) -> None:
    for cores in (0.0, 0.5, 1.0):
        desk.processor.hear({"topics": {"gift/credit": {"cores": cores, "places": 1}}})
        desk.clock.advance(1.0)
    desk.counted = {PATH: ZERO}
    desk.minute()

    assert [row.cpu_us for _, (row,), _ in desk.driver.put_rows] == [1_500_000]


def test_next_turn_is_just_after_the_full_minute(desk: Desk) -> None:
    in_s = desk.duty.turn()

    assert (desk.clock.wall_s() + in_s) % 60 == pytest.approx(0.6)
