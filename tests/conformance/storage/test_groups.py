"""Groups of an append (transactions): stored all or none, over their commands and queues."""

from __future__ import annotations

import itertools
import random

import hypothesis
from hypothesis import strategies as st

from pbus.core.job import Move, Push, PushOptions
from tests.conformance.storage.model import LONG_MS, Queue, Topic, push_all
from tests.conformance.storage.places import Place
from tests.conformance.storage.world import ALICE, BOB, World, asked, command, gift, group, pushes, settlement
from tests.support.nightly import figure


def refused(answers: list) -> list[str]:
    return [one.refused for one in answers]


def two_queues(world: World, **bounds: int) -> None:
    """``gift`` with *bounds*, ``order`` without."""
    world.declare(gift(**bounds), gift(name="order"))


def test_group_over_queues_is_stored_in_the_order_of_its_pushes(world: World) -> None:
    two_queues(world)

    answers = world.push(*group(command("a", "b"), command("c", queue="order"), command("d")))

    assert refused(answers) == [""] * 4
    assert [one.backlog for one in answers] == [3, 3, 1, 3]
    assert (world.bodies(), world.bodies(queue="order")) == (["a", "b", "d"], ["c"])


def test_group_of_which_a_span_is_refused_stores_nothing_anywhere(world: World) -> None:
    two_queues(world, max_backlog=2)
    world.append("there")

    answers = world.push(*group(command("a", queue="order"), command("b"), command("c", "d"), command("e")))

    assert refused(answers) == ["whole", "whole", "jobs", "jobs", "whole"]
    assert not any(one.id or one.duplicate for one in answers)
    assert (world.bodies(), world.bodies(queue="order")) == (["there"], [])
    assert world.store.queue_numbers()["order"].pushed_total == 0


def test_bytes_refuse_a_group_too(world: World) -> None:
    two_queues(world, max_backlog_bytes=10)
    world.append("1234")

    answers = world.push(*group(command("12345"), command("x", queue="order"), command("12")))

    assert refused(answers) == ["whole", "whole", "bytes"]
    assert world.bodies() == ["1234"]


def test_first_span_that_is_refused_names_the_reason(world: World) -> None:
    world.declare(gift(max_backlog=1), gift(name="order", max_backlog_bytes=1))
    world.append("a")
    world.append("b", queue="order")

    answers = world.push(*group(command("x", queue="order"), command("y"), command("z", queue="order")))

    assert refused(answers) == ["bytes", "whole", "whole"]


def test_pushes_outside_a_group_that_is_refused_are_stored(world: World) -> None:
    two_queues(world, max_backlog=4)

    answers = world.push(
        *command("a"), *command("b", queue="order"), *group(command("c", queue="order"), command("d", "e", "f", "g")),
        *command("h", queue="order"), *command("i", "j"), *group(command("k"), command("l", queue="order")),
        *command("m"),
    )

    assert refused(answers) == ["", "", "whole", *["jobs"] * 4, "", "", "", "", "", "jobs"]
    assert (world.bodies(), world.bodies(queue="order")) == (["a", "i", "j", "k"], ["b", "h", "l"])


def test_group_that_is_refused_takes_no_room_from_what_follows(world: World) -> None:
    two_queues(world, max_backlog=3)

    answers = world.push(*group(command("a", "b", "c"), command("d")), *command("e", "f", "g"))

    assert refused(answers) == ["whole", "whole", "whole", "jobs", "", "", ""]
    assert [one.backlog for one in answers[4:]] == [3, 3, 3]
    assert world.bodies() == ["e", "f", "g"]


def test_larger_than_the_bound_alone_is_stored_as_the_first_of_a_group_only(world: World) -> None:
    two_queues(world, max_backlog=2)

    assert refused(world.push(*group(command(*"abc"), command("x", queue="order")))) == [""] * 4
    world.bodies()
    assert refused(world.push(*group(command("a"), command(*"bcd")))) == ["whole", *["jobs"] * 3]


