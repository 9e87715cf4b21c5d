"""
Where the backend is the bottleneck more at once is only slower: php-fpm with 4 processes behind a topic with max 64.

The autoscaler finds out by itself, without a status page too: it settles at 6 at most, and does as much as the best
fixed setting. Who else uses that php-fpm is served beside it.
"""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

import pytest

from tests.support.bus import Bus, BusFactory
from tests.support.nightly import NIGHTLY, figure
from tests.support.php_fpm import PhpFpm
from tests.support.step_load import Load, Watcher, decisions
from tests.support.web_site import WebSite

pytestmark = pytest.mark.alone

PROCESSES = 4
MOST = 6
SETTLE_S = figure(10.0, nightly=60.0)
MEASURE_S = figure(3, nightly=15)
FIXED = (4, 6, 8) if NIGHTLY else (4,)
PART = figure(0.9, nightly=0.95)
SCRIPT = """
if (($_POST['type'] ?? '') === 'ping') {
    header('Code: 200');
    header("Consume-Topics: {$_POST['queue']}/{$_POST['topic']}");
    exit;
}
usleep(20000);
header('Code: 200');
echo 'done';
"""


def rate_per_s(bus: Bus, seconds: int) -> float:
    """Jobs a second of the topic: the median of as many seconds, since a machine has pauses."""
    totals = []
    for _ in range(seconds + 1):
        totals.append((time.monotonic(), bus.topic("load", "t")["done_total"]))
        time.sleep(1.0)
    return statistics.median(
        (after - before) / (then_s - now_s) for (now_s, before), (then_s, after) in itertools.pairwise(totals)
    )


@pytest.mark.parametrize("status", [
    pytest.param("", id="by-latency"),
    pytest.param('status_path = "/status"\n', id="by-status-page",
                 marks=pytest.mark.skipif(not NIGHTLY, reason="half a minute more")),
])
def test_php_fpm_that_is_full_is_given_no_more_than_it_can_use(
    status: str, tmp_path: Path, bus_factory: BusFactory
) -> None:
    fpm = PhpFpm(tmp_path, pool={"pm.max_children": str(PROCESSES), "pm.status_path": "/status"})
    fpm.start()
    try:
        site = WebSite(fpm.path, fpm.script("site.php", "echo 'page';"))
        bus = bus_factory(
            f'[backend.php]\nfastcgi = ["{fpm.address}"]\n{status}'
            f'[queue.load.topic.t]\nfastcgi = {{ backend = "php", script = "{fpm.script("work.php", SCRIPT)}" }}\n'
            "concurrency = { min = 1, max = 64 }\n"
        )
        with Load(bus, "load", 300.0), Watcher(bus, "load", "t") as watcher:
            time.sleep(SETTLE_S)
            rate, began_s = rate_per_s(bus, MEASURE_S), time.monotonic() - MEASURE_S
            settled = [look.now for look in watcher.since(began_s)]
            with site:
                time.sleep(3.0)
            fixed = {}
            for number in FIXED:
                bus.cli("topic", "scale", "load/t", str(number), "--for", "30s", check=True)
                time.sleep(1.5)
                fixed[number] = rate_per_s(bus, MEASURE_S)
    finally:
        fpm.close()
    story = "\n".join(event["reason"] for event in decisions(bus, "t"))
    print(f"{rate:.0f}/s with {settled}, fixed {fixed}, visitors {len(site.waits_s)}: {max(site.waits_s):.2f}\n{story}")
    assert max(settled) <= MOST
    assert rate >= PART * max(fixed.values())
    assert max(site.waits_s) < 3.0
