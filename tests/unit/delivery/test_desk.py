from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import gevent
import pytest

from pbus.clock import SystemClock
from pbus.core.brake import Ended, Mode
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Rules, Verdict
from pbus.delivery.desk import StoreDesk
from pbus.delivery.finished import Ears, Finished
from pbus.delivery.store_health import StoreHealth
from pbus.errors import Conflict
from pbus.storage.driver import Want
from tests.support.memory_store import AWAY, MemoryStore

OWNER = "n/b/1.1"
DONE = Outcome(verdict=Verdict.DONE)


@dataclass
class Told:
    """Stands in for Report: what was told, in order."""

    ended_: list[tuple[str, Move]] = field(default_factory=list)
    batches: int = 0
    waiting: list[int] = field(default_factory=list)

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        self.ended_.append((delivery.id, settlement.move))

    def done(self, finished: Finished, settlements: Sequence[Settlement]) -> None:
        moves = [settlement.move for settlement in settlements]
        self.ended_ += zip([each.id for each in finished.deliveries], moves, strict=True)

    def batch_over(self) -> None:
        self.batches += 1

    def unwritten(self, count: int, error: BaseException) -> None:
        self.waiting.append(count)


class Sparing:
    """A brake that lets one through at a time."""

    mode = Mode.BRAKED
    sparing = True
    spared_s = 1.0

    def __init__(self) -> None:
        self.ended_: list[Ended] = []

    def ended(self, ended: Ended, now_s: float) -> None:
        self.ended_.append(ended)

    def worked(self, count: int, now_s: float) -> None:
        """Nothing went well without its knowing."""


