"""An ingest server per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.ingest.door import Client, Door


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


@pytest.fixture
def client(door: Door) -> Client:
    """A connection from this machine."""
    return door.client()


@pytest.fixture
def new(door: Door) -> Iterator[Door]:
    """The next generation."""
    new = Door(beside=door)
    yield new
    new.close()
