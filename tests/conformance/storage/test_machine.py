"""
Random interleavings of everything a store can be asked, against a small model.

Two processes of two boots, each with its driver, push with all options, claim, settle, die and are fenced, while
people cancel, purge, revive, accept, forgive, pause and drop. After every step every delivery is in the
one place that the model has it in, and all that was ever pushed is accounted for; at the end everything
that is left is claimed and done: nothing lost, nothing that nobody pushed.

A step is one number, from which all its choices are made: hypothesis finds the shortest list of steps that
fails, and ``STEPS`` says how likely each kind of step is.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pbus.core.job import SETTLES, Move, Push, PushOptions, Settlement, State
from pbus.core.names import Owner
from pbus.errors import Conflict
from pbus.storage.driver import Driver, Want
from tests.conformance.storage.model import LONG_MS, PLAIN, Queue, Topic, in_order, push_all
from tests.conformance.storage.places import Place
from tests.conformance.storage.world import World, accounted, gift, group, pass_ms
from tests.support.nightly import figure

Path = tuple[str, str]
PATHS: tuple[Path, ...] = (("gift", "credit"), ("gift", "mail"), ("order", "ship"))
BOUNDS = {"gift": {"max_backlog_bytes": 150}, "order": {"max_backlog": 12}}
DEAD_MAX = 2
"""Of order/ship; the others keep all."""
SHORT_MS = 1
FINGERPRINTS = ("1" * 16, "2" * 16)
ENDS = (State.DONE, State.CANCELLED, State.EXPIRED)
SETTLING = (Move.ACK, Move.RETRY, Move.RETRY, Move.BURY, Move.BURY, Move.BURY, Move.RELEASE)

STEPS = {
    "push": 14, "claim": 20, "settle": 24, "settle_late_or_twice": 3, "settle_everything_held": 2, "promote": 8,
    "process_dies": 1, "boot_is_fenced": 1, "reassign": 2, "cancel": 4, "person": 10, "pause": 2, "resume": 5,
    "purge": 1, "drop_topic": 1, "keep_little": 1, "trim": 3, "checkpoint": 1, "restart": 2, "look_at_a_job": 3,
    "look_at_the_dead": 2, "look_who_holds": 3,
}
"""Kind of step -> how likely it is."""


class StoreMachine(RuleBasedStateMachine):
    """Two processes of two boots on one store."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(0)
        self.numbers = itertools.count(1)
        self.batches = itertools.count(1)
        self.queues = {name: Queue(**bounds) for name, bounds in BOUNDS.items()}
        self.boots = ["b1", "b2"]
        self.settled: list[Settlement] = []
        self.in_a_step = False
        self.retention: dict[str, Any] = {}
        self.world = World(self.place)
        self.world.store.drop_topic("gift", "credit")  # the world's own
        self.drivers: list[Driver] = [self.world.store, self.world.driver()]
        for path in PATHS:
            self.make(path, "now")
        self.drivers[1].declare(self.specs("now"))

    @rule(number=st.integers(0, (1 << 64) - 1))
    def step(self, number: int) -> None:
        """Do what *number* says."""
        self.chance = random.Random(number)
        (kind,) = self.chance.choices(list(STEPS), list(STEPS.values()))
        self.process = self.chance.randrange(2)
        self.path = self.chance.choice(PATHS)
        hypothesis.note(f"{kind} by process {self.process}, {'/'.join(self.path)}")
        self.in_a_step = True
        getattr(self, kind)()
        self.in_a_step = False

    def keep_little(self) -> None:
        """From now on every trim drops what it may (and no topic starts from history)."""
        self.retention = {"retention_s": 0.0, "retention_bytes": 0}
        self.drivers[0].declare(self.specs("now"))

    def specs(self, start: str) -> list[Any]:
        return [gift(*[topic for queue, topic in PATHS if queue == name], name=name, start=start, **self.retention,
                     dead_max=DEAD_MAX if name == "order" else 0, **BOUNDS[name]) for name in BOUNDS]

    def make(self, path: Path, start: str) -> None:
        """Declare everything anew: *path* is the topic that is missing."""
        self.drivers[0].declare(self.specs(start))
        queue, name = path
        topic = self.queues[queue].topics[name] = Topic(dead_max=DEAD_MAX if queue == "order" else 0)
        if start == "history":
            for job_id, (body, asked) in self.queues[queue].pushed.items():
                topic.push(job_id, body, asked, from_history=True)

    # -- who and what

    @property
    def driver(self) -> Driver:
        return self.drivers[self.process]

    @property
    def topic(self) -> Topic:
        return self.topic_of(self.path)

    @property
    def owner(self) -> str:
        return self.owner_of(self.process)

    def topic_of(self, path: Path) -> Topic:
        return self.queues[path[0]].topics[path[1]]

    def owner_of(self, process: int) -> str:
        return str(Owner(f"n{process}", self.boots[process], process, 1))

    def rarely(self, times: float = 0.2) -> bool:
        return self.chance.random() < times

    def an_id(self, likely: list[str]) -> str:
        """One of *likely*, now and then any job of the queue; empty: none was pushed."""
        known = list(self.queues[self.path[0]].pushed)
        return self.chance.choice(likely if likely and not self.rarely() else known) if known else ""

    def ids_in(self, *states: State) -> list[str]:
        return [place.id for place in self.topic.places.values() if place.state in states]

    # -- producers

    def push(self) -> None:
        """Push commands of one to three jobs, or groups of them, in a call; sometimes twice, as after a lost reply."""
        jobs = [job for _ in range(self.chance.randint(1, 3)) for job in self.unit()]
        batch = next(self.batches)
        answers = list(self.driver.append(self.owner, batch, jobs))
        if self.rarely():
            assert list(self.driver.append(self.owner, batch, jobs)) == answers
        push_all(self.queues, jobs, answers)
        if any(job.options and SHORT_MS in (job.options.ttl_ms, job.options.delay_ms) for job in jobs):
            pass_ms(SHORT_MS + 1)

    def unit(self) -> list[Push]:
        if self.rarely(0.7):
            return self.command(self.chance.choice(("", "", "", "credit", "mail", "ship")))
        return group(*[self.command() for _ in range(self.chance.randint(1, 4))])

    def command(self, only: str = "") -> list[Push]:
        queue = self.chance.choice(("gift", "order"))
        asked = PLAIN
        if self.rarely(0.6):
            asked = PushOptions(
                delay_ms=self.chance.choice((0, 0, 0, 0, SHORT_MS, SHORT_MS, LONG_MS)),
                ttl_ms=self.chance.choice((0, 0, 0, 0, 0, SHORT_MS, LONG_MS)),
                key=self.chance.choice(("", "k", "k", "k", "o")),
                dedupe=self.chance.choice(("", "", "", "", "", "", "d1", f"d{next(self.numbers)}")), only=only,
            )
        count = 1 if asked.dedupe else self.chance.randint(1, 3)
        return [Push(queue, f"job {next(self.numbers)}".encode(), options=None if asked is PLAIN else asked,
                     span=0 if at else count) for at in range(count)]

    # -- processes that run jobs

    def claim(self) -> None:
        count, exclusive = self.chance.randint(1, 6), self.rarely()
        got = self.driver.claim([Want(self.owner, *self.path, count, exclusive)])
        self.topic.claimed(self.owner, count, exclusive, got, self.has_ended)

    def settle(self) -> None:
        """Settle any job that was ever pushed, as whoever: now and then that is not the owner."""
        running = [path for path in PATHS if self.topic_of(path).count(State.RUNNING)]
        self.path = self.chance.choice(running) if running else self.path
        job_id = self.an_id([one.id for one in self.topic.held(self.owner)] or self.ids_in(State.RUNNING))
        if job_id:
            self.apply(self.settlement(self.path, job_id))

    def settlement(self, path: Path, job_id: str) -> Settlement:
        return Settlement(
            owner=self.owner, queue=path[0], topic=path[1], id=job_id, move=self.chance.choice(SETTLING),
            counts=self.rarely(0.7), crash=self.rarely(), redelivered=self.rarely(),
            delay_s=3600.0 if self.rarely() else 0.0, key_rest_s=3600.0 if self.rarely(0.1) else 0.0,
            reason="failed", error="no", fingerprint=self.chance.choice(FINGERPRINTS),
        )

    def settle_late_or_twice(self) -> None:
        """Repeat any settle that was ever made, also of a boot that is gone."""
        if not self.settled:
            return
        late = self.chance.choice(self.settled)
        if Owner.parse(late.owner).boot in self.boots:
            self.apply(late)
            return
        with pytest.raises(Conflict):
            self.driver.settle([late])

    def settle_everything_held(self) -> None:
        """One call over all topics."""
        batch = [self.settlement(path, place.id) for path in PATHS for place in self.topic_of(path).held(self.owner)]
        expected = [self.topic_of((one.queue, one.topic)).settle(one) for one in batch]
        assert self.driver.settle(batch) == expected
        self.follow_bounds()

    def promote(self) -> None:
        moved = self.driver.promote_due().moved

        expected = {path: self.topic_of(path).promote() for path in PATHS}
        assert {path: count for path, count in moved.items() if count} == {
            path: count for path, count in expected.items() if count}

    def process_dies(self) -> None:
        """Its claims are given back. (Its name is used again: to the store it is just an owner.)"""
        other, crash = self.drivers[1 - self.process], self.rarely(0.5)
        back = [Settlement(owner=self.owner, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE,
                           crash=crash, redelivered=True) for one in other.held(self.owner)]
        assert other.give_back(self.owner, back) == [True] * len(back)
        assert all(self.topic_of((one.queue, one.topic)).settle(one) for one in back)

    def reassign(self) -> None:
        """Some of what a process holds goes on under the other; among it what it does not hold."""
        heir = self.owner_of(1 - self.process)
        asked = [(*path, place.id) for path in PATHS for place in self.topic_of(path).held(self.owner)
                 if self.rarely(0.7)]
        asked += [(*self.path, one) for one in [self.an_id(self.ids_in(State.RUNNING))] if one and self.rarely(0.5)]
        expected = [self.topic_of(one[:2]).reassign(self.owner, heir, one[2]) for one in asked]
        assert self.driver.reassign(self.owner, heir, asked) == expected

    def boot_is_fenced(self) -> None:
        """Declared dead by somebody: refused everything, ended by give_back, born again under a new boot."""
        self.drivers[1 - self.process].fence(self.boots[self.process])
        with pytest.raises(Conflict):
            self.driver.claim([Want(self.owner, *PATHS[0], 1)])
        with pytest.raises(Conflict):
            self.driver.append(self.owner, next(self.batches), [Push("gift", b"phantom")])
        self.process_dies()
        self.boots[self.process] = f"life{next(self.numbers)}"

    # -- people and the brake

    def cancel(self) -> None:
        everywhere = self.rarely(0.3)
        job_id = self.an_id(self.ids_in(State.READY, State.DELAYED))
        if not job_id:
            return
        touched = list(self.queues[self.path[0]].topics.values()) if everywhere else [self.topic]
        answer = self.driver.cancel(self.path[0], "" if everywhere else self.path[1], [job_id])
        assert answer == [sum([topic.cancel(job_id) for topic in touched])]

    def person(self) -> None:
        """Somebody revives, accepts, forgets or forgives up to three deliveries, most of the time dead ones."""
        word = self.chance.choice(("revive", "revive", "accept", "forget_dead", "forgive", "forgive"))
        with_dead = [path for path in PATHS if self.topic_of(path).count(State.DEAD)]
        self.path = self.chance.choice(with_dead) if with_dead else self.path
        likely = self.ids_in(State.DEAD) or self.ids_in(State.DELAYED, State.READY)
        ids = [job_id for _ in range(self.chance.randint(1, 3)) if (job_id := self.an_id(likely))]
        act: Callable[[str], bool] = getattr(self.topic, word)

        assert getattr(self.driver, word)(*self.path, ids) == [act(job_id) for job_id in ids]

    def purge(self) -> None:
        total = 0
        while count := self.driver.purge(*self.path):
            total += count
        assert total == self.topic.purge()

    def pause(self) -> None:
        self.driver.pause(*self.path, paused=True)
        self.topic.paused = True

    def resume(self) -> None:
        paused = [path for path in PATHS if self.topic_of(path).paused]
        self.path = self.chance.choice(paused) if paused else self.path
        self.driver.pause(*self.path, paused=False)
        self.topic.paused = False

    def drop_topic(self) -> None:
        """Remove it and declare it again, which the other process learns of by the way."""
        assert self.driver.drop_topic(*self.path)
        self.make(self.path, "history" if not self.retention and self.rarely(0.7) else "now")

    # -- housekeeping, looking

    def trim(self) -> None:
        self.driver.trim()

    def checkpoint(self) -> None:
        self.driver.checkpoint()

    def restart(self) -> None:
        self.driver.close()
        self.driver.open()

    def look_at_a_job(self) -> None:
        name, _ = self.path
        queue, job_id = self.queues[name], self.an_id([])
        if not job_id:
            return
        record = self.driver.job(name, job_id)
        places = {topic: known.places[job_id] for topic, known in queue.topics.items() if job_id in known.places}
        if record is None:
            assert all(place.state in ENDS for place in places.values())
            return
        assert (record.body, record.key) == (queue.pushed[job_id][0], queue.pushed[job_id][1].key)
        for topic, place in places.items():
            shown = record.topics[topic]
            waits = place.state in (State.READY, State.DELAYED)
            assert shown.state == ("ended" if place.state in ENDS else place.state.value) or (
                waits and shown.state in ("ready", "delayed")), topic
            if place.state not in ENDS:
                assert (shown.attempts, shown.crashes, shown.redelivered, shown.owner, shown.fingerprint) == (
                    place.attempts, place.crashes, place.redelivered, place.owner,
                    place.fingerprint if place.state is State.DEAD else ""), topic

    def look_at_the_dead(self) -> None:
        dead = [place for place in self.topic.places.values() if place.state is State.DEAD]
        assert {one.id for one in self.driver.dead_letters(*self.path, limit=1000)} == {place.id for place in dead}
        groups = {one.fingerprint: (one.count, one.total) for one in self.driver.dead_groups(*self.path)}
        assert groups == {print_: (count, self.topic.groups[print_]) for print_ in FINGERPRINTS
                          if (count := sum(place.fingerprint == print_ for place in dead))}

    def look_who_holds(self) -> None:
        ids = [self.an_id([]) for _ in range(5)] + self.ids_in(State.RUNNING)[:3]
        places = self.topic.places
        assert self.driver.holders(*self.path, ids) == [places[one].owner if one in places else "" for one in ids]
        running = sorted([place for place in places.values() if place.owner], key=lambda place: in_order(place.id))
        limit = self.chance.choice((2, 1000))
        assert [(one.id, one.owner, one.attempts) for one in self.driver.running(*self.path, limit)] == [
            (place.id, place.owner, place.attempts) for place in running[:limit]]

    # -- what must be true after every step

    @invariant()
    def every_delivery_is_where_the_model_has_it(self) -> None:
        for path, numbers in self.world.store.numbers().items():
            topic = self.topic_of(path)
            ready = topic.count(State.READY) + topic.due
            kept_back, hidden = topic.doubtful
            assert ready - kept_back <= numbers.ready <= ready + hidden, path
            assert (numbers.ready + numbers.delayed, numbers.running, numbers.dead) == (
                topic.count(State.READY, State.DELAYED), topic.count(State.RUNNING), topic.count(State.DEAD)), path
            totals = {name: getattr(numbers, f"{name}_total") for name in (
                "done", "failed", "dead", "redelivered", "cancelled", "expired", "forgotten")}
            assert totals == {name: topic.totals[name] for name in totals}, path
            assert accounted(numbers) == len(topic.places) + topic.totals["forgotten"], path
            assert (numbers.paused_ms > 0) is topic.paused, path

    @invariant()
    def every_queue_holds_what_the_model_says(self) -> None:
        for name, numbers in self.world.store.queue_numbers().items():
            queue = self.queues[name]
            assert (numbers.backlog, numbers.backlog_bytes, numbers.pushed_total) == (
                queue.backlog, queue.backlog_bytes, len(queue.pushed)), name
            assert self.world.store.backlog(name) == queue.backlog

    @invariant()
    def every_claim_is_listed_under_its_owner(self) -> None:
        for owner in map(self.owner_of, (0, 1)):
            listed = [(one.queue, one.topic, one.id, one.attempts, one.crashes) for one in self.world.store.held(owner)]
            assert len(set(listed)) == len(listed)
            assert set(listed) == {(*path, place.id, place.attempts, place.crashes)
                                   for path in PATHS for place in self.topic_of(path).held(owner)}

    # -- how

    def apply(self, settlement: Settlement) -> None:
        expected = self.topic_of((settlement.queue, settlement.topic)).settle(settlement)
        assert self.driver.settle([settlement]) == [expected]
        self.settled.append(settlement)
        self.follow_bounds()

    def follow_bounds(self) -> None:
        """Which of several that died in one millisecond are the oldest is the store's to say; how many stay is not."""
        for path in PATHS:
            topic = self.topic_of(path)
            dead = [place.id for place in topic.places.values() if place.state is State.DEAD]
            if topic.dead_max and len(dead) > topic.dead_max:
                left = {one.id for one in self.world.store.dead_letters(*path)}
                assert len(left) == topic.dead_max
                for job_id in set(dead) - left:
                    topic.forget_dead(job_id)

    def has_ended(self, job_id: str) -> bool:
        record = self.driver.job(self.path[0], job_id)
        return record is None or record.topics[self.path[1]].state == "ended"

    def teardown(self) -> None:
        try:
            if not self.in_a_step:  # else it has failed already, and that is what should be told
                self.finish()
        finally:
            self.world.close()

    def finish(self) -> None:
        """Everything that may still be claimed is claimed and done, each job once, with its body."""
        for self.process in (0, 1):
            self.process_dies()
        for self.path in PATHS:
            self.resume()
        for self.path in PATHS:
            self.promote()
            left = {place.id for place in self.topic.places.values() if self.topic.may_run(place)}
            got = self.run_all()
            assert len(got) == len(set(got))
            assert set(got) == left
            self.look_at_the_dead()
        self.every_delivery_is_where_the_model_has_it()

    def run_all(self) -> list[str]:
        got: list[str] = []
        idle = 0
        while idle < 2:  # a key that an expired job held may come a call later
            claimed = self.driver.claim([Want(self.owner, *self.path, 1000)])
            self.topic.claimed(self.owner, 1000, False, claimed, self.has_ended)
            assert all(one.body == self.queues[self.path[0]].pushed[one.id][0] for one in claimed)
            got += [one.id for one in claimed]
            done = [Settlement(owner=one.owner, queue=one.queue, topic=one.topic, id=one.id, move=Move.ACK)
                    for one in claimed]
            assert self.driver.settle(done) == [self.topic.settle(one) for one in done] == [True] * len(done)
            idle = 0 if claimed else idle + 1
        return got


def test_every_kind_of_settle_is_tried() -> None:
    assert set(SETTLING) == SETTLES


@pytest.mark.timeout(900)
def test_random_interleavings_lose_and_invent_nothing(place: Place) -> None:
    machine = type("StoreMachine", (StoreMachine,), {"place": place})
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=figure(60, nightly=1500), stateful_step_count=80, deadline=None, print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
