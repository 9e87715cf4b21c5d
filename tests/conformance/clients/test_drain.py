"""A bus that is restarted while clients push: what was answered is stored, and nothing of it twice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.bus import STOP_S, Bus, BusFactory
from tests.support.waiting import until


def test_drain_loses_nothing_that_was_answered_and_makes_nobody_repeat(bus_factory: BusFactory) -> None:
    queues = {name: {"topic": {"t": {"pull": {}}}} for name in ("gift", "mail")}
    bus = bus_factory({"queue": queues})
    assert bus.process is not None
    stored = 0
    once = Retry(NoBackoff(), 0)
    with _pushing(bus) as told:
        with redis.Redis(port=bus.port, retry=once) as client, contextlib.suppress(redis.ConnectionError):
            while client.lpush("gift", "x"):
                stored += 1
                if stored == 200:
                    bus.process.terminate()
        assert bus.process.wait(STOP_S) == 0
        before = len(told)
        bus.restart()
        until(lambda: len(told) > before + 50, 20, "clients that repeat by themselves go on")
    with redis.Redis(port=bus.port) as client:
        assert client.llen("gift") == stored
        taken: list[bytes] = []
        while some := client.rpop("mail/t", 1000):
            taken += some
    assert sorted(taken) == sorted(told)


@contextlib.contextmanager
def _pushing(bus: Bus) -> Iterator[list[bytes]]:
    """Four clients with their defaults (they repeat what was not answered) push to ``mail``; what they were told."""
    told: list[bytes] = []
    over = threading.Event()

    def push(number: int) -> None:
        with redis.Redis(port=bus.port) as client:
            for turn in range(1_000_000):
                if over.is_set():
                    return
                with contextlib.suppress(redis.ConnectionError):  # they have given up: it is not there, so not stored
                    client.lpush("mail", f"{number}-{turn}")
                    told.append(f"{number}-{turn}".encode())

    threads = [threading.Thread(target=push, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()
