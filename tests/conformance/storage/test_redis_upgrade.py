"""A Redis that an older pbus has written to: brought up to date when a queue is declared, nothing of it lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from pbus.core.job import Move, Settlement
from pbus.storage.driver import QueueSpec, TopicNumbers, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.redis_streams import RedisStreamsDriver
from tests.conformance.storage.world import accounted
from tests.support.redis_server import running

DEAD_OWNER, ALICE = "n1/b1/1.1", "n1/b2/1.1"
GIFT = QueueSpec("gift", (TopicSpec("credit"),), 0.0, 0)
DAY_MS = 86_400_000


def _written_by_the_first_format(client: redis.Redis) -> None:
    """As its own code left it: of eight jobs one is done, one dead, two are delayed, one came back, two run."""
    queue, topic, owner = "pbus:{gift}:", "pbus:{gift}:topic:credit:", DEAD_OWNER
    client.hset(f"{queue}queue", mapping={"pushed": 8, "bytes": 16, "ms": 7, "seq": 1, "retention_ms": 0,
                                          "retention_bytes": 0})
    client.sadd("pbus:topics", "gift/credit")
    for number in range(2):
        client.xadd(f"{queue}log", {"j": f"{2 * number}:0:0:c{number}"}, id=f"7-{number}")
    client.xadd(f"{queue}sizes", {"z": 12}, id="7-0")
    client.hset(f"{queue}cursors", "credit", "7-0")
    client.hset(f"{queue}taken", "credit", 7)
    client.hset(f"{topic}bodies", mapping={f"5-{number}": f"{2 * number}:0:0:b{number}" for number in range(1, 6)})
    client.hset(f"{topic}claims:{owner}", mapping={"5-5": "0:0:0:0", "7-0": ""})
    client.sadd(f"{topic}owners", owner)
    client.zadd(f"{topic}again", {f"{5:014}-{4:016}|2:1:1:77": 0})
    client.zadd(f"{topic}delayed", {f"{5:014}-{1:016}|1:0:1:66": 6, f"{5:014}-{2:016}|1:0:1:66": 99 * 366 * DAY_MS})
    client.zadd(f"{topic}dead", {f"{5:014}-{3:016}": 55})
    client.hset(f"{topic}letters", "5-3", "3:1:6:failedboom: |x")
    client.hset(f"{topic}totals", mapping={"done": 1, "dead": 1, "failed": 8})


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisStreamsDriver]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        with server.client() as client:
            _written_by_the_first_format(client)
        made = RedisStreamsDriver(StoreTarget("main", server.url, "", 5.0, "n1"))
        made.open()
        made.declare([GIFT])
        yield made
        made.close()


def test_every_number_of_an_older_store_is_kept(store: RedisStreamsDriver) -> None:
    numbers = store.numbers()["gift", "credit"]

    assert accounted(numbers) == 8
    assert numbers == TopicNumbers(
        ready=3, running=2, delayed=1, dead=1, oldest_wait_s=numbers.oldest_wait_s, done_total=1, failed_total=8,
        dead_total=1,
    )
    (letter,) = store.dead_letters("gift", "credit")
    assert (letter.id, letter.at_ms, letter.attempts, letter.crashes) == ("5-3", 55, 3, 1)
    assert (letter.reason, letter.error) == ("failed", "boom: |x")
    assert [(group.count, group.total, group.first_ms) for group in store.dead_groups("gift", "credit")] == [(1, 1, 55)]


def test_everything_in_an_older_store_can_still_be_done(store: RedisStreamsDriver) -> None:
    held = store.held(DEAD_OWNER)
    assert {(one.id, one.attempts) for one in held} == {("5-5", 0), ("7-0", 0)}
    assert all(store.give_back(DEAD_OWNER, [
        Settlement(owner=DEAD_OWNER, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE) for one in held
    ]))
    assert store.promote_due().moved == {("gift", "credit"): 1}
    assert store.revive("gift", "credit", ["5-3"]) == [True]
    store.declare([GIFT])

    got = store.claim([Want(ALICE, "gift", "credit", 10)])

    assert [(one.id, one.body, one.attempt, one.crashes, one.first_ms, one.forgiven) for one in got] == [
        ("5-1", b"b1", 2, 0, 66, 0), ("5-3", b"b3", 4, 0, 0, 3), ("5-4", b"b4", 3, 1, 77, 0),
        ("5-5", b"b5", 1, 0, 0, 0), ("7-0", b"c0", 1, 0, 0, 0), ("7-1", b"c1", 1, 0, 0, 0),
    ]
    assert all(store.settle([
        Settlement(owner=ALICE, queue=one.queue, topic=one.topic, id=one.id, move=Move.ACK) for one in got
    ]))
    assert store.cancel("gift", "credit", ["5-2"]) == [1]
    assert accounted(store.numbers()["gift", "credit"]) == 8
