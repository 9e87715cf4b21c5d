"""Which places of a role are wanted: the lowest free ones, and whoever goes disturbs nobody's work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pbus.supervisor.places import Resident, leavers, lowest_free

residents = st.lists(
    st.builds(
        Resident, n=st.integers(1, 99), index=st.integers(0, 9), ready=st.booleans(), idle=st.booleans(),
        old=st.booleans(), on_trial=st.booleans(),
    ),
    max_size=8, unique_by=(lambda each: each.index, lambda each: each.n),
)
more = st.frozensets(st.integers(0, 12), max_size=4)


def test_growing_takes_the_lowest_free_numbers_and_fills_holes() -> None:
    assert lowest_free({0, 2, 3}, 3) == [1, 4, 5]
    assert lowest_free(set(), 2) == [0, 1]
    assert lowest_free({0}, 0) == []


@given(residents, more, st.integers(-1, 12), st.booleans())
def test_no_more_go_than_asked_for_and_only_those_who_live_at_a_wanted_place(
    crew: list[Resident], empty: frozenset[int], surplus: int, busy_too: bool
) -> None:
    wanted = {each.index for each in crew} | empty
    going = leavers(wanted, crew, surplus, busy_too=busy_too)
    assert len(going) == len(set(going)) <= max(0, surplus)
    assert set(going) <= wanted


@given(residents, more, st.integers(0, 12), st.booleans())
def test_nobody_in_the_middle_of_a_job_goes_while_an_idle_one_stays(
    crew: list[Resident], empty: frozenset[int], surplus: int, busy_too: bool
) -> None:
    going = set(leavers({each.index for each in crew} | empty, crew, surplus, busy_too=busy_too))
    busy = {each.index for each in crew if each.ready and not each.idle and not each.on_trial}
    free = ({each.index for each in crew if not each.on_trial} | (empty - {each.index for each in crew})) - busy
    assert not going & busy or (busy_too and free <= going)


@given(residents, st.integers(0, 12))
def test_who_is_on_trial_stays(crew: list[Resident], surplus: int) -> None:
    going = leavers({each.index for each in crew}, crew, surplus, busy_too=True)
    assert not {each.index for each in crew if each.on_trial} & set(going)


def test_empty_places_go_first_then_the_starting_then_the_idle_each_the_youngest_first() -> None:
    crew = [
        Resident(n=1, index=0), Resident(n=2, index=1, ready=False), Resident(n=3, index=2),
        Resident(n=4, index=3, idle=False),
    ]
    assert leavers({0, 1, 2, 3, 4, 5}, crew, 9) == [5, 4, 1, 2, 0]
    assert leavers({0, 1, 2, 3, 4, 5}, crew, 9, busy_too=True) == [5, 4, 1, 2, 0, 3]


def test_code_that_is_being_replaced_goes_before_code_that_stays() -> None:
    crew = [Resident(n=1, index=0, old=True), Resident(n=2, index=1, old=True), Resident(n=3, index=2)]
    assert leavers({0, 1, 2}, crew, 2) == [1, 0]
