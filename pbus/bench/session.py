"""
A run of several rows: each on a stage of its own, one after the other.

Rule: whatever a row started has ended before the next one begins. A row without its parts is skipped with the reason,
one that fails does not keep the others from being measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pbus.bench.figures import Curve, Figure, document
from pbus.bench.machine import Processor, describe
from pbus.bench.private import Missing, find
from pbus.bench.rows import ROWS, Options, Run, measure
from pbus.bench.stage import Stage
from pbus.errors import PbusError

Part = tuple[str, str]
"""(row, store)."""


class Watcher(Protocol):
    """Who looks on."""

    def begins(self, part: Part) -> None:
        """It is measured from now on."""

    def made(self, rounds: int) -> None:
        """So many rounds of a figure of it are."""

    def ended(self, part: Part) -> None:
        """It was, or it could not be."""


@dataclass(slots=True)
class Result:
    """
    What came of a run.

    Attributes:
        figures, curves: What was measured.
        machine: About the machine, with what other programs used of it meanwhile.
        skipped, failed: (row, store, why) of the others.
    """

    machine: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)

    def document(self, at: str) -> dict[str, Any]:
        """Everything for programs."""
        told = {
            name: [{"row": row, "store": store, "reason": reason} for row, store, reason in parts]
            for name, parts in (("skipped", self.skipped), ("failed", self.failed))
        }
        return {**document(self.figures, joined(self.curves), self.machine, at), **told}


def run(
    parts: Sequence[Part], options: Options, watcher: Watcher,
    measured: Callable[[str, Run], Iterable[Figure]] = measure,
) -> Result:
    """Measure *parts*; *measured*: what gives the figures of a row."""
    with Stage(options.folder) as stage:
        result, processor = Result(describe(stage.folder)), Processor()
    for name, store in parts:
        watcher.begins((name, store))
        try:
            for program in ROWS[name].needs:
                find(program)
            with Stage(options.folder) as stage:
                one = Run(store, stage, options, watcher.made, result.curves)
                result.figures.extend(measured(name, one))
        except Missing as missing:
            result.skipped.append((name, store, str(missing)))
        except (PbusError, OSError) as error:
            result.failed.append((name, store, str(error)))
        watcher.ended((name, store))
    result.machine["others"] = f"{processor.others():.0%} of a core"
    return result


def joined(curves: Iterable[Curve]) -> list[Curve]:
    """Those of one id over the same ``x`` are one with more lines."""
    found: dict[tuple[str, tuple[float, ...]], Curve] = {}
    for curve in curves:
        key = curve.id, curve.x.values
        known = found.get(key)
        found[key] = curve if known is None else replace(known, lines=_with(known, curve))
    return list(found.values())


def _with(known: Curve, more: Curve) -> tuple[Any, ...]:
    names = {line.name for line in known.lines}
    return (*known.lines, *(line for line in more.lines if line.name not in names))
