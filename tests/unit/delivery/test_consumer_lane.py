from __future__ import annotations

from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.codec.frames import FrameReader
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.consumer_hand import Life
from pbus.delivery.consumer_lane import KILL_AGAIN_S, OVERRUN_S, STATUS_S, Attached, ConsumerLane
from pbus.delivery.finished import Finished
from tests.support.memory_store import delivery

OWNER = "n/b/5.9"
OTHER = "n/b/6.10"
TIMEOUT_S = 10.0


class FakeDesk:
    def __init__(self) -> None:
        self.finished: list[tuple[str, Verdict]] = []
        self.deliveries: list[Delivery] = []
        self.outcomes: list[Outcome] = []
        self.together: list[Finished] = []
        self.woken = 0

    def finish(self, each: Delivery, outcome: Outcome) -> None:
        self.finished.append((each.id, outcome.verdict))
        self.deliveries.append(each)
        self.outcomes.append(outcome)

    def done(self, finished: Finished) -> None:
        self.together.append(finished)
        for each, outcome in finished.each():
            self.finish(each, outcome)

    def wake(self) -> None:
        self.woken += 1


class FakeLink:
    """Keeps what was sent, decoded."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        self.finished = False
        self._reader = FrameReader()

    def finish(self) -> None:
        self.finished = True

    def send(self, data: bytes) -> None:
        self.sent += self._reader.feed(data)

    def close(self) -> None:
        self.closed = True

    def kinds(self) -> list[str]:
        return [frame["kind"] for frame in self.sent]

    def job_ids(self) -> list[str]:
        return [job[0] for frame in self.sent if frame["kind"] == "jobs" for job in frame["jobs"]]


class Stage:
    """A lane with everything around it in the test's hands."""

    def __init__(self, *, exclusive: bool = False, hold: bool = False, throttle: Any = None) -> None:
        self.desk = FakeDesk()
        self.clock = FakeClock()
        self.lives: dict[str, Life] = {}
        self.kills: list[str] = []
        self.compared: list[str] = []
        self.recalls: list[tuple[str, str]] = []
        self.troubles: list[tuple[str, ...]] = []
        self.lane = ConsumerLane(
            "gift", "credit", timeout_s=TIMEOUT_S, exclusive=exclusive, expected=2, desk=self.desk, link_n=3,
            look=lambda owner, pid: self.lives.get(owner, Life(alive=True, current="")),
            kill=self.kills.append, compare=self.compared.append, clock=self.clock,
            recall=lambda owner, behind: self.recalls.append((owner, behind)),
            trouble=lambda *told: self.troubles.append(told), hold=hold, throttle=throttle,
        )

    def attach(self, owner: str = OWNER, *, holds: Any = (), results: Any = ()) -> tuple[FakeLink, Attached]:
        link = FakeLink()
        frame = {"kind": "attach", "owner": owner, "pid": 77, "holds": list(holds), "results": list(results)}
        return link, self.lane.attach(link, frame)

    def give(self, *ids: str, owner: str = OWNER) -> None:
        self.lane.accept([delivery(job_id, owner=owner) for job_id in ids])

    def ticks(self, count: int = 2, apart_s: float = 0.2) -> None:
        for _ in range(count):
            self.clock.advance(apart_s)
            self.lane.tick()


def result(job_id: str, verdict: str = "done", run_s: float = 0.0001) -> dict[str, Any]:
    return {"kind": "result", "id": job_id, "verdict": verdict, "error": "", "delay": None, "run_s": run_s}


def done(*ids: str, run_s: float = 0.0001) -> dict[str, Any]:
    return {"kind": "done", "ended": [(job_id, run_s) for job_id in ids]}


def stuck(job_id: str, stack: str, place: str = "") -> dict[str, Any]:
    return {"kind": "stuck", "id": job_id, "place": place, "stack": stack}


def ticket(job_id: str, attempt: int = 1, crashes: int = 0) -> list[Any]:
    return [job_id, attempt, False, crashes, 0, 0]


@pytest.fixture
def stage() -> Stage:
    return Stage()


# -- feeding ------------------------------------------------------------------------------------


