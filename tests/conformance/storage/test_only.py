"""Pushes for one topic only, as replays are: there at once, and every other topic passes over them."""

from __future__ import annotations

from pbus.core.job import Move, Push, PushOptions
from tests.conformance.storage.world import ALICE, World, accounted, asked, gift, group, pass_ms, pushes

LONG_MS = 3_600_000


def test_push_for_one_topic_goes_to_that_one_alone(world: World) -> None:
    world.declare(gift("credit", "mail"))

    answer = world.ask("again", only="credit", replay_of="1000-0")

    assert (answer.backlog, answer.refused) == (1, "")
    assert (world.where(), world.where("mail")) == ((1, 0, 0, 0), (0, 0, 0, 0))
    (delivery,) = world.claim(5)
    assert (delivery.id, delivery.body, delivery.attempt, delivery.redelivered) == (answer.id, b"again", 1, False)
    assert delivery.replay_of == "1000-0"
    assert world.claim(5, "mail") == []


def test_topics_that_do_not_get_it_have_taken_it(world: World) -> None:
    world.declare(gift("credit", "mail"))
    backlogs = [world.append("a")[0].backlog, world.ask("b", only="credit").backlog, world.ask("c").backlog]

    world.bodies(topic="mail")
    left = [world.store.queue_numbers()["gift"].backlog, world.store.queue_numbers()["gift"].backlog_bytes]
    world.bodies(topic="credit")

    assert (backlogs, left) == ([1, 2, 3], [3, 3])
    numbers = world.store.queue_numbers()["gift"]
    assert (numbers.backlog, numbers.backlog_bytes, numbers.pushed_total) == (0, 0, 3)
    assert (accounted(world.numbers()), accounted(world.numbers("mail"))) == (3, 2)


