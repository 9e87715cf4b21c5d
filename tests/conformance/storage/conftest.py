"""Runs every test of this folder once per store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.storage.places import PLACES, Place
from tests.conformance.storage.world import World


@pytest.fixture(scope="module", params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with PLACES[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def world(place: Place) -> Iterator[World]:
    made = World(place)
    yield made
    made.close()
