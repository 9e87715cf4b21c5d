"""Deliveries of one key: never two at a time in a topic, in their order, without anybody polling."""

from __future__ import annotations

import pytest

from pbus.core.job import Delivery, Move
from pbus.storage.driver import Want
from tests.conformance.storage.world import ALICE, BOB, CAROL, World, accounted, asked, gift, pass_ms, settlement
from tests.support.waiting import until

ENDS = [Move.ACK, Move.BURY]


def keyed(world: World, *bodies: str, **options: object) -> None:
    """Push jobs of key ``k``."""
    world.push(*[asked(body, key="k", **options) for body in bodies])


def one(world: World, owner: str = ALICE) -> Delivery:
    """The only delivery that a claim for many gets."""
    (delivery,) = world.claim(10, owner=owner)
    return delivery


def test_one_of_a_key_is_handed_out_at_a_time_even_to_one_owner(world: World) -> None:
    keyed(world, "a", "b")

    assert world.bodies(10) == ["a"]
    assert world.bodies(10) == []
    assert [delivery.body for delivery in world.claim(10, owner=BOB)] == []
    assert world.where() == (1, 1, 0, 0)


def test_claimed_delivery_tells_its_key(world: World) -> None:
    keyed(world, "a")
    world.append("plain")

    assert [(delivery.body, delivery.key) for delivery in world.claim(2)] == [(b"a", "k"), (b"plain", "")]


def test_other_keys_and_plain_jobs_go_past_a_held_key(world: World) -> None:
    keyed(world, "k1", "k2")
    world.push(asked("plain"), asked("other", key="o"), asked("k3", key="k"))

    assert world.bodies(10) == ["k1", "plain", "other"]
    assert world.where() == (2, 3, 0, 0)
    assert world.numbers().waiting == 2


@pytest.mark.parametrize("move", ENDS)
def test_end_of_the_holder_makes_the_next_one_ready_in_order(world: World, move: Move) -> None:
    keyed(world, *"abcde")
    order = []
    for _ in range(5):
        delivery = one(world)
        order.append(delivery.body.decode())
        assert world.settle(delivery, move)

    assert order == list("abcde")
    assert world.claim(10) == []
    assert accounted(world.numbers()) == 5


def test_next_of_a_key_comes_before_the_log(world: World) -> None:
    keyed(world, "a", "b")
    first = one(world)
    world.append("plain")
    world.settle(first, Move.ACK)

    assert world.bodies(1) == ["b"]


def test_keys_are_held_in_each_topic_alone(world: World) -> None:
    world.declare(gift("credit", "mail"))
    keyed(world, "a", "b")
    world.claim(10)

    assert world.bodies(topic="mail") == ["a"]


@pytest.mark.parametrize("move", [Move.RETRY, Move.RELEASE])
def test_delivery_that_comes_back_keeps_its_key(world: World, move: Move) -> None:
    keyed(world, "a", "b")
    world.settle(one(world), move)
    assert [world.bodies(10), world.bodies(10)] == ([["a"], []] if move is Move.RELEASE else [[], []])
    if move is Move.RETRY:
        world.promoted(1)
        assert world.bodies(10) == ["a"]

    assert world.where() == (1, 1, 0, 0)


def test_retrying_job_holds_its_key_as_long_as_it_is_delayed(world: World) -> None:
    keyed(world, "a", "b")
    world.settle(one(world), Move.RETRY, counts=True, delay_s=0.05)

    assert world.claim(10) == []
    world.promoted(1)
    (delivery,) = world.claim(10)
    assert (delivery.body, delivery.attempt) == (b"a", 2)


def test_claim_of_a_dead_owner_keeps_the_key_until_it_is_run_again(world: World) -> None:
    keyed(world, "a", "b")
    world.claim(10)
    world.give_back(ALICE, world.store.held(ALICE))

    delivery = one(world, BOB)
    assert (delivery.body, delivery.redelivered) == (b"a", True)
    world.settle(delivery, Move.ACK)
    assert one(world, BOB).body == b"b"


def test_fenced_boot_frees_its_keys_when_its_claims_are_given_back(world: World) -> None:
    keyed(world, "a", "b")
    world.claim(10)
    world.store.fence("b1")
    world.give_back(ALICE, world.store.held(ALICE), move=Move.BURY)

    assert one(world, CAROL).body == b"b"


def test_next_one_is_not_polled_for_its_bell_rings(world: World) -> None:
    ear = world.driver(gift()).bell("delivery.0", ["gift"])
    try:
        keyed(world, "a", "b")
        delivery = one(world)
        assert world.claim(10) == []  # b was met and set aside
        until(lambda: ear.wait(0.05) == frozenset(), 5.0, "it is quiet")

        world.settle(delivery, Move.ACK)

        assert ear.wait(5.0) == {"gift"}
    finally:
        ear.close()


