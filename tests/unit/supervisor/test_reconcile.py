"""Deciding is a pure function: every law it must keep, for every situation that hypothesis can think of."""

from __future__ import annotations

import dataclasses
import time

from hypothesis import given
from hypothesis import strategies as st

from pbus.supervisor.reconcile import NEVER, Action, Dump, Kill, Seen, Spawn, Term, Wanted, due, reconcile

INGEST, DELIVERY, CREDIT = ("ingest", "", 0), ("delivery", "", 0), ("consumer", "gift/credit", 0)
PLACES = [INGEST, DELIVERY, CREDIT, ("consumer", "gift/credit", 1), ("scheduler", "", 0)]
STAGES = {"ingest": 0, "delivery": 1, "consumer": 1, "scheduler": 2}
NOW = 1000.0

moments = st.floats(NOW - 40, NOW, allow_nan=False)


@st.composite
def children(draw: st.DrawFn) -> list[Seen]:
    homes = draw(st.lists(st.sampled_from(PLACES), max_size=8))
    return [
        Seen(
            n=number, place=place, generation=draw(st.integers(1, 4)), stage=STAGES[place[0]],
            draining_since=draw(st.none() | moments), killed=draw(st.booleans()), busy_s=draw(moments),
            overdue_since=draw(st.none() | moments), dumps=draw(st.booleans()), dumped=draw(st.booleans()),
            stop_s=draw(st.sampled_from([0.0, 5.0, 90.0])), alone=draw(st.booleans()),
        )
        for number, place in enumerate(homes, start=1)
    ]


@st.composite
def wishes(draw: st.DrawFn, stopping: bool | None = None) -> Wanted:
    is_stopping = draw(st.booleans()) if stopping is None else stopping
    return Wanted(
        places=tuple(draw(st.lists(st.sampled_from(PLACES), unique=True))), generation=2, grace_s=30.0,
        generations=draw(st.dictionaries(st.sampled_from([place[:2] for place in PLACES]), st.integers(2, 4))),
        kept=draw(st.frozensets(st.sampled_from([place[:2] for place in PLACES]), max_size=3)),
        not_before=draw(st.dictionaries(st.sampled_from(PLACES), st.floats(NOW - 10, NOW + 10), max_size=3)),
        fatal=draw(st.frozensets(st.sampled_from([place[:2] for place in PLACES]), max_size=1)),
        shy=draw(st.frozensets(st.sampled_from([place[:2] for place in PLACES]), max_size=2)),
        stopping_since=draw(moments) if is_stopping else None,
    )


def performed(wanted: Wanted, before: list[Seen], actions: list[Action]) -> list[Seen]:
    """The children after *actions* were carried out at once."""
    after = {child.n: child for child in before}
    for action in actions:
        match action:
            case Term(n):
                after[n] = dataclasses.replace(after[n], draining_since=NOW)
            case Kill(n):
                after[n] = dataclasses.replace(after[n], killed=True)
            case Dump(n):
                after[n] = dataclasses.replace(after[n], dumped=True)
            case Spawn(place):
                number = len(after) + 1
                after[number] = Seen(n=number, place=place, generation=wanted.of(place), stage=STAGES[place[0]])
    return list(after.values())


@given(wishes(), children())
def test_asking_again_after_acting_yields_nothing_more(wanted: Wanted, before: list[Seen]) -> None:
    after = performed(wanted, before, reconcile(wanted, before, NOW))
    assert reconcile(wanted, after, NOW) == []


@given(wishes(), children(), st.floats(0.0, 1.0))
def test_nothing_changes_before_it_is_due(wanted: Wanted, before: list[Seen], share: float) -> None:
    after = performed(wanted, before, reconcile(wanted, before, NOW))
    end = min(due(wanted, after, NOW), NOW + 100.0)
    moment = NOW + (end - NOW) * share
    if moment < end:
        assert reconcile(wanted, after, moment) == []


@given(wishes(), children())
def test_something_happens_when_it_is_due(wanted: Wanted, before: list[Seen]) -> None:
    after = performed(wanted, before, reconcile(wanted, before, NOW))
    moment = due(wanted, after, NOW)
    if moment != NEVER:
        assert reconcile(wanted, after, moment)


