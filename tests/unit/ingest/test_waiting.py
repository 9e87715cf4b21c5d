"""Who waits for jobs: order, topics, ends; and that thousands who wait cost nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pbus.config.schema import PullHandler, Queue, Topic
from pbus.ingest.access import TopicEntry
from pbus.ingest.pops import CLAIM_COUNT, Pop
from pbus.ingest.waiting import Waiting
from tests.unit.ingest.door import Door


class Receiver:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.over: list[Pop] = []

    def popped(self, pop: Pop) -> None:
        self.over.append(pop)
        pop.taker.delivered(pop.got, sent=True)


@pytest.fixture
def door() -> Iterator[Door]:
    topics = {"credit": Topic(pull=PullHandler()), "mail": Topic(pull=PullHandler())}
    door = Door(queues={"gift": Queue(topic=topics), "order": Queue(topic=topics)})
    yield door
    door.close()


@pytest.fixture
def topics(door: Door) -> dict[str, TopicEntry]:
    return {each.path: each for queue in door.server.directory.queues.values() for each in queue.topics.values()}


def pop(topics: Sequence[TopicEntry], deadline_s: float | None = math.inf, count: int = 1, to: Any = None) -> Pop:
    return Pop(to or Receiver(), topics, count, deadline_s)


def test_heads_of_a_queue_are_those_who_waited_longest_for_each_of_its_topics(topics: dict[str, TopicEntry]) -> None:
    waiting, credit, mail = Waiting(), [topics["gift/credit"]], [topics["gift/mail"]]
    line = [pop(credit, count=2) for _ in range(5)]
    other, elsewhere = pop(mail), pop([topics["order/credit"]])
    for each in (*line, other, elsewhere):
        waiting.add(each)

    assert list(waiting.heads("gift", 5)) == [*line[:3], other]
    waiting.remove(line[0])
    assert list(waiting.heads("gift", 2)) == [line[1], other]
    assert waiting.in_order([other, line[3], line[0], line[3]]) == [line[3], other]


def test_who_waits_for_several_topics_is_in_the_line_of_each_until_it_is_over(topics: dict[str, TopicEntry]) -> None:
    waiting, both = Waiting(), pop([topics["gift/credit"], topics["order/mail"], topics["gift/credit"]])
    waiting.add(both)

    assert [list(waiting.heads(queue, 9)) for queue in ("gift", "order")] == [[both], [both]]
    waiting.remove(both)
    waiting.remove(both)
    assert not waiting.is_waited_for(("gift", "credit"))
    assert not waiting.is_waited_for(("order", "mail"))
    assert not list(waiting.heads("gift", 9))


def test_ends_come_in_their_order_and_those_that_changed_count_once(topics: dict[str, TopicEntry]) -> None:
    waiting, credit = Waiting(), [topics["gift/credit"]]
    late, soon, never = pop(credit, 30.0), pop(credit, 10.0), pop(credit)
    for each in (late, soon, never):
        waiting.add(each)
    assert waiting.next_end_s() == 10.0
    waiting.end(late, 5.0)

    assert waiting.ended(4.9) == []
    assert waiting.ended(20.0) == [late, soon]
    assert waiting.next_end_s() is None, "never"


def test_ends_of_who_was_answered_long_before_are_forgotten(topics: dict[str, TopicEntry]) -> None:
    waiting, stays = Waiting(), pop([topics["gift/credit"]], 7.0)
    waiting.add(stays)
    for _ in range(10_000):
        each = pop([topics["gift/credit"]], 3_600.0)
        waiting.add(each)
        waiting.remove(each)

    assert len(waiting._ends) < 2_000
    assert waiting.next_end_s() == 7.0


def test_more_jobs_than_one_claim_is_for_reach_everybody_who_waits_in_order(
    door: Door, topics: dict[str, TopicEntry]
) -> None:
    to, pops = Receiver(), []
    for _ in range(3 * CLAIM_COUNT + 7):
        pops.append(pop([topics["gift/credit"]], to=to))
        door.store.puller.add(pops[-1])
    door.until(lambda: all(not each.over for each in pops) and not door.store.puller._fresh)

    bodies = [str(number) for number in range(len(pops))]
    door.client().ask("LPUSH", "gift", *bodies)
    door.until(lambda: len(to.over) == len(pops), "all of them are answered")

    assert [each.got[0].body.decode() for each in pops] == bodies


def test_a_job_for_one_of_thousands_is_asked_for_without_looking_at_the_others(
    door: Door, topics: dict[str, TopicEntry]
) -> None:
    class Counted(Pop):
        looked = 0

        def room(self, place: int) -> int:
            Counted.looked += 1
            return super().room(place)

    to = Receiver()
    for _ in range(5_000):
        door.store.puller.add(Counted(to, [topics["gift/credit"]], 1, math.inf))
    door.until(lambda: not door.store.puller._fresh)
    Counted.looked = 0
    door.client().ask("LPUSH", "gift", "x")
    door.until(lambda: to.over)

    assert Counted.looked < 10 * CLAIM_COUNT
