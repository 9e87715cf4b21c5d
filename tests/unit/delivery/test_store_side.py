"""Opening a storage: whatever goes wrong, the child goes on trying."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
import structlog

from pbus.clock import SystemClock
from pbus.core.names import Owner
from pbus.delivery.store_side import StoreSide
from pbus.delivery.work import Work
from pbus.errors import Unavailable
from tests.support.memory_store import MemoryStore


class Store(MemoryStore):
    """Its bell cannot be made the first time."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.errors = [error]

    def open(self) -> None: ...

    def close(self) -> None: ...

    def bell(self, name: str, queues: Any) -> Any:
        if self.errors:
            raise self.errors.pop()
        return SimpleNamespace(wait=lambda timeout_s: gevent.sleep(timeout_s), close=lambda: None)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Unavailable("away")])
def test_storage_that_fails_once_while_it_is_opened_is_claimed_from_later(error: Exception) -> None:
    problems: list[str] = []
    child = SimpleNamespace(
        clock=SystemClock(), owner=Owner("n", "b", 1, 1), log=structlog.get_logger(),
        problem=lambda _, text: problems.append(text), tell=lambda *_, **__: None,
    )
    lane = SimpleNamespace(queue="gift", topic="credit", wants=list, known=lambda _: set())
    store = Store(error)
    side = StoreSide("main", store, [], {}, brakes={}, child=child, report=None,  # type: ignore
                     fenced=lambda: None, work=Work(0))
    side.start([lane], 5.0)  # type: ignore[list-item]
    with gevent.Timeout(5.0):
        while side._listener is None:
            gevent.sleep(0.01)
    side.close()
    assert len(problems) == 2
    assert problems[-1] == ""
