"""Curves of pushes: how many connections push, to how many topics, beside how many queues."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Any, Final

from pbus.bench.bus import UNBOUNDED, Bus
from pbus.bench.figures import Figure
from pbus.bench.growth import Panel, Sheet, fill
from pbus.bench.load import QUEUE, push, python_topic
from pbus.bench.machine import CLOCK, cpu_s
from pbus.bench.rows import Run
from pbus.bench.servers import RedisServer

CONNECTIONS: Final = (1, 5, 20, 50, 200, 1000, 5000)
TOPICS: Final = (1, 2, 5, 10, 20)
QUEUES: Final = (1, 10, 100, 1000)
BARE: Final = "bare LPUSH"
EACH_PUSHES: Final = 10
"""A connection pushes so often at least: its opening is in the processor time, though not in the rate."""
IDLE_S: Final = 5.0
"""A duty that looks at every topic comes each 5 s."""
_SPARE_FILES: Final = 100
_TRIED: Final = 1_000
"""Pushes of one connection that tell how many the first slice takes."""

_RATE = Panel("growth-connections.rate", "Pushes", ("connections", ""), "pushes/s")
_SHARE = Panel("growth-connections.share", "Beside bare LPUSH", ("connections", ""), "share of its rate")
_CPU = Panel("growth-connections.cpu", "Processor time, store included", ("connections", ""), "us a push")
_OF_CONNECTIONS: Final = (_RATE, _SHARE, _CPU)


def parked(count: int = 1) -> dict[str, Any]:
    """A queue of so many topics that nobody takes from."""
    return {**UNBOUNDED, "topic": {f"parked-{number}": {"pull": {}} for number in range(count)}}


def served(count: int) -> dict[str, Any]:
    """A queue of so many topics with an empty Python handler each."""
    return {**UNBOUNDED, "topic": {f"served-{number}": python_topic("empty") for number in range(count)}}


# -- connections ------------------------------------------------------------------------------------------


def connections(run: Run) -> Iterator[Figure]:
    """1 to 5,000 connections, as far as descriptors allow; the rest is left out and the figure says so."""
    sheet = Sheet(run, _OF_CONNECTIONS, run.stage.store(run.store))
    bus, bare = run.stage.bus_of({QUEUE: parked()}, sheet.store), run.stage.redis()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES
    places = [count for count in CONNECTIONS if count <= most]
    theirs, ours = push(bare.port, QUEUE, _TRIED, connections=1), push(bus.port, QUEUE, _TRIED, connections=1)
    for count in places:
        for number in sheet.rounds():
            if number % 2:
                ours = _ours(sheet, bus, count, ours)
                theirs = _theirs(sheet, bare, count, theirs)
            else:
                theirs = _theirs(sheet, bare, count, theirs)
                ours = _ours(sheet, bus, count, ours)
            sheet.add(_SHARE, count, ours / theirs)
            sheet.made()
    sheet.hand_over()
    beside = {} if len(places) == len(CONNECTIONS) else {"left out": f"more than {most} connections, by ulimit -n"}
    yield sheet.against(f"pushes of {places[-1]:,} connections", _RATE, places[-1], (places[-1], BARE), **beside)


def _count(sheet: Sheet, connections: int, rate: float) -> int:
    return max(int(rate * sheet.slice_s), EACH_PUSHES * connections)


def _ours(sheet: Sheet, bus: Bus, connections: int, rate: float) -> float:
    given = sheet.pushed(bus, QUEUE, _count(sheet, connections, rate), connections=connections)
    sheet.add(_RATE, connections, given.rate)
    sheet.add(_CPU, connections, given.us)
    return given.rate


def _theirs(sheet: Sheet, bare: RedisServer, connections: int, rate: float) -> float:
    with bare.client() as client:
        client.flushall()
    rate = push(bare.port, QUEUE, _count(sheet, connections, rate), connections=connections)
    sheet.add(_RATE, connections, rate, BARE)
    return rate


# -- topics and queues ------------------------------------------------------------------------------------

_OF_QUEUE: Final = ("topics of the queue", "")
_TOPICS_RATE = Panel("growth-topics.pushes", "Pushes", _OF_QUEUE, "pushes/s")
_TOPICS_CPU = Panel("growth-topics.cpu", "Processor time, store included", _OF_QUEUE, "us a push")
_TOPICS_JOBS = Panel("growth-topics.deliveries", "Deliveries, empty Python handlers", _OF_QUEUE, "deliveries/s")
_OF_BUS: Final = ("queues of the bus", "")
_QUEUES_RATE = Panel("growth-queues.pushes", "Pushes to one of them", _OF_BUS, "pushes/s")
_QUEUES_IDLE = Panel("growth-queues.idle", "Nothing to do, all processes", _OF_BUS, "% of a core")
_OF_TOPICS: Final = (_TOPICS_RATE, _TOPICS_CPU, _TOPICS_JOBS, _QUEUES_RATE, _QUEUES_IDLE)


def topics(run: Run) -> Iterator[Figure]:
    """1 to 20 topics of a queue; then 1 to 1,000 queues."""
    sheet = Sheet(run, _OF_TOPICS, run.stage.store(run.store))
    queues = {QUEUE: parked()}
    queues |= {f"parked-{count}": parked(count) for count in TOPICS}
    queues |= {f"served-{count}": served(count) for count in TOPICS}
    bus = run.stage.bus_of(queues, sheet.store)
    pushes = int(sheet.pushed(bus, QUEUE, 5_000).rate * sheet.slice_s)
    for _ in sheet.rounds():  # before anything was delivered: what is settled is trimmed a second later
        for count in TOPICS:
            given = sheet.pushed(bus, f"parked-{count}", pushes)
            sheet.add(_TOPICS_RATE, count, given.rate)
            sheet.add(_TOPICS_CPU, count, given.us)
            sheet.made()
    sheet.drained(bus, "served-1", lambda: fill(bus, "served-1", pushes // 10))
    for _ in sheet.rounds():
        for count in TOPICS:
            _deliver(sheet, bus, count, pushes // count)
            sheet.made()
    bus.close()
    yield from _queues(sheet)
    sheet.hand_over()
    yield sheet.against(f"pushes to {TOPICS[-1]} topics", _TOPICS_RATE, TOPICS[-1], (TOPICS[0], ""))


def _deliver(sheet: Sheet, bus: Bus, topics: int, jobs: int) -> None:
    queue = f"served-{topics}"
    sheet.add(_TOPICS_JOBS, topics, sheet.drained(bus, queue, lambda: fill(bus, queue, jobs)).rate)


def _queues(sheet: Sheet) -> Iterator[Figure]:
    """All buses live at once: they are idle together, and pushed to in turn."""
    stage = sheet.run.stage
    buses = {}
    for count in QUEUES:
        more = {f"queue-{number}": parked() for number in range(1, count)}
        buses[count] = stage.bus_of({QUEUE: parked(), **more}, stage.store(sheet.run.store))
    for _ in sheet.rounds():
        for count, share in _idle_shares(buses).items():
            sheet.add(_QUEUES_IDLE, count, share * 100)
        sheet.made()
    for _ in sheet.rounds():
        for count, bus in buses.items():
            sheet.add(_QUEUES_RATE, count, sheet.pushed(bus, QUEUE, 10_000).rate)
            sheet.made()
    yield sheet.against(f"pushes beside {QUEUES[-1]:,} queues", _QUEUES_RATE, QUEUES[-1], (QUEUES[0], ""))
    for bus in buses.values():
        bus.close()


def _idle_shares(buses: dict[int, Bus]) -> dict[int, float]:
    """Share of a core of all processes of each."""
    pids = {count: [bus.pid, *bus.pids()] for count, bus in buses.items()}
    before_s, begin_s = {count: cpu_s(each) for count, each in pids.items()}, CLOCK.monotonic_s()
    CLOCK.sleep(IDLE_S)
    took_s = CLOCK.monotonic_s() - begin_s
    return {count: (cpu_s(each) - before_s[count]) / took_s for count, each in pids.items()}
