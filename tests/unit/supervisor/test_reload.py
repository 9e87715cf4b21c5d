"""A reload is a small machine: what it does next, for every way it may go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pbus.supervisor.reload import (
    BEARING, BOOT_S, CHECKING, DEATHS, NONE, Check, Commit, Place, Reload, TakeBack, asked, checked, decide, due_s,
    stopped,
)

NOW = 100.0
READY, BOOTING = Place(name="ingest 0", ready=True), Place(name="delivery 0")
BEING_BORN = Reload(stage=BEARING, number=3, since_s=NOW)


def test_the_first_who_asks_begins_one_and_all_others_get_one_more_together() -> None:
    reload, step = asked(Reload(), NOW)
    assert (reload.stage, reload.number, step) == (CHECKING, 1, Check())
    for _ in range(50):
        reload, step = asked(reload, NOW)
        assert step is None
    reload = checked(reload, ok=False, now=NOW)
    reload, step = decide(reload, [], NOW)
    assert (reload.stage, reload.number, reload.again, step) == (CHECKING, 2, False, Check())


def test_files_with_problems_change_nothing() -> None:
    reload, _ = asked(Reload(), NOW)
    reload = checked(reload, ok=False, now=NOW)
    assert reload.stage == NONE
    assert decide(reload, [], NOW) == (reload, None)


def test_it_takes_over_when_every_place_is_ready_and_not_before() -> None:
    assert decide(BEING_BORN, [READY, BOOTING], NOW) == (BEING_BORN, None)
    reload, step = decide(BEING_BORN, [READY, READY], NOW)
    assert (reload.stage, step) == (NONE, Commit())


def test_a_newborn_that_says_that_it_cannot_start_takes_it_back_at_once() -> None:
    reload, step = decide(BEING_BORN, [READY, Place(name="delivery 0", deaths=1, failure="no such module")], NOW)
    assert (reload.stage, step) == (NONE, TakeBack("delivery 0: no such module"))


def test_a_newborn_that_is_killed_is_tried_again_a_few_times() -> None:
    assert decide(BEING_BORN, [Place(name="ingest 0", deaths=DEATHS - 1)], NOW)[1] is None
    assert decide(BEING_BORN, [Place(name="ingest 0", deaths=DEATHS)], NOW)[1] == TakeBack(
        f"ingest 0 died {DEATHS} times while it started"
    )


def test_a_generation_that_does_not_become_ready_is_taken_back_in_the_end() -> None:
    assert due_s(BEING_BORN) == NOW + BOOT_S
    assert decide(BEING_BORN, [READY, BOOTING], NOW + BOOT_S)[1] == TakeBack(
        f"delivery 0: not ready within {BOOT_S:g} s"
    )


def test_a_stop_ends_it_and_whatever_was_asked_for() -> None:
    reload = stopped(asked(BEING_BORN, NOW)[0])
    assert decide(reload, [BOOTING], NOW) == (reload, None)
    assert not reload.is_under_way


def test_a_check_that_comes_back_after_the_stop_changes_nothing() -> None:
    reload = stopped(asked(Reload(), NOW)[0])
    assert checked(reload, ok=True, now=NOW) == reload


@given(st.lists(st.sampled_from(["ask", "good", "bad", "ready", "fail", "late"]), max_size=40))
def test_whatever_happens_it_ends_and_never_begins_two_at_once(happenings: list[str]) -> None:
    reload, now, checks = Reload(), NOW, 0
    for happening in [*happenings, "bad", "late", "bad", "late", "bad", "late"]:
        step = None
        if happening == "ask":
            reload, step = asked(reload, now)
        elif happening in ("good", "bad"):
            reload = checked(reload, ok=happening == "good", now=now)
        else:
            now += 2 * BOOT_S if happening == "late" else 0.0
            place = READY if happening == "ready" else Place(name="x", failure="no" * (happening == "fail"))
            before = reload.stage
            reload, step = decide(reload, [place], now)
            assert not isinstance(step, Commit | TakeBack) or before == BEARING
        checks += isinstance(step, Check)
        assert checks == reload.number
    assert reload.stage == NONE
    assert not reload.again
