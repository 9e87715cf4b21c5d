"""One thing in full, for people: a line a fact."""

from __future__ import annotations

from collections.abc import Sequence

from pbus.cli.grid import Cell
from pbus.cli.output import Output, escape


def facts(output: Output, lines: Sequence[tuple[str, Cell]]) -> None:
    """``name  value`` each, those without a value left out; values may hold anything."""
    told = [(name, text, colour) for name, (text, colour) in lines if text]
    width = max((len(name) for name, _, _ in told), default=0)
    for name, text, colour in told:
        output.line(f"{name.ljust(width)}  {output.style(escape(text), colour) if colour else escape(text)}")
