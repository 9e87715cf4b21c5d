from __future__ import annotations

from pbus.delivery.pace import FRAME_BYTES, FRAME_JOBS, LOOK_S, MOST_JOBS, Pace


def test_a_new_consumer_gets_one_job() -> None:
    assert Pace().frame == 1


def test_a_frame_doubles_at_most_with_each_answered_frame() -> None:
    pace, sizes = Pace(), []
    for _ in range(10):
        sizes.append(pace.frame)
        for _ in range(pace.frame):
            pace.answered(0.00001, 10)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, MOST_JOBS, MOST_JOBS]


def test_more_jobs_than_usual_are_10_ms_of_work_at_most() -> None:
    pace = Pace()
    for _ in range(300):
        pace.answered(0.000095, 10)
    assert 95 <= pace.frame <= 105
    for _ in range(300):
        pace.answered(0.0004, 10)
    assert pace.frame == FRAME_JOBS


def test_a_frame_is_about_50_ms_of_work() -> None:
    pace = Pace()
    for _ in range(200):
        pace.answered(0.005, 10)
    assert pace.frame in (9, 10)


def test_slow_jobs_go_one_by_one() -> None:
    pace = Pace()
    for _ in range(200):
        pace.answered(0.2, 10)
    assert pace.frame == 1


def test_one_slow_job_among_fast_ones_shrinks_the_frame_at_once() -> None:
    pace = Pace()
    for _ in range(300):
        pace.answered(0.00001, 10)
    assert pace.frame == MOST_JOBS
    pace.answered(1.0, 10)
    assert pace.frame == 1


def test_large_bodies_make_small_frames() -> None:
    pace = Pace()
    for _ in range(200):
        pace.answered(0.00001, FRAME_BYTES // 4)
    assert pace.frame in (4, 5)


def test_a_consumer_with_nothing_to_do_is_read_from_at_once() -> None:
    pace = Pace()
    pace.answered(10.0, 10)
    assert pace.next_look_s(0) == 0


def test_a_busy_consumer_is_read_from_well_before_it_runs_dry() -> None:
    pace = Pace()
    for _ in range(200):
        pace.answered(0.0001, 10)
    assert pace.next_look_s(32) < 32 * 0.0001 / 3
    assert pace.next_look_s(64_000) == LOOK_S
