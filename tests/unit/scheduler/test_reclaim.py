"""Claims of the dead of this machine: who is dead, what became of each job, who gives it back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pbus.core.job import Move
from pbus.core.names import Owner
from pbus.core.outcome import Rules, Verdict
from pbus.core.retry import RetryPolicy
from pbus.scheduler.boots import Boots
from pbus.scheduler.reclaim import (
    CHUNK, IDLE_PASS_S, LOOK_S, PATIENCE_S, Dead, Reclaim, dead_owners, outcome_of, parsed, settlement_of,
)
from pbus.storage.driver import Held
from pbus.supervisor.handed import Handed
from pbus.supervisor.scoreboard import Scoreboard, Slot
from tests.unit.scheduler.store import OWN, Bench, SchedulerStore, prepared

HELD = Held("gift", "credit", "1000-1", 0, 0)
KILLED = -9


class Scene(Bench):
    """A scoreboard with living and dead children, a store that knows their claims, and the duty."""

    def __init__(self, many_nodes: bool = True) -> None:
        super().__init__()
        self.board = Scoreboard(16, self.clock)
        self.driver = SchedulerStore(many_nodes)
        self.forgotten: list[str] = []
        self.boots = Boots(["main"], self.forgotten.append)
        self._n = 0

    def child(self, role: str, link: int = 0) -> tuple[Owner, Slot]:
        """A living child."""
        slot = self.board.take()
        assert slot is not None
        self._n += 1
        slot.update(n=self._n, pid=1000 + self._n, role=role, state="ready", link=link)
        return Owner("bus-1", "own", slot.slot, self._n), slot

    def duty(self, killed: bool = False, hold: bool = False, handed: Handed | None = None) -> Reclaim:
        rules = {("gift", "credit"): Rules(retry=RetryPolicy(), crash_limit=2, hold=hold)}
        return Reclaim(
            prepared(self.driver), OWN, self.board, self.boots, rules, self.clock, self.log, lambda: 0.0, killed=killed,
            programs=["gift/credit"] if handed else [], handed=handed,
        )

    def run(self, duty: Reclaim, seconds: float) -> None:
        end = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end:
            self.clock.advance(duty.turn())

    def moves(self) -> list[tuple[str, Move, bool]]:
        return [(one.id, one.move, one.crash) for _, one in self.driver.given_back]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_claims_of_the_living_stay(scene: Scene) -> None:
    for role in ("delivery", "ingest", "consumer"):
        scene.driver.claimed_by(scene.child(role)[0], f"1000-{role}")
    scene.run(scene.duty(), 20)
    assert scene.driver.given_back == []


@pytest.mark.parametrize("role", ["delivery", "ingest"])
def test_claims_of_a_dead_child_go_back_uncounted_and_marked(scene: Scene, role: str) -> None:
    owner, slot = scene.child(role)
    scene.driver.claimed_by(owner, "1000-1", "1000-2")
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(), 1)
    assert scene.moves() == [("1000-1", Move.RELEASE, False), ("1000-2", Move.RELEASE, False)]
    assert all(one.redelivered and not one.counts for _, one in scene.driver.given_back)


def test_death_is_noticed_within_a_look_not_a_pass(scene: Scene) -> None:
    duty = scene.duty()
    owner, slot = scene.child("delivery")
    scene.run(duty, 60)
    scene.driver.claimed_by(owner, "1000-1")
    scene.board.bury(slot, KILLED)
    scene.run(duty, LOOK_S)
    assert len(scene.driver.given_back) == 1


def test_claim_that_reaches_the_store_after_the_death_of_its_owner_goes_back(scene: Scene) -> None:
    duty = scene.duty()
    owner, slot = scene.child("delivery")
    scene.board.bury(slot, KILLED)
    scene.run(duty, 1)
    scene.driver.claimed_by(owner, "1000-1")
    scene.run(duty, 1.5)
    assert len(scene.driver.given_back) == 1


def test_idle_scoreboard_costs_one_call_in_five_seconds(scene: Scene) -> None:
    duty = scene.duty()
    scene.run(duty, 10)
    scene.driver.calls.clear()
    scene.run(duty, 60)
    assert 60 / IDLE_PASS_S - 1 <= len(scene.driver.calls) <= 60 / IDLE_PASS_S + 1


def test_dead_consumer_is_left_to_its_living_delivery_child(scene: Scene) -> None:
    delivery, _ = scene.child("delivery")
    owner, slot = scene.child("consumer", link=delivery.n)
    scene.driver.claimed_by(owner, "1000-1")
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(), 10)
    assert scene.driver.given_back == []


def test_dead_consumer_is_not_left_to_it_for_ever(scene: Scene) -> None:
    delivery, _ = scene.child("delivery")
    owner, slot = scene.child("consumer", link=delivery.n)
    scene.driver.claimed_by(owner, "1000-1")
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(), PATIENCE_S + 2)
    assert len(scene.driver.given_back) == 1


def test_patience_with_a_delivery_child_begins_anew_after_the_store_was_away(scene: Scene) -> None:
    delivery, _ = scene.child("delivery")
    owner, slot = scene.child("consumer", link=delivery.n)
    scene.driver.claimed_by(owner, "1000-1")
    scene.board.bury(slot, KILLED)
    duty = scene.duty()
    scene.run(duty, PATIENCE_S - 2)
    duty.interrupted()
    scene.run(duty, PATIENCE_S - 2)
    assert scene.driver.given_back == []


def test_dead_consumer_of_a_dead_delivery_child_counts_a_crash_for_the_job_it_ran(scene: Scene) -> None:
    delivery, served_by = scene.child("delivery")
    owner, slot = scene.child("consumer", link=delivery.n)
    scene.driver.claimed_by(owner, "1000-1", "1000-2", "1000-3")
    slot.begin("1000-2")
    scene.board.bury(served_by, KILLED)
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(), 1)
    assert scene.moves() == [
        ("1000-1", Move.RELEASE, False), ("1000-2", Move.RETRY, True), ("1000-3", Move.RELEASE, False),
    ]


def test_job_that_kills_its_consumer_too_often_is_dead(scene: Scene) -> None:
    owner, slot = scene.child("consumer")
    scene.driver.claimed_by(owner, "1000-1")
    scene.driver.crashes = 1
    slot.begin("1000-1")
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(), 1)
    assert scene.moves() == [("1000-1", Move.BURY, True)]


def test_nobody_is_to_blame_when_pbus_killed_them(scene: Scene) -> None:
    owner, slot = scene.child("consumer")
    scene.driver.claimed_by(owner, "1000-1")
    slot.begin("1000-1")
    scene.board.bury(slot, KILLED)
    scene.duty(killed=True).look()
    assert scene.moves() == [("1000-1", Move.RELEASE, False)]


def test_owner_whose_slot_lives_on_with_another_is_dead(scene: Scene) -> None:
    owner, _ = scene.child("delivery")
    scene.driver.claimed_by(Owner("bus-1", "own", owner.slot, 999), "1000-1")
    scene.run(scene.duty(), 1)
    assert scene.moves() == [("1000-1", Move.RELEASE, False)]


def test_earlier_boot_goes_back_when_the_master_says_that_it_is_over(scene: Scene) -> None:
    scene.driver.claimed_by(Owner("bus-1", "old", 3, 7), "1000-1")
    duty = scene.duty()
    scene.boots.told(over=[], living=["old"])
    scene.run(duty, 20)
    assert scene.driver.given_back == []
    scene.boots.told(over=["old"], living=[])
    scene.run(duty, LOOK_S)
    assert scene.moves() == [("1000-1", Move.RELEASE, False)]
    assert (scene.driver.forgotten, scene.forgotten) == (["old"], ["old"])


def test_boot_of_another_node_is_not_this_duties_business(scene: Scene) -> None:
    scene.driver.claimed_by(Owner("bus-2", "theirs", 3, 7), "1000-1")
    scene.boots.told(over=[], living=[])
    scene.run(scene.duty(), 60)
    assert scene.driver.given_back == []


def test_store_of_one_node_has_no_other_nodes() -> None:
    scene = Scene(many_nodes=False)
    scene.driver.claimed_by(Owner("renamed", "unheard-of", 3, 7), "1000-1")
    duty = scene.duty()
    scene.run(duty, 10)
    assert scene.driver.given_back == []  # the master has not told yet who lives
    scene.boots.told(over=[], living=[])
    scene.run(duty, 1)
    assert len(scene.driver.given_back) == 1


def test_many_claims_go_back_in_portions(scene: Scene) -> None:
    owner, slot = scene.child("delivery")
    scene.driver.claimed_by(owner, *(f"1000-{number}" for number in range(CHUNK + 1)))
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(), LOOK_S)
    assert len(scene.driver.given_back) == CHUNK + 1
    assert scene.driver.calls.count("give_back") == 2


@pytest.mark.parametrize(("dead", "verdict"), [
    (Dead(OWN, "1000-1", -9), Verdict.CRASHED),
    (Dead(OWN, "1000-1", 3), Verdict.FAILED),
    (Dead(OWN, "1000-1", 0), Verdict.FAILED),
    (Dead(OWN, "1000-2", -9), Verdict.UNSURE),
    (Dead(OWN, "", -9), Verdict.UNSURE),
    (Dead(OWN, "1000-1", None), Verdict.UNSURE),
])
def test_outcome_tells_a_kill_from_an_exit_and_from_not_knowing(dead: Dead, verdict: Verdict) -> None:
    assert outcome_of(dead, HELD).verdict is verdict


def test_strange_owners_are_left_alone() -> None:
    assert parsed(["bus-1/own/0.1", "a", "a/b/c", "a/b/c.d", "a/b/1.2/3"]) == [OWN]


def test_dead_owners_needs_no_store(scene: Scene) -> None:
    living, _ = scene.child("ingest")
    gone, slot = scene.child("ingest")
    scene.board.bury(slot, 1)
    assert [dead.owner for dead in dead_owners([living, gone], "own", scene.board.rows(), ())] == [gone]


def test_boot_is_forgotten_when_every_storage_is_done() -> None:
    forgotten: list[str] = []
    boots = Boots(["main", "other"], forgotten.append)
    boots.told(over=["a", "b"], living=["c"])
    assert boots.known() == {"a", "b", "c"}
    boots.finish("a", "main")
    assert (boots.over("main"), boots.over("other"), forgotten) == ({"b"}, {"a", "b"}, [])
    boots.finish("a", "other")
    assert (boots.over("other"), forgotten) == ({"b"}, ["a"])


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_where_nothing_may_run_twice_only_what_a_consumer_had_not_begun_goes_back(
    scene: Scene, killed: bool, ended: bool
) -> None:
    owner, slot = scene.child("consumer")
    slot.begin("1000-1")
    if ended:
        slot.end(True)  # its result was lost with its delivery child
    scene.driver.claimed_by(owner, "1000-1", "1000-2")
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(killed, hold=True), 1)
    assert [(one.id, one.move, one.reason) for _, one in scene.driver.given_back] == [
        ("1000-1", Move.BURY, "unknown"), ("1000-2", Move.RELEASE, ""),
    ]


@pytest.mark.parametrize("role", ["delivery", "ingest"])
@pytest.mark.parametrize("killed", [False, True])
def test_where_nothing_may_run_twice_the_claims_of_the_dead_are_unknown(scene: Scene, role: str, killed: bool) -> None:
    owner, slot = scene.child(role)
    scene.driver.claimed_by(owner, "1000-1", "1000-2")
    scene.board.bury(slot, KILLED)
    scene.run(scene.duty(killed, hold=True), 1)
    assert [(one.id, one.move, one.reason) for _, one in scene.driver.given_back] == [
        ("1000-1", Move.BURY, "unknown"), ("1000-2", Move.BURY, "unknown"),
    ]


@pytest.mark.parametrize(
    ("killable", "key", "move", "delay_s"),
    [(False, "k", Move.RETRY, 60.0), (False, "", Move.RELEASE, 0.0), (True, "k", Move.RELEASE, 0.0)],
)
def test_key_of_what_may_still_run_rests_when_its_caller_is_dead(
    killable: bool, key: str, move: Move, delay_s: float
) -> None:
    """A php-fpm or HTTP handler runs on when the delivery child that called it was killed."""
    rules = Rules(timeout_s=60.0, killable=killable)
    settlement = settlement_of(Dead(OWN), Held("gift", "credit", "1000-1", 0, 0, 0, key), rules, 0, 0.0)
    assert (settlement.move, settlement.counts, settlement.redelivered) == (move, False, True)
    assert settlement.delay_s == delay_s


def test_attempts_that_were_given_back_are_not_counted_of_the_dead_either() -> None:
    dead = Dead(OWN, "1000-1", KILLED)
    rules = Rules(retry=RetryPolicy(attempts=3))
    assert settlement_of(dead, Held("gift", "credit", "1000-1", 5, 0, 4), rules, 0, 0.0).move is Move.RETRY
    assert settlement_of(dead, Held("gift", "credit", "1000-1", 5, 0, 0), rules, 0, 0.0).move is Move.BURY


@pytest.mark.parametrize("hold", [False, True])
def test_dead_process_of_a_program_crashed_with_what_its_program_was_handed(
    scene: Scene, tmp_path: Path, hold: bool
) -> None:
    handed = Handed(str(tmp_path))
    owner, slot = scene.child("consumer")
    slot.update(path="gift/credit")
    handed.give(owner, "1000-2", 1.0)
    scene.driver.claimed_by(owner, "1000-1", "1000-2")
    scene.board.bury(slot, KILLED)

    scene.run(scene.duty(hold=hold, handed=handed), 1)

    moves = {job_id: (move, crash) for job_id, move, crash in scene.moves()}
    unknown = Move.BURY if hold else Move.RELEASE      # it may have been handed over, and nobody lived to write it down
    assert moves == {"1000-1": (unknown, False), "1000-2": (Move.BURY if hold else Move.RETRY, True)}
    handed.close()


def test_stories_have_how_claims_of_the_dead_end(scene: Scene) -> None:
    duty, told = scene.duty(), []
    traces = SimpleNamespace(reclaimed=lambda attempt, one: told.append((attempt, one.id, one.move)))
    duty._store.traces = traces  # type: ignore[assignment]
    owner, slot = scene.child("ingest")
    scene.driver.claimed_by(owner, "1000-1")
    scene.board.bury(slot, KILLED)
    scene.run(duty, 1)
    assert told == [(1, "1000-1", Move.RELEASE)]
