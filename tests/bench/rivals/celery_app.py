"""The measured handler as a Celery task that is acknowledged when it has run: at least once."""

from __future__ import annotations

import os

from celery import Celery

from tests.bench.rivals.work import work

app = Celery("bench", broker=f"redis+socket://{os.environ['BROKER_SOCKET']}?virtual_host=1")
app.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True, worker_prefetch_multiplier=128,
)


@app.task(name="count")
def count(body: str) -> None:
    work(None)


def enqueue(body: str, jobs: int) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(jobs):
            count.apply_async((body,), producer=producer)
