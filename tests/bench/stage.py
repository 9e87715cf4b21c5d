"""
What every measurement needs: private servers, a bus, its store seen from outside.

A backlog is made while the delivery child stands still (SIGSTOP), and measured from the moment it
goes on until nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from pbus.storage.driver import Driver
from pbus.storage.open import StoreTarget, make, queue_specs
from tests.support.bus import Bus, BusFactory
from tests.support.machine import cpu_s, fsync_s
from tests.support.php_fpm import PhpFpm
from tests.support.producers import benchmark
from tests.support.redis_server import RedisServer

QUEUE = "bench"
UNBOUNDED = {"max_backlog": 0, "max_backlog_bytes": "0B"}
"""A slice of pushes is as long as it takes, and nobody settles what is parked."""
LONGEST_S = 120.0
_POLL_S = 0.01
_FILL_PIPELINE = 32


class Stage:
    """A context manager; everything it started ends with it. *name*: of its bus, where a test has several."""

    def __init__(self, folder: Path, bus_factory: BusFactory, name: str = "bus") -> None:
        self.folder = folder
        self._name = name
        self._bus_factory = bus_factory
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def redis(self, name: str, **settings: str) -> RedisServer:
        """A private redis-server, also on TCP."""
        folder = self.folder / name
        folder.mkdir()
        server = RedisServer(folder, tcp=True, **settings)
        self._stack.callback(server.close)
        server.start()
        return server

    def client(self, server: RedisServer, **settings: Any) -> redis.Redis:
        """A plain client of that server."""
        return self._stack.enter_context(server.client(**settings))

    def fpm(self, children: int) -> PhpFpm:
        """A private php-fpm with so many processes."""
        folder = self.folder / "fpm"
        folder.mkdir()
        fpm = PhpFpm(folder, pool={"pm.max_children": str(children)})
        self._stack.callback(fpm.close)
        fpm.start()
        return fpm

    def bus(
        self, topics: Mapping[str, Any], store: RedisServer | None = None, environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Bus:
        """A bus with one queue (*of_queue*: more of its keys) and these topics; in SQLite, or in *store*. Unbounded."""
        of_queue = more.pop("of_queue", {})
        tree: dict[str, Any] = {"queue": {QUEUE: {**UNBOUNDED, **of_queue, "topic": dict(topics)}}, **more}
        if store is not None:
            tree["storage"] = {"main": {"url": store.url}}
        bus = self._bus_factory(tree, name=self._name, environment=environment)
        self.driver = self._stack.enter_context(_driver(bus))
        return bus

    def backlog(self) -> int:
        """Deliveries of all topics that are not settled."""
        return sum(n.ready + n.running + n.delayed for n in self.driver.numbers().values())

    def drained_s(self, bus: Bus, count: int, begins: Callable[[], object] = lambda: None) -> float:
        """Push *count* jobs while nothing is delivered, then let it go on; seconds from *begins* to the last one."""
        with _standing_still(bus):
            benchmark(bus.port, QUEUE, count, pipeline=_FILL_PIPELINE)
            assert self.backlog() >= count
            begins()
            begin_s = time.monotonic()
        while self.backlog():
            assert time.monotonic() - begin_s < LONGEST_S, f"{self.backlog()} of {count} jobs are left\n{bus.tail()}"
            time.sleep(_POLL_S)
        return time.monotonic() - begin_s


@contextlib.contextmanager
def _standing_still(bus: Bus) -> Iterator[None]:
    """The delivery children stand still. They must not hold the store's lock then, so a push is tried first."""
    pids = bus.pids("delivery")
    try:
        while not _stopped(bus, pids):
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _stopped(bus: Bus, pids: list[int]) -> bool:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with redis.Redis(port=bus.port, socket_timeout=1.0) as client:
        try:
            client.lpush(QUEUE, "0")
        except redis.RedisError:
            return False
    return True


@contextlib.contextmanager
def _driver(bus: Bus) -> Iterator[Driver]:
    """The bus' store, as one of its children sees it."""
    settings = bus.settings
    storage = settings.storage["main"]
    url = storage.url
    if url.startswith("sqlite:"):
        url = "sqlite:" + str(Path(settings.node.data_dir) / url.removeprefix("sqlite:"))
    driver = make(StoreTarget("main", url, storage.password, storage.call_timeout_s, settings.node.name))
    driver.open()
    try:
        driver.declare(queue_specs(settings.queue, "main"))
        yield driver
    finally:
        driver.close()


class CpuPerJob:
    """Processor time a job of the bus' roles, from here to ``text``."""

    def __init__(self, bus: Bus, *roles: str) -> None:
        self._pids = {role: bus.pids(role) for role in roles}
        self._before = {role: cpu_s(pids) for role, pids in self._pids.items()}

    def text(self, jobs: int) -> dict[str, str]:
        """Role -> microseconds of each of the *jobs* that were done meanwhile."""
        return {
            f"{role} cpu": f"{(cpu_s(pids) - self._before[role]) / max(1, jobs) * 1e6:.1f} us"
            for role, pids in self._pids.items()
        }


def fsync_text(bus: Bus) -> dict[str, str]:
    """What an fsync costs where this bus keeps its data."""
    return {"fsync": f"{fsync_s(Path(bus.settings.node.data_dir)) * 1e6:.0f} us"}
