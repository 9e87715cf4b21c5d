"""Replays over real stores: each job once, whatever dies in between, and no more than the guard lets through."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog

from pbus.clock import FakeClock
from pbus.core.job import Move, Push
from pbus.core.replay import Replay
from pbus.core.statistics import Bucket
from pbus.core.trace import REPLAY, REPLAYED, Attempt, Shelf
from pbus.errors import Unavailable
from pbus.scheduler.replays import IDLE_S, KEEP_S, KIND, MOST, Replays
from pbus.scheduler.roster import Store
from pbus.storage.driver import Appended, Driver
from pbus.supervisor.histograms import Totals
from pbus.telemetry.metrics import BOUNDS
from tests.conformance.storage.world import World, gift, pushes, settlement

FOR_EVER_MS = 99_999_999_999_999
LOST_S = 15.0


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Mortal:
    """A driver whose process dies before or after one of its calls."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.dies: tuple[str, str, int] | None = None
        """When (before, after), at which method, at which call of it."""
        self._calls: collections.Counter[str] = collections.Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._driver, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self._calls[name] += 1
            is_now = self.dies is not None and self.dies[1:] == (name, self._calls[name])
            if is_now and self.dies and self.dies[0] == "before":
                raise Killed
            answer = method(*arguments, **named)
            if is_now:
                raise Killed
            return answer

        return call if callable(method) else method


class Told:
    """A writer of stories that remembers what was written."""

    def __init__(self) -> None:
        self.buffer = self
        self.written: list[Attempt] = []
        self._waiting: list[Attempt] = []

    def tell(self, queue: str, record: Attempt, shelf: Shelf, text_bytes: int) -> None:
        assert (queue, shelf) == ("gift", Shelf.KEPT)
        self._waiting.append(record)

    def write(self) -> None:
        self.written += self._waiting
        self._waiting = []

    def copies(self) -> dict[str, str]:
        """Which job each was run again as."""
        return {one.id: one.more["as"] for one in self.written if one.verdict == REPLAYED}

    def of(self) -> dict[str, str]:
        """Which job each is a replay of."""
        return {one.id: one.more["of"] for one in self.written if one.verdict == REPLAY}


