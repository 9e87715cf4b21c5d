"""New code is taken in with care: every step of a roll-out, as a table of what is and what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.supervisor import rollout as rules
from pbus.supervisor.rollout import CANARY, FAILED, NONE, ROLLING, Member, Renew, Retire, Rollout

NOW = 1000.0
OLD = [Member(n=1, code=0, ready_s=0.0, done=100), Member(n=2, code=0, ready_s=0.0, done=100)]
NEW = Member(n=3, code=1)
BEGUN = Rollout(stage=CANARY, code=1, since_s=NOW, extra=1)
WATCHED = replace(BEGUN, canary=3, others_done=200)
ROLLS = Rollout(stage=ROLLING, code=1, since_s=NOW)


def ready(member: Member = NEW, ago_s: float = 1.0, **changes: object) -> Member:
    return replace(member, ready_s=NOW - ago_s, **changes)  # type: ignore[arg-type]


def stage(rollout: Rollout, members: list[Member], now: float = NOW, wanted: int = 2) -> str:
    return rules.decide(rollout, members, wanted, now)[0].stage


# -- beginning ------------------------------------------------------------------------------------


def test_change_asks_for_one_process_above_the_plan() -> None:
    begun, steps = rules.begin(Rollout(), OLD, ["jobs.py"], NOW, alone=False)
    assert (begun.stage, begun.code, begun.extra, begun.files, steps) == (CANARY, 1, 1, ("jobs.py",), [])


def test_first_newborn_is_the_canary_and_later_ones_are_not() -> None:
    assert rules.born(BEGUN, 3, alone=False).canary == 3
    assert rules.born(WATCHED, 4, alone=False).canary == 3
    assert rules.born(ROLLS, 4, alone=False).canary == 0


def test_change_where_nobody_lives_is_no_rollout() -> None:
    begun, steps = rules.begin(Rollout(), [], ["jobs.py"], NOW, alone=False)
    assert (begun.stage, begun.code, begun.extra, steps) == (NONE, 1, 0, [])


def test_change_under_way_begins_again_and_the_unproven_canary_goes() -> None:
    begun, steps = rules.begin(WATCHED, [*OLD, ready()], ["jobs.py"], NOW, alone=False)
    assert (begun.stage, begun.code, begun.canary, steps) == (CANARY, 2, 0, [Retire(3)])


def test_change_while_others_roll_begins_again_and_keeps_everybody() -> None:
    begun, steps = rules.begin(ROLLS, [OLD[0], ready()], ["jobs.py"], NOW, alone=False)
    assert (begun.stage, begun.code, steps) == (CANARY, 2, [])


def test_failed_rollout_begins_again_with_the_next_change() -> None:
    begun, _ = rules.begin(replace(BEGUN, stage=FAILED, reason="x"), OLD, ["jobs.py"], NOW, alone=False)
    assert (begun.stage, begun.code, begun.reason) == (CANARY, 2, "")


def test_code_that_is_put_back_ends_a_rollout_and_its_failure() -> None:
    assert rules.withdraw(replace(BEGUN, stage=FAILED), OLD, NOW, alone=False) == (Rollout(code=1), [])
    assert rules.withdraw(WATCHED, [*OLD, ready()], NOW, alone=False) == (Rollout(code=1), [Retire(3)])


def test_code_that_is_put_back_when_some_have_it_already_is_another_change() -> None:
    begun, _ = rules.withdraw(ROLLS, [OLD[0], ready()], NOW, alone=False)
    assert (begun.stage, begun.code) == (CANARY, 2)
    alone, _ = rules.withdraw(ROLLS, [OLD[0], ready()], NOW, alone=True)
    assert (alone.stage, alone.code, alone.extra) == (ROLLING, 2, 0)


# -- the canary -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("canary", "expected"), [
    (NEW, CANARY),
    (ready(), CANARY),
    (ready(done=4), CANARY),
    (ready(done=5), ROLLING),
    (ready(done=1, failed=4), ROLLING),
    (ready(ago_s=29.9), CANARY),
    (ready(ago_s=30.0), ROLLING),
    (ready(done=2, leaving=True), ROLLING),
], ids=["starts", "is ready", "four jobs", "five jobs", "one of five is done", "29.9 s", "30 s", "replaces itself"])
def test_canary_is_good_after_five_jobs_or_thirty_seconds(canary: Member, expected: str) -> None:
    assert stage(WATCHED, [*OLD, canary]) == expected


def test_canary_whose_jobs_all_fail_while_the_others_do_theirs_is_bad() -> None:
    after, steps = rules.decide(WATCHED, [replace(OLD[0], done=101), OLD[1], ready(failed=5)], 2, NOW)
    assert (after.stage, after.extra, steps) == (FAILED, 0, [Retire(3)])
    assert "the first 5 jobs that it ran all failed" in after.reason


def test_canary_whose_jobs_fail_like_those_of_everybody_is_not_to_blame() -> None:
    assert stage(WATCHED, [*OLD, ready(failed=5)]) == ROLLING


@pytest.mark.parametrize(("members", "steps"), [([*OLD, NEW], [Retire(3)]), (OLD, [])], ids=["hangs", "is not born"])
def test_canary_that_never_gets_ready_is_given_up_after_a_minute(members: list[Member], steps: list[Retire]) -> None:
    before = rules.decide(WATCHED, members, 2, NOW + 59.9)
    after = rules.decide(WATCHED, members, 2, NOW + 60.0)
    assert before == (WATCHED, [])
    assert (after[0].stage, after[1]) == (FAILED, steps)
    assert "not ready within 60 s" in after[0].reason


def test_canary_that_dies_is_bad_and_its_end_is_the_reason() -> None:
    failed = rules.died(WATCHED, ready(), "exit status 1", NOW)
    assert (failed.stage, failed.reason, failed.extra) == (FAILED, "exit status 1", 0)


def test_canary_that_has_replaced_itself_before_anybody_looked_has_done_its_work() -> None:
    assert rules.left(WATCHED, 3, NOW) == replace(ROLLS, others_done=200)
    assert rules.left(WATCHED, 1, NOW) == WATCHED


def test_old_one_that_dies_meanwhile_changes_nothing() -> None:
    assert rules.died(WATCHED, OLD[0], "killed by SIGKILL", NOW) == WATCHED


# -- the others -----------------------------------------------------------------------------------


def test_old_one_goes_when_there_is_a_new_one_for_it_the_idle_first() -> None:
    after, steps = rules.decide(ROLLS, [replace(OLD[0], idle=False), OLD[1], ready()], 2, NOW)
    assert steps == [Retire(2)]
    assert after.extra == 0


def test_next_new_one_is_asked_for_when_the_last_old_one_has_gone() -> None:
    leaving = replace(OLD[1], leaving=True)
    assert rules.decide(ROLLS, [OLD[0], leaving, ready()], 2, NOW)[0].extra == 0
    assert rules.decide(ROLLS, [OLD[0], ready()], 2, NOW) == (replace(ROLLS, extra=1), [])


def test_nobody_goes_before_the_new_one_is_ready() -> None:
    starting = Member(n=4, code=1)
    assert rules.decide(replace(ROLLS, extra=1), [OLD[0], ready(), starting], 2, NOW)[1] == []


def test_old_one_may_finish_its_job_however_long_that_takes() -> None:
    leaving = replace(OLD[1], leaving=True, idle=False)
    after, steps = rules.decide(ROLLS, [OLD[0], leaving, ready()], 2, NOW + 3600)
    assert (after.stage, steps) == (ROLLING, [])


def test_next_one_that_never_gets_ready_ends_it_and_what_has_rolled_stays() -> None:
    starting = Member(n=4, code=1)
    after, steps = rules.decide(replace(ROLLS, extra=1), [OLD[0], ready(), starting], 2, NOW + 60)
    assert (after.stage, steps) == (FAILED, [Retire(4)])


def test_young_one_that_dies_ends_it_and_one_that_has_lived_does_not() -> None:
    assert rules.died(ROLLS, ready(ago_s=0.5), "exit status 1", NOW).stage == FAILED
    assert rules.died(ROLLS, ready(ago_s=5.0), "killed by SIGKILL", NOW).stage == ROLLING


def test_it_is_over_when_nobody_has_old_code() -> None:
    assert stage(ROLLS, [ready(), ready(Member(n=4, code=1))]) == NONE
    assert stage(ROLLS, [ready(), replace(OLD[0], leaving=True)]) == ROLLING
    assert stage(ROLLS, [], wanted=0) == NONE


# -- programs -------------------------------------------------------------------------------------


def test_what_must_be_alone_has_no_canary_and_goes_one_at_a_time() -> None:
    begun, _ = rules.begin(Rollout(), OLD, [], NOW, alone=True)
    assert (begun.stage, begun.extra) == (ROLLING, 0)
    assert rules.decide(begun, OLD, 2, NOW, alone=True)[1] == [Renew(1)]
    leaving = [replace(OLD[0], leaving=True), OLD[1]]
    assert rules.decide(begun, leaving, 2, NOW, alone=True)[1] == []
    assert rules.decide(begun, [OLD[1]], 2, NOW, alone=True)[1] == []
    assert rules.decide(begun, [OLD[1], ready(ago_s=0.5)], 2, NOW, alone=True)[1] == []
    assert rules.decide(begun, [OLD[1], ready(ago_s=1.0)], 2, NOW, alone=True)[1] == [Renew(2)]


# -- all of it ------------------------------------------------------------------------------------


class World:
    """Processes that do what they are told, in steps of a second; *good* says whether new code works."""

    def __init__(self, wanted: int, good: bool, alone: bool) -> None:
        self.wanted, self.good, self.alone = wanted, good, alone
        self.members = [Member(n=n, code=0, ready_s=0.0) for n in range(1, wanted + 1)]
        self.rollout, self.now, self.least, self.most = Rollout(), NOW, wanted, wanted
        self.born = wanted

    def begin(self) -> None:
        self._take(rules.begin(self.rollout, self.members, [], self.now, alone=self.alone))

    def second(self) -> None:
        self.now += 1.0
        self.members = [self._older(member) for member in self.members if not member.leaving]
        if not self.good:
            for member in [member for member in self.members if member.code == self.rollout.code]:
                self.members.remove(member)
                self.rollout = rules.died(self.rollout, member, "exit status 1", self.now)
        self._take(rules.decide(self.rollout, self.members, self.wanted, self.now, alone=self.alone))
        staying = [member for member in self.members if not member.leaving]
        for _ in range(self.wanted + self.rollout.extra - len(staying)):
            self.born += 1
            self.rollout = rules.born(self.rollout, self.born, alone=self.alone)
            self.members.append(Member(n=self.born, code=self.rollout.code))
        working = [member for member in self.members if member.ready_s is not None and not member.leaving]
        self.least, self.most = min(self.least, len(working)), max(self.most, len(self.members))

    def _older(self, member: Member) -> Member:
        if member.ready_s is None:
            return replace(member, ready_s=self.now)
        return replace(member, done=member.done + 3)

    def _take(self, decided: rules.Decided) -> None:
        self.rollout, steps = decided
        going = {step.n for step in steps}
        self.members = [
            replace(member, leaving=True) if member.n in going else member for member in self.members
        ]


@given(st.integers(1, 12), st.booleans())
@settings(max_examples=60)
def test_good_code_replaces_everybody_and_never_fewer_work(wanted: int, again: bool) -> None:
    world = World(wanted, good=True, alone=False)
    world.begin()
    for second in range(200):
        if again and second == 7:
            world.begin()
        world.second()
    assert world.rollout.stage == NONE
    assert [member.code for member in world.members] == [world.rollout.code] * wanted
    assert world.least == wanted
    assert world.most <= wanted + 1 + again


@given(st.integers(1, 12))
@settings(max_examples=30)
def test_bad_code_leaves_everybody_where_he_was(wanted: int) -> None:
    world = World(wanted, good=False, alone=False)
    before = [member.n for member in world.members]
    world.begin()
    for _ in range(50):
        world.second()
    assert world.rollout.stage == FAILED
    assert [member.n for member in world.members] == before
    assert world.least == wanted


@given(st.integers(1, 6))
@settings(max_examples=20)
def test_programs_are_never_more_than_they_may_be_and_one_is_missing_at_most(wanted: int) -> None:
    world = World(wanted, good=True, alone=True)
    world.begin()
    for _ in range(60):
        world.second()
    assert world.rollout.stage == NONE
    assert [member.code for member in world.members] == [1] * wanted
    assert world.least == wanted - 1
