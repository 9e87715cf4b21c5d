"""
What the master does next: a pure function of what is wanted, what there is, and the time.

    (wanted, children, now) -> [Spawn | Term | Kill]

Rule: nothing here acts, waits or reads a clock. ``due`` tells when time alone will change the
answer, so the master can sleep until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Key = tuple[str, str]
"""(role, path): see RoleSpec.key."""

Place = tuple[str, str, int]
"""(role, path, index): where one child lives."""

NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    What ought to be.

    Attributes:
        places: Places that ought to be lived in, in the order of birth; none while stopping.
        generation: Children of another one are to leave.
        not_before: Place -> monotonic time before which nobody is born there (back-off).
        fatal: Keys that are given up: nobody is born there at all.
        grace_s: How long a drain may take.
        stopping_since: When the stop began; None: the bus is to run.
    """

    places: Sequence[Place]
    generation: int
    not_before: Mapping[Place, float] = field(default_factory=dict)
    fatal: frozenset[Key] = frozenset()
    grace_s: float
    stopping_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    A living child as far as deciding goes.

    Attributes:
        n: Serial number.
        place: Where it lives.
        generation: Which one it is of.
        stage: Lower stages drain first on stop.
        draining_since: When it was told to drain; None: it was not.
        killed: It was sent KILL already.
    """

    n: int
    place: Place
    generation: int
    stage: int = 0
    draining_since: float | None = None
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a child for *place*."""

    place: Place


@dataclass(frozen=True, slots=True)
class Term:
    """Tell child *n* to drain."""

    n: int


@dataclass(frozen=True, slots=True)
class Kill:
    """The grace of child *n* is over."""

    n: int


Action = Spawn | Term | Kill


def reconcile(wanted: Wanted, children: Sequence[Seen], now: float) -> list[Action]:
    """
    The steps from *children* towards *wanted* that are due at *now*.

    Performing them and asking again at the same moment yields nothing more, except that a child
    that lingers is not told twice.
    """
    return [*_kills(wanted, children, now), *_terms(wanted, children, now), *_spawns(wanted, children, now)]


def due(wanted: Wanted, children: Sequence[Seen], now: float) -> float:
    """The earliest time after *now* at which ``reconcile`` may answer differently by itself; or NEVER."""
    times = [_kill_at(wanted, child) for child in children if not child.killed]
    if wanted.stopping_since is None:
        times += [wanted.not_before.get(place, 0.0) for place in _empty(wanted, children)]
    elif any(child.draining_since is None for child in children):
        times.append(_patience_ends(wanted))
    return min((time for time in times if time > now), default=NEVER)


def _spawns(wanted: Wanted, children: Sequence[Seen], now: float) -> Iterator[Spawn]:
    if wanted.stopping_since is not None:
        return
    yield from (Spawn(place) for place in _empty(wanted, children) if wanted.not_before.get(place, 0.0) <= now)


def _terms(wanted: Wanted, children: Sequence[Seen], now: float) -> Iterator[Term]:
    if wanted.stopping_since is not None:
        stages = {child.stage for child in children}
        lowest = min(stages, default=0)
        hurry = now >= _patience_ends(wanted)
        leaving = [child for child in children if hurry or child.stage == lowest]
    else:
        places = set(wanted.places)
        leaving = [child for child in children if child.generation != wanted.generation or child.place not in places]
    yield from (Term(child.n) for child in leaving if child.draining_since is None)


def _kills(wanted: Wanted, children: Sequence[Seen], now: float) -> Iterator[Kill]:
    yield from (Kill(child.n) for child in children if not child.killed and now >= _kill_at(wanted, child))


def _kill_at(wanted: Wanted, child: Seen) -> float:
    """A drain has the grace; a stop has it once for everybody, however late a stage was told."""
    own = NEVER if child.draining_since is None else child.draining_since + wanted.grace_s
    all_of_it = NEVER if wanted.stopping_since is None else wanted.stopping_since + wanted.grace_s
    return min(own, all_of_it)


def _patience_ends(wanted: Wanted) -> float:
    """The later stages are told at half of the grace, whether the earlier ones have left or not."""
    assert wanted.stopping_since is not None
    return wanted.stopping_since + wanted.grace_s / 2


def _empty(wanted: Wanted, children: Sequence[Seen]) -> list[Place]:
    """Wanted places that nobody lives in (a child that leaves does not count) and that are not given up."""
    lived_in = {
        child.place for child in children if child.generation == wanted.generation and child.draining_since is None
    }
    return [place for place in wanted.places if place not in lived_in and place[:2] not in wanted.fatal]