class Bench:
    """A store with dead letters, and processes that replay."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = FakeClock()
        self.lives = 0
        self.told = Told()
        self.counted: dict[tuple[str, str], Totals] = {}
        self.driver = Mortal(world.store)
        self.duty = self.born()

    def born(self, node: str = "n1") -> Replays:
        """A scheduler child on the same store."""
        self.lives += 1
        self.driver = Mortal(self.world.store)
        store = Store("main", self.driver, ())  # type: ignore[arg-type] # it passes all on
        store.traces = self.told  # type: ignore[assignment] # what of a writer is used here
        owner, log = f"{node}/r{self.lives}/1.1", structlog.get_logger()
        return Replays(store, owner, lambda: self.counted, LOST_S, self.clock, log)

    def start(self, **values: Any) -> None:
        plan = {"source": "dead", "topics": ["gift/credit"], "until_ms": FOR_EVER_MS} | values
        assert self.world.store.write_document(KIND, "r1", Replay("r1", **plan).text(), 0)

    def replay(self) -> Replay:
        (document,) = self.world.store.documents(KIND)
        return Replay.read(document.text)

    def change(self, **values: Any) -> None:
        """As a person does it."""
        (document,) = self.world.store.documents(KIND)
        replay = Replay.read(document.text)
        for name, value in values.items():
            setattr(replay, name, value)
        assert self.world.store.write_document(KIND, "r1", replay.text(), document.version)

    def turns(self, count: int = 200) -> None:
        """So many turns, or until it does not run any more."""
        for _ in range(count):
            self.clock.advance(self.duty.turn())
            if self.replay().state != "running":
                self.duty.turn()
                return

    def copies(self) -> list[str]:
        """Of which jobs there are replays, in their order."""
        return [one.replay_of for one in self.world.store.jobs("gift", limit=1000) if one.replay_of]

    def work(self, move: Move = Move.ACK, count: int = 1000) -> int:
        """Run what is ready."""
        claimed = self.world.claim(count)
        how = {"counts": True, "reason": "failed", "redelivered": True} if move is not Move.ACK else {}
        assert all(self.world.store.settle([settlement(one, move, **how) for one in claimed]) or [True])
        return len(claimed)


@pytest.fixture
def bench(world: World) -> Bench:
    return Bench(world)


def test_dead_letters_are_replayed_once_and_are_dead_no_more(bench: Bench) -> None:
    ids = bench.world.buried("a", "b", "c")
    bench.start(total=3)
    bench.turns()

    assert bench.copies() == ids[::-1]
    assert bench.world.where() == (3, 0, 0, 0)
    copies = {one.replay_of: one.id for one in bench.world.store.jobs("gift", limit=1000) if one.replay_of}
    assert (bench.told.copies(), bench.told.of()) == (copies, {copy: old for old, copy in copies.items()})
    replay = bench.replay()
    assert (replay.state, replay.replayed, replay.settle) == ("done", 3, [])
    assert [(one.body, one.attempt, one.replay_of) for one in bench.world.claim(9)] == [
        (b"c", 1, ids[2]), (b"b", 1, ids[1]), (b"a", 1, ids[0])]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["append", "write_document", "accept"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_whoever_is_killed_replays_nothing_twice_and_forgets_nothing(
    bench: Bench, when: str, call: str, number: int
) -> None:
    ids = bench.world.buried(*[f"{number}" for number in range(25)])
    bench.start(total=25, rate=10.0)
    bench.driver.dies = (when, call, number)
    with pytest.raises(Killed):
        bench.turns()
    bench.duty = bench.born()
    bench.turns()

    assert collections.Counter(bench.copies()) == collections.Counter(ids)
    assert bench.world.where() == (25, 0, 0, 0)
    assert (bench.replay().state, bench.replay().replayed) == ("done", 25)
    assert bench.told.copies().keys() == set(ids), "nobody's story misses what he was run again as"


def test_another_process_goes_on_only_when_the_first_is_silent(bench: Bench) -> None:
    bench.world.buried(*["x"] * 30)
    bench.start(total=30, rate=1.0)
    bench.turns(3)
    first = bench.replay().owner
    second = bench.born("n2")
    for _ in range(5):
        second.turn()
        bench.clock.advance(LOST_S / 6)
    assert bench.replay().owner == first
    bench.clock.advance(LOST_S / 4)
    second.turn()

    assert bench.replay().owner == f"n2/r{bench.lives}/1.1"


def test_two_that_both_think_it_is_theirs_replay_each_job_once(bench: Bench) -> None:
    ids = bench.world.buried(*["x"] * 40)
    bench.start(total=40, rate=20.0)
    one, two = bench.duty, bench.born("n2")
    for _ in range(80):
        bench.clock.advance(0.1)
        bench.change(owner="")
        one.turn()
        bench.change(owner="")
        two.turn()

    assert collections.Counter(bench.copies()) == collections.Counter(ids)
    assert bench.world.where() == (40, 0, 0, 0)


def test_replays_that_ended_long_ago_or_before_many_others_are_forgotten(bench: Bench) -> None:
    now_ms = int(1000 * bench.clock.wall_s())
    for number in range(MOST + 5):
        replay = Replay(f"r{number:03}", "dead", ["gift/credit"], state="done", changed_ms=now_ms - 1000 + number)
        assert bench.world.store.write_document(KIND, replay.name, replay.text(), 0)
    waiting = Replay("waits", "dead", ["gift/credit"], state="paused")
    assert bench.world.store.write_document(KIND, waiting.name, waiting.text(), 0)
    bench.duty.turn()
    names = {document.name for document in bench.world.store.documents(KIND)}
    assert names == {"waits", *(f"r{number:03}" for number in range(5, MOST + 5))}

    bench.clock.advance(KEEP_S)
    for _ in range(MOST):
        bench.duty.turn()
    assert [document.name for document in bench.world.store.documents(KIND)] == ["waits"], "it has not ended"


def test_what_has_ended_costs_a_read_each_ten_seconds(bench: Bench) -> None:
    bench.start(state="done", made_ms=int(1000 * bench.clock.wall_s()))
    assert [bench.duty.turn() for _ in range(3)] == [IDLE_S] * 3
    bench.change(state="paused")
    assert bench.duty.turn() < IDLE_S / 2, "a person may let it go on"


def test_what_is_paused_waits_and_goes_on_where_it_was(bench: Bench) -> None:
    ids = bench.world.buried(*["x"] * 30)
    bench.start(total=30, rate=10.0)
    bench.turns(2)
    bench.change(state="paused")
    bench.turns(20)
    paused = len(bench.copies())
    bench.change(state="running")
    bench.turns()

    assert 0 < paused < 30
    assert collections.Counter(bench.copies()) == collections.Counter(ids)


def test_a_cancelled_one_leaves_the_rest_untouched(bench: Bench) -> None:
    bench.world.buried(*["x"] * 30)
    bench.start(total=30, rate=10.0)
    bench.turns(2)
    bench.change(state="cancelled")
    bench.turns(20)

    ready, _, _, dead = bench.world.where()
    assert (ready + dead, ready) == (30, len(bench.copies()))
    assert dead > 0


def test_a_pause_that_comes_during_a_batch_is_heard(bench: Bench) -> None:
    bench.world.buried(*["x"] * 10)
    bench.start(total=10, rate=5.0)
    bench.turns(1)
    append = bench.world.store.append

    class Meanwhile(Mortal):
        def append(self, owner: str, batch: int, jobs: Sequence[Push]) -> Sequence[Appended]:
            answer = append(owner, batch, jobs)
            bench.change(state="paused")
            return answer

    bench.duty._store.driver = Meanwhile(bench.world.store)  # type: ignore[assignment]
    bench.clock.advance(1.0)
    bench.duty.turn()

    replay = bench.replay()
    assert (replay.state, replay.replayed) == ("paused", len(bench.copies()))
    assert bench.world.where()[3] == 10 - replay.replayed


def test_rate_is_kept(bench: Bench) -> None:
    bench.world.buried(*["x"] * 100)
    bench.start(total=100, rate=20.0)
    begun_s = bench.clock.monotonic_s()
    bench.turns(500)

    assert 3.5 <= bench.clock.monotonic_s() - begun_s <= 7.0
    assert len(bench.copies()) == 100


def test_canary_goes_on_when_its_jobs_are_done(bench: Bench) -> None:
    bench.world.buried(*["x"] * 30)
    bench.start(total=30, canary="2,50%", guard="failed<10%")
    bench.turns(10)
    first = len(bench.copies())
    bench.work()
    bench.turns(10)
    second = len(bench.copies())
    bench.work()
    bench.turns(20)
    bench.work()
    bench.turns(20)

    assert (first, second, len(bench.copies())) == (2, 15, 30)
    assert (bench.replay().state, bench.replay().failed_total) == ("done", 0)


def test_guard_stops_it_and_leaves_the_rest_untouched(bench: Bench) -> None:
    bench.world.buried(*["x"] * 60)
    bench.start(total=60, canary="5,100%", guard="failed<20%")
    bench.turns(5)
    bench.work(Move.BURY)
    bench.turns(20)

    replay = bench.replay()
    assert (replay.state, replay.replayed) == ("tripped", 5)
    assert "5 of 5 failed (100 %); stopped after 5 of 60" in replay.reason
    assert bench.world.where() == (0, 0, 60, 0)[:2] + (0, 60)


@pytest.mark.parametrize("filter", ["$.uid = 1", "attempts > 0 and error ~ 'no'"])
def test_a_filter_forgets_none_at_any_rate(bench: Bench, filter: str) -> None:
    ids = bench.world.buried(*[f'{{"uid": {number % 3}}}' for number in range(40)], error="no")
    meant = [job for number, job in enumerate(ids) if number % 3 == 1 or not filter.startswith("$")]
    bench.start(total=len(meant), rate=3.0, filter=filter)
    bench.turns()

    assert bench.copies() == meant[::-1]
    assert bench.world.where()[3] == 40 - len(meant)


def test_history_goes_to_a_new_topic_alone_and_only_what_is_meant(bench: Bench) -> None:
    world = bench.world
    first, second, third = (one.id for one in world.append('{"uid": 1}', '{"uid": 2}', '{"uid": 1, "b": 2}'))
    bench.work()
    world.declare(gift("credit", "mail"))
    bench.start(total=2, source="history", topics=["gift/mail"], filter="$.uid = 1")
    bench.turns()

    assert bench.copies() == [first, third]
    assert (world.where("mail"), world.where("credit")) == ((2, 0, 0, 0), (0, 0, 0, 0))
    bench.change(state="running", at=0)
    bench.turns()
    assert len(bench.copies()) == 2, f"{second} is not meant, and nothing twice"


def test_a_full_queue_is_waited_for(bench: Bench) -> None:
    ids = bench.world.buried(*["x"] * 10)
    bench.world.declare(gift(max_backlog=4))
    bench.world.append("y")
    bench.start(total=10)
    bench.turns(10)
    waiting = bench.replay()
    for _ in range(10):
        bench.work()
        bench.turns(15)

    assert (waiting.state, waiting.replayed) == ("running", 3)
    assert "takes no more now (jobs)" in waiting.reason
    assert collections.Counter(bench.copies()) == collections.Counter(ids)


def test_a_topic_that_is_gone_stops_it_and_not_the_store(bench: Bench) -> None:
    bench.start(total=10, topics=["gift/none"])
    bench.turns(3)

    assert bench.replay().state == "tripped"
    assert "gift/none is not there any more" in bench.replay().reason


def test_a_store_that_is_away_is_told_of(bench: Bench) -> None:
    bench.start(total=10)

    class Away(Mortal):
        def __getattr__(self, name: str) -> Any:
            raise Unavailable("away")

    bench.duty._store.driver = Away(bench.world.store)  # type: ignore[assignment]
    with pytest.raises(Unavailable):
        bench.duty.turn()
    assert pushes("x")


def test_guard_compares_run_times_with_those_of_the_day_before(bench: Bench) -> None:
    bench.world.buried(*["x"] * 200)
    day_before = Bucket("gift", "credit", "n1", int(bench.clock.wall_s()) - 600, done=100, run={20: 95, 40: 5})
    bench.world.store.put_statistics(day_before.at_s, [day_before])
    places = [0] * (len(BOUNDS) + 1)
    nothing = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, tuple(places), tuple(places))
    now = {("gift", "credit"): nothing}
    bench.counted = now
    bench.start(total=200, rate=20.0, guard="p90<2x")
    bench.turns(20)
    assert bench.replay().state == "running"

    places[21] = 50
    now["gift", "credit"] = replace(nothing, run=tuple(places))
    bench.turns(10)
    assert (bench.replay().state, bench.replay().p90_s) == ("running", BOUNDS[20])

    places[26] = 10
    now["gift", "credit"] = replace(nothing, run=tuple(places))
    bench.turns(10)
    assert bench.replay().state == "tripped"
    assert f"p90 is {BOUNDS[26]:.3g} s, it was {BOUNDS[20]:.3g} s" in bench.replay().reason
