"""Figures as people read them, and what is said to have changed."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from pbus.bench.figures import Axis, Curve, Figure, document, figures_of, median_figure, value_figure
from pbus.bench.report import cells, compare, markdown, number
from pbus.bench.session import joined
from pbus.bench.slices import Pair

RATIO = Figure(
    name="pushes", unit="/s", pbus=60_000.0, base=100_000.0, ratio=0.6, low=0.55, high=0.65, goal=0.6, others=0.02,
    beside={"ingest cpu": "9 us"}, id="pushes.1.sqlite", command="pbus bench pushes --store sqlite",
)
BOUND = Figure(name="memory", unit="MB", pbus=150.0, goal=140.0, most=True, id="memory", command="pbus bench memory")


def test_figure_of_pairs_is_their_median_ratio_with_its_spread() -> None:
    figure = median_figure("x", "/s", [Pair(10, 5, 0.0), Pair(10, 8, 0.3), Pair(10, 6, 0.1)], goal=0.6)
    assert (figure.pbus, figure.base, figure.ratio) == (6, 10, 0.6)
    assert (figure.low, figure.high, figure.others) == (0.5, 0.8, 0.3)
    assert figure.reached is True


def test_figure_of_values_has_their_spread() -> None:
    figure = value_figure("x", "ms", [(3.0, 0.0), (1.0, 0.2), (2.0, 0.1)], goal=1.5, most=True)
    assert (figure.pbus, figure.low, figure.high, figure.others, figure.reached) == (2.0, 1.0, 3.0, 0.2, False)


@pytest.mark.parametrize(("most", "pbus", "reached"), [
    (False, 1.0, True), (False, 0.99, False), (True, 1.0, True), (True, 1.01, False),
])
def test_goal_is_reached_on_its_good_side(most: bool, pbus: float, reached: bool) -> None:
    assert Figure(name="x", unit="", pbus=pbus, goal=1.0, most=most).reached is reached


def test_figure_without_a_goal_is_neither() -> None:
    assert Figure(name="x", unit="", pbus=1.0).reached is None


def test_figure_below_its_floor_fails() -> None:
    with pytest.raises(AssertionError, match="at least 1 wanted"):
        Figure(name="x", unit="", pbus=0.5, floor=1.0).check()


def test_table_says_goal_and_whether_it_is_reached() -> None:
    heads, rows = cells([RATIO, BOUND])
    first, second = (dict(zip(heads, row, strict=True)) for row in rows)
    assert first["PBUS"] == "60,000 /s"
    assert (first["RATIO"], first["SPREAD"], first["GOAL"], first["REACHED"]) == ("0.60", "0.55-0.65", ">= 0.6", "yes")
    assert (second["BASE"], second["GOAL"], second["REACHED"]) == ("", "<= 140", "no")


def test_markdown_has_the_command_of_each_row_and_the_machine() -> None:
    text = markdown([RATIO, BOUND], {"processor": "2 x fast"})
    assert "| `pbus bench pushes --store sqlite` |" in text
    assert "<= 140, **not reached**" in text
    assert text.endswith("Measured on: processor 2 x fast.")


def test_document_comes_back_as_figures() -> None:
    told = document([RATIO, BOUND], [], {"processor": "x"}, "2026-01-01T00:00:00+00:00")
    assert (told["v"], told["machine"], told["curves"]) == (1, {"processor": "x"}, [])
    assert figures_of(told) == [RATIO, BOUND]


def test_figures_of_a_newer_pbus_are_read() -> None:
    assert figures_of({"figures": [{**asdict(BOUND), "colour": "green"}]}) == [BOUND]


@pytest.mark.parametrize("wrong", [[], {}, {"figures": [1]}, {"figures": [{"name": "x"}]}, "text", {"figures": 3}])
def test_what_is_no_document_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="no document"):
        figures_of(wrong)


def test_change_within_a_spread_is_noise() -> None:
    change = compare([replace(RATIO, ratio=0.56)], [RATIO]).changes[RATIO.id]
    assert change.noise
    assert "(noise)" in str(change)


def test_change_is_of_what_is_judged_and_worse_has_a_direction() -> None:
    now = [replace(RATIO, ratio=0.30, low=0.29, high=0.31), replace(BOUND, pbus=300.0)]
    found = compare(now, [RATIO, BOUND])
    assert found.changes[RATIO.id].percent == pytest.approx(-50)
    assert found.changes[BOUND.id].percent == pytest.approx(100)
    assert found.worse(49) == [RATIO.id, BOUND.id]
    assert found.worse(60) == [BOUND.id]


def test_change_for_the_better_is_never_worse() -> None:
    now = [replace(RATIO, ratio=0.9, low=0.9, high=0.9), replace(BOUND, pbus=70.0)]
    assert compare(now, [RATIO, BOUND]).worse(0) == []


def test_figures_that_one_run_has_are_named() -> None:
    found = compare([RATIO], [BOUND])
    assert (found.only_now, found.only_then) == (("pushes",), ("memory",))


def test_figures_of_rows_that_were_not_measured_are_not_missed() -> None:
    assert compare([RATIO], [RATIO, BOUND], {RATIO.command}).only_then == ()


def test_change_stands_in_the_table() -> None:
    heads, rows = cells([RATIO, BOUND], compare([RATIO, BOUND], [RATIO]))
    place = heads.index("CHANGE")
    assert [row[place] for row in rows] == ["+0.0 % (noise)", "new"]


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234"), (0.12345, "0.123"), (12.345, "12.3"), (0.0, "0")])
def test_number_has_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_curves_of_one_id_are_joined_where_they_run_along_the_same() -> None:
    def curve(line: str, *values: float) -> Curve:
        x = Axis(name="connections", unit="", values=values)
        return Curve(id="growth.rate", title="t", x=x, lines=(Axis(name=line, unit="/s", values=values),))

    found = joined([curve("SQLite", 1, 2), curve("Redis", 1, 2), curve("Redis", 1, 3), curve("SQLite", 1, 2)])
    assert [[line.name for line in each.lines] for each in found] == [["SQLite", "Redis"], ["Redis"]]
