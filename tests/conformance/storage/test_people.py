"""What people and producers do to deliveries: cancel, purge, revive, accept, forget, forgive."""

from __future__ import annotations


import pytest

from pbus.core.job import Delivery, Move
from pbus.errors import Unavailable
from tests.conformance.storage.world import NOBODYS, World, accounted, asked, gift, pass_ms

def dead_one(world: World, attempts: int = 1, **how: object) -> Delivery:
    """A dead delivery that was tried so often."""
    world.append("a")
    for _ in range(attempts - 1):
        world.settle(world.claim()[0], Move.RETRY, counts=True)
        world.promoted(1)
    (delivery,) = world.claim()
    assert world.settle(delivery, Move.BURY, **({"counts": True, "reason": "failed", "error": "no"} | how))
    return delivery




# -- cancel


def test_cancelled_job_is_never_handed_out(world: World) -> None:
    pushed = world.append("a", "b", "c")

    assert world.store.cancel("gift", "credit", [pushed[1].id]) == [1]

    assert world.bodies() == ["a", "c"]
    numbers = world.numbers()
    assert (numbers.ready, numbers.running, numbers.cancelled_total) == (0, 2, 1)
    assert accounted(numbers) == 3


def test_cancel_in_every_topic_counts_them(world: World) -> None:
    world.declare(gift("credit", "mail", "audit"))
    (pushed,) = world.append("a")
    world.claim(1, "mail")

    assert world.store.cancel("gift", "", [pushed.id]) == [2]

    assert [world.bodies(topic=topic) for topic in ("credit", "audit")] == [[], []]
    assert [world.numbers(topic).cancelled_total for topic in ("credit", "mail", "audit")] == [1, 0, 1]


def test_cancel_in_one_topic_leaves_the_others(world: World) -> None:
    world.declare(gift("credit", "mail"))
    (pushed,) = world.append("a")
    world.store.cancel("gift", "credit", [pushed.id])

    assert world.bodies(topic="mail") == ["a"]


def test_cancel_reaches_what_came_back_and_what_is_delayed(world: World) -> None:
    world.append("a", "b")
    back, retried = world.claim(2)
    world.settle(back, Move.RELEASE)
    world.settle(retried, Move.RETRY, delay_s=3600.0)
    later = world.ask("later", delay_ms=3_600_000)

    assert world.store.cancel("gift", "credit", [back.id, retried.id, later.id]) == [1, 1, 1]

    assert world.where() == (0, 0, 0, 0)
    assert world.bodies() == []
    assert world.numbers().cancelled_total == 3
    assert world.store.promote_due().next_in_s is None


def test_cancel_of_what_runs_has_ended_or_is_dead_changes_nothing(world: World) -> None:
    world.append("a", "b", "c")
    done, dead, running = world.claim(3)
    world.settle(done, Move.ACK)
    world.settle(dead, Move.BURY)

    assert world.store.cancel("gift", "credit", [done.id, dead.id, running.id]) == [0, 0, 0]

    assert world.where() == (0, 1, 0, 1)
    assert world.settle(running, Move.ACK)


def test_cancel_twice_takes_effect_once(world: World) -> None:
    (pushed,) = world.append("a")

    assert world.store.cancel("gift", "credit", [pushed.id, pushed.id]) == [1, 0]
    assert world.store.cancel("gift", "credit", [pushed.id]) == [0]
    assert world.store.cancel("gift", "", [pushed.id]) == [0]
    assert world.numbers().cancelled_total == 1


