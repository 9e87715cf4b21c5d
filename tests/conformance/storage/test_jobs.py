"""Looking at jobs: where each delivery is, page by page."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from tests.conformance.storage.world import NOBODYS, World, gift, pass_ms


def test_job_shows_where_it_is_in_each_topic(world: World) -> None:
    world.declare(gift("ready", "running", "delayed", "dead", "done"))
    pushed = world.ask("body", key="k", ttl_ms=3_600_000)
    for topic, move in (("delayed", Move.RETRY), ("dead", Move.BURY), ("done", Move.ACK)):
        world.settle(world.claim(1, topic)[0], move, counts=True, delay_s=60.0, reason="failed", error="no")
    world.claim(1, "running")

    record = world.store.job("gift", pushed.id)

    assert record is not None
    assert (record.id, record.queue, record.body, record.key) == (pushed.id, "gift", b"body", "k")
    assert {topic: record.topics[topic].state for topic in ("ready", "running", "delayed", "dead", "done")} == {
        "ready": "ready", "running": "running", "delayed": "delayed", "dead": "dead", "done": "ended",
    }
    assert record.topics["running"].owner == "n1/b1/1.1"
    assert record.topics["delayed"].attempts == 1
    assert record.topics["delayed"].due_ms > record.topics["dead"].at_ms
    assert (record.topics["dead"].reason, record.topics["dead"].error) == ("failed", "no")


def test_job_that_waits_for_its_key_is_ready(world: World) -> None:
    world.ask("a", key="k")
    pushed = world.ask("b", key="k")
    world.claim(5)

    record = world.store.job("gift", pushed.id)
    assert record is not None
    assert record.topics["credit"].state == "ready"


@pytest.mark.parametrize("job_id", NOBODYS)
def test_job_that_nobody_pushed_is_none(world: World, job_id: str) -> None:
    world.append("a")

    assert world.store.job("gift", job_id) is None


def test_cancelled_and_expired_jobs_have_ended(world: World) -> None:
    cancelled = world.append("a")[0].id
    expired = world.ask("b", ttl_ms=1).id
    world.store.cancel("gift", "credit", [cancelled])
    pass_ms(3)
    assert world.bodies() == []

    for job_id in (cancelled, expired):
        record = world.store.job("gift", job_id)
        assert record is not None
        assert record.topics["credit"].state == "ended"


def test_jobs_are_paged_in_order_also_those_put_aside(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    first = world.buried("dead")
    rest = [one.id for one in world.append("b", "c", "d")]
    while world.store.trim():
        pass
    seen, after = [], ""
    while page := world.store.jobs("gift", after, limit=2):
        assert len(page) <= 2
        seen += [(record.id, record.body) for record in page]
        after = page[-1].id

    assert seen == list(zip(first + rest, [b"dead", b"b", b"c", b"d"], strict=True))


def test_newest_jobs_are_paged_back_to_the_first_also_those_put_aside(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    first = world.buried("dead", "dead")
    rest = [one.id for one in world.append("b", "c", "d")]
    while world.store.trim():
        pass
    seen, before = [], ""
    while page := world.store.newest("gift", before, limit=2):
        assert len(page) <= 2
        seen += [(record.id, record.body) for record in page]
        before = page[-1].id

    assert seen == list(zip((first + rest)[::-1], [b"d", b"c", b"b", b"dead", b"dead"], strict=True))
    assert world.store.newest("gift", limit=0) == []


def test_newest_jobs_of_large_bodies_are_all_told(world: World) -> None:
    bodies = [str(number) * 1_000_000 for number in range(9)]
    world.append(*bodies)
    seen, before = [], ""
    while page := world.store.newest("gift", before):
        assert sum(len(record.body) for record in page) < 6_000_000
        seen += [record.body.decode() for record in page]
        before = page[-1].id

    assert seen == bodies[::-1]


@pytest.mark.parametrize("moment", ["99999999999999-0", "99999999999999-18446744073709551615"])
def test_jobs_around_a_moment_that_no_store_reaches(world: World, moment: str) -> None:
    pushed = world.append("a")[0].id

    assert world.store.jobs("gift", moment) == []
    assert [record.id for record in world.store.newest("gift", moment)] == [pushed]


def test_jobs_around_a_sequence_that_no_store_reaches(world: World) -> None:
    first = world.append("a")[0].id
    pass_ms(2)
    second = world.append("b")[0].id
    moment = f"{first.partition('-')[0]}-18446744073709551615"

    assert [record.id for record in world.store.jobs("gift", moment)] == [second]
    assert [record.id for record in world.store.newest("gift", moment)] == [first]


def test_jobs_before_the_first_are_none(world: World) -> None:
    world.append("a")

    assert world.store.newest("gift", "0-1") == []
    assert [record.body for record in world.store.jobs("gift", "0-0")] == [b"a"]
