"""What time triggers, on a real bus and both stores: due retries, dead owners, dead and frozen nodes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.support import redis_server
from tests.support.bus import Bus, BusFactory
from tests.support.ledger import Ledger
from tests.support.ledger_handlers import python_environment, python_handler
from tests.support.redis_server import RedisServer
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server.running(tmp_path) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def storage(request: pytest.FixtureRequest) -> str:
    """TOML of a storage: the embedded one, or a Redis of this test's own."""
    if request.param == "sqlite":
        return ""
    server: RedisServer = request.getfixturevalue("server")
    return f'[storage.main]\nurl = "{server.url}"\n'


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def topic(more: str = "") -> str:
    return f"[queue.gift.topic.credit]\npython = {python_handler()}\n{more}"


def push(bus: Bus, *bodies: str) -> None:
    with redis.Redis(port=bus.port) as client:
        client.lpush("gift", *bodies)


def attempts(ledger: Ledger) -> list[tuple[str, int]]:
    """(key, attempt) of every run that was finished, in order."""
    path = ledger.ran_dir / "gift.credit"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def running(bus: Bus) -> int:
    count: int = bus.topic("gift", "credit")["running"]
    return count


def begun(bus: Bus) -> bool:
    """A consumer has begun a job; it is claimed a little earlier."""
    return any(row["role"] == "consumer" and row["running"] for row in bus.status()["processes"])


def test_retry_comes_when_it_is_due(bus_factory: BusFactory, storage: str, ledger: Ledger) -> None:
    bus = bus_factory(
        storage + topic('retry = { first = "1s", factor = 1.0, jitter = 0.0 }'), environment=python_environment(ledger)
    )
    with Stopwatch() as watch:
        push(bus, "k1 fail=2")
        until(lambda: ("k1", 3) in attempts(ledger), 20, "the third attempt")
    print(f"two retries of 1 s each took {watch.s:.2f} s")
    assert watch.s >= 2.0
    assert watch.worked_s <= 4.5  # each may be noticed up to a second late
    assert attempts(ledger) == [("k1", 1), ("k1", 2), ("k1", 3)]


def test_short_retries_are_not_held_up_by_the_look_once_a_second(
    bus_factory: BusFactory, storage: str, ledger: Ledger
) -> None:
    retry = 'retry = {first = "50ms", factor = 1.0, jitter = 0.0}'
    bus = bus_factory(storage + topic(retry), environment=python_environment(ledger))
    push(bus, "warm-up")
    until(lambda: attempts(ledger), 10.0, "the first job")
    with Stopwatch() as watch:
        for number in range(10):
            push(bus, f"job-{number} fail=2")
            until(lambda number=number: (f"job-{number}", 3) in attempts(ledger), 10.0, "its third attempt")
    print(f"20 retries after 50 ms each: {watch.s:.2f} s")
    assert watch.worked_s < 10 * 0.5  # a look a second would need about ten


def test_claims_of_a_delivery_child_and_its_consumer_killed_together_go_back(
    bus_factory: BusFactory, storage: str, ledger: Ledger
) -> None:
    bus = bus_factory(
        storage + topic('retry = { first = "100ms", jitter = 0.0 }'), environment=python_environment(ledger)
    )
    push(bus, "k1 sleep=3000", "k2", "k3")
    until(lambda: begun(bus), 10, "the first job runs")
    began = time.monotonic()
    for pid in (*bus.pids("consumer"), *bus.pids("delivery")):
        os.kill(pid, signal.SIGKILL)
    until(lambda: {key for key, _ in attempts(ledger)} == {"k1", "k2", "k3"}, 15, "all three were run")
    print(f"recovered after {time.monotonic() - began - 3:.2f} s and the job's own 3 s")
    assert ("k1", 2) in attempts(ledger)  # it killed its consumer, as far as anybody can tell
    assert {attempt for key, attempt in attempts(ledger) if key != "k1"} == {1}
    until(lambda: running(bus) == 0, 5, "nothing is left running")


def test_killed_scheduler_is_replaced_and_goes_on(bus_factory: BusFactory, storage: str, ledger: Ledger) -> None:
    bus = bus_factory(
        storage + topic('retry = { first = "1s", jitter = 0.0 }'), environment=python_environment(ledger)
    )
    push(bus, "k1 fail=1")
    until(lambda: attempts(ledger), 10, "the first attempt")
    bus.kill("scheduler")
    until(lambda: attempts(ledger) == [("k1", 1), ("k1", 2)], 10, "the retry came all the same")


