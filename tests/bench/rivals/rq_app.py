"""The measured handler as an RQ job that is retried when its worker died: at least once."""

from __future__ import annotations

import os

import redis
from rq import Queue, Retry

from tests.bench.rivals.work import work

AT_ONCE = 1000


def count(body: str) -> None:
    work(None)


def enqueue(body: str, jobs: int) -> None:
    queue = Queue("bench", connection=redis.Redis(unix_socket_path=os.environ["BROKER_SOCKET"], db=1))
    for first in range(0, jobs, AT_ONCE):
        queue.enqueue_many([
            Queue.prepare_data(count, (body,), result_ttl=0, retry=Retry(max=3))
            for _ in range(min(AT_ONCE, jobs - first))
        ])
