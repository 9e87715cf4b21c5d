"""
A06: a consumer leaks 5 MiB a job and leaves daemons behind that hold its standard output.

It is replaced by its memory in one topic and by the number of its jobs in another, always between two jobs: memory is
bounded, no job is cut off or lost, and nothing of its daemons outlives it for long.
"""

from __future__ import annotations

from typing import Any

import psutil

from tests.support.bus import Bus
from tests.support.handlers.leaking_jobs import DAEMON, LEAK_BYTES
from tests.support.ledger_handlers import python_handler
from tests.support.nightly import figure
from tests.support.scenario import Scenario
from tests.support.waiting import until

JOBS = figure(100, nightly=2000)
CONSUMERS = 2
MIB = 1 << 20
MAX_RSS = 80 * MIB
SLACK = 4 * MIB
"""The kernel counts pages in batches for each thread."""
MAX_JOBS = 7
LEFTOVERS_S = 5.0


def test_leaking_consumers_are_replaced_between_jobs_and_leave_nothing_behind(scenario: Scenario) -> None:
    leaking = python_handler().replace("ledger_jobs:record", "leaking_jobs:leak")
    topics = {
        "mail": f"python = {leaking[:-2]}, max_rss = \"{MAX_RSS // MIB}MiB\" }}\nconcurrency = {CONSUMERS}",
        "stats": f"python = {leaking[:-2]}, max_jobs = {MAX_JOBS} }}\nconcurrency = {CONSUMERS}",
    }
    bus = scenario.start(topics)
    with scenario.pushing(threads=1, count=JOBS, orders="sleep=2") as producers:
        grown = _watch(scenario, bus)
        producers.finish(60.0)
    scenario.settled(figure(60.0, nightly=900.0))
    scenario.expect(dup=0)
    recycled = bus.events("consumer.recycled")
    by_topic = {topic: [event for event in recycled if event["path"] == f"gift/{topic}"] for topic in topics}
    most = max([event["rss_bytes"] for event in by_topic["mail"]] + [grown])
    print(f"recycled: {({topic: len(events) for topic, events in by_topic.items()})}, most {most / MIB:.1f} MiB")
    assert most <= MAX_RSS + LEAK_BYTES + SLACK
    assert len(by_topic["stats"]) >= JOBS // MAX_JOBS - CONSUMERS
    assert len(by_topic["mail"]) >= JOBS * LEAK_BYTES // MAX_RSS - CONSUMERS
    assert max(event["jobs"] for event in by_topic["stats"]) <= MAX_JOBS
    _nothing_is_left(bus)


def _watch(scenario: Scenario, bus: Bus) -> int:
    """Look on until every job has run; the most memory that a consumer of the first topic was seen with."""
    seen = [0]

    def all_ran() -> bool:
        rows: list[dict[str, Any]] = bus.status()["processes"]
        seen.extend(row["rss_bytes"] for row in rows if row["path"] == "gift/mail")
        return scenario.ran() >= JOBS

    until(all_ran, figure(60.0, nightly=900.0), lambda: f"{JOBS} jobs have run, {scenario.ran()} did\n{bus.tail()}")
    return max(seen)


def _nothing_is_left(bus: Bus) -> None:
    """No consumer was ended in another way than by itself; daemons are gone with the bus at the latest, soon before."""
    consumers = [event for event in bus.events("child.exited") if event["child"].startswith("consumer")]
    assert consumers
    assert {event["status"] for event in consumers} == {0}
    assert bus.events("job.failed") == []
    living = set(bus.pids("consumer"))
    until(lambda: len(_daemons()) <= len(living) * (MAX_RSS // LEAK_BYTES // 5 + 1), LEFTOVERS_S, "daemons go")
    assert bus.stop() == 0
    until(lambda: not _daemons(), LEFTOVERS_S, lambda: f"no daemon is left: {_daemons()}")


def _daemons() -> list[int]:
    return [process.pid for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == DAEMON]
