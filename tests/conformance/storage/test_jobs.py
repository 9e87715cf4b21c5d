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