def test_a_backlog_is_that_of_the_slowest_topic_also_with_what_is_for_one(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.push(*pushes("aa", "bb"), *[asked("cc", only="mail") for _ in range(3)])

    world.bodies(topic="mail")
    numbers = world.store.queue_numbers()["gift"]

    assert (numbers.backlog, numbers.backlog_bytes) == (2, 4)
    assert world.bodies() == ["aa", "bb"]
    assert world.store.backlog("gift") == 0


def test_what_is_for_one_topic_comes_before_its_log(world: World) -> None:
    world.append("first")
    world.ask("again", only="credit")
    world.append("last")

    assert world.bodies() == ["again", "first", "last"]


def test_what_is_for_one_topic_keeps_its_key_its_delay_and_its_ttl(world: World) -> None:
    world.ask("holder", key="k")
    (holder,) = world.claim()
    world.ask("behind", only="credit", key="k")
    world.ask("later", only="credit", delay_ms=LONG_MS)
    world.ask("gone", only="credit", ttl_ms=1)
    pass_ms(3)

    assert world.bodies() == []
    assert world.settle(holder, Move.ACK)
    assert world.bodies() == ["behind"]
    assert world.where()[2] == 1
    assert world.numbers().expired_total == 1


def test_delayed_push_for_one_topic_is_due_there_alone(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.ask("later", only="credit", delay_ms=1, replay_of="1-0")

    assert world.promoted(1).moved == {("gift", "credit"): 1}
    assert [one.replay_of for one in world.claim(5)] == ["1-0"]
    assert world.where("mail") == (0, 0, 0, 0)


def test_a_topic_that_the_queue_does_not_have_refuses_it(world: World) -> None:
    answers = world.push(asked("a", only="none"), *pushes("b"))

    assert [(answer.refused, bool(answer.id)) for answer in answers] == [("topic", False), ("", True)]
    assert world.bodies() == ["b"]
    assert world.store.queue_numbers()["gift"].pushed_total == 1


def test_topic_from_history_passes_over_what_was_for_another(world: World) -> None:
    world.append("a")
    world.ask("again", only="credit")
    world.append("b")
    world.declare(gift("credit", "late", start="history"))

    assert world.where("late") == (2, 0, 0, 0)
    assert world.bodies(topic="late") == ["a", "b"]
    world.bodies()
    numbers = world.store.queue_numbers()["gift"]
    assert (numbers.backlog, numbers.backlog_bytes, world.numbers("late").forgotten_total) == (0, 0, 0)


def test_replay_is_told_wherever_it_is(world: World) -> None:
    world.declare(gift("credit", "mail"))
    first = world.append("a")[0].id
    pushed = world.push(Push("gift", b"a", "00-aa-bb-01", "text/plain", PushOptions(only="credit", replay_of=first)))
    copy = pushed[0].id

    (delivery,) = [one for one in world.claim(5) if one.id == copy]
    assert (delivery.traceparent, delivery.content_type, delivery.replay_of) == ("00-aa-bb-01", "text/plain", first)
    assert world.settle(delivery, Move.RETRY, counts=True, redelivered=True)
    world.promoted(1)
    (again,) = world.claim(5)
    assert (again.replay_of, again.attempt) == (first, 2)
    assert world.settle(again, Move.BURY, counts=True, reason="failed")
    record = world.store.job("gift", copy)
    assert record is not None
    assert (record.replay_of, record.traceparent, list(record.topics)) == (first, "00-aa-bb-01", ["credit"])
    assert record.topics["credit"].state == "dead"
    assert [(one.id, one.replay_of) for one in world.store.jobs("gift")] == [(first, ""), (copy, first)]
    assert [one.traceparent for one in world.store.entries("gift", copy, copy)] == ["00-aa-bb-01"]


def test_replay_for_all_topics_tells_them_of_what(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.ask("again", replay_of="7-0")

    assert [one.replay_of for topic in ("credit", "mail") for one in world.claim(5, topic)] == ["7-0", "7-0"]


def test_body_of_a_replay_outlives_the_log(world: World) -> None:
    world.declare(gift("credit", "mail", retention_s=0.0, retention_bytes=0))
    world.ask("again", only="credit", replay_of="7-0")
    (delivery,) = world.claim()
    world.settle(delivery, Move.BURY, counts=True, reason="failed")
    while world.store.trim():
        pass

    assert world.store.entries("gift", "0-0", "99999999999999-0") == []
    record = world.store.job("gift", delivery.id)
    assert record is not None
    assert (record.body, record.replay_of, list(record.topics)) == (b"again", "7-0", ["credit"])
    assert world.store.revive("gift", "credit", [delivery.id]) == [True]
    assert [one.replay_of for one in world.claim()] == ["7-0"]


def test_trim_is_not_held_up_by_what_is_for_another_topic(world: World) -> None:
    world.declare(gift("credit", "mail", retention_s=0.0, retention_bytes=0))
    world.ask("again", only="credit")
    (delivery,) = world.claim()
    world.settle(delivery, Move.ACK)

    assert world.store.trim() == 1
    assert world.store.job("gift", delivery.id) is None


def test_it_is_cancelled_and_purged_in_its_topic_alone(world: World) -> None:
    world.declare(gift("credit", "mail"))
    one, two = world.ask("one", only="credit").id, world.ask("two", only="credit").id

    assert world.store.cancel("gift", "mail", [one]) == [0]
    assert world.store.cancel("gift", "", [one]) == [1]
    assert world.store.purge("gift", "mail") == 0
    assert world.store.purge("gift", "credit") == 1
    assert world.store.queue_numbers()["gift"].backlog == 0
    assert world.store.job("gift", two) is not None
    assert (accounted(world.numbers()), accounted(world.numbers("mail"))) == (2, 0)


def test_repeated_batch_gives_it_once(world: World) -> None:
    jobs = [asked("a", only="credit"), asked("b")]
    first = list(world.store.append(ALICE, 1, jobs))

    assert list(world.store.append(ALICE, 1, jobs)) == first
    assert world.bodies() == ["a", "b"]


def test_dedupe_key_may_count_for_longer_than_the_window(world: World) -> None:
    world.declare(gift(dedupe_window_s=0.001))
    first = world.ask("a", only="credit", dedupe="r", dedupe_s=3600.0)
    short = world.ask("b", dedupe="s")
    pass_ms(5)
    world.store.trim()

    again, other = world.ask("a", only="credit", dedupe="r", dedupe_s=3600.0), world.ask("b", dedupe="s")

    assert (again.id, again.duplicate) == (first.id, True)
    assert (other.duplicate, other.id != short.id) == (False, True)


def test_a_full_queue_refuses_it_and_a_group_that_is_refused_takes_it_back(world: World) -> None:
    world.declare(gift("credit", "mail", max_backlog=2))
    world.append("a", "b")

    answers = world.push(*group([asked("c", only="credit")], pushes("d")), asked("e", only="mail"))

    assert [answer.refused for answer in answers] == ["jobs", "whole", "jobs"]
    assert (world.where(), world.where("mail")) == ((2, 0, 0, 0), (2, 0, 0, 0))


def test_it_survives_a_restart_and_rings_the_bell(world: World) -> None:
    assert world.rings(lambda: world.ask("again", only="credit", replay_of="7-0"))
    world.reopen()

    assert [one.replay_of for one in world.claim(5)] == ["7-0"]
