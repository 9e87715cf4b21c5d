"""
The table of measurements: a row's name, what it measures, on which stores, and the function that does it.

Rule: a row is one command (``pbus bench NAME --store STORE``) and gives one figure or a few. It is a
function of a ``Run``; whoever needs a part that the machine has not raises ``Missing``.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pbus.bench.figures import Curve, Figure
from pbus.bench.slices import ROUNDS, Patience
from pbus.bench.stage import STORES, Stage
from pbus.errors import Exit, PbusError

ALL: Final = "all"
SQLITE: Final = ("sqlite",)
BOTH: Final = ("sqlite", "redis")
EACH: Final = tuple(STORES)


class NoSuchRow(PbusError):
    """There is no row, or no row on that store, of the name."""

    exit_status = Exit.NOT_FOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    How to measure.

    Attributes:
        rounds: Slices, or pairs of slices, that count.
        slice_s: How long one is, about.
        quiet_s: Wait at most so long before each for other programs to be quiet.
        backlog: Jobs of the long backlog of the row ``backlog``.
        connections: Of the row ``connections``.
        folder: Where the temporary folder is made; empty: where temporary folders are made.
    """

    rounds: int = ROUNDS
    slice_s: float = 1.5
    quiet_s: float = 0.0
    backlog: int = 10_000_000
    connections: int = 10_000
    folder: str = ""


@dataclass(slots=True)
class Run:
    """
    One row on one store. One owner: its function.

    Attributes:
        store: A name of ``STORES``.
        stage: Servers and buses; all that it starts ends with the row.
        options: How to measure.
        tell: Called with the number of rounds that were made.
        curves: Curves of the row, beside its figures.
    """

    store: str
    stage: Stage
    options: Options = field(default_factory=Options)
    tell: Callable[[int], object] = lambda made: None  # noqa: ARG005 - nobody looks on
    curves: list[Curve] = field(default_factory=list)

    def patience(self) -> Patience:
        """For one figure."""
        rounds = self.options.rounds
        return Patience(quiet_s=self.options.quiet_s, rounds=rounds, tries=2 * rounds, tell=self.tell)

    def count(self, rate: float) -> int:
        """Jobs of a slice, by a rate that was tried."""
        return max(100, int(rate * self.options.slice_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    Attributes:
        what: For people.
        target: ``module:function`` below pbus.bench; it is called with a ``Run`` and yields figures.
        stores: Where it makes sense.
        seconds: About how long it takes on a store.
        needs: Programs that it uses on every store.
        named: It is run when it is named, only.
    """

    what: str
    target: str
    stores: tuple[str, ...] = BOTH
    seconds: int = 20
    needs: tuple[str, ...] = ("redis-benchmark",)
    named: bool = False


_PUSH: Final = ("redis-server", "redis-benchmark")

ROWS: Final[dict[str, Row]] = {
    "pushes": Row(
        what="pushes of 50 connections, no pipeline, against bare LPUSH", target="pushing:single", stores=EACH,
        needs=_PUSH,
    ),
    "pipelines": Row(
        what="pushes in pipelines of 32, against bare LPUSH", target="pushing:pipelines", stores=EACH, needs=_PUSH,
    ),
    "drained": Row(what="the same pushes while a consumer drains", target="pushing:drained", needs=_PUSH, seconds=40),
    "fan-out": Row(what="pushes to a queue of 5 topics, against one of 1", target="pushing:fan_out", seconds=40),
    "php": Row(
        what="jobs to an empty php-fpm script, against a bare FastCGI loop", target="running:php",
        needs=("redis-benchmark", "php-fpm"), seconds=60,
    ),
    "python": Row(
        what="jobs to a Python handler with one INCR, two processes, against the same without a bus",
        target="running:python", needs=_PUSH, seconds=60,
    ),
    "empty": Row(what="jobs to an empty Python handler, two processes", target="running:empty"),
    "latency": Row(
        what="from the push to the handler, at 500 jobs a second", target="latency:steady", stores=EACH, needs=(),
    ),
    "first": Row(
        what="the first delivery after idle", target="latency:first", stores=("sqlite", "redis-always"), needs=(),
        seconds=30,
    ),
    "backlog": Row(
        what="claims and settles with 10 million jobs waiting, against 1,000", target="waiting:backlog", seconds=150,
    ),
    "connections": Row(what="memory of an idle connection", target="standing:connections", stores=SQLITE, needs=()),
    "memory": Row(what="memory of the whole idle stack", target="standing:memory", needs=(), seconds=15),
    "start": Row(what="processor time of a child from its fork until it is ready", target="standing:start", needs=()),
    "disk": Row(what="bytes written to disk a job", target="disk:written", stores=SQLITE, needs=(), seconds=15),
    "growth-connections": Row(
        what="curves of 1 to 5,000 connections that push", target="growth_pushes:connections", needs=_PUSH, seconds=30,
        named=True,
    ),
    "growth-bodies": Row(
        what="curves of bodies from 100 B to 1 MiB", target="growth_jobs:bodies", needs=_PUSH, seconds=30, named=True,
    ),
    "growth-topics": Row(
        what="curves of 1 to 20 topics and 1 to 1,000 queues", target="growth_pushes:topics", seconds=50, named=True,
    ),
    "growth-backlog": Row(
        what="curves of 1,000 to 1,000,000 jobs that wait", target="growth_jobs:backlog", seconds=40, named=True,
    ),
    "growth-processes": Row(
        what="curves of 1 to 8 consumers, of 1 and 2 ingest and delivery children", target="growth_jobs:processes",
        seconds=40, named=True,
    ),
}


def selected(names: Sequence[str], store: str) -> list[tuple[str, str]]:
    """
    (row, store) of what is to be measured, in the order of the table.

    Args:
        names: Of rows, or patterns (``growth-*``); none: all but those that want to be named.
        store: A name of ``STORES``, or ``all``.

    Raises:
        NoSuchRow: there is none of that name, or none of them is measured on that store.
    """
    chosen = {name for pattern in names for name in _matching(pattern)}
    found = [
        (name, each) for name, row in ROWS.items() if (name in chosen if names else not row.named)
        for each in row.stores if store in (ALL, each)
    ]
    if not found:
        where = "; ".join(f"{name}: {', '.join(ROWS[name].stores)}" for name in sorted(chosen))
        raise NoSuchRow(f"none of these is measured on {store} ({where})")
    return found


def _matching(pattern: str) -> list[str]:
    found = fnmatch.filter(ROWS, pattern)
    if not found:
        near = difflib.get_close_matches(pattern, ROWS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ";"
        raise NoSuchRow(f"no such row {pattern!r}{hint} There are: {', '.join(ROWS)}")
    return found


def measure(name: str, run: Run) -> Iterator[Figure]:
    """
    The figures of a row as they come.

    Raises:
        Missing: a part is not on this machine. BenchError: it cannot go on.
    """
    row = ROWS[name]
    module, _, function = row.target.partition(":")
    measured: Callable[[Run], Iterator[Figure]] = getattr(importlib.import_module(f"pbus.bench.{module}"), function)
    for figure in measured(run):
        yield replace(figure, command=f"pbus bench {name} --store {run.store}")
