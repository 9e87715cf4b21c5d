"""
A shadow beside a topic, in random interleavings against a few sets.

The topic must not notice the shadow: its deliveries, the backlog in jobs and bytes, what is refused, and what the log
keeps are those of a queue without it. The shadow gets each job of its sample once, or it is counted as ended otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import hypothesis
import pytest
from hypothesis import strategies as st

from pbus.core.job import Delivery, Move, Push, PushOptions
from pbus.core.sample import in_sample, residues
from pbus.storage.driver import QueueSpec, TopicSpec
from tests.conformance.storage.places import Place
from tests.conformance.storage.world import World, accounted, pass_ms
from tests.support.nightly import figure

HALF = residues(0.5)
BOUND = 30
SPEC = QueueSpec("gift", (TopicSpec("credit"), TopicSpec("new", sample=HALF)), 0.0, 0, BOUND)


class Story:
    """One queue from its first push to its last; every step draws what it does from *draw*."""

    def __init__(self, world: World, draw: random.Random) -> None:
        self.world = world
        self.draw = draw
        world.declare(SPEC)
        self.sampled: set[str] = set()
        self.keyed: set[str] = set()        # those that a busy key may make it skip
        self.mine: set[str] = set()         # in the shadow's hands, or done there
        self.untaken: dict[str, int] = {}   # of the topic: id -> bytes
        self.held: dict[str, list[Delivery]] = {"credit": [], "new": []}

    def push(self) -> None:
        pushes, kinds = [], ("plain", "plain", "plain", "key", "delay", "only credit", "only new")
        for _ in range(self.draw.randint(1, 6)):
            kind, body = self.draw.choice(kinds), b"x" * self.draw.randint(1, 9)
            options = PushOptions(
                key="k" if kind == "key" else "", delay_ms=1 if kind == "delay" else 0,
                only=kind.removeprefix("only ") if kind.startswith("only") else "",
            )
            pushes.append(Push("gift", body, options=None if kind == "plain" else options))
        for push, answer in zip(pushes, self.world.push(*pushes), strict=True):
            only = push.options.only if push.options else ""
            if answer.refused:
                assert len(self.untaken) + 1 > BOUND or len(self.untaken) + len(pushes) > BOUND
                continue
            assert answer.topics == 1
            if only != "new":
                self.untaken[answer.id] = len(push.body)
            if only == "new" or (not only and in_sample(answer.id, HALF)):
                self.sampled.add(answer.id)
                self.keyed |= {answer.id} if push.options and push.options.key else set()

    def claim(self, topic: str) -> None:
        for delivery in self.world.claim(self.draw.randint(1, 8), topic):
            self.held[topic].append(delivery)
            if topic == "new":
                assert delivery.id in self.sampled, "not in the sample"
                assert delivery.redelivered or delivery.id not in self.mine, "twice"
                self.mine.add(delivery.id)
            else:
                self.untaken.pop(delivery.id, None)

    def settle(self) -> None:
        topic = self.draw.choice(("credit", "new"))
        if self.held[topic]:
            delivery = self.held[topic].pop(self.draw.randrange(len(self.held[topic])))
            back = self.draw.random() < 0.2
            assert self.world.settle(delivery, Move.RELEASE if back else Move.ACK, redelivered=True)

    def tidy(self) -> None:
        pass_ms(2)
        self.world.store.promote_due()
        self.world.store.trim()

    def pause(self) -> None:
        self.world.store.pause("gift", "new", self.draw.random() < 0.5)

    def look(self) -> None:
        """Nothing of the shadow is in what concerns the queue."""
        numbers = self.world.store.queue_numbers()["gift"]
        assert (numbers.backlog, numbers.backlog_bytes) == (len(self.untaken), sum(self.untaken.values()))
        assert self.world.store.backlog("gift") == len(self.untaken)

    def run_out(self) -> None:
        """Everything is claimed and done: what the shadow had to see is accounted for, and nothing is left."""
        self.world.store.pause("gift", "new", False)
        for topic in ("credit", "new"):
            idle = 0
            while idle < 3:
                self.tidy()
                self.claim(topic)
                idle = 0 if self.held[topic] else idle + 1
                while self.held[topic]:
                    assert self.world.settle(self.held[topic].pop(), Move.ACK)
        numbers = self.world.numbers("new")
        assert (numbers.ready, numbers.running, numbers.delayed, numbers.dead) == (0, 0, 0, 0)
        assert numbers.done_total == len(self.mine)
        assert len(self.mine | (self.sampled - self.keyed)) <= accounted(numbers) <= len(self.sampled)
        self.look()
        self.tidy()
        assert self.world.store.queue_numbers()["gift"].kept == 0


@pytest.fixture
def stories(place: Place) -> Iterator[Callable[[int], Story]]:
    worlds: list[World] = []

    def begin(seed: int) -> Story:
        while worlds:
            worlds.pop().close()
        worlds.append(World(place))
        return Story(worlds[-1], random.Random(seed))

    yield begin
    while worlds:
        worlds.pop().close()


def test_random_interleavings_with_a_shadow_are_those_without_it(stories: Callable[[int], Story]) -> None:
    @hypothesis.settings(
        max_examples=figure(15, nightly=400), deadline=None, suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.integers(0, 2**32))
    def tell(seed: int) -> None:
        story = stories(seed)
        steps = [story.push, story.push, lambda: story.claim("credit"), lambda: story.claim("credit"),
                 lambda: story.claim("new"), story.settle, story.settle, story.tidy, story.pause]
        for _ in range(60):
            story.draw.choice(steps)()
            story.look()
        story.run_out()

    tell()
