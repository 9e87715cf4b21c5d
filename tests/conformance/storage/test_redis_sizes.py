"""Sizes at which a script, a reply or a stack could break: many at once, large bodies, many topics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.redis_streams import RedisStreamsDriver
from tests.support.redis_server import RedisServer, running

ALICE = "n1/b1/1.1"
MANY = 10_000
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def driver(server: RedisServer) -> Iterator[RedisStreamsDriver]:
    with server.client() as client:
        client.flushall()
    made = RedisStreamsDriver(StoreTarget("main", server.url, "", 20.0, "n1"))
    made.open()
    yield made
    made.close()


def declared(driver: RedisStreamsDriver, queue: str) -> str:
    """A queue that keeps nothing of what is settled."""
    driver.declare([QueueSpec(queue, (TopicSpec("credit"),), 0.0, 0)])
    return queue


def claim(driver: RedisStreamsDriver, queue: str, count: int) -> list[Delivery]:
    return driver.claim([Want(ALICE, queue, "credit", count)])


def settle(driver: RedisStreamsDriver, deliveries: list[Delivery], move: Move) -> None:
    assert all(
        driver.settle([
            Settlement(owner=ALICE, queue=one.queue, topic=one.topic, id=one.id, move=move) for one in deliveries
        ])
    )


def test_ten_thousand_at_once_go_every_way(driver: RedisStreamsDriver) -> None:
    queue = declared(driver, "many")
    ids = [one.id for one in driver.append(ALICE, 1, [Push(queue, b"x")] * MANY)]

    for move in (Move.RELEASE, Move.RETRY, Move.ACK):
        deliveries = claim(driver, queue, 2 * MANY)
        assert [one.id for one in deliveries] == ids
        assert len(driver.held(ALICE)) == MANY
        settle(driver, deliveries, move)
        if move is Move.RETRY:
            assert driver.promote_due(limit=2 * MANY).moved == {(queue, "credit"): MANY}

    assert driver.trim() == MANY
    assert driver.numbers()[queue, "credit"].done_total == MANY


def test_claim_of_large_bodies_is_full_before_its_count(driver: RedisStreamsDriver) -> None:
    queue = declared(driver, "large")
    bodies = [bytes([number]) * MIB for number in range(40)]
    for number, body in enumerate(bodies):
        driver.append(ALICE, number + 1, [Push(queue, body)])
    got: list[Delivery] = []
    while deliveries := claim(driver, queue, 40):
        assert len(deliveries) <= 16  # one page, not all forty in one reply
        got += deliveries

    assert [one.body for one in got] == bodies
    settle(driver, got, Move.RELEASE)
    again: list[Delivery] = []
    while deliveries := claim(driver, queue, 40):
        assert len(deliveries) <= 5
        again += deliveries
    assert [one.body for one in again] == bodies


def test_body_of_eight_mebibytes_comes_back_whole(driver: RedisStreamsDriver) -> None:
    queue = declared(driver, "huge")
    body = bytes(range(256)) * (8 * MIB // 256)
    driver.append(ALICE, 1, [Push(queue, body, "trace", "type")])

    (first,) = claim(driver, queue, 1)
    settle(driver, [first], Move.RELEASE)
    (again,) = claim(driver, queue, 1)

    assert first.body == again.body == body
    assert (again.traceparent, again.content_type) == ("trace", "type")


def test_trim_puts_large_bodies_aside_in_several_calls(driver: RedisStreamsDriver) -> None:
    queue = declared(driver, "aside")
    bodies = [bytes([number]) * MIB for number in range(12)]
    for number, body in enumerate(bodies):
        driver.append(ALICE, number + 1, [Push(queue, body)])
    running_now: list[Delivery] = []
    while deliveries := claim(driver, queue, 12):
        running_now += deliveries

    steps = []
    while dropped := driver.trim():
        steps.append(dropped)

    assert sum(steps) == 12
    assert len(steps) > 1
    settle(driver, running_now, Move.RELEASE)
    assert [one.body for one in claim(driver, queue, 1)] == bodies[:1]


def test_bytes_of_bodies_put_aside_are_given_back(server: RedisServer, driver: RedisStreamsDriver) -> None:
    queue = declared(driver, "clean")
    driver.append(ALICE, 1, [Push(queue, b"x")] * 100)
    deliveries = claim(driver, queue, 100)
    driver.trim()
    settle(driver, deliveries[:50], Move.RETRY)
    settle(driver, deliveries[50:], Move.ACK)
    driver.promote_due()
    settle(driver, claim(driver, queue, 100), Move.ACK)

    with server.client() as client:
        left = set(client.keys("pbus:{clean}:topic:*"))
    assert left == {b"pbus:{clean}:topic:credit:totals", b"pbus:{clean}:topic:credit:facts"}


def test_thousand_topics_are_counted_and_looked_at(driver: RedisStreamsDriver) -> None:
    topics = tuple(TopicSpec(f"t{number}") for number in range(5))
    driver.declare([QueueSpec(f"wide{number}", topics, 3600.0, 1 << 20) for number in range(200)])
    driver.append(ALICE, 1, [Push(f"wide{number}", b"x") for number in range(200)])

    numbers = {path: row.ready for path, row in driver.numbers().items() if path[0].startswith("wide")}
    taken = driver.claim([Want(ALICE, f"wide{number}", "t3", 9) for number in range(200)])

    assert numbers == {(f"wide{queue}", f"t{topic}"): 1 for queue in range(200) for topic in range(5)}
    assert [one.queue for one in taken] == [f"wide{number}" for number in range(200)]
    assert len(driver.held(ALICE)) == 200
    assert driver.promote_due().moved == {}
    assert driver.trim() == 0
