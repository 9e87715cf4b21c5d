"""
Every store the suite runs against: a new driver is a new row of ``PLACES``.

A place can be emptied and gives the URL of its store; it lives as long as the test run.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.support import redis_server


@dataclass(frozen=True)
class Place:
    """
    Attributes:
        name: What the tests are called by.
        empty: Makes an empty store and answers its URL.
    """

    name: str
    empty: Callable[[], str]


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[Place]:
    numbers = itertools.count()
    yield Place("sqlite", lambda: f"sqlite:{folder}/{next(numbers)}/pbus.db")


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[Place]:
    with redis_server.running(folder) as server:

        def empty() -> str:
            with server.client() as client:
                client.flushall()
            return server.url

        yield Place("redis", empty)


PLACES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {"sqlite": _sqlite, "redis": _redis}
