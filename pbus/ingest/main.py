"""
The ingest role: the door for producers and pull consumers. ``run`` is the child's whole life.

boot: open every storage (one that is away makes its queues refuse, nothing else); ready: take the connections of older
children, and accept; drain: pass connections to a newer child where there is one, answer what has begun, close who is
idle; exit.
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

# ruff: noqa: E402 - patched first
import dataclasses
import gc
import sys
from collections.abc import Mapping
from typing import Final

import gevent
import gevent.threadpool

from pbus.config.schema import Queue
from pbus.ingest.access import Directory
from pbus.ingest.arrivals import Arrivals
from pbus.ingest.committer import WRITE
from pbus.ingest.departures import Departures
from pbus.ingest.hop import Hop
from pbus.ingest.server import Server
from pbus.ingest.store import Store
from pbus.ingest.tls import certificates_of
from pbus.storage.driver import Driver
from pbus.storage.open import StoreTarget, make, queue_specs
from pbus.storage.threaded import Threaded
from pbus.storage.traces_writer import TraceWriter, make_writer
from pbus.supervisor.attempt_spans import AttemptSpans, make_pump
from pbus.supervisor.child import Child
from pbus.supervisor.slow import Slow
from pbus.telemetry.spans import SpanPlan

_SWITCH_S: Final = 0.0005
"""The storage thread gets the interpreter this soon after a disk wait; the default is 5 ms."""
_GC_OBJECTS: Final = 50_000
"""New objects before the collector looks: jobs in flight are many, and in no cycles (4 % of a push)."""
_DRAIN_LOOK_S: Final = 0.02
LAST: Final = 0.3
"""Share of the grace in which those who could not pass to a newer child are closed between two commands."""
_LAST_WRITES_S: Final = 1.0
"""Of the grace, so much is left for what becomes of those who are cut off."""


def run(child: Child) -> None:
    """Serve until drained. ``child.spec.args``: ``ingest``, ``queues``, ``systems``, ``stores``, ``node``."""
    child.start()
    sys.setswitchinterval(_SWITCH_S)
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 10, 10)
    args = child.spec.args
    queues: Mapping[str, Queue] = args["queues"]
    certificates = certificates_of(child, args["ingest"])
    directory = Directory(queues, args["systems"], args.get("gone", frozenset()))
    spans = _spans(child)
    stores = {name: _store(child, target, queues, directory, spans) for name, target in args["stores"].items()}
    for store in stores.values():
        store.start()
    for store in stores.values():
        store.wait_first()
    server = Server(child, args["ingest"], directory, stores, certificates)
    server.exports_spans = spans is not None
    departures, arrivals = Departures(child, server), Arrivals(child, server)
    server.begin()
    arrivals.start()
    if not child.waits:
        server.start()
    child.ready()
    if child.wait_turn():
        server.start()
    child.wait_drain()
    deadline_s = child.clock.monotonic_s() + child.grace_s
    arrivals.close()
    departures.run(deadline_s - LAST * child.grace_s, lambda: not arrivals.idle)
    _drain(child, server, deadline_s)
    for store in stores.values():
        store.close()
    if spans is not None:
        spans.pump.close()


def _spans(child: Child) -> AttemptSpans | None:
    plan: SpanPlan | None = child.spec.args.get("otel")
    if plan is None:
        return None
    spans = AttemptSpans(make_pump(child, plan), plan.sampler)
    gevent.spawn(spans.pump.run)
    return spans


def _store(
    child: Child, target: StoreTarget, queues: Mapping[str, Queue], directory: Directory, spans: AttemptSpans | None
) -> Store:
    # A push may have waited before it is written, and its producer waits no longer than call_timeout in all.
    driver: Driver = make(dataclasses.replace(target, call_timeout_s=WRITE * target.call_timeout_s))
    if driver.capabilities.blocking:
        driver = Threaded(driver, Hop().apply)
    kept = queue_specs(queues, target.name)
    pulls = [
        spec.name for spec in kept if any(topic.pull is not None for topic in queues[spec.name].topic.values())
    ]
    programs = [
        topic for spec in kept for topic in directory.queues[spec.name].topics.values() if topic.by_token
    ]
    indexed = {spec.name: queues[spec.name].index for spec in kept if queues[spec.name].index}
    return Store(target, driver, kept, pulls, child, programs, _trace_writer(child, target), indexed, spans)


def _trace_writer(child: Child, target: StoreTarget) -> TraceWriter | None:
    by = f"{child.owner.node}/ingest.{child.index}"
    pool = gevent.threadpool.ThreadPool
    writer = make_writer(target, child.spec.args["traces"], by, lambda: pool(1).apply, child.clock)
    if writer is not None:
        slow = Slow(child.histograms.read, child.clock)
        writer.before.append(lambda: setattr(writer, "slow_us", slow.limits_us()))
    return writer


def _drain(child: Child, server: Server, deadline_s: float) -> None:
    """Until nothing is owed to anybody, or the grace is over (at *deadline_s*, monotonic)."""
    server.drain()
    last_s = min(_LAST_WRITES_S, child.grace_s / 5)
    deadline_s -= last_s
    while not server.idle and child.clock.monotonic_s() < deadline_s:
        child.clock.sleep(_DRAIN_LOOK_S)
    if server.connections:
        child.log.warning("drain.cut", connections=len(server.connections))
        server.close()
        deadline_s += last_s
        while not server.idle and child.clock.monotonic_s() < deadline_s:
            child.clock.sleep(_DRAIN_LOOK_S)      # what its readers held goes back now, not when somebody finds us dead
