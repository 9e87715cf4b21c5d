"""
The soak: random faults for an hour (``PBUS_SOAK_S``, shared by the stores), judged by the ledger.

The first part is the storm: every kind of process is killed again and again, the master too. The second part is
weather: the store, its network and the backends fail and people intervene, but no process of the bus is killed, so
that a leak can show itself. Nothing lost, nothing phantom; memory, descriptors and threads flat.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

from tests.soak.faults import HOLD, STORM, WEATHER, Faults
from tests.soak.meter import HEAD, MIB, Meter, Track
from tests.support import seeds, standing
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

STORES = 2
DURATION_S = float(os.environ.get("PBUS_SOAK_S", "3600")) / STORES
STORM_SHARE = 0.4
WARM_SHARE = 0.25
"""Of the weather: caches fill, allocators settle."""
PAUSE_S = 3.0
SETTLED_S = 300.0
"""A topic that feeds its consumers one job at a time falls behind when its store is slow."""
MIX = {
    "delay": 0.1, "ttl": 0.05, "key": 0.2, "dedupe": 0.3, "again": 0.1, "slow": 0.05, "failing": 0.05, "doomed": 0.01,
}
BUSY = """
[supervise]
backoff = { first = "20ms", max = "200ms", fatal = 1000000 }
[ingest]
processes = 2
[delivery]
processes = 2
"""
TOPIC = 'timeout = "4s"\ncrash_limit = 50\nretry = { attempts = 3, first = "50ms", max = "1s" }'
KILLABLE = ("mail", HOLD)
"""Topics whose handlers end with their claim: there the order of keys holds whatever happens."""
MOST_RSS_BYTES = 4 * MIB
MOST_DESCRIPTORS = 2.0
MOST_THREADS = 1
"""Looking up an address takes threads that come and go: up to ten at once, gone after 5 s without work."""


def test_random_faults_lose_nothing_and_leak_nothing(scenario: Scenario) -> None:
    if scenario.redis is not None:
        scenario.behind_a_proxy()
    fpm = scenario.fpm()
    fpm.start()
    bus = scenario.start({
        "credit": scenario.fastcgi(fpm.address, 4, TOPIC), "web": scenario.http(4, TOPIC),
        "mail": scenario.python(2, TOPIC), HOLD: scenario.python(3, f'{TOPIC}\non_unknown = "hold"'),
        "audit": scenario.pulled(more=TOPIC),
    }, BUSY, 'retention = "10s"')
    faults = Faults(scenario, fpm, seeds.generator("soak", scenario.store))
    print(f"\n{seeds.VARIABLE}={seeds.fix()} {scenario.store}: {DURATION_S:g} s", flush=True)
    meter = Meter(bus, every_s=max(1.0, DURATION_S / 400))
    with (
        scenario.pushing(name="typed", threads=3, pause_s=0.08, mix=MIX) as typed,
        scenario.pushing(name="plain", threads=2, pause_s=0.3, pipeline=5) as plain,
        scenario.pulling("audit", connections=4, elsewhere=True),
    ):
        until(scenario.ran, 30, "jobs run")
        processes = meter.look()
        meter.start()
        faults.rage(STORM, DURATION_S * STORM_SHARE, PAUSE_S)
        until(lambda: len(bus.status()["processes"]) == processes, 30, "every process is there again")
        calm_s = time.monotonic() + DURATION_S * (1 - STORM_SHARE) * WARM_SHARE
        faults.rage(WEATHER, DURATION_S * (1 - STORM_SHARE), PAUSE_S)
        meter.stop()
        assert meter.look() == processes
        typed.stop()
        plain.stop()
        faults.resume_all()
        faults.close()
        scenario.settled(SETTLED_S)
    print(f"faults: {dict(sorted(faults.done.items()))}")
    print(f"store: {_store_bytes(scenario) / MIB:.1f} MiB")
    _print_events(scenario)
    tracks = meter.tracks(calm_s)
    print("\n".join([HEAD, *(track.row() for track in tracks)]))
    _expect_accounted(scenario)
    _expect_flat(tracks)


def _store_bytes(scenario: Scenario) -> int:
    """What the jobs of the last seconds, and the dead ones, occupy at the end."""
    if scenario.redis is not None:
        with scenario.redis.client() as client:
            return int(client.info("memory")["used_memory"])
    return sum(path.stat().st_size for path in Path(scenario.bus.settings.node.data_dir).glob("*.db*"))


def _print_events(scenario: Scenario) -> None:
    counts = Counter(
        (event["level"], event["event"]) for event in scenario.bus.events() if event["level"] not in ("debug", "info")
    )
    print("events: " + ", ".join(f"{event} {count}" for (_, event), count in sorted(counts.items())))
    crashed = scenario.bus.events("child.crashed")
    assert not crashed, crashed


def _expect_flat(tracks: list[Track]) -> None:
    assert tracks
    for track in tracks:
        assert track.certain_growth(track.rss_bytes) <= MOST_RSS_BYTES, f"memory grows: {track.row()}"
        assert track.certain_growth(track.descriptors) <= MOST_DESCRIPTORS, f"descriptors grow: {track.row()}"
        assert track.certain_growth(track.threads) <= MOST_THREADS, f"threads grow: {track.row()}"
        half = len(track.threads) // 2
        assert min(track.threads[half:]) <= min(track.threads[:half]) + MOST_THREADS, f"threads stay: {track.row()}"


def _expect_accounted(scenario: Scenario) -> None:
    with scenario.driver() as driver:
        standings = standing.read(driver, QUEUE, scenario.topics)
        numbers = driver.numbers()
    verdicts = scenario.ledger.verdict(QUEUE, scenario.topics, standings)
    for topic, verdict in verdicts.items():
        now, stood = numbers[(QUEUE, topic)], standings[topic]
        accounted = now.ready + now.running + now.delayed + now.dead + now.done_total
        accounted += now.cancelled_total + now.expired_total + now.forgotten_total
        order = scenario.ledger.key_order(QUEUE, topic)
        print(f"{topic}: {stood.pushed} pushed, {accounted} accounted for, dup {verdict.dup}, "
              f"{order.ran} with keys: {len(order.overlaps)} overlaps, {len(order.inversions)} out of order")
        assert accounted == stood.pushed, now
        if topic in KILLABLE:
            assert (order.overlaps, order.inversions) == ((), ()), order
    scenario.ledger.expect_nothing_lost(QUEUE, scenario.topics, standings, most_dup=None)
    assert verdicts[HOLD].dup == 0, verdicts[HOLD]