def test_cancel_survives_a_restart_and_a_trim(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    pushed = world.append("a", "b")
    world.store.cancel("gift", "credit", [pushed[0].id])
    world.reopen()
    while world.store.trim():
        pass

    assert world.bodies() == ["b"]
    assert accounted(world.numbers()) == 2


def test_cancelled_jobs_are_taken_from_the_backlog(world: World) -> None:
    pushed = world.append("a", "b", "c")
    world.store.cancel("gift", "credit", [pushed[1].id])
    seen = [world.store.backlog("gift")]
    seen.append(world.append("d")[0].backlog)
    world.bodies()
    seen.append(world.store.backlog("gift"))

    assert seen == [2, 3, 0]


def test_cancelled_jobs_stop_no_trim(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    pushed = world.append("a", "b", "c")
    world.store.cancel("gift", "credit", [one.id for one in pushed])
    world.bodies()
    pass_ms(2)
    while world.store.trim():
        pass

    assert [world.store.job("gift", one.id) for one in pushed] == [None] * 3


# -- purge


def test_purge_cancels_all_that_is_ready_or_delayed_and_nothing_else(world: World) -> None:
    world.declare(gift("credit", "mail"))
    world.append(*"abcdef")
    world.push(asked("k1", key="k"), asked("k2", key="k"), asked("later", delay_ms=3_600_000))
    claimed = world.claim(7)
    world.settle(claimed[0], Move.RELEASE)
    world.settle(claimed[1], Move.RETRY, delay_s=3600.0)
    world.settle(claimed[2], Move.BURY)
    world.settle(claimed[3], Move.ACK)

    total = 0
    while count := world.store.purge("gift", "credit"):
        total += count

    numbers = world.numbers()
    assert (total, numbers.cancelled_total) == (4, 4)
    assert (numbers.ready, numbers.running, numbers.delayed, numbers.dead) == (0, 3, 0, 1)
    assert accounted(numbers) == 9
    assert world.bodies() == []
    assert world.where("mail")[:3] == (8, 0, 1)
    assert world.store.backlog("gift") == 9


def test_purge_is_repeated_until_nothing_is_left_oldest_first(world: World) -> None:
    """A store that can may end the whole log in one step; what it does job by job is bounded."""
    for _ in range(24):
        world.append(*["x"] * 1000)
    last = world.append("last")[0]

    first = world.store.purge("gift", "credit")

    assert 1000 <= first <= 12_000 or first == 24_001
    assert world.numbers().cancelled_total == first
    total = first - 1 if first == 24_001 else first
    assert world.store.cancel("gift", "credit", [last.id]) == [int(total == first)]
    while count := world.store.purge("gift", "credit"):
        total += count
    assert total == 24_000
    assert world.store.backlog("gift") == 0


def test_push_after_a_purge_is_delivered(world: World) -> None:
    world.append("a")
    while world.store.purge("gift", "credit"):
        pass
    world.append("b")

    assert world.bodies() == ["b"]


def test_purge_of_a_key_leaves_the_holder_running_and_the_key_usable(world: World) -> None:
    world.push(asked("a", key="k"), asked("b", key="k"))
    (first,) = world.claim(5)
    world.store.purge("gift", "credit")
    world.ask("c", key="k")
    assert world.claim(5) == []
    world.settle(first, Move.ACK)

    assert world.bodies() == ["c"]


# -- revive, accept, forget


def test_revived_delivery_is_ready_with_all_attempts_before_it(world: World) -> None:
    dead = dead_one(world, attempts=2, crash=True)

    assert world.store.revive("gift", "credit", [dead.id]) == [True]

    assert world.where() == (1, 0, 0, 0)
    (again,) = world.claim()
    assert (again.id, again.body, again.attempt, again.forgiven) == (dead.id, b"a", 3, 2)
    assert (again.crashes, again.first_ms, again.redelivered) == (0, 0, True)
    assert world.store.dead_letters("gift", "credit") == []


def test_revived_delivery_counts_on(world: World) -> None:
    dead = dead_one(world, attempts=2)
    world.store.revive("gift", "credit", [dead.id])
    world.settle(world.claim()[0], Move.RETRY, counts=True, crash=True)
    world.promoted(1)
    (again,) = world.claim()

    assert (again.attempt, again.forgiven, again.crashes) == (4, 2, 1)
    assert again.first_ms > 1_600_000_000_000


def test_revive_rings_the_bell(world: World) -> None:
    dead = dead_one(world)

    assert world.rings(lambda: world.store.revive("gift", "credit", [dead.id]))


def test_revive_twice_takes_effect_once(world: World) -> None:
    dead = dead_one(world)

    assert world.store.revive("gift", "credit", [dead.id, dead.id]) == [True, False]
    assert world.store.revive("gift", "credit", [dead.id]) == [False]
    assert len(world.claim(5)) == 1


def test_revived_delivery_may_die_again(world: World) -> None:
    dead = dead_one(world)
    world.store.revive("gift", "credit", [dead.id])
    world.settle(world.claim()[0], Move.BURY, counts=True, reason="failed")

    numbers = world.numbers()
    assert (numbers.dead, numbers.dead_total) == (1, 2)
    assert accounted(numbers) == 1
    assert [letter.attempts for letter in world.store.dead_letters("gift", "credit")] == [2]


def test_accepted_delivery_is_done(world: World) -> None:
    dead = dead_one(world)

    assert world.store.accept("gift", "credit", [dead.id, dead.id]) == [True, False]

    assert world.where() == (0, 0, 0, 0)
    assert world.numbers().done_total == 1
    assert world.bodies() == []


def test_forgotten_letter_stays_counted(world: World) -> None:
    dead = dead_one(world)

    assert world.store.forget_dead("gift", "credit", [dead.id, dead.id]) == [True, False]

    numbers = world.numbers()
    assert (numbers.dead, numbers.forgotten_total, numbers.dead_total) == (0, 1, 1)
    assert accounted(numbers) == 1


@pytest.mark.parametrize("word", ["revive", "accept", "forget_dead"])
def test_only_dead_deliveries_are_revived_accepted_or_forgotten(world: World, word: str) -> None:
    world.append("a", "b", "c", "d", "e")
    done, delayed, running, back = world.claim(4)
    ready = world.append("f")[0]
    world.settle(done, Move.ACK)
    world.settle(delayed, Move.RETRY, delay_s=3600.0)
    world.settle(back, Move.RELEASE)
    before = world.where()

    ids = [done.id, delayed.id, running.id, back.id, ready.id]
    assert getattr(world.store, word)("gift", "credit", ids) == [False] * 5

    assert world.where() == before
    assert world.settle(running, Move.ACK)


@pytest.mark.parametrize("word", ["revive", "accept", "forget_dead", "forgive"])
def test_topics_have_their_own_dead(world: World, word: str) -> None:
    world.declare(gift("credit", "mail"))
    dead = dead_one(world)
    world.settle(world.claim(1, "mail")[0], Move.ACK)

    assert getattr(world.store, word)("gift", "mail", [dead.id]) == [False]
    assert world.where() == (0, 0, 0, 1)


# -- forgive


def test_forgiven_delivery_stays_where_it_waits(world: World) -> None:
    world.append("a", "b")
    delayed, ready = world.claim(2)
    world.settle(delayed, Move.RETRY, counts=True, delay_s=3600.0)
    world.settle(ready, Move.RELEASE, counts=True)

    assert world.store.forgive("gift", "credit", [delayed.id, ready.id]) == [True, True]

    assert world.where() == (1, 0, 1, 0)
    assert 3000.0 < (world.store.promote_due().next_in_s or 0.0) <= 3600.0


def test_forgiven_retry_keeps_its_number(world: World) -> None:
    world.append("a")
    (first,) = world.claim()
    world.settle(first, Move.RETRY, counts=True)
    world.store.forgive("gift", "credit", [first.id])
    world.promoted(1)
    (second,) = world.claim()
    world.settle(second, Move.RELEASE, counts=True)
    (third,) = world.claim()

    assert [(one.attempt, one.forgiven) for one in (second, third)] == [(2, 1), (3, 1)]


def test_at_most_all_attempts_are_forgiven(world: World) -> None:
    world.append("a")
    (first,) = world.claim()
    world.settle(first, Move.RELEASE, counts=True)
    for _ in range(3):
        assert world.store.forgive("gift", "credit", [first.id]) == [True]

    assert [(one.attempt, one.forgiven) for one in world.claim()] == [(2, 1)]


def test_forgive_of_what_was_never_tried_changes_nothing(world: World) -> None:
    pushed = world.append("a", "b")
    assert world.store.forgive("gift", "credit", [pushed[0].id]) == [True]

    assert [(one.body, one.attempt, one.forgiven) for one in world.claim(5)] == [(b"a", 1, 0), (b"b", 1, 0)]
    assert world.store.backlog("gift") == 0


def test_forgiven_dead_delivery_waits_again(world: World) -> None:
    dead = dead_one(world, attempts=3)

    assert world.rings(lambda: world.store.forgive("gift", "credit", [dead.id]))

    assert world.where() == (1, 0, 0, 0)
    (again,) = world.claim()
    assert (again.attempt, again.forgiven) == (4, 1)
    assert world.store.dead_letters("gift", "credit") == []


def test_forgive_of_what_runs_or_has_ended_changes_nothing(world: World) -> None:
    world.append("a", "b")
    running, done = world.claim(2)
    world.settle(done, Move.ACK)

    assert world.store.forgive("gift", "credit", [running.id, done.id]) == [False, False]


@pytest.mark.parametrize("word", ["cancel", "revive", "accept", "forget_dead", "forgive"])
@pytest.mark.parametrize("job_id", NOBODYS)
def test_ids_that_nobody_pushed_change_nothing(world: World, word: str, job_id: str) -> None:
    world.append("a")
    before = world.store.numbers()

    assert [bool(one) for one in getattr(world.store, word)("gift", "credit", [job_id])] == [False]

    assert accounted(world.numbers()) == accounted(before["gift", "credit"])
    assert world.bodies() == ["a"]


@pytest.mark.parametrize("word", ["cancel", "revive", "accept", "forget_dead", "forgive"])
def test_no_ids_are_no_work(world: World, word: str) -> None:
    assert getattr(world.store, word)("gift", "credit", []) == []


@pytest.mark.parametrize("queue", ["gift", "nowhere"])
def test_topics_that_nobody_declared_are_refused(world: World, queue: str) -> None:
    store = world.store
    for call in (store.cancel, store.revive, store.accept, store.forget_dead, store.forgive):
        with pytest.raises(Unavailable):
            call(queue, "nobody", ["1-0"])
    with pytest.raises(Unavailable):
        store.purge(queue, "nobody")
    with pytest.raises(Unavailable):
        store.pause(queue, "nobody", True)
    with pytest.raises(Unavailable):
        store.cancel("nowhere", "", ["1-0"])