def test_keys_survive_a_restart(world: World) -> None:
    keyed(world, "a", "b")
    (first,) = world.claim(10)
    world.reopen()

    assert world.claim(10) == []
    world.settle(first, Move.ACK)
    assert one(world).body == b"b"


def test_waiting_bodies_outlive_the_log(world: World) -> None:
    world.declare(gift(retention_s=0.0, retention_bytes=0))
    keyed(world, "a", "b", "c")
    first = one(world)
    while world.store.trim():
        pass
    world.settle(first, Move.ACK)
    second = one(world)
    while world.store.trim():
        pass
    world.settle(second, Move.ACK)
    (third,) = world.claim(10)

    assert (second.body, third.body, third.key) == (b"b", b"c", "k")


def test_what_waits_for_its_key_is_taken_from_the_backlog_when_it_is_claimed(world: World) -> None:
    keyed(world, "a", "b")
    first = one(world)
    seen = [world.store.backlog("gift")]
    world.settle(first, Move.ACK)
    seen.append(world.store.backlog("gift"))
    one(world)
    seen.append(world.store.backlog("gift"))

    assert seen == [1, 1, 0]


def test_cancel_of_a_waiting_delivery_keeps_the_rest_in_order(world: World) -> None:
    world.push(asked("a", key="k"))
    waiting = [world.ask(body, key="k").id for body in "bcd"]
    first = one(world)

    assert world.store.cancel("gift", "credit", [waiting[0]]) == [1]

    world.settle(first, Move.ACK)
    second = one(world)
    world.settle(second, Move.ACK)
    assert [second.body, one(world).body] == [b"c", b"d"]
    assert accounted(world.numbers()) == 4


def test_cancel_of_a_retrying_holder_frees_its_key(world: World) -> None:
    keyed(world, "a", "b")
    first = one(world)
    assert world.claim(10) == []
    world.settle(first, Move.RETRY, delay_s=3600.0)

    assert world.store.cancel("gift", "credit", [first.id]) == [1]

    assert one(world).body == b"b"


def test_cancel_of_the_one_that_was_just_made_ready_wakes_the_one_after(world: World) -> None:
    world.push(asked("a", key="k"))
    second = world.ask("b", key="k").id
    keyed(world, "c")
    first = one(world)
    assert world.claim(10) == []
    world.settle(first, Move.ACK)

    assert world.store.cancel("gift", "credit", [second]) == [1]

    assert one(world).body == b"c"


def test_expired_holder_frees_its_key(world: World) -> None:
    keyed(world, "a", ttl_ms=30)
    keyed(world, "b")
    first = one(world)
    assert world.claim(10) == []
    pass_ms(35)
    world.settle(first, Move.RETRY, delay_s=0.0)
    world.store.promote_due()
    got = world.bodies(10) or world.bodies(10)

    assert got == ["b"]
    assert world.numbers().expired_total == 1


def test_expired_one_in_the_waiting_list_does_not_stop_the_one_after(world: World) -> None:
    keyed(world, "a")
    keyed(world, "b", ttl_ms=30)
    keyed(world, "c")
    first = one(world)
    assert world.claim(10) == []
    pass_ms(35)
    world.settle(first, Move.ACK)
    got = world.bodies(10) or world.bodies(10)

    assert got == ["c"]
    assert world.numbers().expired_total == 1
    assert accounted(world.numbers()) == 3


def test_delayed_push_of_a_key_waits_for_it_when_it_is_due(world: World) -> None:
    keyed(world, "a", "b")
    keyed(world, "early", delay_ms=20)
    first = one(world)
    world.promoted(1)

    assert world.claim(10) == []
    assert world.where() == (2, 1, 0, 0)
    world.settle(first, Move.ACK)
    second = one(world)
    world.settle(second, Move.ACK)
    assert [second.body, one(world).body] == [b"b", b"early"]


def test_delayed_push_of_a_key_does_not_hold_it_before_its_time(world: World) -> None:
    keyed(world, "later", delay_ms=3_600_000)
    keyed(world, "now")

    assert world.bodies() == ["now"]


def test_revived_delivery_whose_key_is_held_waits_for_it(world: World) -> None:
    keyed(world, "a", "b")
    dead = one(world)
    world.settle(dead, Move.BURY)
    running = one(world)
    world.store.revive("gift", "credit", [dead.id])

    assert world.claim(10) == []
    world.settle(running, Move.ACK)
    again = one(world)
    assert (again.body, again.key) == (b"a", "k")


@pytest.mark.parametrize("word", ["revive", "forgive"])
def test_first_one_that_waits_for_its_key_is_counted_as_ready(world: World, word: str) -> None:
    keyed(world, "a", "b")
    (dead,) = world.claim(1)
    world.settle(dead, Move.BURY, counts=True)
    world.claim(1)

    assert getattr(world.store, word)("gift", "credit", [dead.id]) == [True]

    assert world.where() == (1, 1, 0, 0)
    assert world.claim(1) == []
    assert world.where() == (1, 1, 0, 0)


