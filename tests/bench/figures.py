"""
A measured figure, and the table of all of them.

Rule: what is compared was measured in the same run, slice beside slice; a figure is a median with its
spread, and the machine's state stands beside it. Floors are generous: a figure below its floor is a
regression on any machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One row.

    Attributes:
        name: What was measured.
        unit: Of ``pbus`` and ``base``.
        pbus: Median of ours.
        base: Median of what it is compared with; None: nothing.
        ratio: Median of the ratios of the pairs.
        low, high: The least and the largest of these.
        goal: What the ratio (or ``pbus``, where there is no base) should be.
        floor: Below this (or, with ``most``, above) the test fails.
        most: The goal is an upper bound.
        others: Share of a core that other programs used meanwhile, the worst slice that counts.
        beside: More that was measured, text for people.
    """

    name: str
    unit: str
    pbus: float
    base: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    floor: float | None = None
    most: bool = False
    others: float = 0.0
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        """What floor and goal are about."""
        return self.pbus if self.ratio is None else self.ratio

    def check(self) -> None:
        """
        Hold the figure against its floor.

        Raises:
            AssertionError: it is on the wrong side.
        """
        if self.floor is None:
            return
        good = self.judged <= self.floor if self.most else self.judged >= self.floor
        assert good, f"{self.name}: {self.judged:.4g}, {'at most' if self.most else 'at least'} {self.floor:g} wanted"


class Figures:
    """Every figure of a run. One owner: the session."""

    def __init__(self) -> None:
        self.rows: list[Figure] = []

    def add(self, figure: Figure) -> None:
        """Keep it, say it, and hold it against its floor."""
        self.rows.append(figure)
        print("\n" + "  ".join(cell for cell in _cells(figure) if cell), flush=True)
        figure.check()

    def table(self) -> str:
        """All rows, aligned."""
        head = ("figure", "pbus", "base", "ratio", "spread", "goal", "others", "beside")
        rows = [head, *(_cells(figure) for figure in self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
            for row in rows
        )

    def write(self, path: Path) -> None:
        """Everything as JSON."""
        document = {"v": 1, "machine": machine(), "figures": [asdict(figure) for figure in self.rows]}
        path.write_text(json.dumps(document, indent=1) + "\n")


def median_figure(
    name: str, unit: str, pairs: Sequence[Any], *, goal: float | None = None, floor: float | None = None,
    beside: dict[str, str] | None = None,
) -> Figure:
    """The figure of *pairs* (``slices.Pair``)."""
    ratios = [pair.pbus / pair.base for pair in pairs]
    return Figure(
        name=name, unit=unit, pbus=statistics.median(pair.pbus for pair in pairs),
        base=statistics.median(pair.base for pair in pairs), ratio=statistics.median(ratios), low=min(ratios),
        high=max(ratios), goal=goal, floor=floor, others=max(pair.others for pair in pairs), beside=beside or {},
    )


def machine() -> dict[str, str]:
    """Where this ran."""
    with open("/proc/cpuinfo") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}", "python": sys.version.split()[0],
    }


def _cells(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    spread = "" if figure.low is None or figure.high is None else f"{figure.low:.2f}-{figure.high:.2f}"
    return (
        figure.name, f"{_number(figure.pbus)} {figure.unit}", "" if figure.base is None else _number(figure.base),
        ratio, spread, "" if figure.goal is None else f"{'<' if figure.most else ''}{_number(figure.goal)}",
        f"{figure.others:.0%}", ", ".join(f"{name} {value}" for name, value in figure.beside.items()),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
