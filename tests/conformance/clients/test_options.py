"""Typed pushes by redis-py: what the options do, and that a wrong one is refused with its neighbours unharmed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from tests.support.bus import Bus
from tests.support.waiting import until

WRONG: list[tuple[str | bytes, ...]] = [
    ("XADD", "opt", "*", "body", "b", "delay", "-1"),
    ("XADD", "opt", "*", "body", "b", "delay", "1.5"),
    ("PBUS.ADD", "opt", "b", "DELAY", "9" * 30),
    ("PBUS.ADD", "opt", "b", "TTL", "-5"),
    ("PBUS.ADD", "opt", "b", "TTL"),
    ("XADD", "opt", "*", "body", "b", "dedupe", "x" * 10_240),
    ("XADD", "opt", "*", "body", "b", "dedupe", ""),
    ("XADD", "opt", "*", "body", "b", "key", b"a\0b"),
    ("PBUS.ADD", "opt", "b", "KEY", b"\xff\xfe"),
    ("PBUS.ADD", "opt", "b", "KEY", "a", "key", "b"),
    ("PBUS.ADD", "opt", "b", "RETRIES", "7"),
    ("XADD", "opt", "7-0", "body", "b"),
]


@pytest.fixture
def client(bus: Bus) -> Iterator[redis.Redis]:
    with redis.Redis(port=bus.port, decode_responses=True, socket_timeout=10) as client:
        yield client


def test_wrong_options_are_refused_one_by_one_and_nothing_of_them_is_stored(client: redis.Redis) -> None:
    batch = client.pipeline(transaction=False)
    for words in WRONG:
        batch.execute_command(*words)
        batch.lpush("opt", "good")
    batch.execute_command("LPUSH", "opt", b"x" * 17 * 1024 * 1024)
    batch.lpush("opt", "last")

    replies = batch.execute(raise_on_error=False)

    refusals, stored = [str(reply) for reply in replies[0:-2:2]], replies[1:-2:2]
    assert all(text.startswith("BADVALUE ") and text.endswith(": not stored") for text in refusals), refusals
    assert all(isinstance(reply, int) and reply > 0 for reply in [*stored, replies[-1]]), replies
    assert str(replies[-2]).startswith("TOOBIG opt takes at most 1048576 bytes a body, this one has 17825792: not stor")
    taken = [client.rpop("opt/t") for _ in range(len(WRONG) + 2)]
    assert taken == ["good"] * len(WRONG) + ["last", None]


def test_delayed_job_comes_in_its_time(client: redis.Redis) -> None:
    begin_s = time.monotonic()
    client.xadd("opt", {"body": "later", "delay": 400})
    client.xadd("opt", {"body": "now"})

    assert client.rpop("opt/t") == "now"
    assert until(lambda: client.rpop("opt/t"), 10, "it is due") == "later"
    assert time.monotonic() - begin_s >= 0.4


def test_repeated_dedupe_key_is_one_job(client: redis.Redis) -> None:
    ids = {client.execute_command("PBUS.ADD", "opt", "once", "DEDUPE", "order 4711") for _ in range(5)}
    ids.add(client.xadd("opt", {"body": "twice?", "DeDupe": "order 4711"}))

    assert len(ids) == 1
    assert [client.rpop("opt/t"), client.rpop("opt/t")] == ["once", None]


def test_job_is_not_handed_out_after_its_ttl(client: redis.Redis) -> None:
    client.xadd("opt", {"body": "old", "ttl": 1})
    job = client.xadd("opt", {"body": "young", "ttl": 60_000})
    until(lambda: time.time() * 1000 > int(job.partition("-")[0]) + 2, 10, "its time is over")

    assert [client.rpop("opt/t"), client.rpop("opt/t")] == ["young", None]


def test_jobs_of_one_key_come_in_their_order(client: redis.Redis) -> None:
    for number in range(3):
        client.xadd("opt", {"body": f"a{number}", "key": "a"})
    client.xadd("opt", {"body": "b0", "key": "b"})

    # Each is settled when its reply has left, which frees the key for the next one.
    taken: list[str] = []
    until(lambda: taken.extend(client.rpop("opt/t", 9) or []) or len(taken) == 4, 10, "all of them came")
    assert [body for body in taken if body.startswith("a")] == ["a0", "a1", "a2"]