def test_duplicate_in_a_group_is_no_refusal(world: World) -> None:
    two_queues(world, max_backlog=2)
    first = world.ask("a", dedupe="7")

    answers = world.push(*group(command("c"), [asked("b", dedupe="7")], command("d", queue="order")))

    assert [(one.duplicate, one.refused) for one in answers] == [(False, ""), (True, ""), (False, "")]
    assert answers[1].id == first.id
    assert (world.bodies(), world.bodies(queue="order")) == (["a", "c"], ["d"])


def test_two_equal_keys_in_one_group_are_one_job(world: World) -> None:
    """Also where the second one would not have fitted."""
    two_queues(world, max_backlog=2)

    first, plain, second = world.push(*group([asked("a", dedupe="7")], command("p"), [asked("b", dedupe="7")]))

    assert [one.duplicate for one in (first, plain, second)] == [False, False, True]
    assert second.id == first.id
    assert world.bodies() == ["a", "p"]


def test_group_that_is_refused_leaves_no_key_and_answers_no_duplicate(world: World) -> None:
    two_queues(world, max_backlog=3)
    world.ask("there", dedupe="old")

    answers = world.push(*group(
        [asked("a", dedupe="new")], [asked("b", dedupe="old")], [asked("o", "order", dedupe="new")], command(*"cde")
    ), *command("f"), *command("p", queue="order"))

    assert refused(answers) == ["whole", "whole", "whole", "jobs", "jobs", "jobs", "", ""]
    assert not any(one.id or one.duplicate for one in answers[:6])
    assert not world.ask("again", dedupe="new").duplicate
    assert not world.push(asked("o", "order", dedupe="new"))[0].duplicate


def test_key_of_a_group_that_was_refused_is_free_in_the_same_call(world: World) -> None:
    two_queues(world, max_backlog=2)

    answers = world.push(*group([asked("a", dedupe="7")], command("b", "c")), asked("d", dedupe="7"))

    assert refused(answers) == ["whole", "jobs", "jobs", ""]
    assert not answers[3].duplicate
    assert world.bodies() == ["d"]


def test_delayed_pushes_of_a_group_that_was_refused_are_nowhere(world: World) -> None:
    two_queues(world, max_backlog=3)

    answers = world.push(
        *group([asked("a", delay_ms=LONG_MS)], [asked("b", "order", delay_ms=LONG_MS)], command(*"cde")),
        asked("f", delay_ms=LONG_MS), asked("g", "order", delay_ms=LONG_MS),
    )

    assert refused(answers) == ["whole", "whole", "jobs", "jobs", "jobs", "", ""]
    assert (world.where(), world.where(queue="order")) == ((0, 0, 1, 0), (0, 0, 1, 0))
    assert world.store.queue_numbers()["gift"].backlog_bytes == 1


def test_repeated_batch_answers_groups_again(world: World) -> None:
    two_queues(world, max_backlog=3)
    jobs = group(command("a"), command("b", queue="order"))
    jobs += group(command("c", "d", "e"), command("x", queue="order"))
    jobs += [*group(command("f", queue="order"), command("g", "h", "i")), *pushes("j")]
    first = list(world.store.append(ALICE, 1, jobs))
    world.bodies()
    world.reopen()

    assert list(world.store.append(ALICE, 1, jobs)) == first
    assert refused(first) == ["", "", *["jobs"] * 3, "whole", "whole", *["jobs"] * 3, ""]
    assert (world.bodies(), world.bodies(queue="order")) == ([], ["b"])


def test_bytes_that_were_taken_make_room_for_a_group(world: World) -> None:
    """What a group would store before does not count as taken, however far the topics have read."""
    two_queues(world, max_backlog_bytes=10)
    world.append(*["12345"] * 2)
    world.bodies()

    answers = world.push(*group(command("12345"), command("x", queue="order"), command("12345"), command("1")))

    assert refused(answers) == ["whole", "whole", "whole", "bytes"]
    assert refused(world.push(*group(command("12345"), command("12345")))) == ["", ""]


