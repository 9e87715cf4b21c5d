"""
Random interleavings of everything a store can be asked, against a small model.

After every step the store's numbers, claims and dead letters are the model's; at the end everything
that is left is claimed and done: nothing lost, nothing that nobody pushed.
"""

from __future__ import annotations

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pbus.core.job import SETTLES, Move, Push, Settlement, State
from pbus.core.names import Owner
from pbus.errors import Conflict
from pbus.storage.driver import Want
from tests.conformance.storage.model import Topic, seen
from tests.conformance.storage.places import Place
from tests.conformance.storage.world import World, gift

PATHS = (("gift", "credit"), ("gift", "mail"), ("order", "ship"))
paths = st.sampled_from(PATHS)
processes = st.integers(0, 1)
moves = st.sampled_from(sorted(SETTLES))
flags = st.booleans()


class StoreMachine(RuleBasedStateMachine):
    """Two processes of two boots on one store that keeps as little as it may."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.place)
        self.numbers = itertools.count(1)
        self.batches = itertools.count(1)
        self.topics = {path: Topic() for path in PATHS}
        self.boots = ["b1", "b2"]
        self.settled: list[Settlement] = []
        self.world.store.close()
        self.world.store.open()
        # Retention of nothing: every trim drops what it may.
        brief = {"retention_s": 0.0, "retention_bytes": 0}
        self.world.declare(gift("credit", "mail", **brief), gift("ship", name="order", **brief))

    def owner(self, process: int) -> str:
        return str(Owner(f"n{process}", self.boots[process], process, 1))

    @rule(process=processes, queues=st.lists(st.sampled_from(["gift", "order"]), min_size=1, max_size=5), twice=flags)
    def push(self, process: int, queues: list[str], twice: bool) -> None:
        """Push one job for each of *queues*; *twice*: as after a lost reply."""
        jobs = [Push(queue, f"job {next(self.numbers)}".encode()) for queue in queues]
        batch = next(self.batches)
        answers = self.world.store.append(self.owner(process), batch, jobs)
        if twice:
            assert list(self.world.store.append(self.owner(process), batch, jobs)) == list(answers)
        for job, answer in zip(jobs, answers, strict=True):
            for (queue, _), topic in self.topics.items():
                if queue == job.queue:
                    topic.push(answer.id, job.body)
        for job, answer in zip(jobs, answers, strict=True):
            assert answer.backlog == self.backlog(job.queue) >= queues.count(job.queue)

    @rule(process=processes, path=paths, count=st.integers(1, 4), exclusive=flags)
    def claim(self, process: int, path: tuple[str, str], count: int, exclusive: bool) -> None:
        claimed = self.world.store.claim([Want(self.owner(process), *path, count, exclusive)])

        assert [seen(one) for one in claimed] == self.topics[path].claim(self.owner(process), count, exclusive)

    @rule(data=st.data(), path=paths, process=processes, move=moves, counts=flags, crash=flags, again=flags, now=flags)
    def settle(self, data: st.DataObject, path: tuple[str, str], process: int, move: Move, counts: bool,
               crash: bool, again: bool, now: bool) -> None:
        """Settle any job that was ever pushed, as whoever: most of the time that is not the owner."""
        known = list(self.topics[path].places)
        held = [place.id for place in self.topics[path].held(self.owner(process))]
        if not known:
            return
        job_id = data.draw(st.sampled_from(held or known) | st.sampled_from(known))
        self.apply(Settlement(owner=self.owner(process), queue=path[0], topic=path[1], id=job_id, move=move,
                              counts=counts, crash=crash, redelivered=again, delay_s=0.0 if now else 3600.0))

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_late_or_twice(self, data: st.DataObject) -> None:
        """Repeat any settle that was ever made, also of a boot that is gone."""
        late = data.draw(st.sampled_from(self.settled))
        if Owner.parse(late.owner).boot in self.boots:
            self.apply(late)
            return
        with pytest.raises(Conflict):
            self.world.store.settle([late])

    @rule(data=st.data(), process=processes)
    def settle_everything_held(self, data: st.DataObject, process: int) -> None:
        """One call over all topics."""
        owner = self.owner(process)
        held = [(path, place.id) for path, topic in self.topics.items() for place in topic.held(owner)]
        batch = [Settlement(owner=owner, queue=path[0], topic=path[1], id=job_id, move=data.draw(moves))
                 for path, job_id in held]
        assert self.world.store.settle(batch) == [self.topics[one.queue, one.topic].settle(one) for one in batch]

    @rule()
    def promote(self) -> None:
        moved = self.world.store.promote_due().moved

        assert moved == {path: count for path, topic in self.topics.items() if (count := topic.promote())}

    @rule(process=processes, crash=flags)
    def process_dies(self, process: int, crash: bool) -> None:
        """Its claims are given back. (Its name is used again: to the store it is just an owner.)"""
        owner = self.owner(process)
        claims = self.world.store.held(owner)
        back = [Settlement(owner=owner, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE,
                           crash=crash, redelivered=True) for one in claims]
        assert self.world.store.give_back(owner, back) == [True] * len(back)
        assert all(self.topics[one.queue, one.topic].settle(one) for one in back)

    @rule(process=processes)
    def boot_is_fenced(self, process: int) -> None:
        """Declared dead by somebody: refused everything, ended by give_back, born again under a new boot."""
        owner = self.owner(process)
        self.world.store.fence(self.boots[process])
        with pytest.raises(Conflict):
            self.world.store.claim([Want(owner, *PATHS[0], 1)])
        with pytest.raises(Conflict):
            self.world.store.append(owner, next(self.batches), [Push("gift", b"phantom")])
        self.process_dies(process, crash=False)
        self.boots[process] = f"life{next(self.numbers)}"

    @rule()
    def trim(self) -> None:
        self.world.store.trim()

    @rule()
    def checkpoint(self) -> None:
        self.world.store.checkpoint()

    @rule()
    def restart(self) -> None:
        self.world.reopen()

    @invariant()
    def every_delivery_is_where_the_model_has_it(self) -> None:
        for path, numbers in self.world.store.numbers().items():
            if path not in self.topics:
                continue
            topic = self.topics[path]
            assert (numbers.ready, numbers.running, numbers.delayed, numbers.dead) == (
                topic.count(State.READY) + topic.due, topic.count(State.RUNNING),
                topic.count(State.DELAYED) - topic.due, topic.count(State.DEAD),
            ), path
            assert (numbers.done_total, numbers.failed_total, numbers.dead_total, numbers.redelivered_total) == (
                topic.done, topic.failed, topic.dead, topic.redelivered,
            ), path

    @invariant()
    def every_claim_is_listed_under_its_owner(self) -> None:
        for process in (0, 1):
            owner = self.owner(process)
            listed = {(one.queue, one.topic, one.id, one.attempts, one.crashes) for one in self.world.store.held(owner)}
            assert listed == {(*path, place.id, place.attempts, place.crashes)
                              for path, topic in self.topics.items() for place in topic.held(owner)}

    def apply(self, settlement: Settlement) -> None:
        expected = self.topics[settlement.queue, settlement.topic].settle(settlement)
        assert self.world.store.settle([settlement]) == [expected]
        self.settled.append(settlement)

    def backlog(self, queue: str) -> int:
        return max(topic.unclaimed for (name, _), topic in self.topics.items() if name == queue)

    def teardown(self) -> None:
        try:
            for process in (0, 1):
                self.process_dies(process, crash=False)
            for path, topic in self.topics.items():
                self.promote()
                left = {place.id for place in topic.places.values() if place.state is State.READY}
                got = self.world.store.claim([Want(self.owner(0), *path, 10_000)])
                assert {one.id for one in got} == left
                assert all(one.body == topic.places[one.id].body for one in got)
                dead = {letter.id for letter in self.world.store.dead_letters(*path, limit=10_000)}
                assert dead == {place.id for place in topic.places.values() if place.state is State.DEAD}
        finally:
            self.world.close()


@pytest.mark.timeout(180)
def test_random_interleavings_lose_and_invent_nothing(place: Place) -> None:
    machine = type("StoreMachine", (StoreMachine,), {"place": place})
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=120, stateful_step_count=50, deadline=None, print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
