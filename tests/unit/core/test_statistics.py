"""Statistics: buckets add up, levels are chosen, percentiles are read off sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.statistics import DAY_S, Bucket, folded, level, quantile, summed, total
from pbus.storage.statistics import packed, unpacked, window

NOW_S = 400 * DAY_S


def bucket(at_s: int = 0, **counts: object) -> Bucket:
    return Bucket("gift", "credit", "n1", at_s, **counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(("since_s", "step_s", "span_s"), [
    (NOW_S - 7200, 60, 60),
    (NOW_S - 7200, 300, 60),
    (NOW_S - 7200, 3600, 3600),
    (NOW_S - 2 * DAY_S, 300, 3600),         # minutes are not kept so long
    (NOW_S - 7 * DAY_S, DAY_S, DAY_S),
    (NOW_S - 7 * DAY_S, 2 * 3600, 3600),
    (NOW_S - 60 * DAY_S, 60, DAY_S),
    (NOW_S - 3600, DAY_S, 3600),            # a day is not an answer to an hour
    (0, 60, DAY_S),
])
def test_level_is_the_coarsest_that_a_step_is_made_of_and_that_is_kept(
    since_s: int, step_s: int, span_s: int
) -> None:
    assert level(since_s, NOW_S, step_s, NOW_S) == span_s


def test_folded_sums_nodes_and_topics_by_steps_from_the_first_moment() -> None:
    rows = [bucket(at_s, done=1, run={3: 1}) for at_s in (60, 120, 120, 180, 600)]

    assert [(one.at_s, one.span_s, one.done, dict(one.run)) for one in folded(rows, 60, 120)] == [
        (60, 120, 3, {3: 3}), (180, 120, 1, {3: 1}), (540, 120, 1, {3: 1}),
    ]


def test_quantile_is_the_bound_of_the_class_in_which_it_lies() -> None:
    bounds = (0.1, 1.0, 10.0)

    assert quantile({}, 0.5, bounds) is None
    assert [quantile({0: 90, 1: 9, 3: 1}, part, bounds) for part in (0.5, 0.9, 0.91, 0.99, 0.999)] == [
        0.1, 0.1, 1.0, 1.0, 10.0,
    ]


def test_sum_keeps_names_and_time_and_leaves_what_was_summed() -> None:
    first, second = bucket(60, done=1, wait={1: 1}), Bucket("q", "t", "n2", 0, wait={1: 2, 2: 5})

    assert summed(first, second) == bucket(60, done=1, wait={1: 3, 2: 5})
    assert (first.wait, second.wait) == ({1: 1}, {1: 2, 2: 5})
    assert total([]).is_empty
    assert not total([first]).is_empty


counts = st.integers(0, 1 << 62)
classes = st.dictionaries(st.integers(0, 91), st.integers(1, 1 << 62))


@given(done=counts, bytes_=counts, wait=classes, run=classes)
def test_packed_is_unpacked_as_it_was(done: int, bytes_: int, wait: dict[int, int], run: dict[int, int]) -> None:
    told = bucket(60, done=done, bytes=bytes_, wait=wait, run=run)

    assert unpacked(packed(told), bucket(60)) == told


@given(st.binary(max_size=40))
def test_what_nobody_can_read_is_nothing_or_a_bucket(rubbish: bytes) -> None:
    found = unpacked(rubbish, bucket())

    assert found is None or found.queue == "gift"


def test_row_of_a_busy_minute_is_small() -> None:
    usual = dict.fromkeys(range(20, 35), 40)
    row = bucket(done=600, bytes=600_000, wait_us=9_000_000, run_us=50_000_000, wait=usual, run=usual)
    full = dict.fromkeys(range(92), 1 << 30)

    assert len(packed(row)) < 150
    assert len(packed(bucket(done=1 << 60, wait=full, run=full))) < 1300


def test_window_reads_no_more_than_is_kept() -> None:
    assert list(window(61, 180, 60)) == [60, 120]
    assert len(window(0, NOW_S, 60)) == 1440