def test_jobs_of_a_group_have_their_bytes_counted_after_a_gap(world: World) -> None:
    two_queues(world, max_backlog=6)
    world.push(*command("1"), *group(command("22"), command(*"3333333")), *group(command("4444"), command("55555")))
    numbers = [world.store.queue_numbers()["gift"].backlog_bytes]
    for _ in range(3):
        world.claim()
        numbers.append(world.store.queue_numbers()["gift"].backlog_bytes)

    assert numbers == [10, 9, 5, 0]


class Groups:
    """Two processes that push groups into three queues of different bounds, some claiming, against the model."""

    BOUNDS = {"gift": {"max_backlog": 6}, "order": {"max_backlog_bytes": 30}, "mail": {}}

    def __init__(self, place: Place) -> None:
        self.world = World(place)
        specs = [gift("credit", name=name, **bounds) for name, bounds in self.BOUNDS.items()]
        self.drivers = [self.world.store, self.world.driver(*specs)]
        self.world.declare(*specs)
        self.queues = {name: Queue(**bounds, topics={"credit": Topic()}) for name, bounds in self.BOUNDS.items()}
        self.batches = itertools.count(1)
        self.numbers = itertools.count(1)

    def step(self, seed: int) -> None:
        self.chance = random.Random(seed)
        if self.chance.random() < 0.3:
            self.claim(self.chance.choice(list(self.queues)))
        else:
            self.push()

    def push(self) -> None:
        jobs = [job for _ in range(self.chance.randint(1, 4)) for job in self.unit()]
        owner, batch = self.chance.choice((ALICE, BOB)), next(self.batches)
        answers = list(self.chance.choice(self.drivers).append(owner, batch, jobs))
        if self.chance.random() < 0.3:
            assert list(self.chance.choice(self.drivers).append(owner, batch, jobs)) == answers
        push_all(self.queues, jobs, answers)

    def unit(self) -> list[Push]:
        commands = [self.command() for _ in range(self.chance.choice((1, 1, 2, 3, 5)))]
        return group(*commands) if len(commands) > 1 or self.chance.random() < 0.3 else commands[0]

    def command(self) -> list[Push]:
        queue, body = self.chance.choice(list(self.queues)), b"x" * self.chance.choice((0, 1, 3, 9))
        body += str(next(self.numbers)).encode()
        kind = self.chance.choice(("plain", "plain", "many", "dedupe", "delay"))
        if kind == "many":
            count = self.chance.randint(2, 4)
            return [Push(queue, body, span=0 if at else count) for at in range(count)]
        options = {"dedupe": PushOptions(dedupe=self.chance.choice("123456789")),
                   "delay": PushOptions(delay_ms=LONG_MS)}
        return [Push(queue, body, options=options.get(kind))]

    def claim(self, queue: str) -> None:
        topic, count = self.queues[queue].topics["credit"], self.chance.randint(1, 8)
        got = self.world.claim(count, queue=queue)
        topic.claimed(ALICE, count, False, got, lambda _: False)
        done = [settlement(one, Move.ACK) for one in got]
        assert self.world.store.settle(done) == [topic.settle(one) for one in done]

    def judge(self) -> None:
        numbers = self.world.store.queue_numbers()
        for name, queue in self.queues.items():
            assert (numbers[name].backlog, numbers[name].backlog_bytes, numbers[name].pushed_total) == (
                queue.backlog, queue.backlog_bytes, len(queue.pushed)), name


def test_random_groups_are_stored_as_the_model_says(place: Place) -> None:
    @hypothesis.settings(max_examples=figure(30, nightly=1000), deadline=None, print_blob=True, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(st.lists(st.integers(0, (1 << 64) - 1), min_size=3, max_size=12))
    def run(steps: list[int]) -> None:
        groups = Groups(place)
        try:
            for seed in steps:
                groups.step(seed)
                groups.judge()
        finally:
            groups.world.close()

    run()
