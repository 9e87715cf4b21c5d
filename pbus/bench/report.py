"""
Figures for people: a table for a terminal, the same as Markdown for a page, and what has changed since an older run.

Rule: what is compared is the ratio where there is one, because rates are of a machine and of a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pbus.bench.figures import Figure

HEADS: Final = ("FIGURE", "PBUS", "BASE", "RATIO", "SPREAD", "GOAL", "REACHED", "OTHERS", "BESIDE")
_CHANGE: Final = "CHANGE"
_NOT: Final = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True, slots=True)
class Change:
    """
    A figure beside its older self.

    Attributes:
        percent: How much what is judged has grown.
        noise: It is within the spread of either run.
        worse_percent: How much worse it is; 0: it is not.
    """

    percent: float
    noise: bool
    worse_percent: float

    def __str__(self) -> str:
        return f"{self.percent:+.1f} %" + (" (noise)" if self.noise else "")


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    Two runs.

    Attributes:
        changes: id -> what changed, of the figures that both have.
        only_now, only_then: Names of those that one has.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    only_now: tuple[str, ...] = ()
    only_then: tuple[str, ...] = ()

    def worse(self, percent: float) -> list[str]:
        """Ids of the figures that are worse by more than that, and not by noise."""
        return [key for key, change in self.changes.items() if not change.noise and change.worse_percent > percent]


def compare(now: Iterable[Figure], then: Iterable[Figure], measured: Iterable[str] | None = None) -> Comparison:
    """
    What has changed.

    Args:
        measured: Commands of this run; figures of others are not missed. None: of all.
    """
    new, old = {figure.id: figure for figure in now}, {figure.id: figure for figure in then}
    wanted = {figure.command for figure in old.values()} if measured is None else set(measured)
    return Comparison(
        changes={key: _change(figure, old[key]) for key, figure in new.items() if key in old},
        only_now=tuple(figure.name for key, figure in new.items() if key not in old),
        only_then=tuple(figure.name for key, figure in old.items() if key not in new and figure.command in wanted),
    )


def _change(now: Figure, then: Figure) -> Change:
    percent = (now.judged / then.judged - 1) * 100 if then.judged else 0.0
    noise = _spreads(now, then.judged) or _spreads(then, now.judged)
    return Change(percent, noise, max(0.0, percent if now.most else -percent))


def _spreads(figure: Figure, value: float) -> bool:
    """Whether a round of *figure* might have given *value*."""
    return figure.low is not None and figure.high is not None and figure.low <= value <= figure.high


# -- tables ---------------------------------------------------------------------------------------


def cells(figures: Sequence[Figure], comparison: Comparison | None = None) -> tuple[list[str], list[list[str]]]:
    """Headings and rows; the change, where there is one, stands before what is beside."""
    heads = list(HEADS)
    rows = [_row(figure) for figure in figures]
    if comparison is not None:
        heads.insert(-1, _CHANGE)
        for row, figure in zip(rows, figures, strict=True):
            row.insert(-1, str(comparison.changes.get(figure.id, "new")))
    return heads, rows


def _row(figure: Figure) -> list[str]:
    spread = "" if figure.low is None or figure.high is None else f"{number(figure.low)}-{number(figure.high)}"
    return [
        figure.name, f"{number(figure.pbus)} {figure.unit}", "" if figure.base is None else number(figure.base),
        "" if figure.ratio is None else f"{figure.ratio:.2f}", spread,
        "" if figure.goal is None else f"{'<=' if figure.most else '>='} {number(figure.goal)}", _NOT[figure.reached],
        f"{figure.others:.0%}", ", ".join(f"{name} {value}" for name, value in figure.beside.items()),
    ]


def number(value: float) -> str:
    """Three digits of it, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def about(machine: Mapping[str, str]) -> str:
    """One line about the machine."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def markdown(figures: Sequence[Figure], machine: Mapping[str, str], comparison: Comparison | None = None) -> str:
    """A table for docs/performance.md, with the command of each figure."""
    heads = ["work", "pbus", "base", "ratio", "spread", "goal", "processor, beside", "command"]
    rows = [_markdown_row(figure) for figure in figures]
    if comparison is not None:
        heads.insert(-1, "change")
        for row, figure in zip(rows, figures, strict=True):
            row.insert(-1, str(comparison.changes.get(figure.id, "new")))
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([*lines, "", f"Measured on: {about(machine)}."])


def _markdown_row(figure: Figure) -> list[str]:
    name, ours, base, ratio, spread, goal, reached, others, beside = _row(figure)
    if reached == "no":
        goal += ", **not reached**"
    if figure.others > 0.1:
        beside += f"{beside and ', '}others {others}"
    return [name, ours, base, ratio, spread, goal, beside, f"`{figure.command}`" if figure.command else ""]
