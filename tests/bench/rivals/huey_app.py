"""The measured handler as a huey task; at most once: huey takes a task off its list before it runs."""

from __future__ import annotations

import os

from huey import RedisHuey

from tests.bench.rivals.work import work

huey = RedisHuey("bench", url=f"unix://{os.environ['BROKER_SOCKET']}?db=1", results=False)


@huey.task()
def count(body: str) -> None:
    work(None)


def enqueue(body: str, jobs: int) -> None:
    for _ in range(jobs):
        count(body)
