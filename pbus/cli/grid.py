"""
Tables for people: what a number, a time and a state look like, and the grid they stand in.

Rule: numbers stand right, zeros that mean "nothing to see" are dim, and nothing is coloured that is not
either good or bad. Programs are given the rows as they are (``show``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pbus.cli.output import Output, columns_of, cut, cut_inside, pad

_GOOD: Final = frozenset({"running", "ready", "up", "done"})
_BAD: Final = frozenset({"degraded", "down", "fatal", "dead", "open", "orphaned", "rollout-failed", "failed"})
_GAP: Final = "  "
_NAME_PART: Final = 0.45
_NAME_LEAST: Final = 16
"""What a long name may take of a terminal, as a part and in columns."""

Cell = tuple[str, str]
"""Text and colour (empty: none)."""


def show(
    output: Output, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], heads: Sequence[str],
    cells: Callable[[Mapping[str, Any]], Sequence[Cell]], **head: Any,
) -> None:
    """
    *rows* in the form that ``-o`` asks for.

    Args:
        name, columns, head: As for ``Output.rows``, for programs.
        heads: Headings for people; a leading ``>`` stands for a column of numbers.
        cells: A row as people read it.
    """
    if output.form != "table":
        output.rows(name, columns, rows, **head)
    elif rows:
        for line in grid(heads, [cells(row) for row in rows], output):
            output.line(line)


def plain(text: str) -> Cell:
    """*text* without a colour."""
    return (text, "")


def duration(seconds: float) -> str:
    """``4 s``, ``12 min``, ``3 h 20 min``, ``5 d 2 h``, ``1 d``: two units at most."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"


def size(count: int) -> str:
    """``31.2 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def number(count: float) -> str:
    """``9999`` as it is, above that ``12.3k``, ``4.5M``."""
    if count < 10_000:
        return f"{count:g}"
    for unit in ("k", "M", "G"):
        count /= 1000
        if count < 1000 or unit == "G":
            break
    return f"{count:.1f}{unit}"


def count(value: int | None, colour: str = "") -> Cell:
    """*value*; a dash where nobody could read it."""
    return ("-" if value is None else number(value), colour if value else "bright_black")


def wait(seconds: float | None) -> Cell:
    """A wait worth mentioning, else a dash."""
    waits = seconds or 0.0
    return (duration(waits) if waits >= 1 else "-", "" if waits >= 1 else "bright_black")


def state(text: str) -> Cell:
    """A state, good or bad."""
    return (text, colour(text))


def colour(state: str) -> str:
    """Of a state: green, red, or yellow for what is in between."""
    if state in _GOOD:
        return "green"
    return "red" if state in _BAD else "yellow"


def grid(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], output: Output, spare: Sequence[str] = (),
    columns: int | None = None,
) -> Iterator[str]:
    """
    A table as lines, narrower where the terminal is: long names are shortened, then the columns *spare* left out, in
    that order. Without *spare* names stay whole, to be copied.

    *columns*: Fit into so many; None: into what the terminal has, or what it takes where there is none.
    """
    if columns is None:
        columns = shutil.get_terminal_size().columns if output.terminal else 1 << 30
    heads, rows = _fitting(heads, rows, columns, spare)
    right = [head.startswith(">") for head in heads]
    titles = [head.removeprefix(">").upper() for head in heads]
    widths = _widths(titles, rows)
    narrow = sum(widths) + len(_GAP) * (len(widths) - 1) > columns
    gap = _GAP[1:] if narrow else _GAP
    lines: list[list[Cell]] = [[(title, "bright_black") for title in titles], *(list(row) for row in rows)]
    room = columns - sum(widths[:-1]) - len(gap) * (len(widths) - 1)
    if narrow and not right[-1] and room >= len(titles[-1]):
        widths[-1] = min(widths[-1], room)
        lines = [[*row[:-1], (cut(row[-1][0], widths[-1]), row[-1][1])] for row in lines]
    for row in lines:
        yield gap.join(
            _cell(output, text, colour, width, is_right)
            for (text, colour), width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()


def _fitting(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], columns: int, spare: Sequence[str]
) -> tuple[Sequence[str], Sequence[Sequence[Cell]]]:
    """The table with shorter names, and without as many of *spare* as have to go."""
    if spare and _width(heads, rows) > columns:
        most = max(_NAME_LEAST, int(columns * _NAME_PART))
        rows = [[(cut_inside(row[0][0], most), row[0][1]), *row[1:]] for row in rows]
    for name in spare:
        if _width(heads, rows) <= columns:
            break
        kept = [place for place, head in enumerate(heads) if head.removeprefix(">") != name]
        heads, rows = [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]
    return heads, rows


def _width(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> int:
    """What it takes, with single blanks between the columns."""
    return sum(_widths([head.removeprefix(">") for head in heads], rows)) + len(heads) - 1


def _widths(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[int]:
    return [max([len(title), *(columns_of(row[place][0]) for row in rows)]) for place, title in enumerate(titles)]


def _cell(output: Output, text: str, colour: str, width: int, right: bool) -> str:
    padded = text.rjust(width) if right else pad(text, width)
    return output.style(padded, colour) if colour and text else padded
