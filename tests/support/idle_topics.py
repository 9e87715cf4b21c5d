"""A bus with many topics and nothing to do, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from tests.support.bus import Bus
from tests.support.machine import cpu_s
from tests.support.php_fpm import PhpFpm

TOPICS_A_QUEUE = 5
NOBODY = "http://127.0.0.1:9/"
"""Never called: there are no jobs."""


def idle_topics(count: int, fpm: PhpFpm) -> dict[str, Any]:
    """
    Configuration of *count* topics over queues of five: two php-fpm scripts, two HTTP endpoints, one pulled.

    The scripts take any topic; php-fpm is pinged for each when the bus starts.
    """
    script = fpm.script("idle.php", "header('Code: 200');")
    handlers: Sequence[dict[str, Any]] = (
        {"fastcgi": {"backend": "php", "script": script}}, {"http": {"url": NOBODY}}, {"pull": {}},
        {"fastcgi": {"backend": "php", "script": script}}, {"http": {"url": NOBODY}, "concurrency": 4},
    )
    queues: dict[str, Any] = {}
    for number in range(count):
        queue = queues.setdefault(f"queue-{number // TOPICS_A_QUEUE}", {"topic": {}})
        queue["topic"][f"topic-{number}"] = dict(handlers[number % TOPICS_A_QUEUE])
    return {"backend": {"php": {"fastcgi": [fpm.address], "max_connections": 4}}, "queue": queues}


@dataclass(frozen=True, slots=True)
class Cost:
    """Share of one core, all processes of the bus together, and by title."""

    share: float
    by_process: dict[str, float]

    def __str__(self) -> str:
        parts = [f"{title} {share:.2%}" for title, share in sorted(self.by_process.items(), key=lambda pair: -pair[1])]
        return f"{self.share:.2%} of a core ({', '.join(parts[:8])})"


def cost_of_idling(bus: Bus, seconds: float) -> Cost:
    """Processor time of every process of *bus* over *seconds*, in which nobody asks it anything."""
    pids = bus.processes()
    titles = {pid: " ".join(psutil.Process(pid).cmdline()).strip() for pid in pids}
    begin_s = time.monotonic()
    before = {pid: cpu_s([pid]) for pid in pids}
    time.sleep(seconds)
    after = {pid: cpu_s([pid]) for pid in pids}
    elapsed_s = time.monotonic() - begin_s
    came, went = set(bus.processes()) - set(pids), set(pids) - set(bus.processes())
    assert not came | went, f"while the bus was idle {len(came)} processes came and {len(went)} went\n{bus.tail()}"
    shares = {pid: (after[pid] - before[pid]) / elapsed_s for pid in pids}
    by_process: dict[str, float] = {}
    for pid, share in shares.items():
        title = titles[pid].removeprefix("pbus: ")
        by_process[title] = by_process.get(title, 0.0) + share
    return Cost(sum(shares.values()), by_process)