@pytest.mark.parametrize("waiting", [True, False])
def test_key_rests_after_a_bury_that_asks_for_it(world: World, waiting: bool) -> None:
    keyed(world, "a", "b")
    (first,) = world.claim(10 if waiting else 1)  # the one that is passed on the way is set aside
    world.settle(first, Move.BURY, key_rest_s=0.3)
    began_ms = world.store.dead_letters("gift", "credit")[0].at_ms

    assert world.claim(10) == []
    assert accounted(world.numbers()) == 2

    def claimed() -> list[Delivery]:
        world.store.promote_due()
        return world.claim(10)

    (second,) = until(claimed, 5.0, "the rest is over")
    assert second.body == b"b"
    marker = world.append("marker")[0]
    assert int(marker.id.split("-")[0]) >= began_ms + 300


@pytest.mark.parametrize("how", ["cancel", "cancel before it was met", "expire"])
def test_rest_outlives_the_one_that_waits_for_its_end(world: World, how: str) -> None:
    keyed(world, "a")
    second = world.ask("b", key="k", ttl_ms=40 if how == "expire" else 0)
    keyed(world, "c")
    (first,) = world.claim(1)
    world.settle(first, Move.BURY, key_rest_s=50.0)
    if how != "cancel before it was met":
        assert world.claim(10) == []  # b holds the key and waits for the end of the rest
    if how == "expire":
        pass_ms(45)
    else:
        assert world.store.cancel("gift", "credit", [second.id]) == [1]

    for _ in range(3):
        assert world.claim(10) == []
        world.store.promote_due()
    assert world.where()[1] == 0
    assert accounted(world.numbers()) == 3


def test_next_due_tells_of_the_end_of_a_rest(world: World) -> None:
    keyed(world, "a", "b")
    first = one(world)
    assert world.claim(10) == []
    world.settle(first, Move.BURY, key_rest_s=50.0)

    assert 40.0 < (world.store.promote_due().next_in_s or 0.0) <= 50.0


def test_wants_of_several_owners_in_one_call_share_no_key(world: World) -> None:
    keyed(world, "a", "b", "c")

    claimed = world.store.claim([Want(ALICE, "gift", "credit", 5), Want(BOB, "gift", "credit", 5)])

    assert [(delivery.owner, delivery.body) for delivery in claimed] == [(ALICE, b"a")]


def test_settles_of_one_call_wake_one_of_each_key(world: World) -> None:
    world.push(*[asked(f"{key}{n}", key=key) for n in range(3) for key in "xyz"])
    first = world.claim(10)
    assert [delivery.body for delivery in first] == [b"x0", b"y0", b"z0"]

    assert world.store.settle([settlement(delivery, Move.ACK) for delivery in first]) == [True] * 3

    assert world.bodies(10) == ["x1", "y1", "z1"]


def test_exclusive_topic_with_keys_goes_on(world: World) -> None:
    world.push(asked("a", key="k"), asked("b", key="k"), asked("plain"))

    first = world.claim(10, exclusive=True)
    assert [delivery.body for delivery in first] == [b"a", b"plain"]
    assert world.claim(10, owner=BOB, exclusive=True) == []
    for delivery in first:
        world.settle(delivery, Move.ACK)
    assert [delivery.body for delivery in world.claim(10, owner=BOB, exclusive=True)] == [b"b"]


def test_thousands_of_one_key_stop_nobody_else(world: World) -> None:
    for _ in range(3):
        world.push(*[asked("k", key="k") for _ in range(1000)])
    world.append("plain")

    got: list[str] = []
    until(lambda: got.extend(world.bodies(2)) or "plain" in got, 5.0, "the plain one comes")
    assert got == ["k", "plain"]


@pytest.mark.parametrize("key", [
    "user:", "user:0::", ":0::", ":", "a|b", "{gift}", "%s", " ", "'\"", "x" * 256, "\u00e9\u4e2d", "1:2", "k}",
])
def test_any_text_is_a_key(world: World, key: str) -> None:
    world.push(*[asked(body, key=key) for body in "ab"], asked("c", key=key, delay_ms=1), asked("other", key=key + "x"))
    world.promoted(1)
    order = []
    for _ in range(3):
        claimed = world.claim(10)
        order.append("".join(one.body.decode()[0] for one in claimed))
        assert world.claim(10) == []
        (mine,) = (one for one in claimed if one.key == key)
        assert world.settle(mine, Move.RELEASE)
        (mine,) = world.claim(10)
        assert world.settle(mine, Move.RETRY)
        world.promoted(1)
        (mine,) = world.claim(10)
        assert world.settle(mine, Move.ACK)

    assert sorted(order[0]) in (["c", "o"], ["a", "o"])
    assert sorted("".join(order)) == ["a", "b", "c", "o"]
    assert world.where()[0] == 0
