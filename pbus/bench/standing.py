"""What a bus takes that stands there: memory of its processes and of idle connections, processor time of a start."""

from __future__ import annotations

import contextlib
import resource
import socket
import statistics
from collections.abc import Iterator
from typing import Any, Final

from pbus.bench.bus import STARTS_WITHIN_S, UNBOUNDED, Bus
from pbus.bench.figures import Figure, value_figure
from pbus.bench.load import QUEUE
from pbus.bench.machine import CLOCK, cpu_s, pss_bytes, until
from pbus.bench.private import BenchError, Missing
from pbus.bench.rows import Run
from pbus.errors import PbusError

PULL: Final[dict[str, Any]] = {QUEUE: {**UNBOUNDED, "topic": {"credit": {"pull": {}}}}}
CONNECTION_KIB: Final = 12.0
STACK_MB: Final = 140.0
START_MS: Final = 200.0
STACK: Final = ("ingest", "delivery", "scheduler", "dashboard")
_SETTLES_S: Final = 2.0
_SPARE_FILES: Final = 200
_WARM: Final = 50
"""Connections that have come and gone before: what the first ones make stays for all."""
_KINDS: Final = {
    "have greeted": (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
    "have pushed": (b"*3\r\n$5\r\nLPUSH\r\n$5\r\nbench\r\n$200\r\n%b\r\n" % (b"x" * 200), b":"),
    "wait to pop": (b"*3\r\n$5\r\nBRPOP\r\n$12\r\nbench/credit\r\n$1\r\n0\r\n", b""),
}
"""What an idle connection has said before, and how its answer begins. Who waits comes while nothing is there to pop."""


# -- memory ---------------------------------------------------------------------------------------


def memory(run: Run) -> Iterator[Figure]:
    """The whole stack with nothing to do."""
    bus = run.stage.bus_of(PULL, run.stage.store(run.store))
    values: list[tuple[float, float]] = []
    for done in range(run.options.rounds):
        CLOCK.sleep(min(_SETTLES_S, run.options.slice_s))
        values.append((pss_bytes(list({bus.pid, *bus.pids()})) / 1e6, 0.0))
        run.tell(done + 1)
    beside = {"master": f"{pss_bytes([bus.pid]) / 1e6:.1f}"}
    beside |= {role: f"{pss_bytes(bus.pids(role)) / 1e6:.1f}" for role in STACK}
    yield value_figure(
        f"memory of the idle stack, {run.store}", "MB", values, goal=STACK_MB, floor=1.5 * STACK_MB, most=True,
        beside=beside, id=f"memory.{run.store}",
    )


def connections(run: Run) -> Iterator[Figure]:
    """A figure for what costs most, with each kind beside it."""
    with _descriptors(run.options.connections) as allowed:
        bus = run.stage.bus_of(PULL, None, ingest={"limits": {"connections": 10 * allowed}})
        costs: dict[str, float] = {}
        each = allowed // len(_KINDS)
        with contextlib.ExitStack() as stack:
            for done, (kind, (said, answer)) in enumerate(reversed(_KINDS.items())):
                with contextlib.ExitStack() as warm:
                    _connect(bus.port, said, answer, _WARM, warm)
                CLOCK.sleep(0.2)
                before = pss_bytes(bus.pids("ingest"))
                _connect(bus.port, said, answer, each, stack)
                CLOCK.sleep(0.2)
                costs[kind] = (pss_bytes(bus.pids("ingest")) - before) / each / 1024
                run.tell(done + 1)
    beside = {"connections": f"{each * len(_KINDS):,}", **{kind: f"{cost:.1f} KiB" for kind, cost in costs.items()}}
    yield Figure(
        name="memory of an idle connection", unit="KiB", pbus=max(costs.values()), goal=CONNECTION_KIB,
        floor=2 * CONNECTION_KIB, most=True, beside=beside, id="connections",
    )


def _connect(port: int, said: bytes, answer: bytes, count: int, stack: contextlib.ExitStack) -> None:
    for _ in range(count):
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        sock.sendall(said)
        if answer and not (got := sock.recv(100)).startswith(answer):
            raise BenchError(f"{said[:40]!r} was answered with {got!r}")


@contextlib.contextmanager
def _descriptors(wanted: int) -> Iterator[int]:
    """How many connections of *wanted* this process may have; the bus that it starts inherits that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE_FILES
    may = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if may <= 2 * _SPARE_FILES:
        raise Missing(f"only {hard} descriptors are allowed here (ulimit -n)")
    if may > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (may, hard))
    try:
        yield may - _SPARE_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- start ----------------------------------------------------------------------------------------


def start(run: Run) -> Iterator[Figure]:
    """A figure for each child of the stack."""
    store = run.stage.store(run.store)
    run.stage.bus_of(PULL, store).close()  # compiles what was never imported, and makes the store
    found: dict[str, list[float]] = {role: [] for role in STACK}
    for done in range(run.options.rounds):
        bus = run.stage.new_bus(PULL, store)
        bus.launch()
        for role, took_s in _births(bus).items():
            found[role].append(took_s * 1000)
        bus.close()
        run.tell(done + 1)
    for role, values in found.items():
        yield Figure(
            name=f"fork to ready, {role}, {run.store}", unit="ms", pbus=statistics.median(values), low=min(values),
            high=max(values), goal=START_MS, floor=3 * START_MS, most=True, id=f"start.{role}.{run.store}",
        )


def _births(bus: Bus) -> dict[str, float]:
    """Role -> processor seconds of its child when it was first seen ready."""
    seen: dict[str, float] = {}

    def all_seen() -> bool:
        with contextlib.suppress(PbusError, OSError):
            for row in bus.status()["processes"]:
                if row["role"] in STACK and row["state"] == "ready":
                    seen.setdefault(row["role"], cpu_s([row["pid"]]))
        return len(seen) == len(STACK)

    if not until(all_seen, STARTS_WITHIN_S, 0.004):
        raise BenchError(f"after {STARTS_WITHIN_S:g} s these are ready: {', '.join(seen)}")
    return seen
