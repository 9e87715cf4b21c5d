"""
How the cost grows: what the rows of curves have in common.

Rule: a curve has few points of few short slices, because its shape is what counts: a row stays below a minute on a
store. What is compared was measured in turn in the same run, and a point bears the spread of its rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pbus.bench.bus import FILL_PIPELINE, LONGEST_S, Bus, standing_still
from pbus.bench.figures import Axis, Curve, Figure, median_figure
from pbus.bench.load import BODY_BYTES, push
from pbus.bench.machine import CLOCK, cpu_s, until
from pbus.bench.private import BenchError
from pbus.bench.rows import Run
from pbus.bench.servers import RedisServer
from pbus.bench.slices import Pair

NAMES: Final = {"sqlite": "SQLite", "redis": "Redis"}
"""Of the stores, in pictures."""
ROUNDS: Final = 3
SLICE: Final = 0.3
"""Share of the usual length of a slice."""
_POLL_S: Final = 0.004
"""Between two looks at what is left."""


@dataclass(frozen=True, slots=True)
class Panel:
    """
    What one pair of axes shows.

    Attributes:
        id: ``growth-ROW.NAME``: what is before the dot is one picture.
        x: Of what there is more and more, and its unit.
        y: Unit of the values.
    """

    id: str
    title: str
    x: tuple[str, str]
    y: str


@dataclass(slots=True)
class Sheet:
    """
    The curves of a row on a store while they are measured. One owner: the row's function.

    Attributes:
        panels: In the order of the picture.
        store: The server behind the store, whose processor time counts as ours; None: the bus has it in a file.
    """

    run: Run
    panels: tuple[Panel, ...]
    store: RedisServer | None
    _lines: dict[tuple[Panel, str], dict[float, list[float]]] = field(default_factory=dict)
    _made: int = 0

    @property
    def slice_s(self) -> float:
        """About how long a slice is."""
        return self.run.options.slice_s * SLICE

    def rounds(self) -> range:
        """Of each point."""
        return range(min(self.run.options.rounds, ROUNDS))

    def made(self) -> None:
        """Say that another slice is done."""
        self._made += 1
        self.run.tell(self._made)

    def add(self, panel: Panel, x: float, value: float, line: str = "") -> None:
        """One more round at *x*; *line*: what is no store."""
        self._lines.setdefault((panel, line or NAMES[self.run.store]), {}).setdefault(x, []).append(value)

    def samples(self, panel: Panel, x: float, line: str = "") -> list[float]:
        """The rounds at *x*."""
        return self._lines[panel, line or NAMES[self.run.store]][x]

    def against(self, name: str, panel: Panel, x: float, base: tuple[float, str], **beside: str) -> Figure:
        """The rounds at *x* against those of *base* (x, line; "": the store's) of the same panel."""
        rounds = zip(self.samples(panel, *base), self.samples(panel, x), strict=True)
        return median_figure(
            f"{name}, {self.run.store}", panel.y, [Pair(theirs, ours, 0.0) for theirs, ours in rounds], beside=beside,
            id=f"{panel.id}.{self.run.store}",
        )

    def hand_over(self) -> None:
        """All of it goes to the run: of each line the median of its rounds, the least and the largest."""
        for (panel, line), points in sorted(self._lines.items(), key=lambda each: self.panels.index(each[0][0])):
            x = Axis(name=panel.x[0], unit=panel.x[1], values=tuple(points))
            rounds = list(points.values())
            y = Axis(
                name=line, unit=panel.y, values=_tidy(statistics.median, rounds), low=_tidy(min, rounds),
                high=_tidy(max, rounds),
            )
            self.run.curves.append(Curve(id=panel.id, title=panel.title, x=x, lines=(y,)))

    # -- one slice ----------------------------------------------------------------------------

    def pushed(self, bus: Bus, queue: str, count: int, *, connections: int = 50, size: int = BODY_BYTES) -> Slice:
        """Push *count* jobs without pipelines."""
        pids = self._pids(bus, "ingest")
        before_s = cpu_s(pids)
        rate = push(bus.port, queue, count, connections=connections, size=size)
        return Slice(rate, (cpu_s(pids) - before_s) / count * 1e6)

    def drained(self, bus: Bus, queue: str, load: Callable[[], object], left: int = 0) -> Slice:
        """
        Have *load* push to *queue* while nothing is delivered, then let it go on until at most *left* wait.

        Raises:
            BenchError: that takes too long.
        """
        pids = self._pids(bus, "delivery", "consumer")
        with standing_still(bus):
            load()
            waited = waiting(bus, queue)
            before_s, begin_s = cpu_s(pids), CLOCK.monotonic_s()
        if not until(lambda: waiting(bus, queue) <= left, LONGEST_S, _POLL_S):
            raise BenchError(f"{waiting(bus, queue)} jobs of {queue} are left after {LONGEST_S:g} s")
        took_s, used_s = CLOCK.monotonic_s() - begin_s, cpu_s(pids) - before_s
        done = max(1, waited - waiting(bus, queue))
        return Slice(done / took_s, used_s / done * 1e6)

    def _pids(self, bus: Bus, *roles: str) -> list[int]:
        """Processes of these roles, and the server of the store."""
        return [*bus.pids(*roles), *([self.store.pid] if self.store else [])]


class Slice(NamedTuple):
    """
    What one slice gave.

    Attributes:
        rate: Jobs a second.
        us: Microseconds of processor time a job, of the bus' processes that do it and of the store's server.
    """

    rate: float
    us: float


def waiting(bus: Bus, queue: str) -> int:
    """Deliveries of that queue that are not settled."""
    return sum(n.ready + n.running + n.delayed for n in bus.driver.numbers([queue]).values())


def fill(bus: Bus, queue: str, count: int, size: int = BODY_BYTES) -> None:
    """Push *count* jobs as fast as it goes."""
    push(bus.port, queue, count, pipeline=FILL_PIPELINE if size <= 1024 else 1, size=size)


def _tidy(choose: Callable[[Sequence[float]], float], rounds: list[list[float]]) -> tuple[float, ...]:
    """Four digits are more than a measurement has."""
    return tuple(float(f"{choose(values):.4g}") for values in rounds)
