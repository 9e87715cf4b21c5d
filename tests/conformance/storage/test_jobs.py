"""Looking at jobs: where each delivery is, page by page."""

from __future__ import annotations

import pytest

from pbus.core.job import Move, Push, PushOptions
from pbus.errors import Unavailable
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


def test_job_that_waits_for_its_key_is_ready_and_tells_who_holds_it(world: World) -> None:
    holder = world.ask("a", key="k")
    pushed = world.ask("b", key="k")
    before = world.store.job("gift", pushed.id)
    (running,) = world.claim(5)

    record = world.store.job("gift", pushed.id)
    assert before is not None
    assert record is not None
    assert (before.topics["credit"].state, before.topics["credit"].behind) == ("ready", "")
    assert (record.topics["credit"].state, record.topics["credit"].behind) == ("ready", holder.id)
    assert record.topics["credit"].owner == ""

    world.settle(running, Move.RETRY, delay_s=60.0, counts=True, reason="failed", error="no")
    delayed = world.store.job("gift", pushed.id)
    assert delayed is not None
    assert delayed.topics["credit"].behind == holder.id, "a holder that waits for its next try holds it still"


@pytest.mark.parametrize("job_id", NOBODYS)
def test_job_that_nobody_pushed_is_none(world: World, job_id: str) -> None:
    world.append("a")

    assert world.store.job("gift", job_id) is None


def test_records_are_those_that_are_there_in_the_order_they_were_asked_for(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    dead = world.buried("dead")
    while world.store.trim():
        pass
    first, second = (one.id for one in world.append("b", "c"))

    asked = [second, *NOBODYS, *dead, first]
    assert world.store.records("gift", asked) == [world.store.job("gift", one) for one in (second, *dead, first)]
    assert [(one.body, one.topics["credit"].state) for one in world.store.records("gift", asked)] == [
        (b"c", "ready"), (b"dead", "dead"), (b"b", "ready")]
    assert (world.store.records("gift", NOBODYS), world.store.records("gift", [])) == ([], [])


def test_records_with_large_bodies_come_in_pages(world: World) -> None:
    ids = [one.id for one in world.append(*["x" * 1_500_000] * 4)]
    found = [one.id for one in world.store.records("gift", ids)]
    assert 1 <= len(found) < 4
    assert found + [one.id for one in world.store.records("gift", ids[len(found) :])] == ids


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


FIRST, LAST = "0-0", "18446744073709551615-18446744073709551615"


def test_entries_are_the_log_in_both_directions(world: World) -> None:
    ids = [one.id for one in world.append("a", "b", "c")]
    options = PushOptions(key="k:1", delay_ms=60_000)
    ids += [world.push(Push("gift", b"d", "00-1", options=options))[0].id, world.ask("e", ttl_ms=1).id]
    world.claim(1)

    entries = list(world.store.entries("gift", FIRST, LAST))

    assert [(one.id, one.body) for one in entries] == list(zip(ids, [b"a", b"b", b"c", b"d", b"e"], strict=True))
    assert [(one.key, one.traceparent) for one in entries] == [("", "")] * 3 + [("k:1", "00-1"), ("", "")]
    assert list(world.store.entries("gift", FIRST, LAST, newest=True)) == entries[::-1]
    assert world.store.entries("gift", ids[1], ids[3], 2) == entries[1:3]
    assert world.store.entries("gift", ids[1], ids[3], 2, newest=True) == [entries[3], entries[2]]
    assert world.store.entries("gift", ids[2], ids[2]) == [entries[2]]
    assert world.store.entries("gift", ids[2], ids[1]) == []
    assert world.store.entries("gift", FIRST, LAST, 0) == []


def test_entries_that_the_log_has_dropped_are_gone(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    world.buried("dead")
    ids = [one.id for one in world.append("a")]
    while world.store.trim():
        pass

    assert [one.id for one in world.store.entries("gift", FIRST, LAST)] == ids


@pytest.mark.parametrize("newest", [False, True])
def test_entries_with_large_bodies_come_in_pages(world: World, newest: bool) -> None:
    bodies = [str(number) * 1_000_000 for number in range(9)]
    ids = [one.id for one in world.append(*bodies)]
    seen: list[str] = []
    left = list(ids)
    while left and (page := world.store.entries("gift", left[0], left[-1], newest=newest)):
        assert sum(len(one.body) for one in page) < 9_000_000
        seen += [one.id for one in page]
        left = [one for one in ids if one not in seen]

    assert sorted(seen) == sorted(ids)


def test_moments_that_no_store_reaches_are_bounds_too(world: World) -> None:
    first = world.append("a")[0].id
    pass_ms(2)
    second = world.append("b")[0].id
    moment = f"{first.partition('-')[0]}-18446744073709551615"

    def ids(start: str, end: str) -> list[str]:
        return [one.id for one in world.store.entries("gift", start, end)]

    assert ids(moment, LAST) == [record.id for record in world.store.jobs("gift", moment)] == [second]
    assert ids(FIRST, moment) == [first]
    assert ids("99999999999999-0", LAST) == world.store.jobs("gift", "99999999999999-0") == []
    assert ids(FIRST, "0-1") == []


def test_entries_of_a_queue_that_nobody_declared_are_unavailable(world: World) -> None:
    with pytest.raises(Unavailable):
        world.store.entries("nobodys", FIRST, LAST)
