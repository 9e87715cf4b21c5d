"""
A measured figure, a curve, and the document of a run.

Rule: what is compared was measured in the same run, slice beside slice; a figure is a median with its
spread, and the machine's state stands beside it. Floors are generous: a figure below its floor is a
regression on any machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pbus
from pbus.bench.slices import Pair

VERSION = 1
"""``"v"`` of the document; keys are only ever added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One line.

    Attributes:
        name: What was measured.
        unit: Of ``pbus`` and ``base``.
        pbus: Median of ours.
        base: Median of what it is compared with; None: nothing.
        ratio: Median of the ratios of the pairs.
        low, high: The least and the largest of these (of ``pbus``, where there is no base).
        goal: What the ratio (or ``pbus``, where there is no base) should be.
        floor: Below this (or, with ``most``, above) it is a regression on any machine.
        most: The goal is an upper bound.
        others: Share of a core that other programs used meanwhile, the worst slice that counts.
        beside: More that was measured, text for people.
        id: Its name for programs, the same in every run: ``pushes.sqlite``.
        command: What measures it again.
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
    beside: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    command: str = ""

    @property
    def judged(self) -> float:
        """What floor and goal are about."""
        return self.pbus if self.ratio is None else self.ratio

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None: there is none."""
        return None if self.goal is None else self.is_within(self.goal)

    def is_within(self, bound: float) -> bool:
        """Whether it is on the good side of *bound*."""
        return self.judged <= bound if self.most else self.judged >= bound

    def check(self) -> None:
        """
        Hold the figure against its floor.

        Raises:
            AssertionError: it is on the wrong side.
        """
        bound = "at most" if self.most else "at least"
        if self.floor is not None and not self.is_within(self.floor):
            raise AssertionError(f"{self.name}: {self.judged:.4g}, {bound} {self.floor:g} wanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """
    One line of a curve, or what it runs along.

    Attributes:
        values: Medians of the rounds.
        low, high: The least and the largest of them, as many; empty: not known.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How something grows: lines over the same ``x``."""

    id: str
    title: str
    x: Axis
    lines: tuple[Axis, ...]


def median_figure(
    name: str, unit: str, pairs: Sequence[Pair], *, goal: float | None = None, floor: float | None = None,
    beside: Mapping[str, str] | None = None, id: str = "", most: bool = False,
) -> Figure:
    """The figure of *pairs*."""
    ratios = [pair.pbus / pair.base for pair in pairs]
    return Figure(
        name=name, unit=unit, pbus=statistics.median(pair.pbus for pair in pairs),
        base=statistics.median(pair.base for pair in pairs), ratio=statistics.median(ratios), low=min(ratios),
        high=max(ratios), goal=goal, floor=floor, others=max(pair.others for pair in pairs), beside=beside or {},
        id=id, most=most,
    )


def value_figure(
    name: str, unit: str, values: Sequence[tuple[float, float]], *, goal: float | None = None,
    floor: float | None = None, beside: Mapping[str, str] | None = None, id: str = "", most: bool = False,
) -> Figure:
    """The figure of *values* (each with the share of others), where nothing is compared."""
    found = [value for value, _ in values]
    return Figure(
        name=name, unit=unit, pbus=statistics.median(found), low=min(found), high=max(found), goal=goal, floor=floor,
        others=max(others for _, others in values), beside=beside or {}, id=id, most=most,
    )


def document(
    figures: Sequence[Figure], curves: Sequence[Curve], machine: Mapping[str, str], at: str
) -> dict[str, Any]:
    """Everything of a run for programs; *at*: when, ISO 8601."""
    return {
        "v": VERSION, "pbus": pbus.__version__, "at": at, "machine": dict(machine),
        "figures": [asdict(figure) for figure in figures], "curves": [asdict(curve) for curve in curves],
    }


def figures_of(document: Any) -> list[Figure]:
    """
    The figures of a document, of an older or a newer pbus too.

    Raises:
        ValueError: that is none.
    """
    known = {each.name for each in fields(Figure)}
    try:
        return [
            Figure(**{key: value for key, value in row.items() if key in known}) for row in document["figures"]
        ]
    except (TypeError, KeyError, AttributeError):
        raise ValueError("that is no document of 'pbus bench --json'") from None
