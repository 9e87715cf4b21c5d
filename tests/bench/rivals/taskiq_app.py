"""
The measured handler as a taskiq task on a Redis stream, acknowledged when it has run: at least once.

It is a coroutine although it waits for Redis itself: a plain function would go to a thread for each task.
"""

from __future__ import annotations

import asyncio
import os

from taskiq_redis import RedisStreamBroker

from tests.bench.rivals.work import work

broker = RedisStreamBroker(url=f"unix://{os.environ['BROKER_SOCKET']}?db=1", queue_name="bench", consumer_id="0")


@broker.task
async def count(body: str) -> None:
    work(None)


_loop = asyncio.new_event_loop()  # owner: the feeder; the broker's connections belong to it


def enqueue(body: str, jobs: int) -> None:
    _loop.run_until_complete(_enqueue(body, jobs))


async def _enqueue(body: str, jobs: int) -> None:
    for _ in range(jobs):
        await count.kiq(body)
