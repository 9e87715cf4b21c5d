"""
A step of load, from 10 jobs a second to as many as 16 handlers of 20 ms can do, and back: the real bus follows it.

The backlog is normal again within catch_up + 3 s, no more than a quarter too many are ever wanted, the number turns
twice at most, it is at min again within 60 s, and no job notices any of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bus import Bus, BusFactory
from tests.support.nightly import NIGHTLY, figure
from tests.support.php_fpm import PhpFpm
from tests.support.step_load import Load, Watcher, decisions, turns
from tests.support.waiting import until

NEEDED = 16
SERVICE_S = 0.02
CATCH_UP_S = 10.0
CALM_PER_S, CALM_S = 10, 4.0
STEADY_S = figure(3.0, nightly=20.0)
HANDLER = "import time\ndef work(job):\n    time.sleep(0.02)\n"
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


def python_bus(folder: Path, bus_factory: BusFactory) -> Bus:
    (folder / "slow_work.py").write_text(HANDLER)
    handler = f'python = {{ call = "slow_work:work", path = "{folder}", watch = false }}'
    return bus_factory(f'[queue.load.topic.t]\n{handler}\nconcurrency = {{ min = 1, max = 64 }}\n')


@pytest.fixture
def fpm(tmp_path: Path) -> Iterator[PhpFpm]:
    fpm = PhpFpm(tmp_path, pool={"pm.max_children": "24"})
    fpm.start()
    yield fpm
    fpm.close()


def php_bus(fpm: PhpFpm, bus_factory: BusFactory) -> Bus:
    script = fpm.script("work.php", SCRIPT)
    return bus_factory(
        f'[backend.php]\nfastcgi = ["{fpm.address}"]\n'
        f'[queue.load.topic.t]\nfastcgi = {{ backend = "php", script = "{script}" }}\n'
        "concurrency = { min = 1, max = 64 }\n"
    )


def follow(bus: Bus) -> None:
    """The step, up and down; asserts everything that is promised."""
    with Watcher(bus, "load", "t") as watcher, Load(bus, "load", CALM_PER_S) as load:
        time.sleep(CALM_S)
        step_s, before = time.monotonic(), len(decisions(bus, "t"))
        load.rate_per_s = NEEDED / SERVICE_S

        def is_normal() -> bool:
            return any(look.at_s > step_s + 2 and look.ready <= NEEDED for look in watcher.looks)

        until(is_normal, CATCH_UP_S + 10, lambda: f"the backlog is normal: {_story(bus, watcher, step_s)}")
        normal_s = next(look.at_s for look in watcher.since(step_s + 2) if look.ready <= NEEDED) - step_s
        time.sleep(STEADY_S)
        wanted = [1, *(event["wanted"] for event in decisions(bus, "t")[before:])]
        load.rate_per_s = CALM_PER_S
        down_s = time.monotonic()
        until(lambda: watcher.looks[-1].now <= figure(NEEDED // 2, nightly=1), 60, lambda: _story(bus, watcher, step_s))
        back_s = time.monotonic() - down_s
        load.stop()
        until(lambda: bus.topic("load", "t")["done_total"] == load.pushed, 10, "every job is done")
    print(f"normal after {normal_s:.1f} s, wanted {wanted}, down after {back_s:.1f} s, {load.pushed} jobs")
    print(_story(bus, watcher, step_s))
    assert normal_s <= CATCH_UP_S + 3
    assert max(wanted) <= NEEDED * 1.25
    assert turns(wanted) <= 2
    row = bus.topic("load", "t")
    assert (row["failed_total"], row["dead"], row["ready"]) == (0, 0, 0)
    assert not [event for event in bus.events("child.exited") if event["status"] != 0]


def _story(bus: Bus, watcher: Watcher, step_s: float) -> str:
    looks = [f"{look.at_s - step_s:.1f}s {look.ready}/{look.now}" for look in watcher.looks[::4]]
    return "\n".join([" ".join(looks), *(event["reason"] for event in decisions(bus, "t"))])


def test_python_consumers_follow_a_step_of_load(tmp_path: Path, bus_factory: BusFactory) -> None:
    follow(python_bus(tmp_path, bus_factory))


@pytest.mark.skipif(not NIGHTLY, reason="as the one before, with calls instead of processes; a minute")
def test_calls_to_php_fpm_follow_a_step_of_load(fpm: PhpFpm, bus_factory: BusFactory) -> None:
    follow(php_bus(fpm, bus_factory))