def test_a_lane_without_consumers_wants_nothing(stage: Stage) -> None:
    assert stage.lane.wants() == []
    assert (stage.lane.state, stage.lane.reason) == ("down", "no consumer process is attached")


def test_claims_are_wanted_in_the_consumers_own_name(stage: Stage) -> None:
    stage.attach(OWNER)
    stage.attach(OTHER)
    wants = {(want.owner, want.count, want.exclusive) for want in stage.lane.wants()}
    assert wants == {(OWNER, 1, False), (OTHER, 1, False)}
    assert stage.lane.state == "running"
    assert stage.lane.concurrency == 2


def test_the_first_turn_changes_between_consumers(stage: Stage) -> None:
    stage.attach(OWNER)
    stage.attach(OTHER)
    assert {stage.lane.wants()[0].owner for _ in range(2)} == {OWNER, OTHER}


def test_concurrency_one_claims_exclusively() -> None:
    stage = Stage(exclusive=True)
    stage.attach()
    assert stage.lane.wants()[0].exclusive


def test_the_next_frame_is_wanted_when_half_of_the_last_is_answered(stage: Stage) -> None:
    _, guest = stage.attach()
    for number in range(64):
        stage.give(f"{number}-0")
        guest.heard([result(f"{number}-0", run_s=0.0002)])
    assert [want.count for want in stage.lane.wants()] == [64]
    stage.give(*(f"{number}-1" for number in range(64)))
    guest.heard([result(f"{number}-1", run_s=0.0002) for number in range(31)])
    assert stage.lane.wants() == []
    woken = stage.desk.woken
    guest.heard([result("31-1")])
    assert stage.desk.woken == woken + 1
    assert [want.count for want in stage.lane.wants()] == [64]


