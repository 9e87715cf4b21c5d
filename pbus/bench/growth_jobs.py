"""Curves of jobs: how large they are, how many wait, and how many processes do them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, Final

from pbus.bench import growth_handlers
from pbus.bench.bus import UNBOUNDED, Bus, standing_still
from pbus.bench.figures import Figure
from pbus.bench.growth import Panel, Sheet, Slice, fill, waiting
from pbus.bench.growth_pushes import BARE, parked
from pbus.bench.load import QUEUE, push, python_topic
from pbus.bench.machine import CLOCK
from pbus.bench.rows import Run

BODIES: Final = (100, 1024, 10 * 1024, 100 * 1024, 1024 * 1024)
BACKLOGS: Final = (1_000, 10_000, 100_000, 1_000_000)
CONSUMERS: Final = (1, 2, 4, 8)
CHILDREN: Final = (1, 2)
MOST_BYTES: Final = 64 * 2**20
"""Of the bodies of a slice."""
ALONE: Final = "sleep alone"
_TRIED: Final = 5_000
"""Pushes that tell how many a slice takes."""
_SERVED: Final = "served"


def served(function: str, consumers: int) -> dict[str, Any]:
    """A queue with one topic that so many processes serve; *function*: of ``handlers`` or ``growth_handlers``."""
    topic = python_topic(function, consumers)
    if hasattr(growth_handlers, function):
        topic["python"] = {"call": f"{growth_handlers.__name__}:{function}"}
    return {**UNBOUNDED, "topic": {"py": topic}}


# -- bodies -----------------------------------------------------------------------------------------------


def _of_bodies(id: str, title: str, y: str) -> Panel:
    return Panel(f"growth-bodies.{id}", title, ("size of a body", "bytes"), y)


_PUSHES = _of_bodies("pushes", "Pushes", "pushes/s")
_PUSHED = _of_bodies("pushed", "Bytes pushed", "MB/s")
_SHARE = _of_bodies("share", "Beside bare LPUSH", "share of its rate")
_JOBS = _of_bodies("jobs", "Jobs to an empty Python handler", "jobs/s")
_DONE = _of_bodies("done", "Bytes delivered", "MB/s")
_CPU = _of_bodies("cpu", "Processor time, store included", "us a delivery")


def bodies(run: Run) -> Iterator[Figure]:
    """100 B to 1 MiB: pushed while nothing is delivered, then delivered."""
    sheet = Sheet(run, (_PUSHES, _PUSHED, _SHARE, _JOBS, _DONE, _CPU), run.stage.store(run.store))
    bus, bare = run.stage.bus_of({QUEUE: parked(), _SERVED: served("empty", 2)}, sheet.store), run.stage.redis()
    theirs, ours = push(bare.port, QUEUE, _TRIED, size=BODIES[0]), push(bus.port, QUEUE, _TRIED, size=BODIES[0])
    for size in BODIES:
        for _ in sheet.rounds():
            with bare.client() as client:
                client.flushall()
            theirs = push(bare.port, QUEUE, _count(sheet, theirs, size), size=size)
            ours = _body(sheet, bus, size, _count(sheet, ours, size))
            sheet.add(_PUSHES, size, theirs, BARE)
            sheet.add(_PUSHED, size, theirs * size / 1e6, BARE)
            sheet.add(_SHARE, size, ours / theirs)
            sheet.made()
    sheet.hand_over()
    yield sheet.against("pushes of 1 MiB", _PUSHED, BODIES[-1], (BODIES[-1], BARE))


def _count(sheet: Sheet, rate: float, size: int) -> int:
    """A round trip of each of the 50 connections at least."""
    return max(50, min(int(rate * sheet.slice_s), MOST_BYTES // size))


def _body(sheet: Sheet, bus: Bus, size: int, count: int) -> float:
    """One round; pushes a second."""
    pushed: list[Slice] = []
    done = sheet.drained(bus, _SERVED, lambda: pushed.append(sheet.pushed(bus, _SERVED, count, size=size)))
    sheet.add(_PUSHES, size, pushed[0].rate)
    sheet.add(_PUSHED, size, pushed[0].rate * size / 1e6)
    sheet.add(_JOBS, size, done.rate)
    sheet.add(_DONE, size, done.rate * size / 1e6)
    sheet.add(_CPU, size, done.us)
    return pushed[0].rate


# -- backlog ----------------------------------------------------------------------------------------------

_WAIT_DONE = Panel("growth-backlog.jobs", "Jobs to an empty Python handler", ("jobs that wait", ""), "jobs/s")
_WAIT_PUSHES = Panel("growth-backlog.pushes", "Pushes meanwhile", ("jobs that wait", ""), "pushes/s")
_WAIT_CPU = Panel("growth-backlog.cpu", "Processor time, store included", ("jobs that wait", ""), "us a delivery")


def backlog(run: Run) -> Iterator[Figure]:
    """1,000 to 1,000,000 jobs wait while a slice of more is pushed, and then while as many are delivered."""
    sheet = Sheet(run, (_WAIT_DONE, _WAIT_CPU, _WAIT_PUSHES), run.stage.store(run.store))
    bus = run.stage.bus_of({QUEUE: parked(), _SERVED: served("empty", 2)}, sheet.store)
    count = int(sheet.pushed(bus, QUEUE, _TRIED).rate * sheet.slice_s)
    for backlog in BACKLOGS:
        with standing_still(bus):
            _top_up(bus, backlog)
        for _ in sheet.rounds():
            pushed: list[Slice] = []

            def load(backlog: int = backlog, pushed: list[Slice] = pushed) -> None:
                _top_up(bus, backlog)
                pushed.append(sheet.pushed(bus, _SERVED, count))

            done = sheet.drained(bus, _SERVED, load, left=backlog)
            sheet.add(_WAIT_DONE, backlog, done.rate)
            sheet.add(_WAIT_CPU, backlog, done.us)
            sheet.add(_WAIT_PUSHES, backlog, pushed[0].rate)
            sheet.made()
    sheet.hand_over()
    name = f"jobs with {BACKLOGS[-1]:,} waiting against {BACKLOGS[0]:,}"
    yield sheet.against(name, _WAIT_DONE, BACKLOGS[-1], (BACKLOGS[0], ""))


def _top_up(bus: Bus, backlog: int) -> None:
    missing = backlog - waiting(bus, _SERVED)
    if missing > 0:
        fill(bus, _SERVED, missing)


# -- processes --------------------------------------------------------------------------------------------

_EMPTY = Panel("growth-processes.empty", "Empty handler", ("Python consumers", ""), "jobs/s")
_NAP = Panel("growth-processes.nap", "Handler that sleeps 5 ms", ("Python consumers", ""), "jobs/s")
_INGEST = Panel("growth-processes.ingest", "Pushes", ("ingest children", ""), "pushes/s")
_DELIVERY = Panel("growth-processes.delivery", "Empty handler, 4 consumers", ("delivery children", ""), "jobs/s")
_JOBS_RATE: Final = 40_000.0
"""Of an empty handler, about: as many for all, so that they are compared."""
_NAPS_S: Final = 0.7
"""A slice of a handler that sleeps: long beside its end, at which not all of them have work."""


def processes(run: Run) -> Iterator[Figure]:
    """1 to 8 consumers of a topic; one or two ingest and delivery children."""
    sheet = Sheet(run, (_EMPTY, _NAP, _INGEST, _DELIVERY), run.stage.store(run.store))
    queues = {QUEUE: parked()}
    queues |= {f"empty-{count}": served("empty", count) for count in CONSUMERS}
    queues |= {f"nap-{count}": served("nap", count) for count in CONSUMERS}
    bus = run.stage.bus_of(queues, sheet.store)
    for queue in queues:
        if queue != QUEUE:
            _served(sheet, bus, queue, 100)
    for _ in sheet.rounds():
        alone = _naps_a_second()
        for count in CONSUMERS:
            sheet.add(_NAP, count, alone * count, ALONE)
            sheet.add(_NAP, count, _served(sheet, bus, f"nap-{count}", int(alone * count * _NAPS_S)))
            sheet.add(_EMPTY, count, _served(sheet, bus, f"empty-{count}", int(_JOBS_RATE * sheet.slice_s)))
            sheet.made()
    _children(sheet, bus)
    sheet.hand_over()
    yield sheet.against("jobs of 8 consumers that sleep", _NAP, CONSUMERS[-1], (CONSUMERS[-1], ALONE))
    yield sheet.against("pushes to 2 ingest children", _INGEST, CHILDREN[-1], (CHILDREN[0], ""))
    yield sheet.against("jobs by 2 delivery children", _DELIVERY, CHILDREN[-1], (CHILDREN[0], ""))


def _children(sheet: Sheet, one: Bus) -> None:
    """A bus with one of each, and one with two."""
    stage = sheet.run.stage
    queues = {QUEUE: parked(), "empty-4": served("empty", 4)}
    two = stage.bus_of(
        queues, stage.store(sheet.run.store), ingest={"processes": 2}, delivery={"processes": 2},
    )
    pushes = int(sheet.pushed(one, QUEUE, _TRIED).rate * sheet.slice_s)
    for _ in sheet.rounds():
        for count, bus in zip(CHILDREN, (one, two), strict=True):
            sheet.add(_INGEST, count, sheet.pushed(bus, QUEUE, pushes).rate)
            sheet.add(_DELIVERY, count, _served(sheet, bus, "empty-4", int(_JOBS_RATE * sheet.slice_s)))
            sheet.made()


def _served(sheet: Sheet, bus: Bus, queue: str, count: int) -> float:
    return sheet.drained(bus, queue, lambda: fill(bus, queue, count)).rate


def _naps_a_second() -> float:
    """The handler's sleep in a loop without a bus; the median, a late one does not count."""
    took_s = []
    for _ in range(40):
        begin_s = CLOCK.monotonic_s()
        growth_handlers.nap(None)
        took_s.append(CLOCK.monotonic_s() - begin_s)
    return 1 / statistics.median(took_s)
