"""Dedupe keys: a second push within the window stores nothing and is told the id of the first."""

from __future__ import annotations

from pbus.core.job import Move
from tests.conformance.storage.world import ALICE, BOB, World, accounted, asked, command, gift, pass_ms
from tests.support.waiting import until


def test_second_push_with_a_key_is_answered_with_the_first_ones_id(world: World) -> None:
    first = world.ask("a", dedupe="order 7")

    second = world.ask("b", dedupe="order 7")

    assert (first.duplicate, second.duplicate) == (False, True)
    assert second.id == first.id
    assert second.refused == ""
    assert world.bodies() == ["a"]
    assert accounted(world.numbers()) == 1


def test_different_keys_are_different_pushes(world: World) -> None:
    answers = world.push(asked("a", dedupe="7"), asked("b", dedupe="07"), asked("c", dedupe="7 "), asked("d"))

    assert not any(one.duplicate for one in answers)
    assert len({one.id for one in answers}) == 4
    assert world.bodies() == ["a", "b", "c", "d"]


def test_two_equal_keys_in_one_call_are_one_job(world: World) -> None:
    first, plain, second = world.push(asked("a", dedupe="7"), asked("p"), asked("b", dedupe="7"))

    assert [one.duplicate for one in (first, plain, second)] == [False, False, True]
    assert second.id == first.id
    assert [first.backlog, plain.backlog] == [2, 2]
    assert world.bodies() == ["a", "p"]


def test_keys_of_queues_are_apart(world: World) -> None:
    world.declare(gift(), gift(name="order"))

    answers = world.push(asked("a", dedupe="7"), asked("b", "order", dedupe="7"))

    assert not any(one.duplicate for one in answers)
    assert world.bodies(queue="order") == ["b"]


def test_another_process_of_another_owner_meets_the_key(world: World) -> None:
    first = world.ask("a", dedupe="7")

    (second,) = world.driver(gift()).append(BOB, 1, [asked("b", dedupe="7")])

    assert (second.id, second.duplicate) == (first.id, True)


def test_key_survives_a_restart(world: World) -> None:
    first = world.ask("a", dedupe="7")
    world.reopen()

    assert world.ask("b", dedupe="7").id == first.id


def test_key_counts_although_the_job_has_ended_and_was_trimmed(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    first = world.ask("a", dedupe="7")
    world.settle(world.claim()[0], Move.ACK)
    until(lambda: world.store.trim() or world.store.job("gift", first.id) is None, 5.0, "it is trimmed")

    second = world.ask("b", dedupe="7")

    assert (second.id, second.duplicate) == (first.id, True)
    assert world.bodies() == []


def test_key_is_free_when_its_window_is_over(world: World) -> None:
    world.declare(gift(dedupe_window_s=0.05))
    first = world.ask("a", dedupe="7")
    pass_ms(60)

    second = world.ask("b", dedupe="7")

    assert not second.duplicate
    assert second.id != first.id
    assert world.bodies() == ["a", "b"]


def test_a_hit_does_not_prolong_the_window(world: World) -> None:
    world.declare(gift(dedupe_window_s=0.4))
    world.ask("a", dedupe="7")

    until(lambda: not world.ask("b", dedupe="7").duplicate, 5.0, "the window ends although it was hit")

    assert world.bodies() == ["a", "b"]


def test_trim_forgets_keys_whose_window_is_over_and_no_others(world: World) -> None:
    world.declare(gift(dedupe_window_s=600.0))
    kept = world.ask("a", dedupe="7")
    while world.store.trim():
        pass

    assert world.ask("b", dedupe="7").id == kept.id


def test_repeated_batch_is_no_duplicate_of_itself(world: World) -> None:
    jobs = [asked("a", dedupe="7"), asked("b", dedupe="7")]
    first = list(world.store.append(ALICE, 1, jobs))

    assert list(world.store.append(ALICE, 1, jobs)) == first
    assert [one.duplicate for one in first] == [False, True]
    assert world.bodies() == ["a"]


def test_delayed_push_is_met_before_it_is_due(world: World) -> None:
    first = world.ask("a", dedupe="7", delay_ms=3_600_000)

    assert world.ask("b", dedupe="7").id == first.id
    assert world.where() == (0, 0, 1, 0)


def test_duplicate_is_answered_even_when_the_queue_is_full(world: World) -> None:
    world.declare(gift(max_backlog=1))
    first = world.ask("a", dedupe="7")

    second, third = world.push(asked("b", dedupe="7"), asked("c", dedupe="8"))

    assert (second.id, second.duplicate, second.refused) == (first.id, True, "")
    assert (third.id, third.duplicate, third.refused) == ("", False, "jobs")


def test_refused_push_leaves_no_key(world: World) -> None:
    world.declare(gift(max_backlog=1))
    world.append("full")
    assert world.ask("a", dedupe="7").refused == "jobs"
    world.bodies()

    again = world.ask("a", dedupe="7")

    assert (again.duplicate, again.refused) == (False, "")
    assert world.bodies() == ["a"]


def test_duplicates_are_counted_nowhere(world: World) -> None:
    world.ask("a", dedupe="7")
    before, numbers = world.store.queue_numbers()["gift"], world.numbers()
    world.ask("a", dedupe="7")

    assert world.store.queue_numbers()["gift"] == before
    assert accounted(world.numbers()) == accounted(numbers) == 1


def test_commands_beside_a_duplicate_are_stored(world: World) -> None:
    world.ask("a", dedupe="7")

    answers = world.push(*command("x", "y"), asked("b", dedupe="7"), *command("z"))

    assert [one.duplicate for one in answers] == [False, False, True, False]
    assert world.bodies() == ["a", "x", "y", "z"]
