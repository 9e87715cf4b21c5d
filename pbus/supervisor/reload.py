"""
A reload: what its next step is. Pure.

    asked --> checking --ok--> bearing --all ready--> (committed) none
                 |                |
                 +--problems------+--a newborn fails, or BOOT_S--> none: nothing has changed

Rule: until the new generation is ready the old one serves as if nothing had been asked; then it is one step. Whoever
asks meanwhile gets one more reload, however many ask: the files may have changed since the first of them. A stop wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

NONE: Final = "none"
CHECKING: Final = "checking"
BEARING: Final = "bearing"

BOOT_S: Final = 60.0
"""A new generation that is not ready so long after it was wanted never will be."""
DEATHS: Final = 3
"""So many of it may die young, without a word, before it is taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """
    How far it is.

    Attributes:
        stage: none, checking, bearing.
        number: How many have been begun.
        since_s: When this stage was.
        again: Somebody has asked since this one began to read.
    """

    stage: str = NONE
    number: int = 0
    since_s: float = 0.0
    again: bool = False

    @property
    def is_under_way(self) -> bool:
        """There is a step to come."""
        return self.stage != NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    One place of a needed role in the new generation.

    Attributes:
        name: For people: ``ingest 0``.
        ready: Who lives there may be counted on.
        deaths: How many have died there.
        failure: Why one of these could not start, as it said itself; empty: it said nothing.
    """

    name: str
    ready: bool = False
    deaths: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Read the files and try what they ask for, in a process of its own."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The new generation is ready: it takes over."""


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The new generation will never be ready: it goes, the old one serves on."""

    reason: str


Step = Check | Commit | TakeBack
Decided = tuple[Reload, Step | None]


def asked(reload: Reload, now: float) -> Decided:
    """Somebody wants the files to be read."""
    if reload.is_under_way:
        return replace(reload, again=True), None
    return Reload(stage=CHECKING, number=reload.number + 1, since_s=now), Check()


def checked(reload: Reload, *, ok: bool, now: float) -> Reload:
    """The check is over."""
    if reload.stage != CHECKING:
        return reload
    return replace(reload, stage=BEARING if ok else NONE, since_s=now)


def decide(reload: Reload, places: Sequence[Place], now: float) -> Decided:
    """What follows from how the new generation is."""
    if reload.stage == NONE:
        return (asked(reload, now)) if reload.again else (reload, None)
    if reload.stage == CHECKING:
        return reload, None
    over = replace(reload, stage=NONE, since_s=now)
    reason = _why_not(places)
    if reason:
        return over, TakeBack(reason)
    if all(place.ready for place in places):
        return over, Commit()
    if now - reload.since_s >= BOOT_S:
        waiting = ", ".join(place.name for place in places if not place.ready)
        return over, TakeBack(f"{waiting}: not ready within {BOOT_S:g} s")
    return reload, None


def due_s(reload: Reload) -> float:
    """When time alone brings the next step (monotonic)."""
    if reload.stage == BEARING:
        return reload.since_s + BOOT_S
    return 0.0 if reload.stage == NONE and reload.again else float("inf")


def stopped(reload: Reload) -> Reload:
    """The bus stops: nothing more comes of it."""
    return replace(reload, stage=NONE, again=False)


def _why_not(places: Sequence[Place]) -> str:
    for place in places:
        if place.failure:
            return f"{place.name}: {place.failure}"
        if place.deaths >= DEATHS:
            return f"{place.name} died {place.deaths} times while it started"
    return ""
