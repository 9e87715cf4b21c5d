"""The measured handler as a dramatiq actor: at least once, because Redis keeps a message until it is acknowledged."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

from tests.bench.rivals.work import work

broker = RedisBroker(url=f"unix://{os.environ['BROKER_SOCKET']}?db=1", middleware=[Retries()])
dramatiq.set_broker(broker)


@dramatiq.actor
def count(body: str) -> None:
    work(None)


def enqueue(body: str, jobs: int) -> None:
    for _ in range(jobs):
        count.send(body)
