"""The sheet of a row of curves: rounds become lines with their spread."""

from __future__ import annotations

from typing import cast

import pytest

from pbus.bench.growth import Panel, Sheet
from pbus.bench.rows import ROWS, Options, Run
from pbus.bench.stage import Stage

RATE = Panel("growth-x.rate", "Pushes", ("connections", ""), "pushes/s")

SHARE = Panel("growth-x.share", "Beside bare LPUSH", ("connections", ""), "share of its rate")


def sheet(**options: float) -> Sheet:
    run = Run(store="sqlite", stage=cast(Stage, None), options=Options(**options))  # type: ignore[arg-type]
    return Sheet(run, (RATE, SHARE), None)


def test_a_line_is_the_median_of_its_rounds_with_the_least_and_the_largest() -> None:
    mine = sheet()
    for value in (3.0, 1.0, 2.00004):
        mine.add(RATE, 5, value)
    mine.hand_over()
    (curve,) = mine.run.curves
    assert (curve.id, curve.title, curve.x.name, curve.x.values) == ("growth-x.rate", "Pushes", "connections", (5,))
    (line,) = curve.lines
    assert (line.name, line.unit, line.values, line.low, line.high) == ("SQLite", "pushes/s", (2.0,), (1.0,), (3.0,))


def test_panels_come_in_the_order_of_the_picture() -> None:
    mine = sheet()
    for panel in (SHARE, RATE, SHARE):
        mine.add(panel, 5, 1.0)
    mine.hand_over()
    assert [curve.id for curve in mine.run.curves] == [RATE.id, SHARE.id]


def test_a_figure_compares_round_by_round() -> None:
    mine = sheet()
    for ours, theirs in ((1.0, 4.0), (2.0, 4.0), (3.0, 3.0)):
        mine.add(RATE, 5, ours)
        mine.add(RATE, 1, theirs, "bare LPUSH")
    figure = mine.against("pushes of 5", RATE, 5, (1, "bare LPUSH"), why="x")
    assert (figure.pbus, figure.base, figure.ratio, figure.low, figure.high) == (2.0, 4.0, 0.5, 0.25, 1.0)
    assert (figure.name, figure.id, figure.beside) == ("pushes of 5, sqlite", "growth-x.rate.sqlite", {"why": "x"})


@pytest.mark.parametrize(("asked", "made"), [(5, 3), (2, 2)])
def test_a_point_has_three_rounds_at_most(asked: int, made: int) -> None:
    assert len(sheet(rounds=asked).rounds()) == made


def test_rows_of_curves_run_only_when_they_are_named() -> None:
    rows = {name: row for name, row in ROWS.items() if name.startswith("growth-")}
    assert len(rows) == 5
    assert all(row.named and row.seconds <= 60 for row in rows.values())