class Office:
    """A desk at work over a store in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.told = Told()
        self.fenced = 0
        self.problems: dict[str, str] = {}
        self.back: list[str] = []
        self.receipts: list[tuple[str, tuple[str, ...]]] = []
        self.desk = StoreDesk(
            self.store, {("gift", "credit"): Rules(), ("gift", "mail"): Rules()}, report=self.told,
            health=StoreHealth("main", self.problems.__setitem__), fenced=self._fence, clock=SystemClock(),
        )
        self.desk.connect(lambda: None, self.back.append)
        self.desk.receipts_for("gift", "credit", self._receipt)
        self.greenlet = gevent.spawn(self.desk.run)

    def _fence(self) -> None:
        self.fenced += 1

    def _receipt(self, owner: str, ids: Sequence[str]) -> None:
        self.receipts.append((owner, tuple(ids)))

    def claimed(self, *ids: str, topic: str = "credit") -> list[Delivery]:
        self.store.put(*ids, topic=topic)
        return self.store.claim([Want(OWNER, "gift", topic, 100)])

    def listen(self) -> tuple[list[Finished], list[Finished]]:
        """What is measured, and what is told of what was written."""
        measured: list[Finished] = []
        traced: list[Finished] = []
        self.desk._ears = Ears(measured.append, traced.append)
        return measured, traced

    def brake(self) -> Sparing:
        brake = Sparing()
        self.desk._judging._brakes = {("gift", "credit"): brake}  # type: ignore[dict-item]
        return brake

    def settles(self) -> int:
        return self.store.calls.count("settle")

    def wait_idle(self) -> None:
        with gevent.Timeout(5):
            while not self.desk.idle:
                gevent.sleep(0.001)


@pytest.fixture
def office() -> Iterator[Office]:
    made = Office()
    yield made
    made.greenlet.kill()


def test_what_is_finished_in_one_turn_is_one_call(office: Office) -> None:
    for each in office.claimed("1-0", "2-0", "3-0"):
        office.desk.finish(each, DONE)
    office.wait_idle()
    assert office.store.ended == [("1-0", Move.ACK), ("2-0", Move.ACK), ("3-0", Move.ACK)]
    assert office.settles() == 1
    assert office.told.batches == 1


def together(office: Office, *ids: str) -> Finished:
    jobs = office.claimed(*ids)
    return Finished(jobs, [0.5] * len(jobs), "pid 7", 12.0)


def test_what_ended_well_together_is_written_and_told_together(office: Office) -> None:
    measured, traced = office.listen()
    finished = together(office, "1-0", "2-0")
    office.desk.done(finished)
    assert measured == [finished]
    assert office.desk.pending(OWNER) == {("gift", "credit", "1-0"), ("gift", "credit", "2-0")}
    office.wait_idle()
    assert office.store.ended == [("1-0", Move.ACK), ("2-0", Move.ACK)]
    assert office.settles() == 1
    assert office.told.ended_ == [("1-0", Move.ACK), ("2-0", Move.ACK)]
    assert office.receipts == [(OWNER, ("1-0", "2-0"))]
    assert traced == [finished]


def test_what_ended_well_keeps_its_place_among_other_ends(office: Office) -> None:
    office.listen()
    first, second, third = together(office, "1-0"), office.claimed("2-0"), together(office, "3-0")
    office.desk.done(first)
    office.desk.finish(second[0], Outcome(verdict=Verdict.RELEASED))
    office.desk.done(third)
    office.wait_idle()
    assert office.store.ended == [("1-0", Move.ACK), ("2-0", Move.RELEASE), ("3-0", Move.ACK)]
    assert office.receipts == [(OWNER, ("1-0", "2-0", "3-0"))]


def test_another_end_among_what_ended_well_is_told_if_it_took_effect(office: Office) -> None:
    office.listen()
    first, second = together(office, "1-0", "2-0"), office.claimed("3-0")
    office.store.settle([Settlement(owner=OWNER, queue="gift", topic="credit", id="3-0", move=Move.ACK)])
    office.desk.done(first)
    office.desk.finish(second[0], Outcome(verdict=Verdict.RELEASED))
    office.wait_idle()
    assert office.told.ended_ == [("1-0", Move.ACK), ("2-0", Move.ACK)]


def test_of_what_ended_well_only_what_took_effect_is_told(office: Office) -> None:
    _, traced = office.listen()
    finished = together(office, "1-0", "2-0", "3-0")
    office.store.settle([Settlement(owner=OWNER, queue="gift", topic="credit", id="2-0", move=Move.ACK)])
    office.desk.done(finished)
    office.wait_idle()
    assert office.told.ended_ == [("1-0", Move.ACK), ("3-0", Move.ACK)]
    assert [each.id for each in traced[0].deliveries] == ["1-0", "3-0"]
    assert office.receipts == [(OWNER, ("1-0", "2-0", "3-0"))]


def test_where_a_brake_spares_it_hears_of_each(office: Office) -> None:
    measured, traced = office.listen()
    brake = office.brake()
    office.desk.done(together(office, "1-0", "2-0"))
    office.wait_idle()
    assert [each.id for each in brake.ended_] == ["1-0", "2-0"]
    assert len(measured) == 1
    assert traced == []
    assert office.told.ended_ == [("1-0", Move.ACK), ("2-0", Move.ACK)]


def test_without_ears_for_many_each_is_finished_by_itself(office: Office) -> None:
    office.desk.done(together(office, "1-0", "2-0"))
    office.wait_idle()
    assert office.told.ended_ == [("1-0", Move.ACK), ("2-0", Move.ACK)]


def test_the_receipt_comes_after_it_is_written_in_one_piece_per_owner(office: Office) -> None:
    jobs = office.claimed("1-0", "2-0")
    office.store.during_call = lambda: office.receipts and pytest.fail("a receipt before the write")
    for each in jobs:
        office.desk.finish(each, DONE)
    office.wait_idle()
    assert office.receipts == [(OWNER, ("1-0", "2-0"))]


def test_only_topics_that_asked_for_receipts_get_them(office: Office) -> None:
    for each in office.claimed("1-0", topic="mail"):
        office.desk.finish(each, DONE)
    office.wait_idle()
    assert office.receipts == []


def test_an_outcome_that_cannot_be_written_is_repeated_until_it_is(office: Office) -> None:
    (job,) = office.claimed("1-0")
    office.store.fail = AWAY
    office.desk.finish(job, DONE)
    gevent.sleep(0)
    assert office.settles() == 1
    assert not office.desk.idle
    assert office.desk.pending(OWNER) == {("gift", "credit", "1-0")}
    assert office.problems["storage main"]
    office.store.fail = None
    office.wait_idle()
    assert office.store.ended == [("1-0", Move.ACK)]
    assert office.problems["storage main"] == ""
    assert office.receipts == [(OWNER, ("1-0",))]


def test_a_settle_whose_reply_was_lost_is_told_once_as_ours(office: Office) -> None:
    (job,) = office.claimed("1-0")
    office.store.fail_after = AWAY
    office.desk.finish(job, DONE)
    office.wait_idle()
    assert office.settles() == 2
    assert office.told.ended_ == [("1-0", Move.ACK)]


def test_a_late_answer_changes_nothing_but_is_receipted(office: Office) -> None:
    (job,) = office.claimed("1-0")
    office.store.settle([Settlement(owner=OWNER, queue="gift", topic="credit", id="1-0", move=Move.RELEASE)])
    office.desk.finish(job, DONE)
    office.wait_idle()
    assert office.told.ended_ == []
    assert office.receipts == [(OWNER, ("1-0",))]


def test_what_comes_in_during_a_call_is_the_next_batch(office: Office) -> None:
    first, second = office.claimed("1-0", "2-0")
    office.store.during_call = lambda: office.settles() == 1 and office.desk.finish(second, DONE)
    office.desk.finish(first, DONE)
    office.wait_idle()
    assert office.settles() == 2
    assert office.store.ended == [("1-0", Move.ACK), ("2-0", Move.ACK)]


def test_a_release_stirs_the_claimer(office: Office) -> None:
    (job,) = office.claimed("1-0")
    office.desk.finish(job, Outcome(verdict=Verdict.RELEASED))
    office.wait_idle()
    assert office.back == ["gift"]


def test_a_fenced_boot_writes_nothing_more_and_says_so_once(office: Office) -> None:
    first, second = office.claimed("1-0", "2-0")
    office.store.fail = Conflict("fenced")
    office.desk.finish(first, DONE)
    office.wait_idle()
    office.desk.finish(second, DONE)
    office.wait_idle()
    assert office.fenced == 1
    assert office.settles() == 1
    assert office.receipts == []


def test_a_drivers_bug_loses_no_outcome(office: Office) -> None:
    (job,) = office.claimed("1-0")
    office.store.fail = TypeError("a bug")
    office.desk.finish(job, DONE)
    gevent.sleep(0)
    office.store.fail = None
    office.wait_idle()
    assert office.store.ended == [("1-0", Move.ACK)]


def test_a_failed_settle_is_unsure_until_it_is_written(office: Office) -> None:
    (job,) = office.claimed("1-0")
    woken: list[bool] = []
    office.desk.connect(lambda: woken.append(office.desk.is_unsure), office.back.append)
    office.store.fail_after = AWAY
    office.desk.finish(job, DONE)
    gevent.sleep(0)
    assert office.desk.is_unsure
    office.wait_idle()
    assert woken == [False]
