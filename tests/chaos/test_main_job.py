"""
6,000 jobs (nightly 20,000) pushed by other people's programs, each run by a php-fpm script, an HTTP endpoint and a
Python function.

No fault: this is the base that every fault is measured against. Nothing lost, nothing made up, nothing twice.
"""

from __future__ import annotations

import pytest

from tests.chaos.conftest import Scenario
from tests.support.nightly import figure
from tests.support.producers import PhpRedis, benchmark

COUNT = figure(6_000, nightly=20_000)
SETTLED_S = 100.0


@pytest.fixture
def everything(scenario: Scenario) -> Scenario:
    fpm = scenario.fpm()
    fpm.start()
    scenario.start({"credit": scenario.fastcgi(fpm.address), "mail": scenario.http(), "stats": scenario.python()})
    return scenario


def test_what_phpredis_pushes_reaches_every_handler_exactly_once(everything: Scenario) -> None:
    ledger, port = everything.ledger, everything.bus.port
    half = COUNT // 2
    with (
        PhpRedis(ledger, port, "gift", count=half, pipeline=50, name="pipelined") as one,
        PhpRedis(ledger, port, "gift", count=half, pipeline=1, name="plain") as other,
    ):
        one.finish(SETTLED_S)
        other.finish(SETTLED_S)
    everything.settled(SETTLED_S)
    everything.expect(dup=0)
    assert len(ledger.keys("ok")) == COUNT


def test_what_redis_benchmark_pushes_reaches_every_handler_exactly_once(everything: Scenario) -> None:
    rate = benchmark(everything.bus.port, "gift", COUNT, connections=50, pipeline=16)
    everything.settled(SETTLED_S)
    print(f"redis-benchmark pushed {rate:,.0f} a second")
    for verdict in everything.ledger.verdict_by_count("gift", everything.topics, COUNT).values():
        assert (verdict.lost_count, len(verdict.phantom), verdict.dup) == (0, 0, 0), str(verdict)
