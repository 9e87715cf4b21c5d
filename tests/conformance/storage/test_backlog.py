"""Bounds of a queue: each command is stored or refused as a whole, exactly, whoever appends."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.storage.driver import QueueSpec
from tests.conformance.storage.world import ALICE, World, asked, command, gift, pass_ms, pushes


def refused(answers: list) -> list[str]:
    return [one.refused for one in answers]


def test_push_above_max_backlog_is_refused_and_not_stored(world: World) -> None:
    world.declare(gift(max_backlog=2))

    answers = world.append("a", "b", "c")

    assert refused(answers) == ["", "", "jobs"]
    assert answers[2].id == ""
    assert [answers[0].backlog, answers[1].backlog] == [2, 2]
    assert world.bodies() == ["a", "b"]
    assert world.store.queue_numbers()["gift"].pushed_total == 2


def test_command_of_several_is_refused_as_a_whole_and_the_next_may_fit(world: World) -> None:
    world.declare(gift(max_backlog=3))

    answers = world.push(*command("a", "b"), *command("c", "d"), *command("e"))

    assert refused(answers) == ["", "", "jobs", "jobs", ""]
    assert world.bodies() == ["a", "b", "e"]


def test_command_larger_than_the_bound_is_stored_into_an_empty_backlog_only(world: World) -> None:
    world.declare(gift(max_backlog=2))

    assert refused(world.push(*command(*"abcd"))) == [""] * 4
    assert refused(world.push(*command(*"efgh"))) == ["jobs"] * 4
    assert world.bodies() == list("abcd")
    assert refused(world.push(*command(*"efgh"))) == [""] * 4


def test_bytes_are_bounded_too(world: World) -> None:
    world.declare(gift(max_backlog_bytes=10))

    answers = world.append("12345", "123456", "1234", "1")

    assert refused(answers) == ["", "bytes", "", ""]
    assert world.store.queue_numbers()["gift"].backlog_bytes == 10
    assert refused(world.append("1")) == ["bytes"]
    assert refused(world.append("")) == [""]


def test_body_larger_than_the_bound_is_stored_into_an_empty_backlog_only(world: World) -> None:
    world.declare(gift(max_backlog_bytes=3))

    assert refused(world.append("12345")) == [""]
    assert refused(world.append("12345")) == ["bytes"]
    world.claim(1)
    assert refused(world.append("12345")) == [""]


def test_jobs_are_named_when_both_bounds_are_reached(world: World) -> None:
    world.declare(gift(max_backlog=1, max_backlog_bytes=1))

    assert refused(world.append("a", "b")) == ["", "jobs"]


def test_bound_of_nothing_refuses_nothing(world: World) -> None:
    assert refused(world.append(*["a"] * 500)) == [""] * 500


def test_room_is_made_by_claims_of_the_slowest_topic(world: World) -> None:
    world.declare(gift("credit", "mail", max_backlog=2))
    world.append("a", "b")
    world.claim(2, "credit")
    seen = [refused(world.append("c"))]
    world.claim(1, "mail")
    seen.append(refused(world.append("c")))

    assert seen == [["jobs"], [""]]


def test_retries_and_dead_letters_take_no_room(world: World) -> None:
    world.declare(gift(max_backlog=2))
    world.append("a", "b")
    retried, buried = world.claim(2)
    world.settle(retried, Move.RELEASE)
    world.settle(buried, Move.BURY)

    assert refused(world.append("c", "d")) == ["", ""]


def test_delayed_pushes_take_room(world: World) -> None:
    world.declare(gift(max_backlog=1))
    world.ask("later", delay_ms=3_600_000)

    assert refused(world.append("a")) == ["jobs"]


@pytest.mark.parametrize("how", ["cancel", "purge", "expire"])
def test_room_is_made_by_what_ends_without_a_claim(world: World, how: str) -> None:
    world.declare(gift(max_backlog=1, max_backlog_bytes=1))
    pushed = world.ask("a", ttl_ms=1 if how == "expire" else 0)
    if how == "cancel":
        world.store.cancel("gift", "", [pushed.id])
    elif how == "purge":
        world.store.purge("gift", "credit")
    else:
        pass_ms(3)
        assert world.bodies() == []

    assert refused(world.append("b")) == [""]


def test_room_is_made_by_dropping_the_slowest_topic(world: World) -> None:
    world.declare(gift("credit", "mail", max_backlog=1))
    world.append("a")
    world.claim(1, "credit")
    assert refused(world.append("b")) == ["jobs"]
    world.store.drop_topic("gift", "mail")

    assert refused(world.append("b")) == [""]


def test_bounds_are_those_of_the_last_declaration(world: World) -> None:
    world.declare(gift(max_backlog=1))
    world.append("a")
    world.declare(gift(max_backlog=2))
    seen = [refused(world.append("b")), refused(world.append("c"))]
    world.declare(gift(max_backlog=0))
    seen.append(refused(world.append("d")))

    assert seen == [[""], ["jobs"], [""]]


def test_queues_are_bounded_each_for_itself(world: World) -> None:
    world.declare(gift(max_backlog=1), gift(name="order", max_backlog=1))

    answers = world.push(*pushes("a"), *pushes("b", queue="order"), *pushes("c"), *pushes("d", queue="order"))

    assert refused(answers) == ["", "", "jobs", "jobs"]


def test_repeated_batch_answers_refusals_again(world: World) -> None:
    world.declare(gift(max_backlog=2))
    jobs = [*command("a", "b"), *command("c")]
    first = list(world.store.append(ALICE, 1, jobs))
    world.bodies()

    assert list(world.store.append(ALICE, 1, jobs)) == first
    assert refused(first) == ["", "", "jobs"]
    assert world.bodies() == []


def test_queue_without_topics_is_never_full(world: World) -> None:
    world.declare(QueueSpec("bare", (), 3600.0, 1 << 20, max_backlog=1, max_backlog_bytes=1))

    assert refused(world.append("aa", "bb", "cc", queue="bare")) == [""] * 3


def test_queue_numbers_tell_backlog_bytes_and_pushes(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "bb", "ccc")
    world.claim(3, "credit")
    world.claim(1, "mail")
    world.ask("dddd", delay_ms=3_600_000)

    numbers = world.store.queue_numbers()["gift"]

    assert (numbers.backlog, numbers.backlog_bytes, numbers.pushed_total) == (3, 9, 4)
    assert numbers.kept == 4


def test_queue_numbers_cover_every_queue(world: World) -> None:
    world.declare(gift(), gift(name="order"), QueueSpec("bare", (), 3600.0, 1 << 20))

    assert world.store.queue_numbers().keys() == {"gift", "order", "bare"}
    assert world.store.queue_numbers()["order"].backlog == 0


def test_kept_falls_when_the_log_is_trimmed(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    world.append("a", "b")
    world.settle(world.claim(1)[0], Move.ACK)
    world.settle(world.claim(1)[0], Move.ACK)
    pass_ms(2)
    while world.store.trim():
        pass

    assert world.store.queue_numbers()["gift"].kept == 0


def test_fill_is_a_share(world: World) -> None:
    fill = world.store.fill()

    assert 0.0 <= fill.share <= 1.0
    assert fill.free_bytes is None or fill.free_bytes >= 0


def test_options_do_not_hide_a_push_from_the_bound(world: World) -> None:
    world.declare(gift(max_backlog=2))

    answers = world.push(asked("a", key="k"), asked("b", ttl_ms=1000), asked("c", delay_ms=1), asked("d", dedupe="7"))

    assert refused(answers) == ["", "", "jobs", "jobs"]
