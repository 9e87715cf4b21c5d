"""
A step of load, from a few jobs a second to as many as 16 handlers can do, and back: the real bus follows it.

The backlog is normal again within catch_up + 3 s, no more than a quarter too many are ever wanted, the number turns
twice at most, it is at min again within 60 s (nightly: the cool-downs take that long), and no job notices any of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.bus import Bus, BusFactory
from tests.support.nightly import NIGHTLY, figure
from tests.support.php_fpm import PhpFpm
from tests.support.step_load import Load, Watcher, decisions, turns
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

pytestmark = pytest.mark.alone

NEEDED = 16
SERVICE_S = figure(0.08, nightly=0.02)
"""Nightly as it is promised; else as many handlers with a quarter of the jobs, which no busy machine minds."""
CATCH_UP_S = 10.0
CALM_PER_S, CALM_S = figure(3, nightly=10), 4.0
STEADY_S = figure(1.0, nightly=20.0)
HANDLER = f"import time\ndef work(job):\n    time.sleep({SERVICE_S})\n"
SCRIPT = """
if (($_POST['type'] ?? '') === 'ping') {
    header('Code: 200');
    header("Consume-Topics: {$_POST['queue']}/{$_POST['topic']}");
    exit;
}
usleep(MICROSECONDS);
header('Code: 200');
echo 'done';
""".replace("MICROSECONDS", str(int(SERVICE_S * 1_000_000)))
BOUNDS = "concurrency = { min = 1, max = 64 }\n"


@pytest.fixture
def fpm(tmp_path: Path) -> Iterator[PhpFpm]:
    fpm = PhpFpm(tmp_path, pool={"pm.max_children": "24"})
    fpm.start()
    yield fpm
    fpm.close()


def topic(kind: str, folder: Path, fpm: PhpFpm) -> str:
    """The table of one topic of the queue ``load``."""
    if kind == "python":
        (folder / "slow_work.py").write_text(HANDLER)
        handler = f'python = {{ call = "slow_work:work", path = "{folder}", watch = false }}'
    else:
        handler = f'fastcgi = {{ backend = "php", script = "{fpm.script("work.php", SCRIPT)}" }}'
    return f"[queue.load.topic.{kind}]\n{handler}\n{BOUNDS}"


@pytest.mark.parametrize("kinds", [["python"], ["php"]] if NIGHTLY else [["python", "php"]], ids=" ".join)
def test_consumers_and_calls_follow_a_step_of_load(
    kinds: list[str], tmp_path: Path, fpm: PhpFpm, bus_factory: BusFactory
) -> None:
    tables = [topic(kind, tmp_path, fpm) for kind in kinds]
    bus = bus_factory("\n".join([f'[backend.php]\nfastcgi = ["{fpm.address}"]', *tables]))
    with ExitStack() as stack:
        watchers = [stack.enter_context(Watcher(bus, "load", kind)) for kind in kinds]
        watch = stack.enter_context(Stopwatch())
        load = stack.enter_context(Load(bus, "load", CALM_PER_S))
        time.sleep(CALM_S)
        before, step_s, step_at_s = {kind: len(decisions(bus, kind)) for kind in kinds}, time.monotonic(), time.time()
        load.rate_per_s = NEEDED / SERVICE_S
        normal_s = [
            watch.worked_between_s(step_at_s, step_at_s + _normal_s(watcher, step_s)) for watcher in watchers
        ]
        time.sleep(STEADY_S)
        under_load = {kind: decisions(bus, kind)[before[kind]:] for kind in kinds}
        load.rate_per_s, down_s = CALM_PER_S, time.monotonic()
        for watcher in watchers if NIGHTLY else []:
            until(lambda looks=watcher.looks: looks[-1].now == 1, 60, "it is at min again")  # type: ignore[misc]
        back_s = time.monotonic() - down_s
        load.stop()
        for kind in kinds:
            until(lambda kind=kind: bus.topic("load", kind)["done_total"] == load.pushed, 10, "all is done")  # type: ignore[misc]
    for kind, watcher, took_s in zip(kinds, watchers, normal_s, strict=True):
        wanted = [1, *(event["wanted"] for event in under_load[kind])]
        needed = max(NEEDED, *(event["service_s"] * NEEDED / SERVICE_S for event in under_load[kind][1:]))
        print(f"{kind}: normal after {took_s:.1f} s, wanted {wanted} of {needed:.1f}, at min after {back_s:.1f} s")
        print(_story(bus, kind, watcher, step_s))
        assert took_s <= CATCH_UP_S + 3
        assert max(wanted) <= math.ceil(needed * 1.25)
        assert turns(wanted) <= 2
        row = bus.topic("load", kind)
        assert (row["failed_total"], row["dead"], row["ready"]) == (0, 0, 0)
    assert not [event for event in bus.events("child.exited") if event["status"] != 0]


def _normal_s(watcher: Watcher, step_s: float) -> float:
    """When no more wait than there are handlers needed, seconds after the step."""

    def found() -> list[float]:
        return [look.at_s - step_s for look in watcher.since(step_s + 2) if look.ready <= NEEDED]

    return until(found, CATCH_UP_S + 15, lambda: f"the backlog is normal: {watcher.looks[-1]}")[0]


def _story(bus: Bus, kind: str, watcher: Watcher, step_s: float) -> str:
    looks = [f"{look.at_s - step_s:.1f}s {look.ready}/{look.now}" for look in watcher.looks[::4]]
    return "\n".join([" ".join(looks), *(event["reason"] for event in decisions(bus, kind))])
