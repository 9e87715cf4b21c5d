"""Statistics: rows that add up over levels and nodes, totals that count once, bounded time and bytes."""

from __future__ import annotations

import itertools
import time

from pbus.core.statistics import DAY_S, LEVELS, Bucket, folded, total
from pbus.storage.statistics import Known
from tests.conformance.storage.world import World, gift

HOUR = int(time.time()) // 3600 * 3600 - 7200
"""The beginning of one that is over: nothing of it has expired yet."""


def row(node: str = "n1", topic: str = "credit", queue: str = "gift", **counts: object) -> Bucket:
    return Bucket(queue, topic, node, 0, **counts)  # type: ignore[arg-type]


def read(world: World, topic: str | None = "credit", span_s: int = 60, queue: str = "gift",
         since_s: int = HOUR - 3600, until_s: int = HOUR + 3600) -> list[Bucket]:
    return world.store.statistics(queue, topic, since_s, until_s, span_s)


def test_what_was_put_is_answered_as_it_was(world: World) -> None:
    told = row(done=3, failed=2, retried=1, dead=1, redelivered=1, bytes=1 << 40, wait_us=7, run_us=123_456_789,
               cpu_us=5, wait={0: 1, 91: 2}, run={17: 300, 18: 1})
    world.store.put_statistics(HOUR + 59, [told])

    (found,) = read(world)
    assert (found.at_s, found.span_s, found.queue, found.topic, found.node) == (HOUR, 60, "gift", "credit", "n1")
    assert total([found]) == total([told])


def test_rows_of_a_bucket_add_up_on_every_level(world: World) -> None:
    for minute in range(3):
        world.store.put_statistics(HOUR + 60 * minute, [row(done=1, run={5: 1, 90 - minute: 1})])
    world.store.put_statistics(HOUR + 61, [row(done=1, run={5: 1})])

    assert [(one.at_s - HOUR, one.done) for one in read(world)] == [(0, 1), (60, 2), (120, 1)]
    for span_s in (3600, DAY_S):
        (found,) = read(world, span_s=span_s)
        assert (found.done, found.run) == (4, {5: 4, 90: 1, 89: 1, 88: 1})
        assert found.at_s == HOUR // span_s * span_s


def test_nodes_and_topics_have_rows_of_their_own(world: World) -> None:
    world.store.put_statistics(HOUR, [row("n1", done=1), row("n1", "mail", done=5), row("n1", "mail", "order", done=9)])
    world.driver(gift(), node="n2" if world.name == "redis" else "n1").put_statistics(HOUR, [row("n2", done=2)])

    assert [(one.node, one.done) for one in read(world)] == [("n1", 1), ("n2", 2)]
    assert [(one.topic, one.node) for one in read(world, None)] == [("credit", "n1"), ("credit", "n2"), ("mail", "n1")]
    assert folded(read(world), HOUR, 60)[0].done == 3


def test_a_total_that_several_nodes_tell_counts_once(world: World) -> None:
    other = world.driver(gift())
    for store, pushed in ((world.store, 100), (other, 100), (world.store, 107), (other, 107), (other, 110)):
        store.put_statistics(HOUR, [], {("gift", ""): Known(pushed), ("gift", "credit"): Known(0, pushed // 50, 1)})

    found = read(world)
    assert [(one.topic, one.node, one.pushed, one.expired, one.cancelled) for one in found] == [("", "", 10, 0, 0)]


def test_totals_of_a_topic_that_was_made_again_begin_at_nothing(world: World) -> None:
    for cancelled in (50, 60, 3):
        world.store.put_statistics(HOUR, [], {("gift", "credit"): Known(cancelled=cancelled)})

    assert [one.cancelled for one in read(world)] == [13]


def test_totals_are_told_beside_rows_and_survive_a_restart(world: World) -> None:
    world.store.put_statistics(HOUR, [row(done=1)], {("gift", ""): Known(5)})
    world.reopen()
    world.store.put_statistics(HOUR + 60, [row(done=1)], {("gift", ""): Known(6)})

    assert [(one.at_s - HOUR, one.topic, one.pushed, one.done) for one in read(world)] == [
        (0, "credit", 0, 1), (60, "", 1, 0), (60, "credit", 0, 1),
    ]


def test_a_window_is_what_overlaps_it(world: World) -> None:
    for minute in range(5):
        world.store.put_statistics(HOUR + 60 * minute, [row(done=1)])

    assert [one.at_s - HOUR for one in read(world, since_s=HOUR + 61, until_s=HOUR + 181)] == [60, 120, 180]
    assert read(world, since_s=HOUR + 300, until_s=HOUR + 300) == []
    assert len(read(world, since_s=0)) == 5


def test_nothing_is_known_of_what_nobody_told(world: World) -> None:
    assert read(world) == []
    assert read(world, queue="nobody's") == []
    world.store.put_statistics(HOUR, [])
    world.store.put_statistics(HOUR, [row(done=1)])
    assert read(world, "mail") == []
    assert read(world, queue="nobody's") == []


def test_what_is_older_than_its_level_is_kept_is_dropped(world: World) -> None:
    for days in (401, 31, 2, 0):
        world.store.put_statistics(HOUR - days * DAY_S, [row(done=1)])

    for span_s, kept in zip(LEVELS, (1, 2, 3), strict=True):
        found = [
            one for keep, until_s in itertools.product(LEVELS.values(), (HOUR - 400 * DAY_S, HOUR, HOUR + 60))
            for one in read(world, span_s=span_s, since_s=until_s - keep, until_s=until_s)
        ]
        assert len({one.at_s for one in found}) == kept, span_s


def test_two_hundred_topics_with_every_class_in_use(world: World) -> None:
    topics = 200
    full = dict.fromkeys(range(92), 9_999_999)
    rows = [row(topic=f"t{number}", done=1 << 40, run_us=1 << 50, wait=full, run=full) for number in range(topics)]
    world.store.put_statistics(HOUR, rows)

    assert total(read(world, None)).run[91] == topics * 9_999_999
