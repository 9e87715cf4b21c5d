"""A bus with many topics and nothing to do costs next to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bus import BusFactory
from tests.support.idle_topics import cost_of_idling, idle_topics
from tests.support.php_fpm import PhpFpm

pytestmark = pytest.mark.alone

TOPICS = 200
SLICES, SECONDS = 5, 5.0
"""A machine with much to do makes the same work dearer: the cheapest slice counts, and one that is cheap enough is."""
MOST = 0.01
"""Of one core, all processes together."""


@pytest.fixture
def fpm(tmp_path: Path) -> PhpFpm:
    folder = tmp_path / "fpm"
    folder.mkdir()
    return PhpFpm(folder, pool={"pm.max_children": "4"})


def test_an_idle_bus_with_200_topics_uses_less_than_one_percent_of_a_core(
    bus_factory: BusFactory, fpm: PhpFpm
) -> None:
    fpm.start()
    try:
        bus = bus_factory(idle_topics(TOPICS, fpm))
        assert len(bus.status()["topics"]) == TOPICS
        for _ in range(SLICES):
            cost = cost_of_idling(bus, SECONDS)
            print(cost)
            if cost.share < MOST:
                return
    finally:
        fpm.close()
    pytest.fail(f"{SLICES} times too much, at last {cost}")
