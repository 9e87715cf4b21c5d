"""Pushes: stored once, in order, all or nothing, told apart by their batch number."""

from __future__ import annotations

import pytest

from pbus.core.job import Push
from pbus.core.names import JOB_ID, job_id_ms
from pbus.core.plain import Plain
from pbus.errors import Conflict, Unavailable
from pbus.storage.driver import QueueSpec
from tests.conformance.storage.world import ALICE, BOB, CAROL, World, gift, pushes


def test_append_answers_an_id_a_backlog_and_the_topics_for_each_push(world: World) -> None:
    world.declare(gift("credit", "mail"))

    answer = world.append("a", "b", "c")

    assert all(JOB_ID.match(one.id) for one in answer)
    assert [one.backlog for one in answer] == [3, 3, 3]
    assert [one.topics for one in answer] == [2, 2, 2]


def test_append_gives_every_job_to_every_topic_in_the_order_of_the_pushes(world: World) -> None:
    world.declare(gift("credit", "mail", "audit"))
    world.append("a", "b")
    world.append("c")

    assert {topic: world.bodies(topic=topic) for topic in ("credit", "mail", "audit")} == {
        "credit": ["a", "b", "c"], "mail": ["a", "b", "c"], "audit": ["a", "b", "c"],
    }


def test_append_keeps_bodies_and_metadata_byte_by_byte(world: World) -> None:
    body = bytes(range(256)) * 3
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    world.store.append(ALICE, 1, [Push("gift", body, trace, "image/png"), Push("gift", b"", "", ""),
                                  Push("gift", b"x", "", "text/plain"), Push("gift", b"y", trace, "")])

    claimed = world.claim(10)

    assert [(one.body, one.traceparent, one.content_type) for one in claimed] == [
        (body, trace, "image/png"), (b"", "", ""), (b"x", "", "text/plain"), (b"y", trace, ""),
    ]


def test_append_keeps_a_body_of_a_mebibyte(world: World) -> None:
    body = bytes(1024 * 1024)
    world.store.append(ALICE, 1, [Push("gift", body)])

    assert world.claim()[0].body == body


def test_ids_strictly_increase_within_and_over_calls(world: World) -> None:
    ids = [one.id for _ in range(20) for one in world.append(*"abcde")]
    world.reopen()
    ids += [one.id for one in world.append("f")]

    numbers = [tuple(map(int, job_id.split("-"))) for job_id in ids]
    assert numbers == sorted(set(numbers))
    assert job_id_ms(ids[0]) > 1_600_000_000_000


def test_append_spread_over_queues_answers_in_the_order_of_the_pushes(world: World) -> None:
    world.declare(gift(), gift(name="order"))
    mixed = [Push(queue, body) for queue, body in (("gift", b"1"), ("order", b"2"), ("gift", b"3"), ("order", b"4"))]

    answer = world.store.append(ALICE, 1, mixed)

    gifts, orders = world.claim(9), world.claim(9, queue="order")
    assert [one.id for one in answer] == [gifts[0].id, orders[0].id, gifts[1].id, orders[1].id]
    assert [one.body for one in gifts + orders] == [b"1", b"3", b"2", b"4"]
    assert [one.backlog for one in answer] == [2, 2, 2, 2]


def test_pushes_without_objects_are_stored_like_any_others(world: World) -> None:
    plain = Plain("gift", [b"a", b"", bytes(range(256))])
    first = world.store.append(ALICE, 1, plain)

    again = world.store.append(ALICE, 1, plain)
    more = world.store.append(ALICE, 2, plain[1:])

    claimed = world.claim(9)
    assert list(again) == list(first)
    assert [one.body for one in claimed] == [*plain.bodies, *plain.bodies[1:]]
    assert [one.id for one in claimed] == [one.id for one in [*first, *more]]
    assert [one.backlog for one in more] == [5, 5]


def test_pushes_without_objects_keep_to_the_bound_of_their_queue(world: World) -> None:
    world.declare(gift(max_backlog=2))

    answer = world.store.append(ALICE, 1, Plain("gift", [b"a", b"b", b"c"]))

    assert [one.refused for one in answer] == ["", "", "jobs"]
    assert world.bodies() == ["a", "b"]


def test_append_of_nothing_answers_nothing(world: World) -> None:
    assert list(world.store.append(ALICE, 1, [])) == []


def test_repeated_batch_answers_the_first_call_and_stores_nothing(world: World) -> None:
    world.declare(gift(), gift(name="order"))
    mixed = [*pushes("a", "b"), *pushes("c", queue="order")]
    first = world.store.append(ALICE, 7, mixed)

    again = world.store.append(ALICE, 7, mixed)

    assert list(again) == list(first)
    assert world.bodies() == ["a", "b"]
    assert world.bodies(queue="order") == ["c"]


def test_repeated_batch_is_known_after_a_restart(world: World) -> None:
    first = world.store.append(ALICE, 1, pushes("a"))
    world.reopen()

    assert list(world.store.append(ALICE, 1, pushes("a"))) == list(first)
    assert world.bodies() == ["a"]


def test_batch_numbers_of_different_owners_are_apart(world: World) -> None:
    first = world.store.append(ALICE, 1, pushes("a"))
    second = world.store.append(BOB, 1, pushes("b"))

    assert first[0].id != second[0].id
    assert world.bodies() == ["a", "b"]


def test_backlog_counts_what_the_slowest_topic_has_not_claimed(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b", "c")
    world.claim(3, "credit")
    world.claim(1, "mail")

    assert world.append("d")[0].backlog == 3
    assert world.store.backlog("gift") == 3


def test_backlog_of_an_append_is_never_less_than_its_pushes(world: World) -> None:
    for _ in range(5):
        assert [one.backlog for one in world.append("a", "b")] == [2, 2]
        world.claim(2)


def test_queue_without_topics_takes_pushes_and_counts_none_as_backlog(world: World) -> None:
    world.declare(QueueSpec("bare", (), 3600.0, 1 << 20))

    answer = world.append("a", "b", queue="bare")

    assert [(one.backlog >= 2, one.topics) for one in answer] == [(True, 0), (True, 0)]
    assert world.store.backlog("bare") == 0


def test_push_to_a_queue_that_nobody_declared_is_refused_and_stores_nothing(world: World) -> None:
    with pytest.raises(Unavailable):
        world.store.append(ALICE, 1, [*pushes("a"), *pushes("b", queue="nowhere")])


def test_fenced_boot_stores_nothing(world: World) -> None:
    world.append("before")
    world.store.fence("b1")

    with pytest.raises(Conflict):
        world.append("after")

    assert [one.body for one in world.claim(9, owner=CAROL)] == [b"before"]


def test_second_process_sees_what_the_first_appended(world: World) -> None:
    other = world.driver(gift())
    world.append("a")

    assert other.backlog("gift") == 1
    assert other.append(BOB, 1, pushes("b"))[0].backlog == 2
    assert world.bodies() == ["a", "b"]