def test_start_after_a_kill_of_everything_delivers_at_once(
    bus_factory: BusFactory, storage: str, ledger: Ledger
) -> None:
    bus = bus_factory(storage + topic(), environment=python_environment(ledger))
    push(bus, "k1 sleep=2000", "k2")
    until(lambda: running(bus) > 0, 10, "the first job runs")
    for pid in bus.processes():
        os.kill(pid, signal.SIGKILL)
    assert bus.process is not None
    bus.process.wait(10)
    bus.start()
    until(lambda: {key for key, _ in attempts(ledger)} == {"k1", "k2"}, 8, "both were run")
    assert all(attempt == 1 for _, attempt in attempts(ledger))  # nobody is to blame
    until(lambda: not os.listdir(Path(bus.settings.node.run_dir) / "boot")[1:], 5, "the old boot is forgotten")


def test_numbers_survive_the_store_going_away(
    bus_factory: BusFactory, server: RedisServer, ledger: Ledger
) -> None:
    bus = bus_factory(
        f'[storage.main]\nurl = "{server.url}"\ncall_timeout = "1s"\n' + topic(), environment=python_environment(ledger)
    )
    push(bus, "k1", "k2")
    until(lambda: bus.topic("gift", "credit")["done_total"] == 2, 10, "both are done")
    server.freeze()
    with Stopwatch() as watch:
        frozen = bus.status()
    assert watch.worked_s <= 4
    assert frozen["topics"][0]["done_total"] == 2
    until(lambda: any("storage main" in text for text in bus.status()["problems"]), 10, "the problem is told")
    server.resume()
    until(lambda: bus.status()["problems"] == [], 10, "the problem is over")


def two_nodes(bus_factory: BusFactory, server: RedisServer, ledger: Ledger) -> tuple[Bus, Bus]:
    config = f'[storage.main]\nurl = "{server.url}"\n' + topic("concurrency = 4\n")
    one, two = (
        bus_factory(f'{config}[node]\nname = "{name}"\n', name=name, environment=python_environment(ledger))
        for name in ("one", "two")
    )
    return one, two


def held_by(server: RedisServer, node: str) -> int:
    """Claims of *node*, seen behind the driver's back."""
    with server.client() as client:
        return sum(client.hlen(key) for key in client.scan_iter(f"*claims*{node}/*"))


def test_jobs_of_a_node_that_died_are_run_by_the_other(
    bus_factory: BusFactory, server: RedisServer, ledger: Ledger
) -> None:
    one, two = two_nodes(bus_factory, server, ledger)
    push(one, *(f"k{number} sleep=1000" for number in range(16)))
    until(lambda: held_by(server, "one") > 0, 10, "node one holds claims")
    for pid in one.processes():
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    until(lambda: len({key for key, _ in attempts(ledger)}) == 16, 25, "all were run")
    until(lambda: held_by(server, "one") == 0, 5, "nothing is held by the dead")
    print(f"all run {time.monotonic() - began:.1f} s after the death (lost_after 1.5 s, four at once, 1 s each)")
    assert two.events("node.lost")


def test_frozen_node_is_fenced_and_goes_on_under_a_new_boot(
    bus_factory: BusFactory, server: RedisServer, ledger: Ledger
) -> None:
    one, two = two_nodes(bus_factory, server, ledger)
    push(two, *(f"k{number} sleep=300" for number in range(24)))
    until(lambda: held_by(server, "one") > 0, 10, "node one holds claims")
    frozen = one.processes()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: two.events("node.lost"), 15, "node two declares it dead")
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    until(lambda: one.events("node.fenced"), 15, "node one learns that it was fenced")
    until(lambda: len({key for key, _ in attempts(ledger)}) == 24, 25, "all were run")
    one.wait(("running",), 20)
    assert all(psutil.pid_exists(pid) for pid in one.pids("consumer"))
    push(one, "after")
    until(lambda: ("after", 1) in attempts(ledger), 10, "it takes and runs jobs again")
    until(lambda: one.topic("gift", "credit")["running"] == 0, 10, "nothing is left running")
    assert one.topic("gift", "credit")["done_total"] == 25