@given(wishes(stopping=True), children())
def test_nobody_is_born_while_stopping(wanted: Wanted, before: list[Seen]) -> None:
    assert not [action for action in reconcile(wanted, before, NOW) if isinstance(action, Spawn)]


@given(wishes(stopping=False), children())
def test_no_place_is_ever_lived_in_twice(wanted: Wanted, before: list[Seen]) -> None:
    right = [child for child in before if child.generation == wanted.of(child.place)]
    living = [child.place for child in right if child.draining_since is None]
    born = [action.place for action in reconcile(wanted, before, NOW) if isinstance(action, Spawn)]
    assert len(born) == len(set(born))
    assert not set(born) & set(living)
    assert set(born) <= set(wanted.places)


@given(wishes(), children())
def test_nobody_is_told_twice(wanted: Wanted, before: list[Seen]) -> None:
    by_n = {child.n: child for child in before}
    for action in reconcile(wanted, before, NOW):
        match action:
            case Term(n):
                assert by_n[n].draining_since is None
            case Kill(n):
                assert not by_n[n].killed


@given(wishes(stopping=False), children())
def test_children_that_are_wanted_are_left_alone(wanted: Wanted, before: list[Seen]) -> None:
    told = {action.n for action in reconcile(wanted, before, NOW) if isinstance(action, Term | Kill)}
    for child in before:
        right = child.generation == wanted.of(child.place)
        stays = right and child.draining_since is None and child.overdue_since is None
        if child.place in wanted.places and stays:
            assert child.n not in told


def wanted(**changes: object) -> Wanted:
    return dataclasses.replace(Wanted(places=(INGEST, DELIVERY), generation=1, grace_s=30.0), **changes)


def seen(n: int, place: tuple[str, str, int], **changes: object) -> Seen:
    return dataclasses.replace(Seen(n=n, place=place, generation=1, stage=STAGES[place[0]]), **changes)


def test_empty_bus_gets_all_its_children_in_order() -> None:
    assert reconcile(wanted(), [], NOW) == [Spawn(INGEST), Spawn(DELIVERY)]


def test_place_in_back_off_stays_empty_until_its_time() -> None:
    wish = wanted(not_before={INGEST: NOW + 5})
    assert reconcile(wish, [], NOW) == [Spawn(DELIVERY)]
    assert due(wish, [seen(1, DELIVERY)], NOW) == NOW + 5
    assert reconcile(wish, [seen(1, DELIVERY)], NOW + 5) == [Spawn(INGEST)]


def test_role_that_is_given_up_is_not_born() -> None:
    wish = wanted(fatal=frozenset({("delivery", "")}))
    assert reconcile(wish, [seen(1, INGEST)], NOW) == []
    assert due(wish, [seen(1, INGEST)], NOW) == NEVER


def test_new_generation_replaces_the_old_one_which_drains() -> None:
    old = [seen(1, INGEST), seen(2, DELIVERY)]
    assert reconcile(wanted(generation=2), old, NOW) == [Term(1), Term(2), Spawn(INGEST), Spawn(DELIVERY)]


def test_stop_tells_the_lowest_stage_first() -> None:
    wish = wanted(places=(), stopping_since=NOW)
    everybody = [seen(1, INGEST), seen(2, DELIVERY), seen(3, CREDIT), seen(4, ("scheduler", "", 0))]
    assert reconcile(wish, everybody, NOW) == [Term(1)]
    assert reconcile(wish, everybody[1:], NOW) == [Term(2), Term(3)]
    assert reconcile(wish, everybody[3:], NOW) == [Term(4)]


def test_stop_tells_everybody_at_half_of_the_grace() -> None:
    wish = wanted(places=(), stopping_since=NOW)
    stuck = [seen(1, INGEST, draining_since=NOW), seen(2, DELIVERY)]
    assert due(wish, stuck, NOW) == NOW + 15
    assert reconcile(wish, stuck, NOW + 15) == [Term(2)]


