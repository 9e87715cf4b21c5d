"""Pushes with a delay: in the log at once, in nobody's hands before their time."""

from __future__ import annotations

from pbus.core.job import Move
from pbus.core.names import job_id_ms
from tests.conformance.storage.world import ALICE, World, accounted, asked, gift, pass_ms

LONG_MS = 3_600_000
SHORT_MS = 60


def test_delayed_push_is_delayed_in_every_topic(world: World) -> None:
    world.declare(gift("credit", "mail"))

    answer = world.ask("later", delay_ms=LONG_MS)

    assert (answer.backlog, answer.topics) == (1, 2)
    assert world.where() == world.where("mail") == (0, 0, 1, 0)
    assert world.bodies() == world.bodies(topic="mail") == []
    assert world.store.promote_due().moved == {}


def test_delayed_push_is_claimed_in_every_topic_when_it_is_due(world: World) -> None:
    world.declare(gift("credit", "mail"))
    pushed = world.ask("later", delay_ms=SHORT_MS)

    assert world.promoted(2).moved == {("gift", "credit"): 1, ("gift", "mail"): 1}

    (delivery,) = world.claim(5)
    assert (delivery.id, delivery.body, delivery.attempt, delivery.redelivered) == (pushed.id, b"later", 1, False)
    assert world.bodies(topic="mail") == ["later"]


def test_delayed_push_is_not_due_before_its_delay_is_over(world: World) -> None:
    pushed = world.ask("later", delay_ms=SHORT_MS)

    world.promoted(1)

    world.append("now")
    marker = world.append("marker")[0]
    assert job_id_ms(marker.id) >= job_id_ms(pushed.id) + SHORT_MS


def test_next_due_tells_of_delayed_pushes(world: World) -> None:
    world.ask("later", delay_ms=50_000)

    assert 40.0 < (world.store.promote_due().next_in_s or 0.0) <= 50.0


def test_claims_pass_over_delayed_pushes_between_others(world: World) -> None:
    world.push(asked("a"), asked("later", delay_ms=LONG_MS), asked("b"))
    world.append("c")

    assert [world.bodies(2), world.bodies(2), world.bodies(2)] == [["a", "b"], ["c"], []]
    assert world.where() == (0, 3, 1, 0)


def test_due_push_comes_before_younger_jobs_in_the_order_of_ids(world: World) -> None:
    world.ask("first", delay_ms=1)
    world.append("second")
    world.ask("third", delay_ms=1)
    world.append("fourth")
    world.promoted(2)

    assert world.bodies() == ["first", "third", "second", "fourth"]


def test_due_and_not_yet_moved_push_counts_as_ready(world: World) -> None:
    world.ask("a", delay_ms=1)
    pass_ms(3)

    assert world.where() == (1, 0, 0, 0)


def test_delayed_pushes_are_in_the_backlog_until_they_are_claimed(world: World) -> None:
    world.declare(gift("credit", "mail"))
    seen = [world.append("now")[0].backlog, world.ask("later", delay_ms=1).backlog]
    world.promoted(2)
    world.bodies()
    seen.append(world.store.backlog("gift"))
    world.bodies(topic="mail")
    seen.append(world.store.backlog("gift"))

    assert seen == [1, 2, 2, 0]


def test_a_retry_of_a_delayed_push_is_not_in_the_backlog(world: World) -> None:
    world.ask("later", delay_ms=1)
    world.promoted(1)
    world.settle(world.claim()[0], Move.RETRY, delay_s=3600.0)

    assert world.store.backlog("gift") == 0
    assert world.where() == (0, 0, 1, 0)


def test_every_delayed_push_is_accounted_for_on_its_way(world: World) -> None:
    seen = []

    def look() -> None:
        numbers = world.numbers()
        seen.append((accounted(numbers), numbers.ready, numbers.running, numbers.delayed, numbers.done_total))

    world.push(asked("later", delay_ms=SHORT_MS), asked("now"))
    look()
    (now,) = world.claim(5)
    look()
    world.promoted(1)
    look()
    (later,) = world.claim(5)
    world.settle(now, Move.ACK)
    look()
    world.settle(later, Move.ACK)
    look()

    assert seen == [(2, 1, 0, 1, 0), (2, 0, 1, 1, 0), (2, 1, 1, 0, 0), (2, 0, 1, 0, 1), (2, 0, 0, 0, 2)]


def test_delayed_pushes_survive_a_restart(world: World) -> None:
    world.ask("later", delay_ms=LONG_MS)
    world.ask("soon", delay_ms=SHORT_MS)
    world.reopen()
    world.promoted(1)

    assert world.bodies() == ["soon"]
    assert world.where() == (0, 1, 1, 0)


def test_repeated_batch_delays_each_push_once(world: World) -> None:
    jobs = [asked("a", delay_ms=1), asked("b", delay_ms=LONG_MS)]
    first = world.store.append(ALICE, 1, jobs)

    assert list(world.store.append(ALICE, 1, jobs)) == list(first)

    world.promoted(1)
    assert world.bodies() == ["a"]
    assert world.where() == (0, 1, 1, 0)


def test_body_of_a_delayed_push_outlives_the_log(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    world.ask("later", delay_ms=SHORT_MS)
    world.append("now")
    world.settle(world.claim()[0], Move.ACK)
    while world.store.trim():
        pass
    world.promoted(1)

    assert world.bodies() == ["later"]


def test_topic_from_now_never_sees_what_was_delayed_before_it(world: World) -> None:
    world.ask("later", delay_ms=SHORT_MS)
    world.declare(gift("credit", "mail", start="now"))
    world.promoted(1)

    assert world.bodies() == ["later"]
    assert world.bodies(topic="mail") == []
    assert accounted(world.numbers("mail")) == 0


def test_topic_from_history_takes_delayed_pushes_whose_time_has_come(world: World) -> None:
    world.push(asked("a", delay_ms=1), asked("b"))
    world.promoted(1)
    world.bodies()
    pass_ms(3)
    world.declare(gift("credit", "late", start="history"))

    assert accounted(world.numbers("late")) == 2
    assert world.bodies(topic="late") == ["a", "b"]
    assert accounted(world.numbers("late")) == 2


def test_topic_from_history_hands_out_nothing_before_its_time(world: World) -> None:
    world.push(asked("later", delay_ms=300), asked("now"))
    world.declare(gift("credit", "late", start="history"))

    assert world.bodies(topic="late") == ["now"]
    assert accounted(world.numbers("late")) == 2

    pass_ms(300)
    world.promoted(1)
    got = world.bodies(topic="late")
    while world.store.promote_due().moved:
        got += world.bodies(topic="late")
    got += world.bodies(topic="late")
    assert got == ["later"]
    assert accounted(world.numbers("late")) == 2
    assert world.store.backlog("gift") == 2  # credit has taken neither
