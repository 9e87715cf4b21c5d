"""The stage, once for each store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bus import BusFactory
from tests.support.scenario import Scenario


@pytest.fixture(params=["sqlite", "redis"])
def scenario(request: pytest.FixtureRequest, tmp_path: Path, bus_factory: BusFactory) -> Iterator[Scenario]:
    with contextlib.ExitStack() as stack:
        yield Scenario(tmp_path, request.param, bus_factory, stack)