def test_stop_has_the_grace_once_for_everybody() -> None:
    wish = wanted(places=(), stopping_since=NOW - 30)
    late = [seen(1, DELIVERY, draining_since=NOW - 1)]
    assert reconcile(wish, late, NOW) == [Kill(1)]


def test_drain_of_one_child_has_the_grace() -> None:
    leaving = [seen(1, INGEST), seen(2, DELIVERY), seen(3, CREDIT, draining_since=NOW - 30)]
    assert reconcile(wanted(), leaving, NOW) == [Kill(3)]


# -- counts that change, shyness, places of one's own ------------------------------------------------


def test_place_that_is_wanted_no_more_is_left_and_a_hole_is_lived_in_again() -> None:
    first, second, third = (("consumer", "gift/credit", index) for index in range(3))
    crew = [seen(1, first), seen(2, second), seen(3, third)]
    assert reconcile(wanted(places=(first, third)), crew, NOW) == [Term(2)]
    assert reconcile(wanted(places=(first, second, third)), [crew[0], crew[2]], NOW) == [Spawn(second)]


def test_who_leaves_for_want_of_work_may_finish_its_job_however_long_that_takes() -> None:
    leaving = seen(1, CREDIT, draining_since=NOW - 3600, busy_s=NOW)
    assert reconcile(wanted(places=()), [leaving], NOW + 30) == []
    assert reconcile(wanted(places=()), [leaving], NOW + 31) == [Kill(1)]
    assert due(wanted(places=()), [leaving], NOW) == NOW + 31


def test_short_stop_timeout_begins_when_nobody_can_be_in_a_job_any_more() -> None:
    leaving = seen(1, CREDIT, draining_since=NOW - 9, busy_s=NOW, stop_s=0.3)
    assert reconcile(wanted(places=()), [leaving], NOW + 1.2) == []
    assert reconcile(wanted(places=()), [leaving], NOW + 1.3) == [Kill(1)]


def test_stop_of_the_bus_and_a_new_boot_give_the_grace_and_no_more() -> None:
    leaving = seen(1, CREDIT, draining_since=NOW - 3600, busy_s=NOW)
    assert reconcile(wanted(places=(), stopping_since=NOW - 30), [leaving], NOW) == [Kill(1)]
    assert reconcile(wanted(places=(), stopping_since=NOW - 29), [leaving], NOW) == []
    assert reconcile(wanted(places=(), generation=2), [leaving], NOW) == [Kill(1)]


def test_stop_timeout_of_a_role_shortens_the_grace_and_never_prolongs_it() -> None:
    quick, slow = seen(1, CREDIT, draining_since=NOW, stop_s=2.0), seen(2, CREDIT, draining_since=NOW, stop_s=90.0)
    assert reconcile(wanted(places=()), [quick, slow], NOW + 2) == [Kill(1)]
    assert due(wanted(places=()), [slow], NOW) == NOW + 30


def test_overdue_child_has_a_second_then_writes_its_stacks_then_is_killed() -> None:
    wish = wanted(places=(CREDIT,))
    overdue = seen(1, CREDIT, overdue_since=NOW, dumps=True)
    assert reconcile(wish, [overdue], NOW + 0.99) == []
    assert reconcile(wish, [overdue], NOW + 1.0) == [Dump(1)]
    dumped = dataclasses.replace(overdue, dumped=True)
    assert reconcile(wish, [dumped], NOW + 1.1) == []
    assert reconcile(wish, [dumped], NOW + 1.2) == [Kill(1)]
    assert reconcile(wish, [seen(1, CREDIT, overdue_since=NOW)], NOW + 1.0) == [Kill(1)]


def test_overdue_child_has_the_stop_timeout_of_its_role() -> None:
    overdue = seen(1, CREDIT, overdue_since=NOW, stop_s=5.0)
    assert reconcile(wanted(places=(CREDIT,)), [overdue], NOW + 4.9) == []
    assert reconcile(wanted(places=(CREDIT,)), [overdue], NOW + 5.0) == [Kill(1)]


