"""
What the master does next: a pure function of what is wanted, what there is, and the time.

    (wanted, children, now) -> [Spawn | Term | Dump | Kill]

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
OVERDUE_S: Final = 1.0
"""How long a child whose job is out of time is left to end by itself, unless its role says otherwise."""
LOOK_S: Final = 1.0
"""How long after it was last seen in a job a child may still have been in it."""
DUMP_S: Final = 0.2
"""What it takes a process to write down its stacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    What ought to be.

    Attributes:
        places: Places that ought to be lived in, in the order of birth; none while stopping.
        generation: Of the boot that lives now: children of an earlier one are to leave at once, whatever they are for.
        generations: Keys that have been renewed since: which generation of each is the right one.
        kept: Of these keys older children stay for now: the new ones are not ready yet.
        not_before: Place -> monotonic time before which nobody is born there (back-off).
        fatal: Keys that are given up: nobody is born there at all.
        shy: Keys whose children die young: one is tried at a time, until it has lived for a while.
        grace_s: How long a drain may take.
        stopping_since: When the stop began; None: the bus is to run.
    """

    places: Sequence[Place]
    generation: int
    generations: Mapping[Key, int] = field(default_factory=dict)
    kept: frozenset[Key] = frozenset()
    not_before: Mapping[Place, float] = field(default_factory=dict)
    fatal: frozenset[Key] = frozenset()
    shy: frozenset[Key] = frozenset()
    grace_s: float
    stopping_since: float | None = None

    def of(self, place: Place) -> int:
        """The generation that ought to live at *place*."""
        return self.generations.get(place[:2], self.generation)


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
        stop_s: How long its drain may take where that is less than the grace; 0: the grace.
        busy_s: When it was last seen in the middle of a job (monotonic); 0: never.
        overdue_since: When its job ran out of time, and it was asked to end; None: it did not.
        dumps: It is sent QUIT before it is killed for that.
        dumped: It was sent QUIT already.
        alone: Nobody else is born at its place while it is there.
    """

    n: int
    place: Place
    generation: int
    stage: int = 0
    draining_since: float | None = None
    killed: bool = False
    stop_s: float = 0.0
    busy_s: float = 0.0
    overdue_since: float | None = None
    dumps: bool = False
    dumped: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a child for *place*."""

    place: Place


@dataclass(frozen=True, slots=True)
class Term:
    """Tell child *n* to drain."""

    n: int


@dataclass(frozen=True, slots=True)
class Dump:
    """Child *n* is about to be killed for its overdue job: have it write down what it does."""

    n: int


@dataclass(frozen=True, slots=True)
class Kill:
    """The grace of child *n* is over."""

    n: int


Action = Spawn | Term | Dump | Kill


def reconcile(wanted: Wanted, children: Sequence[Seen], now: float) -> list[Action]:
    """
    The steps from *children* towards *wanted* that are due at *now*.

    Performing them and asking again at the same moment yields nothing more, except that a child
    that lingers is not told twice.
    """
    return [
        *_dumps(children, now), *_kills(wanted, children, now), *_terms(wanted, children, now),
        *_spawns(wanted, children, now),
    ]


def due(wanted: Wanted, children: Sequence[Seen], now: float) -> float:
    """The earliest time after *now* at which ``reconcile`` may answer differently by itself; or NEVER."""
    times = [_kill_at(wanted, child) for child in children if not child.killed]
    times += [_dump_at(child) for child in children if not child.dumped]
    if wanted.stopping_since is None:
        times += [wanted.not_before.get(place, 0.0) for place in _empty(wanted, children)]
    elif any(child.draining_since is None for child in children):
        times.append(_patience_ends(wanted))
    return min((time for time in times if time > now), default=NEVER)


def _spawns(wanted: Wanted, children: Sequence[Seen], now: float) -> Iterator[Spawn]:
    if wanted.stopping_since is not None:
        return
    tried: set[Key] = set()
    for place in _empty(wanted, children):
        key = place[:2]
        if wanted.not_before.get(place, 0.0) <= now and key not in tried:
            if key in wanted.shy:
                tried.add(key)
            yield Spawn(place)


def _dumps(children: Sequence[Seen], now: float) -> Iterator[Dump]:
    yield from (Dump(child.n) for child in children if not child.dumped and now >= _dump_at(child))


def _terms(wanted: Wanted, children: Sequence[Seen], now: float) -> Iterator[Term]:
    if wanted.stopping_since is not None:
        stages = {child.stage for child in children}
        lowest = min(stages, default=0)
        hurry = now >= _patience_ends(wanted)
        leaving = [child for child in children if hurry or child.stage == lowest]
    else:
        places = set(wanted.places)
        leaving = [child for child in children if not _stays(wanted, child, places)]
    yield from (Term(child.n) for child in leaving if child.draining_since is None)


def _stays(wanted: Wanted, child: Seen, places: set[Place]) -> bool:
    """It is of the right generation and its place is wanted; or who takes its place is not ready yet."""
    if child.place[:2] in wanted.kept and wanted.generation <= child.generation < wanted.of(child.place):
        return True
    return child.generation == wanted.of(child.place) and child.place in places


def _kills(wanted: Wanted, children: Sequence[Seen], now: float) -> Iterator[Kill]:
    yield from (Kill(child.n) for child in children if not child.killed and now >= _kill_at(wanted, child))


def _kill_at(wanted: Wanted, child: Seen) -> float:
    """The earliest of what ends its life: an overdue job, its own drain, the stop of the bus."""
    return min(_overdue_at(child), _drain_ends(wanted, child))


def _drain_ends(wanted: Wanted, child: Seen) -> float:
    """
    A stop has the grace once for everybody, however late a stage was told; so has a boot that is over.

    Who drains because there are too many of it, because of new code or a new configuration, may finish its job however
    long that takes.
    """
    all_of_it = NEVER if wanted.stopping_since is None else wanted.stopping_since + wanted.grace_s
    if child.draining_since is None:
        return all_of_it
    begun = child.draining_since
    if wanted.stopping_since is not None:
        begun = max(begun, wanted.stopping_since)
    elif child.generation >= wanted.generation and child.busy_s:
        begun = max(begun, child.busy_s + LOOK_S)
    return min(begun + min(child.stop_s or wanted.grace_s, wanted.grace_s), all_of_it)


def _overdue_at(child: Seen) -> float:
    """An overdue job is asked to end, and not for long."""
    if child.overdue_since is None:
        return NEVER
    return child.overdue_since + (child.stop_s or OVERDUE_S) + (DUMP_S if child.dumps else 0.0)


def _dump_at(child: Seen) -> float:
    if child.overdue_since is None or not child.dumps or child.killed:
        return NEVER
    return child.overdue_since + (child.stop_s or OVERDUE_S)


def _patience_ends(wanted: Wanted) -> float:
    """The later stages are told at half of the grace, whether the earlier ones have left or not."""
    assert wanted.stopping_since is not None
    return wanted.stopping_since + wanted.grace_s / 2


def _empty(wanted: Wanted, children: Sequence[Seen]) -> list[Place]:
    """
    Wanted places that nobody lives in (a child that leaves does not count) and where somebody may be born some time.

    None of a key that is given up; none of a shy one while one of it is being tried.
    """
    staying = [
        child for child in children if child.draining_since is None and child.generation == wanted.of(child.place)
    ]
    lived_in = {child.place for child in staying} | {child.place for child in children if child.alone}
    places = set(wanted.places) if wanted.shy else set()  # there may be thousands, and this is asked at every turn
    tried = {child.place[:2] for child in staying if child.place in places}
    out = wanted.fatal | (tried & wanted.shy)
    return [place for place in wanted.places if place not in lived_in and place[:2] not in out]
