"""
Which places of a role are wanted, when how many of it there are may change while they live. Pure.

    wanted 3     0 1 2      the lowest free numbers
    shrink to 2  0 . 2      1 was idle and young: a hole
    grow to 3    0 1 2      the hole is lived in again

Rule: nothing here counts jobs or knows a plan. Who goes is chosen so that nobody's work is disturbed: first the
places where nobody lives, then who is still starting, then the idle; who works only when the caller says so, and
then the youngest. Code that is being replaced goes before code that stays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """
    Who lives at a wanted place.

    Attributes:
        n: Serial number; the youngest has the highest.
        index: Of the place.
        ready: Its start is over.
        idle: It has not begun a job.
        old: Its code is being replaced.
        on_trial: It is there to be watched: it stays.
    """

    n: int
    index: int
    ready: bool = True
    idle: bool = True
    old: bool = False
    on_trial: bool = False


def lowest_free(taken: Collection[int], count: int) -> list[int]:
    """The *count* lowest numbers that are not *taken*."""
    found: list[int] = []
    index = 0
    while len(found) < count:
        if index not in taken:
            found.append(index)
        index += 1
    return found


def leavers(
    wanted: Collection[int], residents: Sequence[Resident], surplus: int, *, busy_too: bool = False
) -> list[int]:
    """
    Which of the *wanted* places are given up.

    Args:
        wanted: Indexes of all places.
        residents: Who lives there; those who are leaving anyway are not among them.
        surplus: At most so many.
        busy_too: Rather one that works than none; it finishes its job first.

    Returns:
        Indexes, in the order in which they go; fewer than *surplus* when the others work.
    """
    lived_in = {resident.index for resident in residents}
    empty = sorted((index for index in wanted if index not in lived_in), reverse=True)
    free = [resident for resident in residents if not resident.on_trial]
    starting = [resident for resident in free if not resident.ready]
    idle = [resident for resident in free if resident.ready and resident.idle]
    busy = [resident for resident in free if resident.ready and not resident.idle] if busy_too else []
    going = [resident.index for group in (starting, idle, busy) for resident in sorted(group, key=_first_to_go)]
    return [*empty, *going][: max(0, surplus)]


def _first_to_go(resident: Resident) -> tuple[bool, int]:
    return (not resident.old, -resident.n)