def test_shy_role_is_tried_one_at_a_time() -> None:
    places = tuple(("consumer", "gift/credit", index) for index in range(3))
    wish = wanted(places=places, shy=frozenset({("consumer", "gift/credit")}))
    assert reconcile(wish, [], NOW) == [Spawn(places[0])]
    assert reconcile(wish, [seen(1, places[0])], NOW) == []
    waits = dataclasses.replace(wish, not_before={places[0]: NOW + 5})
    assert reconcile(waits, [], NOW) == [Spawn(places[1])]


def test_place_of_its_own_stays_empty_until_its_last_inhabitant_has_gone() -> None:
    place = ("program", "mailer", 0)
    leaving = Seen(n=1, place=place, generation=1, draining_since=NOW, alone=True)
    assert reconcile(wanted(places=(place,)), [leaving], NOW) == []
    assert reconcile(wanted(places=(place,), generation=2), [leaving], NOW) == []
    assert reconcile(wanted(places=(place,)), [], NOW) == [Spawn(place)]


def test_deciding_about_thousands_takes_no_time() -> None:
    places = tuple(("consumer", "gift/credit", index) for index in range(4000))
    everybody = [Seen(n=n, place=("consumer", "gift/credit", n), generation=1) for n in range(4000)]
    begun_s = time.thread_time()
    for shy in (frozenset(), frozenset({CREDIT[:2]})):
        assert reconcile(Wanted(places=places, generation=1, grace_s=30.0, shy=shy), everybody, NOW) == []
    assert time.thread_time() - begun_s < 0.1


# -- a new generation beside the old one ------------------------------------------------------------


def renewed(*, kept: bool) -> Wanted:
    """One ingest child and one consumer, the first of which is renewed."""
    return Wanted(
        places=[INGEST, CREDIT], generation=1, generations={INGEST[:2]: 2}, grace_s=30.0,
        kept=frozenset([INGEST[:2]]) if kept else frozenset(),
    )


OLD, NEW, OTHER = (
    Seen(n=1, place=INGEST, generation=1), Seen(n=2, place=INGEST, generation=2), Seen(n=3, place=CREDIT, generation=1),
)


def test_a_new_generation_is_born_beside_the_old_one_and_touches_nobody_else() -> None:
    assert reconcile(renewed(kept=True), [OLD, OTHER], NOW) == [Spawn(INGEST)]
    assert reconcile(renewed(kept=True), [OLD, NEW, OTHER], NOW) == []


def test_the_old_generation_leaves_when_it_is_not_kept_any_more() -> None:
    assert reconcile(renewed(kept=False), [OLD, NEW, OTHER], NOW) == [Term(OLD.n)]


def test_a_new_generation_that_is_taken_back_leaves_and_the_old_one_stays() -> None:
    wanted = dataclasses.replace(renewed(kept=False), generations={})
    assert reconcile(wanted, [OLD, NEW, OTHER], NOW) == [Term(NEW.n)]


def test_who_is_of_a_boot_that_is_over_leaves_though_its_kind_is_kept() -> None:
    wanted = dataclasses.replace(renewed(kept=True), generation=2)
    assert Term(OLD.n) in reconcile(wanted, [OLD, NEW], NOW)


def test_an_old_one_that_works_is_not_killed_while_the_bus_goes_on() -> None:
    drains = dataclasses.replace(OLD, draining_since=NOW - 100)
    assert reconcile(renewed(kept=False), [dataclasses.replace(drains, busy_s=NOW), NEW, OTHER], NOW) == []
    assert reconcile(renewed(kept=False), [dataclasses.replace(drains, busy_s=NOW - 50), NEW, OTHER], NOW) == [
        Kill(OLD.n)
    ]


@given(wishes(stopping=False), children())
def test_nobody_leaves_of_a_kept_kind_before_its_successors_are_ready(wanted: Wanted, before: list[Seen]) -> None:
    leaving = {action.n for action in reconcile(wanted, before, NOW) if isinstance(action, Term)}
    for child in before:
        if child.n in leaving and child.place[:2] in wanted.kept:
            assert child.generation < wanted.generation or child.generation >= wanted.of(child.place)
