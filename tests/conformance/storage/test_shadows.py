"""Shadow topics: a sample of the jobs that is the same everywhere, and nothing that anybody else would notice."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.core.sample import PRIME, in_sample, residues
from pbus.storage.driver import QueueSpec, TopicSpec
from tests.conformance.storage.world import BOB, World, accounted, asked, gift, pass_ms, pushes

HALF = residues(0.5)
LONG_MS = 3_600_000


def shadowed(sample: int = HALF, **bounds: int | float) -> QueueSpec:
    """Queue ``gift`` with ``credit`` and its shadow ``new``."""
    keeps = {"retention_s": 3600.0, "retention_bytes": 1 << 28} | bounds
    return QueueSpec("gift", (TopicSpec("credit"), TopicSpec("new", sample=sample)), **keeps)  # type: ignore[arg-type]


def all_of(world: World, topic: str, count: int = 50) -> list[str]:
    """Ids of everything that a topic can get now; some calls, as what is passed over in one is bounded."""
    return [one.id for _ in range(4) for one in world.claim(count, topic)]


def test_a_shadow_gets_the_sample_of_the_ids_and_nothing_else(world: World) -> None:
    world.declare(shadowed())
    ids = [answer.id for answer in world.append(*"abcdefghijklmnopqrstuvwxyz" * 4)]

    got = all_of(world, "new")

    assert got == [one for one in ids if in_sample(one, HALF)]
    assert 20 < len(got) < 84
    assert len(all_of(world, "credit")) == 104
    assert world.where("new") == (0, len(got), 0, 0)


@pytest.mark.parametrize("sample", [1, residues(0.01), PRIME - 1, PRIME])
def test_every_driver_draws_the_same_sample_over_many_milliseconds(world: World, sample: int) -> None:
    world.declare(shadowed(sample))
    ids = []
    for _ in range(20):
        ids += [answer.id for answer in world.append(*"abcdefghijklmnop" * 4)]
        pass_ms(1)

    got = [one.id for _ in range(6) for one in world.claim(400, "new")]

    assert got == [one for one in ids if in_sample(one, sample)]


def test_a_shadow_is_no_part_of_the_backlog_nor_of_the_topics(world: World) -> None:
    world.declare(shadowed(PRIME))
    answers = world.append("aa", "bb")
    world.bodies(topic="credit")

    numbers = world.store.queue_numbers()["gift"]
    assert [(one.backlog, one.topics) for one in answers] == [(2, 1), (2, 1)]
    assert (numbers.backlog, numbers.backlog_bytes, world.store.backlog("gift")) == (0, 0, 0)
    assert world.numbers("new").ready == 2


@pytest.mark.parametrize("bound", ["max_backlog", "max_backlog_bytes"])
def test_a_shadow_that_never_claims_refuses_no_push(world: World, bound: str) -> None:
    world.declare(shadowed(PRIME, **{bound: 2}))

    for _ in range(3):
        assert [one.refused for one in world.append("a", "b")] == ["", ""]
        world.bodies(topic="credit")
    assert [bool(one.refused) for one in world.append("a", "b", "c")] == [False, False, True]


def test_a_push_for_one_topic_leaves_the_backlog_to_the_topics_that_count(world: World) -> None:
    world.declare(shadowed(PRIME))
    world.append("a")
    answer = world.ask("again", only="new")

    assert (answer.backlog, answer.topics) == (1, 1)
    assert [one.id for one in world.claim(5, "new")] == [answer.id, *[one.id for one in world.claim(5, "credit")]]


def test_a_shadow_that_lags_does_not_keep_the_log(world: World) -> None:
    world.declare(shadowed(retention_s=0.0))
    ids = [answer.id for answer in world.append(*"abcdefghijkl")]
    (first,) = world.claim(1, "new")
    for delivery in world.claim(50, "credit"):
        world.settle(delivery, Move.ACK)
    pass_ms(3)
    world.store.trim()

    assert world.store.queue_numbers()["gift"].kept == 0
    assert all_of(world, "new") == []
    numbers = world.numbers("new")
    skipped = [one for one in ids if in_sample(one, HALF) and one != first.id]
    assert (numbers.forgotten_total, numbers.ready, numbers.running) == (len(skipped), 0, 1)
    assert accounted(numbers) == len(skipped) + 1


def test_the_body_of_what_a_shadow_runs_outlives_the_log(world: World) -> None:
    world.declare(shadowed(PRIME, retention_s=0.0))
    world.append("body")
    world.claim(1, "new", owner=BOB)
    (delivery,) = world.claim(1, "credit")
    world.settle(delivery, Move.ACK)
    pass_ms(3)
    world.store.trim()

    (held,) = world.store.held(BOB)
    world.give_back(BOB, [held])
    assert [(one.id, one.body) for one in world.claim(1, "new")] == [(held.id, b"body")]


def test_delayed_pushes_come_to_a_shadow_as_they_are_sampled(world: World) -> None:
    world.declare(shadowed())
    ids = [answer.id for answer in world.push(*[asked(str(n), delay_ms=1) for n in range(40)])]
    mine = [one for one in ids if in_sample(one, HALF)]
    pass_ms(3)
    world.store.promote_due()

    assert all_of(world, "new") == mine
    assert len(all_of(world, "credit")) == 40
    world.append("last")
    all_of(world, "new")
    assert world.numbers("new").ready == 0


def test_a_shadow_keeps_nothing_that_waits_for_its_key(world: World) -> None:
    world.declare(shadowed(PRIME))
    world.push(*[asked(body, key="k") for body in "abc"])

    assert [one.body for one in world.claim(5, "new")] == [b"a"]
    numbers = world.numbers("new")
    assert (numbers.ready, numbers.waiting, numbers.running) == (0, 0, 1)


def test_cancelling_does_not_count_for_a_shadow_that_does_not_see_the_job(world: World) -> None:
    world.declare(shadowed())
    ids = [answer.id for answer in world.append(*"abcdefghijkl")]
    counts = world.store.cancel("gift", "", ids)

    assert counts == [1 + in_sample(one, HALF) for one in ids]
    assert all_of(world, "new") == []
    assert world.numbers("new").cancelled_total == sum(in_sample(one, HALF) for one in ids)
    assert world.numbers("new").ready == 0


def test_a_job_is_on_its_way_to_the_shadows_that_see_it_only(world: World) -> None:
    world.declare(shadowed())
    for body in "abcdefghijkl":
        (answer,) = world.append(body)
        record = world.store.job("gift", answer.id)
        assert record is not None
        assert set(record.topics) == ({"credit", "new"} if in_sample(answer.id, HALF) else {"credit"})


def test_a_shadow_that_becomes_a_topic_counts_from_where_it_is(world: World) -> None:
    world.declare(shadowed(residues(0.01)))
    world.append(*"abcdefgh")
    all_of(world, "new")
    world.bodies(topic="credit")
    world.declare(gift("credit", "new"))

    assert world.store.backlog("gift") == 0
    (answer,) = world.append("i")
    assert (answer.backlog, answer.topics) == (1, 2)
    world.bodies(topic="credit")
    assert world.store.backlog("gift") == 1
    assert [one.id for one in world.claim(9, "new")] == [answer.id]


def test_a_topic_that_becomes_a_shadow_holds_nothing_up_any_more(world: World) -> None:
    world.declare(gift("credit", "new"))
    world.append("a", "b")
    world.bodies(topic="credit")
    assert world.store.backlog("gift") == 2

    world.declare(shadowed(PRIME))
    assert world.store.backlog("gift") == 0
    assert world.bodies(topic="new") == ["a", "b"]


def test_a_shadow_that_is_dropped_is_none_any_more(world: World) -> None:
    world.declare(shadowed(PRIME))
    world.store.drop_topic("gift", "new")
    world.declare(gift("credit", "new"))
    world.append("a")
    world.bodies(topic="credit")

    assert world.store.backlog("gift") == 1


def test_many_jobs_outside_a_sample_are_passed_over_in_bounded_steps(world: World) -> None:
    world.declare(shadowed(1))
    for _ in range(5):
        world.push(*pushes(*["x"] * 1000))

    left = []
    for _ in range(5):
        world.claim(10, "new")
        left.append(world.numbers("new").ready)
    assert left[-1] == 0
