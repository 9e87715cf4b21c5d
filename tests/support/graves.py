"""Dead letters that are in a store before its bus runs, and a handler that sees which of them come back."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pbus.app import stores
from pbus.config.schema import Settings
from pbus.core.job import Move, Push, Settlement
from pbus.core.replay import Replay
from pbus.storage.driver import Driver, Want
from pbus.storage.open import make, queue_specs
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.talker import Plan

_OWNER = "gravedigger/b1/1.1"
_batches = itertools.count(1)


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Driver]:
    """The store itself."""
    driver = make(stores(settings)["main"])
    driver.open()
    try:
        driver.declare(queue_specs(settings.queue, "main"))
        yield driver
    finally:
        driver.close()


def bury(settings: Settings, count: int, group: str = "a") -> list[str]:
    """So many dead letters of gift/credit, with bodies 0, 1, .. ; their ids. Nothing else may be ready there."""
    fingerprint = group * 16
    with opened(settings) as driver:
        jobs = [Push("gift", b"%d" % number) for number in range(count)]
        driver.append(_OWNER, next(_batches), jobs)
        claimed = driver.claim([Want(_OWNER, "gift", "credit", count)])
        assert len(claimed) == count
        driver.settle([
            Settlement(
                owner=_OWNER, queue="gift", topic="credit", id=one.id, move=Move.BURY, counts=True, reason="failed",
                error=f"error {group}", fingerprint=fingerprint,
            )
            for one in claimed
        ])
    return [one.id for one in claimed]


def replay(settings: Settings, name: str) -> Replay:
    """How far it is, as ``pbus replay show`` says it, without the command."""
    with opened(settings) as driver:
        (document,) = driver.documents("replay", [name])
    return Replay.read(document.text)


class Reborn:
    """
    An HTTP handler of replays.

    Attributes:
        copies: Of each job that was replayed, how often each of its copies was run.
        fails: Says of a request, by its number, whether it fails; may be changed at any time.
    """

    def __init__(self) -> None:
        self.copies: dict[str, Counter[str]] = {}
        self.fails = lambda number: False
        self._lock = threading.Lock()
        self.stub = HttpStub(self._answer)

    @property
    def topic(self) -> dict[str, Any]:
        """As a configuration has it: one attempt, no brake."""
        return {
            "http": {"url": self.stub.url}, "concurrency": 4, "retry": {"attempts": 1},
            "brake": {"failed_percent": 100, "min_jobs": 100_000},
        }

    @property
    def ran(self) -> int:
        """How many jobs came back."""
        with self._lock:
            return len(self.copies)

    def _answer(self, request: HttpRequest, number: int) -> Plan:
        job, old = request.headers["X-Pbus-Job-Id"], request.headers.get("X-Pbus-Replay-Of", "")
        with self._lock:
            self.copies.setdefault(old, Counter())[job] += 1
        return [response(500, b"no money") if self.fails(number) else response(200)]
