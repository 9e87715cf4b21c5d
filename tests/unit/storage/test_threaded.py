"""A blocking driver behind gevent's own thread pool."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import gevent.threadpool
import pytest

from pbus.errors import Unavailable
from pbus.storage.threaded import Threaded


class Driver(SimpleNamespace):
    """Says where it runs, and refuses what it is told to."""

    capabilities = None

    def backlog(self, queue: str) -> int:
        if queue == "away":
            raise Unavailable("the disk is full")
        return threading.get_ident()


@pytest.fixture
def store() -> Any:
    pool = gevent.threadpool.ThreadPool(1)
    yield Threaded(Driver(), pool.apply)  # type: ignore[arg-type]
    pool.kill()


def test_call_runs_on_the_storage_thread(store: Threaded) -> None:
    assert store.backlog("gift") not in (0, threading.get_ident())


def test_refusal_reaches_the_caller_and_nothing_is_printed(store: Threaded, capfd: Any) -> None:
    for _ in range(2):
        with pytest.raises(Unavailable, match="the disk is full"):
            store.backlog("away")
    assert capfd.readouterr() == ("", "")
    assert store.backlog("gift")