def test_what_ended_well_goes_to_the_desk_together(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    guest.heard([done("1-0", "2-0", run_s=0.5)])
    (together,) = stage.desk.together
    assert [each.id for each in together.deliveries] == ["1-0", "2-0"]
    assert (together.runs_s, together.target, together.ended_s) == ([0.5, 0.5], "pid 77", stage.clock.wall_s())
    assert stage.lane.known(OWNER) == {"3-0"}


def test_the_pace_hears_of_what_ended_well_together(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    guest.heard([done("1-0", "2-0")])
    assert [want.count for want in stage.lane.wants()] == [3]


def test_what_ended_well_and_is_not_in_hand_is_receipted_at_once(stage: Stage) -> None:
    link, guest = stage.attach()
    stage.give("1-0")
    guest.heard([done("0-9", "1-0")])
    assert link.sent[-1] == {"kind": "settled", "ids": ["0-9"]}
    assert stage.desk.finished == [("1-0", Verdict.DONE)]


def test_a_brief_answer_comes_too_late_for_a_job_whose_time_is_over(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    stage.lives[OWNER] = Life(alive=True, current="1-0")
    stage.ticks(3, TIMEOUT_S)
    assert stage.kills
    guest.heard([done("1-0")])
    assert stage.desk.finished == []
    assert stage.lane.known(OWNER) == {"1-0", "2-0"}


def test_where_nothing_runs_twice_a_brief_answer_is_written_before_the_next_job() -> None:
    stage = Stage(hold=True)
    _, guest = stage.attach()
    stage.give("1-0")
    guest.heard([done("1-0")])
    assert stage.lane.wants() == []
    stage.lane.settled(OWNER, ["1-0"])
    assert [want.count for want in stage.lane.wants()] == [1]


def test_jobs_arrive_in_the_order_of_the_claim_with_all_a_handler_needs(stage: Stage) -> None:
    link, _ = stage.attach()
    first = delivery("1-0", owner=OWNER, attempt=2, redelivered=True, crashes=1, body=b"\xff")
    stage.lane.accept([first, delivery("2-0", owner=OWNER)])
    frame = link.sent[-1]
    assert frame["jobs"][0] == ["1-0", 2, True, b"\xff", "", "", 1, 0, 0]
    assert link.job_ids() == ["1-0", "2-0"]


def test_large_bodies_are_spread_over_frames(stage: Stage) -> None:
    link, _ = stage.attach()
    stage.lane.accept([delivery(f"{n}-0", owner=OWNER, body=b"x" * 600_000) for n in range(1, 4)])
    assert link.kinds().count("jobs") == 3
    assert link.job_ids() == ["1-0", "2-0", "3-0"]


def test_what_was_claimed_for_a_consumer_that_has_gone_goes_back(stage: Stage) -> None:
    _, guest = stage.attach()
    guest.gone()
    stage.give("1-0")
    assert stage.desk.finished == [("1-0", Verdict.RELEASED)]


# -- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("done", Verdict.DONE), ("failed", Verdict.FAILED), ("retry", Verdict.RETRY_ASKED),
        ("permanent", Verdict.PERMANENT), ("busy", Verdict.BUSY),
    ],
)
def test_a_result_becomes_the_outcome_it_names(stage: Stage, said: str, verdict: Verdict) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    guest.heard([result("1-0", said)])
    assert stage.desk.finished == [("1-0", verdict)]
    assert stage.lane.busy == 0


def test_a_result_for_nothing_in_hand_is_receipted_so_that_it_is_forgotten(stage: Stage) -> None:
    link, guest = stage.attach()
    guest.heard([result("9-0")])
    assert stage.desk.finished == []
    assert link.sent[-1] == {"kind": "settled", "ids": ["9-0"]}


def test_a_receipt_reaches_the_consumer_that_holds_the_result(stage: Stage) -> None:
    link, _ = stage.attach()
    stage.lane.settled(OWNER, ["1-0", "2-0"])
    assert link.sent[-1] == {"kind": "settled", "ids": ["1-0", "2-0"]}


def test_what_a_leaving_consumer_hands_back_is_released_and_it_gets_no_more(stage: Stage) -> None:
    link, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    guest.heard([result("1-0"), {"kind": "unstarted", "ids": ["2-0", "3-0", "8-0"], "leaving": True}])
    assert stage.desk.finished == [("1-0", Verdict.DONE), ("2-0", Verdict.RELEASED), ("3-0", Verdict.RELEASED)]
    assert link.sent[-1] == {"kind": "settled", "ids": ["8-0"]}
    assert stage.lane.wants() == []


# -- another child takes over ------------------------------------------------------------------------


def test_consumers_that_hold_nothing_are_let_go_and_missed_by_nobody(stage: Stage) -> None:
    link, guest = stage.attach()
    stage.lane.hand_on(lambda _: True)
    assert link.finished
    assert stage.lane.owners == []
    assert (stage.lane.state, stage.lane.wants()) == ("running", [])
    guest.gone()
    assert stage.desk.finished == []


def test_who_has_a_job_finishes_it_here_and_goes_when_all_of_it_is_written(stage: Stage) -> None:
    link, guest = stage.attach()
    stage.give("1-0")
    written = False
    stage.lane.hand_on(lambda _: written)
    assert not link.finished
    guest.heard([result("1-0")])
    stage.lane.hand_on(lambda _: written)
    assert not link.finished, "the store has not answered yet, or somebody still looks up what it holds"
    written = True
    stage.lane.hand_on(lambda _: written)
    assert link.finished
    assert stage.desk.finished == [("1-0", Verdict.DONE)]


def test_what_was_claimed_while_another_child_takes_over_goes_back(stage: Stage) -> None:
    link, _ = stage.attach()
    stage.lane.hand_on(lambda _: False)
    stage.give("1-0")
    assert stage.desk.finished == [("1-0", Verdict.RELEASED)]
    assert link.job_ids() == []


def test_results_that_were_repeated_are_written_before_their_consumer_goes(stage: Stage) -> None:
    link, _ = stage.attach(results=[[ticket("1-0"), result("1-0")]])
    stage.lane.hand_on(lambda _: True)
    assert not link.finished
    stage.lane.settled(OWNER, ["1-0"])
    stage.lane.hand_on(lambda _: True)
    assert link.finished


# -- death -----------------------------------------------------------------------------------------


def die(stage: Stage, guest: Attached, life: Life) -> None:
    stage.lives[OWNER] = life
    guest.gone()


def test_of_a_killed_consumer_the_begun_job_is_a_crash_and_the_rest_goes_back(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    guest.heard([result("1-0")])
    die(stage, guest, Life(alive=False, current="2-0", exit_status=-9))
    assert stage.desk.finished == [("1-0", Verdict.DONE), ("2-0", Verdict.CRASHED), ("3-0", Verdict.RELEASED)]
    assert stage.desk.outcomes[1].error == "consumer 77 died of SIGKILL"
    assert stage.compared[-1] == OWNER
    assert stage.lane.owners == []


def test_an_exit_with_a_status_is_an_ordinary_failure(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    die(stage, guest, Life(alive=False, current="1-0", exit_status=3))
    assert stage.desk.finished == [("1-0", Verdict.FAILED), ("2-0", Verdict.RELEASED)]
    assert stage.desk.outcomes[0].error == "consumer 77 exited with status 3 while holding the job"


def test_a_consumer_that_dies_between_two_jobs_has_crashed_on_none(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    guest.heard([result("1-0")])
    die(stage, guest, Life(alive=False, current="1-0", exit_status=-9))
    assert stage.desk.finished == [("1-0", Verdict.DONE), ("2-0", Verdict.RELEASED)]


def test_the_exit_status_is_waited_for_but_not_for_ever(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    die(stage, guest, Life(alive=False, current="1-0"))
    assert stage.desk.finished == []
    stage.ticks(1)
    assert stage.desk.finished == []
    stage.ticks(1, apart_s=STATUS_S)
    assert stage.desk.finished == [("1-0", Verdict.CRASHED)]


def test_when_nobody_knows_what_had_begun_the_first_one_may_have_run(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    die(stage, guest, Life(alive=False, current=None))
    assert stage.desk.finished == [("1-0", Verdict.UNSURE), ("2-0", Verdict.RELEASED)]


def test_a_lost_connection_alone_ends_nothing(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    die(stage, guest, Life(alive=True, current="1-0"))
    stage.ticks(3)
    assert stage.desk.finished == []
    assert stage.lane.known(OWNER) == {"1-0"}
    assert stage.lane.wants() == []


def test_of_a_consumer_that_worked_on_without_a_connection_what_it_may_have_run_is_told_so(stage: Stage) -> None:
    """Its results went nowhere: what came before the job that it had begun has run, what comes after has not."""
    _, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    die(stage, guest, Life(alive=True, current="1-0"))
    stage.ticks(2)
    die(stage, guest, Life(alive=False, current="2-0", exit_status=-9))
    stage.ticks(1)
    assert stage.desk.finished == [("1-0", Verdict.UNSURE), ("2-0", Verdict.CRASHED), ("3-0", Verdict.RELEASED)]


@pytest.mark.parametrize("current", ["", None, "0-0"])
def test_of_a_severed_consumer_between_two_jobs_everything_may_have_run(stage: Stage, current: str | None) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    die(stage, guest, Life(alive=True, current="1-0"))
    stage.ticks(2)
    stage.lives[OWNER] = Life(alive=False, current=current, exit_status=-9)
    stage.ticks(1)
    assert stage.desk.finished == [("1-0", Verdict.UNSURE), ("2-0", Verdict.UNSURE)]


# -- one job at a time -------------------------------------------------------------------------------


class Tokens:
    """Stands in for Throttle."""

    def __init__(self, room: int) -> None:
        self.left = room

    def room(self) -> int:
        return self.left

    def spend(self, count: int) -> None:
        self.left -= count


def warm(stage: Stage, guest: Attached, owner: str = OWNER) -> None:
    """Its frames are as large as they get."""
    for number in range(64):
        stage.give(f"{number}-0", owner=owner)
        guest.heard([result(f"{number}-0")])
        stage.lane.settled(owner, [f"{number}-0"])


def test_a_topic_that_holds_is_claimed_for_one_job_at_a_time() -> None:
    stage = Stage(hold=True)
    _, guest = stage.attach()
    warm(stage, guest)
    assert [want.count for want in stage.lane.wants()] == [1]
    stage.give("1-1")
    assert stage.lane.wants() == []
    guest.heard([result("1-1")])
    assert stage.lane.wants() == [], "the store does not have it yet"
    stage.lane.settled(OWNER, ["1-1"])
    assert [want.count for want in stage.lane.wants()] == [1]


def test_a_rate_decides_how_many_consumers_are_fed() -> None:
    tokens = Tokens(1)
    stage = Stage(throttle=tokens)
    for owner in (OWNER, OTHER):
        _, guest = stage.attach(owner)
        warm(stage, guest, owner)
    tokens.left = 1
    assert [want.count for want in stage.lane.wants()] == [1]
    stage.give("1-1")
    assert (tokens.left, stage.lane.wants()) == (0, [])
    tokens.left = 5
    assert [(want.owner, want.count) for want in stage.lane.wants()] == [(OTHER, 1)]


# -- coming back -------------------------------------------------------------------------------------


def test_a_consumer_of_a_dead_delivery_child_brings_its_claims_and_results(stage: Stage) -> None:
    link, guest = stage.attach(holds=[ticket("2-0", 4, 1), ticket("3-0")], results=[[ticket("1-0", 2), result("1-0")]])
    assert link.sent == [{"kind": "attached", "link": 3, "brief": True}]
    assert stage.desk.finished == [("1-0", Verdict.DONE)]
    assert (stage.desk.deliveries[0].attempt, stage.desk.deliveries[0].owner) == (2, OWNER)
    assert stage.lane.known(OWNER) == {"2-0", "3-0"}
    assert stage.compared == [OWNER]
    guest.heard([result("2-0", "failed")])
    assert stage.desk.deliveries[1].attempt == 4
    assert stage.desk.deliveries[1].crashes == 1


def test_what_a_returning_consumer_does_not_mention_never_began(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    stage.lives[OWNER] = Life(alive=True, current="1-0")
    guest.gone()
    _, again = stage.attach(holds=[ticket("2-0")], results=[[ticket("1-0"), result("1-0")]])
    assert stage.desk.finished == [("1-0", Verdict.DONE), ("3-0", Verdict.RELEASED)]
    again.heard([result("2-0")])
    assert stage.desk.finished[-1] == ("2-0", Verdict.DONE)


def test_the_old_connection_of_a_consumer_that_is_back_counts_no_more(stage: Stage) -> None:
    old, guest = stage.attach()
    stage.give("1-0")
    stage.attach(holds=[ticket("1-0")])
    assert old.closed
    guest.heard([result("1-0")])
    guest.gone()
    assert stage.desk.finished == []
    assert stage.lane.known(OWNER) == {"1-0"}
    assert stage.lane.concurrency == 1


# -- time ----------------------------------------------------------------------------------------------


def overdue(stage: Stage, current: str) -> None:
    stage.lives[OWNER] = Life(alive=True, current=current)
    stage.clock.advance(TIMEOUT_S)
    stage.ticks()


def test_a_job_beyond_the_timeout_has_its_consumer_killed_and_is_told_as_timeout(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    overdue(stage, "1-0")
    assert stage.kills == [OWNER]
    assert stage.desk.finished == []
    die(stage, guest, Life(alive=False, current="1-0", exit_status=-9))
    assert stage.desk.finished == [("1-0", Verdict.TIMEOUT), ("2-0", Verdict.RELEASED)]


def test_a_job_within_the_timeout_is_left_alone(stage: Stage) -> None:
    stage.attach()
    stage.give("1-0")
    stage.lives[OWNER] = Life(alive=True, current="1-0")
    stage.ticks(2, apart_s=TIMEOUT_S / 3)
    assert stage.kills == []


def test_the_timeout_is_of_each_job_not_of_its_frame(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    for job_id in ("1-0", "2-0", "3-0"):
        stage.lives[OWNER] = Life(alive=True, current=job_id)
        stage.ticks(4, apart_s=TIMEOUT_S / 5)
        guest.heard([result(job_id)])
    assert stage.kills == []


def test_a_job_that_has_not_begun_is_no_timeout(stage: Stage) -> None:
    stage.attach()
    stage.give("1-0")
    overdue(stage, "")
    assert stage.kills == []


def test_results_that_wait_unread_save_the_consumer(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    stage.lives[OWNER] = Life(alive=True, current="1-0")
    stage.clock.advance(TIMEOUT_S)
    stage.lane.tick()
    guest.heard([result("1-0")])
    stage.lane.tick()
    assert stage.kills == []


def test_the_kill_is_asked_again_until_the_process_is_gone(stage: Stage) -> None:
    stage.attach()
    stage.give("1-0")
    overdue(stage, "1-0")
    stage.ticks(2, apart_s=1.0)
    assert stage.kills == [OWNER] * 3


def test_an_answer_after_the_timeout_is_ignored_and_a_job_begun_after_it_is_not_blamed(stage: Stage) -> None:
    link, guest = stage.attach()
    stage.give("1-0", "2-0", "3-0")
    overdue(stage, "1-0")
    guest.heard([result("1-0")])
    assert stage.desk.finished == []
    assert "settled" not in link.kinds()
    die(stage, guest, Life(alive=False, current="2-0", exit_status=-9))
    assert stage.desk.finished == [("1-0", Verdict.TIMEOUT), ("2-0", Verdict.UNSURE), ("3-0", Verdict.RELEASED)]


def test_a_condemned_consumer_that_goes_on_is_condemned_again(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    overdue(stage, "1-0")
    guest.heard([result("1-0")])
    stage.lives[OWNER] = Life(alive=True, current="")
    stage.ticks(1, apart_s=KILL_AGAIN_S)
    assert stage.kills == [OWNER, OWNER]


@pytest.mark.parametrize("verdict", ["timeout", "crashed"])
def test_a_consumer_that_ended_its_program_itself_has_answered(stage: Stage, verdict: str) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    overdue(stage, "1-0")
    guest.heard([result("1-0", verdict)])
    stage.ticks(1, apart_s=KILL_AGAIN_S)
    assert stage.desk.finished == [("1-0", Verdict(verdict))]
    assert stage.kills == [OWNER]


def test_where_a_job_was_stuck_is_in_its_error_innermost_lines_last(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    overdue(stage, "1-0")
    guest.heard([stuck("9-0", "another"), stuck("1-0", "the stack", "credit (jobs.py:4)")])
    die(stage, guest, Life(alive=False, current="1-0", exit_status=-9))
    [outcome] = stage.desk.outcomes
    assert outcome.error == "no answer within 10 s, its consumer was killed in credit (jobs.py:4)\nthe stack"
    assert outcome.stderr == b""


def test_a_long_stack_is_cut_at_its_outer_end_and_kept_whole_for_the_topics_log(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    overdue(stage, "1-0")
    stack = "outer " + "x" * 4000 + " inner"
    guest.heard([stuck("1-0", stack)])
    die(stage, guest, Life(alive=False, current="1-0", exit_status=-9))
    [outcome] = stage.desk.outcomes
    assert outcome.error.endswith("x inner")
    assert len(outcome.error.encode()) <= 2048
    assert outcome.stderr == stack.encode()


# -- slow jobs ---------------------------------------------------------------------------------------


def test_what_waits_behind_a_slow_job_is_called_back(stage: Stage) -> None:
    stage.attach()
    stage.give("1-0", "2-0", "3-0")
    stage.ticks(1, apart_s=OVERRUN_S - 0.01)
    assert stage.recalls == []
    stage.ticks(1, apart_s=0.02)
    assert stage.recalls == [(OWNER, "1-0")]


def test_a_call_that_brought_nothing_back_is_repeated_after_a_while(stage: Stage) -> None:
    stage.attach()
    stage.give("1-0", "2-0")
    stage.ticks(6)
    assert len(stage.recalls) == 2


def test_what_was_called_back_is_released_and_its_consumer_gets_nothing_before_it_answers(stage: Stage) -> None:
    _, guest = stage.attach()
    for number in range(10):
        stage.give(f"{number}-0")
        guest.heard([result(f"{number}-0")])
    stage.desk.finished.clear()
    stage.give("21-0", "22-0", "23-0")
    stage.ticks(1, apart_s=OVERRUN_S * 2)
    guest.heard([{"kind": "unstarted", "ids": ["22-0", "23-0"], "leaving": False}])
    assert stage.desk.finished == [("22-0", Verdict.RELEASED), ("23-0", Verdict.RELEASED)]
    assert stage.lane.wants() == []
    guest.heard([result("21-0", run_s=0.5)])
    assert [want.owner for want in stage.lane.wants()] == [OWNER]


def test_a_consumer_that_keeps_up_is_left_alone(stage: Stage) -> None:
    _, guest = stage.attach()
    for number in range(20):
        stage.give(f"{number}-0", f"{number}-1")
        stage.clock.advance(0.05)
        guest.heard([result(f"{number}-0"), result(f"{number}-1")])
        stage.lane.tick()
    assert stage.recalls == []


def test_nothing_is_called_back_where_nobody_else_could_run_it() -> None:
    stage = Stage(exclusive=True)
    stage.attach()
    stage.give("1-0", "2-0")
    stage.ticks(10)
    assert stage.recalls == []


def test_what_a_handler_did_to_its_own_process_is_passed_on(stage: Stage) -> None:
    _, guest = stage.attach()
    guest.heard([{"kind": "trouble", "id": "1-0", "text": "closed"}])
    assert stage.troubles == [("gift", "credit", "1-0", "closed")]


def test_a_number_of_expected_consumers_that_changed_changes_the_state(stage: Stage) -> None:
    assert stage.lane.state == "down"
    stage.lane.expected = 0
    assert stage.lane.state == "running"


def test_the_timeout_holds_for_a_consumer_that_lost_its_connection(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0")
    guest.gone()
    overdue(stage, "1-0")
    assert stage.kills == [OWNER]


def test_the_age_of_a_job_that_was_brought_along_is_its_own(stage: Stage) -> None:
    stage.lives[OWNER] = Life(alive=True, current="1-0", current_s=TIMEOUT_S)
    stage.attach(holds=[ticket("1-0")])
    stage.ticks()
    assert stage.kills == [OWNER]


# -- the end ---------------------------------------------------------------------------------------------


def test_drain_asks_every_consumer_to_finish_and_wants_nothing(stage: Stage) -> None:
    link, _ = stage.attach()
    stage.lane.drain()
    assert link.kinds() == ["attached", "finish"]
    assert stage.lane.wants() == []


def test_a_consumer_that_comes_back_during_the_drain_is_heard_and_sent_away(stage: Stage) -> None:
    stage.lane.drain()
    link, _ = stage.attach(results=[[ticket("1-0"), result("1-0")]])
    assert stage.desk.finished == [("1-0", Verdict.DONE)]
    assert link.kinds() == ["attached", "finish"]


def test_what_runs_when_the_grace_is_over_goes_back_without_blame(stage: Stage) -> None:
    _, guest = stage.attach()
    stage.give("1-0", "2-0")
    stage.lane.drain()
    stage.lane.kill()
    assert stage.kills == [OWNER]
    die(stage, guest, Life(alive=False, current="1-0", exit_status=-9))
    assert stage.desk.finished == [("1-0", Verdict.UNSURE), ("2-0", Verdict.RELEASED)]


def test_nothing_is_claimed_for_a_consumer_whose_repeated_results_are_not_written(stage: Stage) -> None:
    """A claim of the same job in between would be ended by the old result, while it runs."""
    stage.attach(results=[[ticket("1-0"), result("1-0", "failed")]])
    assert stage.lane.wants() == []
    woken = stage.desk.woken
    stage.lane.settled(OWNER, ["1-0"])
    assert stage.desk.woken > woken
    assert [want.owner for want in stage.lane.wants()] == [OWNER]


def test_connection_of_a_dead_consumer_that_somebody_holds_open_is_hung_up(stage: Stage) -> None:
    dead, _ = stage.attach(OWNER)
    living, _ = stage.attach(OTHER)
    stage.lives[OWNER] = Life(alive=False, current="1-0", exit_status=-9)
    stage.lane.see_deaths()
    assert (dead.closed, living.closed) == (True, False)
