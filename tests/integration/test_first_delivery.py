"""A bus that was idle delivers its first job at once, not at its next look."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.bench.load import python_topic
from tests.support.bus import BusFactory
from tests.support.stamps import QUEUE, Stamps, first_deliveries

pytestmark = pytest.mark.alone

MOST = 10.0
"""Times a bare loopback echo and two fsyncs, measured in the same run."""


def test_the_first_delivery_after_idle_takes_at_most_ten_echoes_with_two_fsyncs(
    bus_factory: BusFactory, tmp_path: Path
) -> None:
    stamps = Stamps(tmp_path)
    bus = bus_factory({"queue": {QUEUE: {"topic": {"slow": python_topic("stamp")}}}}, environment=stamps.environment)
    first = first_deliveries(bus, stamps, rounds=6, idle_s=1.0)
    print(first)
    assert first.ratio <= MOST, str(first)
