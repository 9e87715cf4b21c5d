"""
New code of a topic, taken in with care: what the next step of a roll-out is. Pure.

    changed --> canary --ok--> rolling --> none           the others follow, one at a time
                  |               |
                  +----failed <---+                       the processes of the old code go on

Rule: a canary is one process above the plan. It is good after OK_JOBS jobs or OK_S seconds; before an old process
leaves (after its job) there is a new one that is ready, and before the next one is begun the last one has gone. What
must be *alone* (a program: it may hold a port) has no canary: one process at a time leaves, and the next only when
its successor has lived for a while. Another change begins again, with a canary of its own.

A process has the code that was on disk when it was born; ``code`` counts the changes. One that dies is born again
with the newest code, whatever that is worth: the old one is not on the disk any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

NONE: Final = "none"
CANARY: Final = "canary"
ROLLING: Final = "rolling"
FAILED: Final = "failed"

OK_JOBS: Final = 5
OK_S: Final = 30.0
BOOT_S: Final = 60.0
"""Whoever is not ready so long after it was wanted never will be."""
ALONE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """
    One process of the topic.

    Attributes:
        n: Serial number.
        code: Which change it was born after.
        ready_s: When its start was over; None: it is not.
        done, failed: Attempts it has finished.
        idle: It is not in the middle of a job.
        leaving: It finishes and goes.
    """

    n: int
    code: int
    ready_s: float | None = None
    done: int = 0
    failed: int = 0
    idle: bool = True
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """
    How far it is. The first one is ``Rollout()``: nothing was ever changed.

    Attributes:
        stage: none, canary, rolling, failed.
        code: The newest one.
        files: What changed; empty when a person asked.
        since_s: When the step that is waited for was begun.
        canary: Serial number of the canary; 0: it is not born yet, or there is none.
        others_done: Jobs that the old ones had done when the canary became ready; None: it is not.
        extra: Processes above the plan that are wanted now.
        reason: Why it failed.
    """

    stage: str = NONE
    code: int = 0
    files: tuple[str, ...] = ()
    since_s: float = 0.0
    canary: int = 0
    others_done: int | None = None
    extra: int = 0
    reason: str = ""

    @property
    def is_under_way(self) -> bool:
        """Time and deaths change it."""
        return self.stage in (CANARY, ROLLING)


@dataclass(frozen=True, slots=True)
class Retire:
    """Process *n* leaves after its job; its place is wanted no more."""

    n: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Process *n* leaves after its job; another is born at its place."""

    n: int


Step = Retire | Renew
Decided = tuple[Rollout, list[Step]]


def begin(rollout: Rollout, members: Sequence[Member], files: Sequence[str], now: float, *, alone: bool) -> Decided:
    """The code has changed (in *files*), or a person wants it loaded again: begin, or begin again."""
    begun = Rollout(code=rollout.code + 1, files=tuple(files), since_s=now)
    steps: list[Step] = []
    if rollout.stage == CANARY and any(member.n == rollout.canary and not member.leaving for member in members):
        steps.append(Retire(rollout.canary))  # it has the code of a moment ago, and nobody knows whether that is good
    if all(member.leaving for member in members):
        return begun, steps  # nobody has old code: whoever is born has the new one
    return replace(begun, stage=ROLLING if alone else CANARY, extra=0 if alone else 1), steps


def withdraw(rollout: Rollout, members: Sequence[Member], now: float, *, alone: bool) -> Decided:
    """What is on the disk is again what the oldest processes have loaded."""
    if rollout.stage == NONE or not any(member.code < rollout.code and not member.leaving for member in members):
        return rollout, []
    newer = [member for member in members if member.code == rollout.code and not member.leaving]
    if any(member.n != rollout.canary for member in newer):
        return begin(rollout, members, rollout.files, now, alone=alone)  # some have the code that was withdrawn
    return Rollout(code=rollout.code), [Retire(member.n) for member in newer]


def born(rollout: Rollout, n: int, *, alone: bool) -> Rollout:
    """Process *n* is born, with the newest code: the first one is the canary."""
    return replace(rollout, canary=n) if rollout.stage == CANARY and not rollout.canary and not alone else rollout


def died(rollout: Rollout, member: Member, reason: str, now: float) -> Rollout:
    """*member* ended unasked: the canary never may, others not before they have lived for a while."""
    young = member.ready_s is None or now - member.ready_s < ALONE_S
    if member.code < rollout.code or not rollout.is_under_way:
        return rollout
    if member.n == rollout.canary or (rollout.stage == ROLLING and young):
        return _failed(rollout, reason)
    return rollout


