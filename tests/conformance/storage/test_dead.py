"""Dead letters: in groups of their errors, bounded, listed in pages; what people may do with them."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.storage.driver import DeadLetter
from tests.conformance.storage.world import ALICE, World, accounted, gift, pass_ms
from tests.support.waiting import until

ONE, TWO = "1111111111111111", "2222222222222222"


def letters(world: World, **how: object) -> list[str]:
    """Ids of the dead letters, as listed."""
    return [letter.id for letter in world.store.dead_letters("gift", "credit", **how)]


def test_letter_tells_its_fingerprint(world: World) -> None:
    world.buried("a", fingerprint=ONE, error="no")

    (letter,) = world.store.dead_letters("gift", "credit")

    assert (letter.fingerprint, letter.error, letter.reason, letter.attempts) == (ONE, "no", "failed", 1)


def test_letters_of_one_group_only(world: World) -> None:
    ones = world.buried("a", "b", fingerprint=ONE)
    twos = world.buried("c", fingerprint=TWO)

    assert letters(world, fingerprint=ONE) == ones[::-1]
    assert letters(world, fingerprint=TWO) == twos
    assert letters(world, fingerprint="3" * 16) == []


@pytest.mark.parametrize("fingerprint", ["", ONE])
def test_letters_are_paged_without_loss_or_repetition(world: World, fingerprint: str) -> None:
    ids = world.buried(*"abcdefg", fingerprint=ONE)
    seen: list[DeadLetter] = []
    while page := world.store.dead_letters(
        "gift", "credit", limit=3, fingerprint=fingerprint, before=seen[-1] if seen else None
    ):
        assert len(page) <= 3
        seen += page

    assert [letter.id for letter in seen] == ids[::-1]


def test_groups_count_and_show_the_newest(world: World) -> None:
    world.buried("a", fingerprint=ONE, error="connection 1 refused", reason="failed")
    first_ms = world.store.dead_letters("gift", "credit")[0].at_ms
    pass_ms(2)
    (newest,) = world.buried("b", fingerprint=ONE, error="connection 2 refused", reason="timeout")
    (other,) = world.buried("c", fingerprint=TWO, error="no such user")

    largest, smallest = world.store.dead_groups("gift", "credit")

    assert (largest.queue, largest.topic, largest.fingerprint) == ("gift", "credit", ONE)
    assert (largest.count, largest.total, largest.sample) == (2, 2, newest)
    assert (largest.error, largest.reason) == ("connection 2 refused", "timeout")
    assert (largest.first_ms, largest.last_ms > first_ms) == (first_ms, True)
    assert (smallest.fingerprint, smallest.count, smallest.sample) == (TWO, 1, other)


def test_groups_of_topics_are_apart(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.buried("a", fingerprint=ONE)

    assert world.store.dead_groups("gift", "mail") == []


@pytest.mark.parametrize("how", ["revive", "accept", "forget_dead", "forgive"])
def test_group_shrinks_as_its_letters_go_and_remembers_when_it_was_first_seen(world: World, how: str) -> None:
    first, second = world.buried("a", "b", fingerprint=ONE)
    before = world.store.dead_groups("gift", "credit")[0]

    assert getattr(world.store, how)("gift", "credit", [first]) == [True]

    (group,) = world.store.dead_groups("gift", "credit")
    assert (group.count, group.total, group.first_ms) == (1, 2, before.first_ms)
    assert letters(world) == [second]
    getattr(world.store, how)("gift", "credit", [second])
    assert world.store.dead_groups("gift", "credit") == []
    pass_ms(2)
    world.store.purge("gift", "credit")
    world.buried("c", fingerprint=ONE)
    (group,) = world.store.dead_groups("gift", "credit")
    assert (group.count, group.total, group.first_ms) == (1, 3, before.first_ms)


def test_groups_and_letters_survive_a_restart(world: World) -> None:
    ids = world.buried("a", "b", fingerprint=ONE, error="no")
    before = world.store.dead_groups("gift", "credit")
    world.reopen()

    assert world.store.dead_groups("gift", "credit") == before
    assert letters(world) == ids[::-1]


def test_late_bury_counts_in_no_group(world: World) -> None:
    world.append("a")
    (delivery,) = world.claim()
    world.settle(delivery, Move.BURY, fingerprint=ONE)

    assert not world.settle(delivery, Move.BURY, fingerprint=ONE)
    assert [group.total for group in world.store.dead_groups("gift", "credit")] == [1]


def test_oldest_letters_above_dead_max_are_forgotten(world: World) -> None:
    world.declare(gift(dead_max=2))
    ids = []
    for body in "abcd":
        ids += world.buried(body, fingerprint=ONE)
        pass_ms(2)

    assert letters(world) == ids[:1:-1]
    numbers = world.numbers()
    assert (numbers.dead, numbers.dead_total, numbers.forgotten_total) == (2, 4, 2)
    assert accounted(numbers) == 4
    (group,) = world.store.dead_groups("gift", "credit")
    assert (group.count, group.total) == (2, 4)


def test_dead_max_that_was_lowered_holds_soon_and_a_part_at_a_time(world: World) -> None:
    ids = world.buried(*map(str, range(5_000)))
    world.declare(gift(dead_max=3))
    world.buried("a")
    assert world.numbers().dead > 1_000, "one burial does not pay for all"
    for _ in range(10):
        world.store.trim()

    assert [letter.id for letter in world.store.dead_letters("gift", "credit")][1:] == ids[:-3:-1]
    assert (world.numbers().dead, world.numbers().forgotten_total) == (3, 4_998)
    assert [group.count for group in world.store.dead_groups("gift", "credit")] == [3]


def test_dead_max_holds_within_one_call(world: World) -> None:
    world.declare(gift(dead_max=2))
    world.append(*"abcde")
    held = world.claim(5)
    world.give_back(ALICE, world.store.held(ALICE), move=Move.BURY, fingerprint=ONE)

    assert sorted(letters(world)) == sorted(one.id for one in held[3:])
    assert accounted(world.numbers()) == 5


def test_letters_older_than_dead_keep_are_forgotten_by_trim(world: World) -> None:
    world.declare(gift(dead_keep_s=0.05))
    world.buried("a", "b", fingerprint=ONE)

    def gone() -> bool:
        world.store.trim()
        return letters(world) == []

    until(gone, 5.0, "they are forgotten")
    numbers = world.numbers()
    assert (numbers.dead, numbers.dead_total, numbers.forgotten_total) == (0, 2, 2)
    assert world.store.dead_groups("gift", "credit") == []


def test_young_letters_stay(world: World) -> None:
    world.declare(gift(dead_keep_s=3600.0, dead_max=10))
    ids = world.buried("a", "b")
    world.store.trim()

    assert letters(world) == ids[::-1]


def test_body_of_a_forgotten_letter_is_not_kept(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0, dead_max=1))
    first, second = world.buried("a", "b")
    pass_ms(2)
    while world.store.trim():
        pass

    records = [world.store.job("gift", job_id) for job_id in (first, second)]
    assert records[0] is None
    assert records[1] is not None
    assert records[1].body == b"b"


def test_record_of_a_dead_delivery_tells_why(world: World) -> None:
    ids = world.buried("a", fingerprint=ONE)

    record = world.store.job("gift", ids[0])

    assert record is not None
    place = record.topics["credit"]
    assert (place.state, place.fingerprint, place.attempts, place.reason) == ("dead", ONE, 1, "failed")
    assert place.at_ms > 1_600_000_000_000
