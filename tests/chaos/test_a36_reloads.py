"""
A36: reloads and an upgrade while everybody is at it: 200 producers that stay, 200 that connect for each job, 20 readers
with open claims, 10 blocked pops. Nobody is refused or cut off, nothing is lost, nothing comes twice; what is new
counts soon.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import Bus, BusFactory
from tests.support.crowd import Crowd
from tests.support.nightly import figure
from tests.support.redis_server import running
from tests.support.waiting import until

pytestmark = pytest.mark.alone

RELOADS = figure(5, nightly=20)
UPGRADES = figure(1, nightly=3)
APART_S = 1.6
BASE_S = 2.0
EFFECT_S = 2.0
STALL_MS = 250.0
PULL = {"topic": {"t": {"pull": {}}}}


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_no_client_notices_a_reload(store: str, tmp_path: Path, bus_factory: BusFactory) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(running(tmp_path)).url if store == "redis" else "sqlite:main.db"
        bus = bus_factory({"storage": {"main": {"url": url}}, "queue": {"long": PULL, "short": PULL}})
        crowd = Crowd(bus.port)
        stack.callback(crowd.close)
        crowd.mark()
        time.sleep(BASE_S)                            # without a reload
        base_ms = crowd.mark()
        effects_s, stalls_ms = [], []
        for number in range(RELOADS):
            began = time.monotonic()
            effects_s.append(_reload(bus, number))
            time.sleep(max(0.0, began + APART_S - time.monotonic()))
            stalls_ms.append(crowd.mark())
        for _ in range(UPGRADES):
            told = bus.cli("upgrade", "--wait")
            assert told.returncode == 0, told.stderr
            stalls_ms.append(crowd.mark())
        seen = crowd.end()
    _judge(bus, seen, effects_s)
    print(f"{seen}; longest round trip {base_ms:.0f} ms without, {max(stalls_ms):.0f} ms with a reload; "
          f"in effect within {max(effects_s):.2f} s; {_passed(bus)}")
    if figure(0, nightly=1):
        assert max(stalls_ms) <= max(STALL_MS, 3 * base_ms)


def _reload(bus: Bus, number: int) -> float:
    """One more queue; seconds until somebody can push to it."""
    began = time.monotonic()
    (bus.conf / f"new{number}.toml").write_text(f"[queue.new{number}.topic.t]\npull = {{ max_open = 10 }}\n")
    assert bus.process is not None
    told = bus.cli("reload")
    assert told.returncode == 0, told.stderr

    def counts() -> bool:
        with redis.Redis(port=bus.port) as client, contextlib.suppress(redis.ResponseError):
            return bool(client.lpush(f"new{number}", "x"))
        return False

    until(counts, 10, "the new queue is there")
    return time.monotonic() - began


def _judge(bus: Bus, seen: dict[str, Any], effects_s: list[float]) -> None:
    assert seen["failures"] == [], f"{seen['failures'][:5]} {bus.tail()}"
    assert (seen["lost"], seen["twice"], seen["strange"]) == (0, 0, 0), seen
    assert seen["pushed"] > 1000
    assert max(effects_s) <= EFFECT_S
    assert bus.status()["generation"] == 1 + RELOADS + UPGRADES
    assert not {event["event"] for event in bus.events()} & {"handover.broken", "handover.back", "drain.cut"}


def _passed(bus: Bus) -> str:
    done = bus.events("handover.done")
    longest_ms = max(one["longest_ms"] for one in done)
    return f"{sum(one['passed'] for one in done)} connections passed, the longest in {longest_ms} ms"