def left(rollout: Rollout, n: int, now: float) -> Rollout:
    """Process *n* has ended as it should (it replaces itself after so many jobs): a canary has done its work then."""
    if rollout.stage == CANARY and n == rollout.canary:
        return replace(rollout, stage=ROLLING, canary=0, extra=0, since_s=now)
    return rollout


def decide(rollout: Rollout, members: Sequence[Member], wanted: int, now: float, *, alone: bool = False) -> Decided:
    """
    The next step, if it is time for one.

    Args:
        rollout: How far it is.
        members: Living processes of the topic, those that leave too.
        wanted: How many there ought to be, without ``extra``.
        now: Monotonic seconds.
        alone: No two processes share a place, not even for a moment.
    """
    staying = [member for member in members if not member.leaving]
    if not rollout.is_under_way:
        return rollout, []
    if not any(member.code < rollout.code for member in members) and (staying or not wanted):
        return Rollout(code=rollout.code), []  # nobody with old code is left
    if rollout.stage == CANARY:
        return _watch_canary(rollout, members, now)
    return _roll_alone(rollout, members, wanted, now) if alone else _roll(rollout, members, wanted, now)


def _watch_canary(rollout: Rollout, members: Sequence[Member], now: float) -> Decided:
    canary = next((member for member in members if member.n == rollout.canary), None)
    if canary is None or canary.ready_s is None:
        if now - rollout.since_s < BOOT_S:
            return rollout, []
        what = "a process with it" if canary is None else "the first process with it"
        return _failed(rollout, f"{what} was not ready within {BOOT_S:g} s"), [Retire(canary.n)] if canary else []
    others_done = sum(member.done for member in members if member.code < rollout.code)
    if rollout.others_done is None:
        rollout = replace(rollout, others_done=others_done)
    finished = canary.done + canary.failed
    if finished < OK_JOBS and now - canary.ready_s < OK_S and not canary.leaving:
        return rollout, []
    if canary.failed and not canary.done and others_done > (rollout.others_done or 0):
        reason = f"the first {finished} jobs that it ran all failed, while those of the old code were done"
        return _failed(rollout, reason), [] if canary.leaving else [Retire(canary.n)]
    return replace(rollout, stage=ROLLING, canary=0, extra=0, since_s=now), []


def _roll(rollout: Rollout, members: Sequence[Member], wanted: int, now: float) -> Decided:
    """A new one, then an old one less; and so on."""
    staying = [member for member in members if not member.leaving]
    old = [member for member in staying if member.code < rollout.code]
    starting = [member for member in staying if member.code >= rollout.code and member.ready_s is None]
    if any(member.leaving and member.code < rollout.code for member in members):
        return replace(rollout, since_s=now), []  # it finishes its job, however long that takes
    if len(staying) > wanted and not starting and old:
        leaver = min(old, key=lambda member: (not member.idle, member.n))
        return replace(rollout, extra=0, since_s=now), [Retire(leaver.n)]
    if now - rollout.since_s >= BOOT_S:
        reason = f"the next process with it was not ready within {BOOT_S:g} s"
        return _failed(rollout, reason), [Retire(member.n) for member in starting]
    return replace(rollout, extra=1), []


def _roll_alone(rollout: Rollout, members: Sequence[Member], wanted: int, now: float) -> Decided:
    """An old one less, then a new one in its place; and so on."""
    staying = [member for member in members if not member.leaving]
    old = [member for member in staying if member.code < rollout.code]
    new = [member for member in staying if member.code >= rollout.code]
    if any(member.leaving and member.code < rollout.code for member in members):
        return replace(rollout, since_s=now), []
    settled = all(member.ready_s is not None and now - member.ready_s >= ALONE_S for member in new)
    if old and settled and len(staying) >= wanted:
        return replace(rollout, since_s=now), [Renew(min(old, key=lambda member: member.n).n)]
    if now - rollout.since_s >= BOOT_S:
        return _failed(rollout, f"the next process with it was not ready within {BOOT_S:g} s"), []
    return rollout, []


def _failed(rollout: Rollout, reason: str) -> Rollout:
    return replace(rollout, stage=FAILED, canary=0, extra=0, reason=reason)
