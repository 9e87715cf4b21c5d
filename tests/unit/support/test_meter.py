"""The meter of the soak: a leak is growth, noise is not."""

from __future__ import annotations

from tests.soak.meter import FEWEST, Track


def track(*descriptors: int) -> Track:
    count = len(descriptors)
    return Track("ingest", 1, [float(at) for at in range(count)], [0] * count, list(descriptors), [1] * count)


def test_steady_leak_is_its_whole_gain() -> None:
    leaking = track(*range(10, 50))
    assert round(leaking.growth(leaking.descriptors)) == 39


def test_single_peak_is_hardly_growth() -> None:
    busy = track(*[10] * 20, 30, *[10] * 19)
    assert abs(busy.growth(busy.descriptors)) < 1


def test_leak_is_certain_and_noise_is_not() -> None:
    leaking = track(*(10 + at // 4 + at % 3 for at in range(200)))
    assert 45 < leaking.certain_growth(leaking.descriptors) < leaking.growth(leaking.descriptors) < 55
    noisy = track(*(10 + at * 7 % 5 for at in range(20)))
    assert noisy.certain_growth(noisy.descriptors) < 0


def test_few_samples_say_nothing() -> None:
    young = track(*range(FEWEST - 1))
    assert young.growth(young.descriptors) == 0.0


def test_part_since_a_moment_begins_there() -> None:
    part = track(*range(20)).since(12.0)
    assert (part.at_s[0], part.descriptors[0], part.span_s) == (12.0, 12, 7.0)


def test_row_shows_first_last_and_growth() -> None:
    assert track(*range(10, 30)).row().split() == [
        "ingest", "1", "19", "0.0", "0.0", "+0.00", "10", "29", "+19.0", "1", "1", "1",
    ]
