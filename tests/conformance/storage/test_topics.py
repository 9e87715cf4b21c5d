"""What people do to whole topics: pause, resume, drop."""

from __future__ import annotations

import pytest

from pbus.core.job import Move
from pbus.errors import Unavailable
from tests.conformance.storage.world import World, accounted, asked, gift, pass_ms, settlement


def test_paused_topic_is_not_claimed_from_until_it_is_resumed(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b")
    other = world.driver(gift("credit", "mail"), node="n1")
    (running,) = world.claim(1)
    other.pause("gift", "credit", True)

    assert world.bodies() == []
    assert world.bodies(topic="mail") == ["a", "b"]
    assert world.settle(running, Move.RELEASE)
    assert world.bodies() == []
    world.store.pause("gift", "credit", False)
    assert world.bodies() == ["a", "b"]


def test_paused_topic_takes_pushes_and_counts_in_the_backlog(world: World) -> None:
    world.store.pause("gift", "credit", True)

    assert world.append("a")[0].backlog == 1
    assert world.store.backlog("gift") == 1
    assert world.where() == (1, 0, 0, 0)


def test_pause_tells_since_when_and_does_not_begin_anew(world: World) -> None:
    assert world.numbers().paused_ms == 0
    world.store.pause("gift", "credit", True)
    since = world.numbers().paused_ms
    pass_ms(3)
    world.store.pause("gift", "credit", True)
    again = world.numbers().paused_ms
    world.store.pause("gift", "credit", False)
    world.store.pause("gift", "credit", False)

    assert since > 1_600_000_000_000
    assert again == since
    assert world.numbers().paused_ms == 0


def test_pause_survives_a_restart_and_a_declaration(world: World) -> None:
    world.append("a")
    world.store.pause("gift", "credit", True)
    world.reopen()
    world.declare(gift())

    assert world.bodies() == []


def test_resume_rings_the_bell(world: World) -> None:
    world.append("a")
    world.store.pause("gift", "credit", True)

    assert world.rings(lambda: world.store.pause("gift", "credit", False))


def test_delayed_jobs_of_a_paused_topic_become_ready_and_wait(world: World) -> None:
    world.store.pause("gift", "credit", True)
    world.ask("a", delay_ms=1)
    world.promoted(1)

    assert world.bodies() == []
    assert world.where() == (1, 0, 0, 0)


# -- drop


def test_dropped_topic_is_gone_with_everything_of_it(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a", "b", "c")
    world.push(asked("k", key="k"), asked("later", delay_ms=3_600_000))
    world.settle(world.claim(1, "mail")[0], Move.BURY, reason="failed")
    world.claim(1, "mail")

    assert world.store.drop_topic("gift", "mail")

    assert world.store.numbers().keys() == {("gift", "credit")}
    assert [held.topic for held in world.store.held("n1/b1/1.1")] == []
    assert world.store.owners() == []
    assert world.append("d")[0].topics == 1
    with pytest.raises(Unavailable):
        world.claim(1, "mail")
    assert world.bodies() == ["a", "b", "c", "k", "d"]


def test_drop_of_a_topic_that_is_not_there_answers_false(world: World) -> None:
    assert not world.store.drop_topic("gift", "nobody")
    assert not world.store.drop_topic("nowhere", "credit")


def test_late_settle_of_a_dropped_topic_changes_nothing_and_stops_no_other(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a")
    (late,), (other,) = world.claim(1, "mail"), world.claim(1)
    world.store.drop_topic("gift", "mail")

    answers = world.store.settle([settlement(late, Move.ACK), settlement(other, Move.ACK)])

    assert answers == [False, True]


def test_dropped_topic_that_is_declared_again_is_empty_and_counts_from_zero(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append("a")
    world.store.pause("gift", "mail", True)
    world.store.drop_topic("gift", "mail")
    world.declare(gift("credit", "mail"))

    assert world.where("mail") == (0, 0, 0, 0)
    assert accounted(world.numbers("mail")) == 0
    assert world.numbers("mail").paused_ms == 0
    world.append("b")
    assert world.bodies(topic="mail") == ["b"]


def test_dropped_topic_stops_no_trim(world: World) -> None:
    world.declare(gift("credit", "mail", retention_s=0.0, retention_bytes=0))
    pushed = world.append("a")[0]
    world.settle(world.claim()[0], Move.ACK)
    world.store.drop_topic("gift", "mail")
    pass_ms(2)
    while world.store.trim():
        pass

    assert world.store.job("gift", pushed.id) is None


def test_another_process_meets_a_dropped_topic(world: World) -> None:
    world.declare(gift("credit", "mail"))
    other = world.driver(gift("credit", "mail"))
    world.store.drop_topic("gift", "mail")
    world.append("a")

    assert other.numbers().keys() == {("gift", "credit")}
    other.declare([gift("credit", "mail")])
    assert world.where("mail") == (0, 0, 0, 0)
