"""
Random interleavings of everything a store can be asked, against a small model.

Two processes of two boots, each with its driver, push with all options, claim, settle, die and are fenced, while
people cancel, purge, revive, accept, forgive, pause and drop. After every step every delivery is in the
one place that the model has it in, and all that was ever pushed is accounted for; at the end everything
that is left is claimed and done: nothing lost, nothing that nobody pushed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine as StateMachine
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from pbus.core.job import SETTLES, Move, Push, PushOptions, Settlement, State
from pbus.core.names import Owner
from pbus.errors import Conflict
from pbus.storage.driver import Driver, Want
from tests.conformance.storage.model import LONG_MS, PLAIN, Queue, Topic, in_order
from tests.conformance.storage.places import Place
from tests.conformance.storage.world import World, accounted, gift, pass_ms
from tests.support.nightly import figure

Path = tuple[str, str]
PATHS: tuple[Path, ...] = (("gift", "credit"), ("gift", "mail"), ("order", "ship"))
BOUNDS = {"gift": {"max_backlog_bytes": 150}, "order": {"max_backlog": 12}}
DEAD_MAX = {"ship": 3}
SHORT_MS = 1
FINGERPRINTS = ("1" * 16, "2" * 16)

paths = st.sampled_from((PATHS[0], *PATHS))
processes = st.integers(0, 1)
moves = st.sampled_from(sorted(SETTLES))
flags = st.booleans()
rarely = st.sampled_from((False, False, False, True))
options = st.just(PLAIN) | st.builds(
    PushOptions,
    delay_ms=st.sampled_from((0, 0, 0, 0, SHORT_MS, LONG_MS)),
    ttl_ms=st.sampled_from((0, 0, 0, 0, SHORT_MS, LONG_MS)),
    key=st.sampled_from(("", "k", "k", "k", "o")),
    dedupe=st.sampled_from(("", "", "", "", "", "d1", "d2")),
)
commands = st.tuples(st.sampled_from(("gift", "gift", "order")), st.integers(1, 3), options)

PUSH = {"process": processes, "asked": st.lists(commands, min_size=1, max_size=4), "twice": flags}
CLAIM = {"process": processes, "path": paths, "count": st.integers(1, 6), "exclusive": rarely}
SETTLE = {
    "data": st.data(), "path": paths, "process": processes, "move": moves, "counts": flags, "crash": flags,
    "again": flags, "now": flags, "rest": st.sampled_from((*[0.0] * 7, 3600.0)),
    "fingerprint": st.sampled_from(FINGERPRINTS),
}


class StoreMachine(StateMachine):
    """Two processes of two boots on one store."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.place)
        self.numbers = itertools.count(1)
        self.batches = itertools.count(1)
        self.queues = {name: Queue(**bounds) for name, bounds in BOUNDS.items()}
        self.boots = ["b1", "b2"]
        self.settled: list[Settlement] = []
        self.retention: dict[str, Any] = {}
        self.drivers: list[Driver] = []

    @initialize(brief=flags)
    def begin(self, brief: bool) -> None:
        """With *brief* retention every trim drops what it may; without, a topic may start from history."""
        self.world.store.drop_topic("gift", "credit")  # the world's own
        self.retention = {"retention_s": 0.0, "retention_bytes": 0} if brief else {}
        self.drivers = [self.world.store, self.world.driver()]
        for path in PATHS:
            self.make(path, "now")
        self.drivers[1].declare(self.specs("now"))

    def specs(self, start: str) -> list[Any]:
        return [gift(*[topic for queue, topic in PATHS if queue == name], name=name, start=start, **self.retention,
                     dead_max=DEAD_MAX.get("ship", 0) if name == "order" else 0, **BOUNDS[name]) for name in BOUNDS]

    def make(self, path: Path, start: str) -> None:
        """Declare everything anew: *path* is the topic that is missing."""
        self.drivers[0].declare(self.specs(start))
        queue, name = path
        topic = self.queues[queue].topics[name] = Topic(dead_max=DEAD_MAX.get(name, 0))
        if start == "history":
            for job_id, (body, asked) in self.queues[queue].pushed.items():
                topic.push(job_id, body, asked, from_history=True)

    def owner(self, process: int) -> str:
        return str(Owner(f"n{process}", self.boots[process], process, 1))

    def topic(self, path: Path) -> Topic:
        return self.queues[path[0]].topics[path[1]]

    # -- producers

    @rule(**PUSH)
    def push(self, process: int, asked: list[tuple[str, int, PushOptions]], twice: bool) -> None:
        """Push commands of one to three jobs in one call; *twice*: as after a lost reply."""
        jobs = [job for one in asked for job in self.command(*one)]
        batch = next(self.batches)
        answers = list(self.drivers[process].append(self.owner(process), batch, jobs))
        if twice:
            assert list(self.drivers[process].append(self.owner(process), batch, jobs)) == answers
        at = 0
        while at < len(jobs):
            span = jobs[at].span
            self.judge_command(jobs[at : at + span], answers[at : at + span])
            at += span
        for job, answer in zip(jobs, answers, strict=True):
            if answer.id and not answer.duplicate:
                assert answer.backlog == self.queues[job.queue].backlog
                assert answer.topics == len(self.queues[job.queue].topics)
        if any(job.options and (job.options.ttl_ms == SHORT_MS or job.options.delay_ms == SHORT_MS) for job in jobs):
            pass_ms(SHORT_MS + 1)

    @rule(**PUSH)
    def push_more(self, **how: Any) -> None:
        """All the rest needs something that was pushed: twice as likely as others."""
        self.push(**how)

    def command(self, queue: str, count: int, asked: PushOptions) -> list[Push]:
        count = 1 if asked.dedupe else count
        return [Push(queue, f"job {next(self.numbers)}".encode(), options=None if asked is PLAIN else asked,
                     span=0 if at else count) for at in range(count)]

    def judge_command(self, jobs: list[Push], answers: list[Any]) -> None:
        queue = self.queues[jobs[0].queue]
        dedupe = jobs[0].options.dedupe if jobs[0].options else ""
        if dedupe in queue.dedupe:
            (answer,) = answers
            assert (answer.id, answer.duplicate, answer.refused) == (queue.dedupe[dedupe], True, "")
            return
        refused = queue.refusal([job.body for job in jobs])
        assert [(one.refused, one.duplicate) for one in answers] == [(refused, False)] * len(jobs)
        if refused:
            assert not any(one.id for one in answers)
            return
        for job, answer in zip(jobs, answers, strict=True):
            assert in_order(answer.id) > max(map(in_order, queue.pushed), default=(0, 0)), "ids go up"
            queue.push(answer.id, job.body, job.options or PLAIN)

    # -- processes that run jobs

    @rule(**CLAIM)
    def claim(self, process: int, path: Path, count: int, exclusive: bool) -> None:
        owner = self.owner(process)
        got = self.drivers[process].claim([Want(owner, *path, count, exclusive)])
        self.topic(path).claimed(owner, count, exclusive, got, lambda job_id: self.has_ended(path, job_id))

    @rule(**CLAIM)
    def claim_more(self, **how: Any) -> None:
        self.claim(**how)

    @rule(**SETTLE)
    def settle(self, data: st.DataObject, path: Path, process: int, move: Move, counts: bool, crash: bool,
               again: bool, now: bool, rest: float, fingerprint: str) -> None:
        """Settle any job that was ever pushed, as whoever: most of the time that is not the owner."""
        job_id = self.draw_id(data, path, [one.id for one in self.topic(path).held(self.owner(process))])
        if job_id:
            self.apply(process, Settlement(
                owner=self.owner(process), queue=path[0], topic=path[1], id=job_id, move=move, counts=counts,
                crash=crash, redelivered=again, delay_s=0.0 if now else 3600.0, reason="failed", error="no",
                key_rest_s=rest, fingerprint=fingerprint))

    @rule(**SETTLE)
    def settle_more(self, **how: Any) -> None:
        self.settle(**how)

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), process=processes)
    def settle_late_or_twice(self, data: st.DataObject, process: int) -> None:
        """Repeat any settle that was ever made, also of a boot that is gone."""
        late = data.draw(st.sampled_from(self.settled))
        if Owner.parse(late.owner).boot in self.boots:
            self.apply(process, late)
            return
        with pytest.raises(Conflict):
            self.drivers[process].settle([late])

    @rule(data=st.data(), process=processes)
    def settle_everything_held(self, data: st.DataObject, process: int) -> None:
        """One call over all topics."""
        owner = self.owner(process)
        batch = [Settlement(owner=owner, queue=path[0], topic=path[1], id=place.id, move=data.draw(moves),
                            fingerprint=FINGERPRINTS[0]) for path in PATHS for place in self.topic(path).held(owner)]
        assert self.drivers[process].settle(batch) == [self.topic((one.queue, one.topic)).settle(one) for one in batch]
        self.follow_bounds()

    @rule(process=processes)
    def promote(self, process: int) -> None:
        moved = self.drivers[process].promote_due().moved

        expected = {path: self.topic(path).promote() for path in PATHS}
        assert {path: count for path, count in moved.items() if count} == {
            path: count for path, count in expected.items() if count}

    @rule(process=processes, crash=flags, fenced=st.sampled_from((False, False, True)))
    def process_ends(self, process: int, crash: bool, fenced: bool) -> None:
        if fenced:
            self.boot_is_fenced(process)
        else:
            self.process_dies(process, crash)

    def process_dies(self, process: int, crash: bool) -> None:
        """Its claims are given back. (Its name is used again: to the store it is just an owner.)"""
        owner = self.owner(process)
        claims = self.drivers[1 - process].held(owner)
        back = [Settlement(owner=owner, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE,
                           crash=crash, redelivered=True) for one in claims]
        assert self.drivers[1 - process].give_back(owner, back) == [True] * len(back)
        assert all(self.topic((one.queue, one.topic)).settle(one) for one in back)

    def boot_is_fenced(self, process: int) -> None:
        """Declared dead by somebody: refused everything, ended by give_back, born again under a new boot."""
        owner = self.owner(process)
        self.drivers[1 - process].fence(self.boots[process])
        with pytest.raises(Conflict):
            self.drivers[process].claim([Want(owner, *PATHS[0], 1)])
        with pytest.raises(Conflict):
            self.drivers[process].append(owner, next(self.batches), [Push("gift", b"phantom")])
        self.process_dies(process, crash=False)
        self.boots[process] = f"life{next(self.numbers)}"

    # -- people and the brake

    @rule(data=st.data(), process=processes, path=paths, everywhere=flags)
    def cancel(self, data: st.DataObject, process: int, path: Path, everywhere: bool) -> None:
        job_id = self.draw_id(data, path, [one.id for one in self.topic(path).untaken])
        if not job_id:
            return
        touched = list(self.queues[path[0]].topics.values()) if everywhere else [self.topic(path)]
        answer = self.drivers[process].cancel(path[0], "" if everywhere else path[1], [job_id])
        assert answer == [sum([topic.cancel(job_id) for topic in touched])]

    @rule(data=st.data(), process=processes, path=paths, word=st.sampled_from(
        ("revive", "accept", "forget_dead", "forgive", "forgive")))
    def person(self, data: st.DataObject, process: int, path: Path, word: str) -> None:
        """Somebody does *word* to up to three deliveries, most of the time to dead ones."""
        dead = [one.id for one in self.topic(path).places.values() if one.state is State.DEAD]
        ids = [job_id for _ in range(data.draw(st.integers(1, 3))) if (job_id := self.draw_id(data, path, dead))]
        act: Callable[[str], bool] = getattr(self.topic(path), word)

        assert getattr(self.drivers[process], word)(*path, ids) == [act(job_id) for job_id in ids]

    @rule(process=processes, path=paths, what=st.sampled_from(
        ("pause", "resume", "resume", "resume", "purge", "drop", "drop for history")))
    def operator(self, process: int, path: Path, what: str) -> None:
        """Somebody does something to a whole topic."""
        if what in ("pause", "resume"):
            self.pause(process, path, what == "pause")
        elif what == "purge":
            self.purge(process, path)
        else:  # and the other process learns of it by the way
            assert self.drivers[process].drop_topic(*path)
            self.make(path, "history" if what == "drop for history" and not self.retention else "now")

    def purge(self, process: int, path: Path) -> None:
        total = 0
        while count := self.drivers[process].purge(*path):
            total += count
        assert total == self.topic(path).purge()

    def pause(self, process: int, path: Path, paused: bool) -> None:
        self.drivers[process].pause(*path, paused)
        self.topic(path).paused = paused

    # -- housekeeping

    @rule(process=processes, what=st.sampled_from(("trim", "trim", "checkpoint", "restart")))
    def housekeeping(self, process: int, what: str) -> None:
        driver = self.drivers[process]
        if what == "restart":
            driver.close()
            driver.open()
        else:
            getattr(driver, what)()

    # -- what must be true after every step

    @invariant()
    def every_delivery_is_where_the_model_has_it(self) -> None:
        for path, numbers in self.world.store.numbers().items():
            topic = self.topic(path)
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
        for process in (0, 1) if self.drivers else ():
            owner = self.owner(process)
            listed = [(one.queue, one.topic, one.id, one.attempts, one.crashes) for one in self.world.store.held(owner)]
            assert len(set(listed)) == len(listed)
            assert set(listed) == {(*path, place.id, place.attempts, place.crashes)
                                   for path in PATHS for place in self.topic(path).held(owner)}

    @precondition(lambda self: any(queue.pushed for queue in self.queues.values()))
    @rule(data=st.data())
    def look_at_a_job(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, queue in self.queues.items() if queue.pushed]))
        queue = self.queues[name]
        job_id = data.draw(st.sampled_from(list(queue.pushed)))
        record = self.world.store.job(name, job_id)
        places = {topic: known.places[job_id] for topic, known in queue.topics.items() if job_id in known.places}
        ends = {State.DONE, State.CANCELLED, State.EXPIRED}
        if record is None:
            assert all(place.state in ends for place in places.values())
            return
        assert (record.body, record.key) == (queue.pushed[job_id][0], queue.pushed[job_id][1].key)
        for topic, place in places.items():
            shown = record.topics[topic]
            waits = place.state in (State.READY, State.DELAYED)
            assert shown.state == ("ended" if place.state in ends else place.state.value) or (
                waits and shown.state in ("ready", "delayed")), topic
            if place.state not in ends:
                assert (shown.attempts, shown.crashes, shown.redelivered, shown.owner, shown.fingerprint) == (
                    place.attempts, place.crashes, place.redelivered, place.owner,
                    place.fingerprint if place.state is State.DEAD else ""), topic

    @rule(path=paths)
    def look_at_the_dead(self, path: Path) -> None:
        topic = self.topic(path)
        dead = [place for place in topic.places.values() if place.state is State.DEAD]
        assert {one.id for one in self.world.store.dead_letters(*path, limit=1000)} == {place.id for place in dead}
        groups = {one.fingerprint: (one.count, one.total) for one in self.world.store.dead_groups(*path)}
        assert groups == {print_: (count, topic.groups[print_]) for print_ in FINGERPRINTS
                          if (count := sum(place.fingerprint == print_ for place in dead))}

    # -- how

    def apply(self, process: int, settlement: Settlement) -> None:
        expected = self.topic((settlement.queue, settlement.topic)).settle(settlement)
        assert self.drivers[process].settle([settlement]) == [expected]
        self.settled.append(settlement)
        self.follow_bounds()

    def follow_bounds(self) -> None:
        """Which of several that died in one millisecond are the oldest is the store's to say; how many stay is not."""
        for path in PATHS:
            topic = self.topic(path)
            dead = [place.id for place in topic.places.values() if place.state is State.DEAD]
            if topic.dead_max and len(dead) > topic.dead_max:
                left = {one.id for one in self.world.store.dead_letters(*path)}
                assert len(left) == topic.dead_max
                for job_id in set(dead) - left:
                    topic.forget_dead(job_id)

    def has_ended(self, path: Path, job_id: str) -> bool:
        record = self.world.store.job(path[0], job_id)
        return record is None or record.topics[path[1]].state == "ended"

    def draw_id(self, data: st.DataObject, path: Path, likely: list[str]) -> str:
        """One of *likely*, or any job of the queue; empty: none was pushed."""
        known = list(self.queues[path[0]].pushed)
        return data.draw(st.sampled_from(likely or known) | st.sampled_from(known)) if known else ""

    def teardown(self) -> None:
        try:
            if self.drivers:
                self.finish()
        finally:
            self.world.close()

    def finish(self) -> None:
        """Everything that may still be claimed is claimed and done, each job once, with its body."""
        for process in (0, 1):
            self.process_dies(process, crash=False)
        for path in PATHS:
            def ended(job_id: str, path: Path = path) -> bool:
                return self.has_ended(path, job_id)

            self.pause(0, path, paused=False)
            topic = self.topic(path)
            self.promote(0)
            left = {place.id for place in topic.places.values()
                    if place.state is State.READY and not place.late and place.key not in topic.resting
                    and topic.places.get(topic.holds.get(place.key, ""), place).state is State.READY}
            got: list[str] = []
            idle = 0
            while idle < 2:  # a key that an expired job held may come a call later
                claimed = self.world.store.claim([Want(self.owner(0), *path, 1000)])
                topic.claimed(self.owner(0), 1000, False, claimed, ended)
                assert all(one.body == self.queues[path[0]].pushed[one.id][0] for one in claimed)
                got += [one.id for one in claimed]
                done = [Settlement(owner=one.owner, queue=one.queue, topic=one.topic, id=one.id, move=Move.ACK)
                        for one in claimed]
                assert self.world.store.settle(done) == [topic.settle(one) for one in done] == [True] * len(done)
                idle = 0 if claimed else idle + 1
            assert len(got) == len(set(got))
            assert set(got) == left
            self.look_at_the_dead(path)
        self.every_delivery_is_where_the_model_has_it()


@pytest.mark.timeout(900)
def test_random_interleavings_lose_and_invent_nothing(place: Place) -> None:
    machine = type("StoreMachine", (StoreMachine,), {"place": place})
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=figure(100, nightly=1500), stateful_step_count=60, deadline=None, print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
