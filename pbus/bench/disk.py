"""
What SQLite writes to its disk for a job: the driver alone, in this process, in batches of 32, settles eight batches
behind the claims. Trims and checkpoints come as often as the scheduler has them at some 8,000 jobs a second.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pbus.bench.figures import Figure, value_figure
from pbus.bench.load import BODY_BYTES
from pbus.bench.machine import written_bytes
from pbus.bench.private import Missing
from pbus.bench.rows import Run
from pbus.core.job import Move, Push, Settlement
from pbus.core.names import Owner
from pbus.storage.driver import Driver, QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget, make

GOAL: Final = 10.0
"""Times the body."""
BATCH: Final = 32
IN_FLIGHT: Final = 8
_TRIM_JOBS: Final = 8_000
_CHECKPOINT_JOBS: Final = 16_000
_JOBS: Final = 2 * _CHECKPOINT_JOBS
_QUEUE: Final = "bench"
_TOPIC: Final = "one"


def written(run: Run) -> Iterator[Figure]:
    """One figure, with its steps beside it. A round is twice as long as it takes to a checkpoint."""
    values, steps = list[tuple[float, float]](), Counter[str]()
    for done in range(run.options.rounds):
        found = _round(run.stage.subfolder("disk"))
        if not found.total():
            raise Missing("the kernel does not count what this file system is written to; another one: --dir DIR")
        values.append((found.total() / _JOBS / BODY_BYTES, 0.0))
        steps.update(found)
        run.tell(done + 1)
    each = _JOBS * BODY_BYTES * len(values)
    beside = {step: f"{count / each:.1f}" for step, count in steps.items()}
    yield value_figure(
        f"disk written a job, batches of {BATCH}, {run.store}", "x body", values, goal=GOAL, floor=1.5 * GOAL,
        most=True, beside=beside, id=f"disk.{run.store}",
    )


def _round(folder: Path) -> Counter[str]:
    """Bytes of each step."""
    driver = make(StoreTarget("main", f"sqlite:{folder}/pbus.db", "", 30.0, "bench"))
    driver.open()
    try:
        driver.declare([QueueSpec(_QUEUE, topics=(TopicSpec(_TOPIC),), retention_s=0, retention_bytes=0)])
        return _Steps(driver).run()
    finally:
        driver.close()


class _Steps:
    """Jobs through a store, step by step."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._bytes = Counter[str]()
        self._producer, self._consumer = (str(Owner("bench", "boot", 1, n)) for n in (1, 2))
        self._held: deque[list[Settlement]] = deque()

    def run(self) -> Counter[str]:
        """All of them."""
        pushes = [Push(_QUEUE, b"x" * BODY_BYTES)] * BATCH
        for done in range(0, _JOBS, BATCH):
            self._do("push", lambda batch=done: self._driver.append(self._producer, batch + 1, pushes))  # type: ignore[misc]
            self._do("claim", self._claim)
            if len(self._held) >= IN_FLIGHT:
                self._do("settle", lambda: self._driver.settle(self._held.popleft()))
            if not (done + BATCH) % _TRIM_JOBS:
                self._do("trim", self._driver.trim)
            if not (done + BATCH) % _CHECKPOINT_JOBS:
                self._do("checkpoint", self._driver.checkpoint)
        return self._bytes

    def _claim(self) -> None:
        got = self._driver.claim([Want(queue=_QUEUE, topic=_TOPIC, owner=self._consumer, count=BATCH)])
        self._held.append([
            Settlement(owner=self._consumer, queue=_QUEUE, topic=_TOPIC, id=job.id, move=Move.ACK) for job in got
        ])

    def _do(self, step: str, act: Callable[[], object]) -> None:
        before = written_bytes([os.getpid()])
        act()
        self._bytes[step] += written_bytes([os.getpid()]) - before
