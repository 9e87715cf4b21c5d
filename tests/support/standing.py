"""What the store says about the topics of a queue, read by the driver as any child of a bus reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from pbus.storage.driver import Driver, JobRecord
from tests.support.verdict import Standing

_PAGE = 2000
_PLACES = ("ready", "running", "delayed", "dead")


def read(driver: Driver, queue: str, topics: Iterable[str]) -> dict[str, Standing]:
    """Standing of each topic; nobody may push, claim or settle meanwhile, or it is a blur."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: {place: set() for place in _PLACES})
    for record in _jobs(driver, queue):
        key = record.body.split(b" ", 1)[0].decode("utf-8", "replace")
        for topic, place in record.topics.items():
            if place.state in _PLACES:
                found[topic][place.state].add(key)
    numbers, pushed = driver.numbers(), driver.queue_numbers()[queue].pushed_total
    standings = {}
    for topic in topics:
        now = numbers[(queue, topic)]
        standings[topic] = Standing(
            **{place: frozenset(keys) for place, keys in found[topic].items()}, pushed=pushed, done=now.done_total,
            cancelled=now.cancelled_total, expired=now.expired_total, forgotten=now.forgotten_total,
        )
    return standings


def _jobs(driver: Driver, queue: str) -> Iterator[JobRecord]:
    after = ""
    while page := driver.jobs(queue, after, _PAGE):
        yield from page
        after = page[-1].id
