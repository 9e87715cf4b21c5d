"""
Claims of the dead of this machine go back: of this boot's processes, and of earlier boots.

A claim belongs to the process that runs it. Who gives the claims of a dead process back:

    consumer whose delivery child lives    that delivery child; it has read the last results
    every other process of this boot       this duty, told by the scoreboard
    an earlier boot of this run directory  this duty, once the master says that nobody of it lives
    a boot of another node                 nodes.py, after its counter stood still

A program that takes its jobs by a token does not tell its process which one it runs: that is read from the file
of what was handed over.

Rule: decide, then act. ``dead_owners`` and ``outcome_of`` are pure; a wrong or late act changes
nothing, because every settlement is a compare-and-set on the owner.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from pbus.clock import Clock
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.names import Owner
from pbus.core.outcome import UNKNOWN, Outcome, Rules, Verdict, judge
from pbus.scheduler.boots import Boots
from pbus.scheduler.roster import Store
from pbus.storage.driver import Held
from pbus.supervisor.handed import Handed
from pbus.supervisor.scoreboard import Scoreboard, SlotView

LOOK_S: Final = 0.5
"""How often the scoreboard is asked for deaths: a read of shared memory, no call to the store."""
PASS_S: Final = 1.0
IDLE_PASS_S: Final = 5.0
CALM_AFTER_S: Final = 3.0
"""A claim sent by a process that died with it may reach the store later than its death reached us."""
PATIENCE_S: Final = 30.0
"""So long a living delivery child may take for its dead consumer before this duty does it."""
CHUNK: Final = 500
LINES: Final = 100
"""Of the dead letters that one dead process leaves behind, so many have a line in the log each."""


@dataclass(frozen=True, slots=True)
class Dead:
    """
    An owner that holds claims and lives no more.

    Attributes:
        owner: Whose claims go back.
        job_id: What it ran when it died, empty for nothing or when nobody can tell.
        exit_status: Its status, or minus the signal that ended it; None: unknown.
        begun: Of a consumer: the jobs that it may have begun, as far as its row tells: what it ran, or what it
            ran last; None: nobody can tell.
        linked: A living delivery child is responsible for it.
    """

    owner: Owner
    job_id: str = ""
    exit_status: int | None = None
    begun: frozenset[str] | None = None
    linked: bool = False


def dead_owners(
    owners: Collection[Owner], own_boot: str, rows: Sequence[SlotView], over: Collection[str],
    programs: Collection[str] = (),
) -> list[Dead]:
    """
    Those of *owners* that are dead.

    Args:
        owners: Whoever holds claims, as the store lists them.
        own_boot: This boot.
        rows: The scoreboard of this boot.
        over: Earlier boots of which nobody lives.
        programs: Topics whose processes do not know what they had begun.
    """
    lives = {(row.slot, row.n): row for row in rows}
    serving = {row.n for row in rows if row.alive and row.role == "delivery"}
    found = []
    for owner in owners:
        if owner.boot in over:
            found.append(Dead(owner))
        elif owner.boot == own_boot:
            row = lives.get((owner.slot, owner.n))
            if row is None:  # its slot has been given to another process since
                found.append(Dead(owner))
            elif not row.alive:
                found.append(_dead(owner, row, serving, programs))
    return found


def _dead(owner: Owner, row: SlotView, serving: Collection[int], programs: Collection[str]) -> Dead:
    consumer = row.role == "consumer"
    # A program may have been handed a job by a child that was killed before it could write that down.
    begun = frozenset({row.current, row.last}) if consumer and row.path not in programs else None
    return Dead(owner, row.current, row.exit_status, begun, consumer and row.link in serving)


def outcome_of(dead: Dead, held: Held) -> Outcome:
    """
    What became of a claim when its owner died.

    The job that a consumer had begun is a crash (a signal) or a failure (it left by itself).
    Everything else may have run, or its result was lost on the way: back, attempt not counted,
    and whoever gets it next is told.
    """
    if not dead.job_id or dead.job_id != held.id or dead.exit_status is None:
        return Outcome(verdict=Verdict.UNSURE, error="its process is dead")
    if dead.exit_status < 0:
        return Outcome(verdict=Verdict.CRASHED, error=f"its process was ended by signal {-dead.exit_status}")
    return Outcome(verdict=Verdict.FAILED, error=f"its process exited with status {dead.exit_status}")


def settlement_of(dead: Dead, held: Held, rules: Rules, now_ms: int, draw: float) -> Settlement:
    """
    How the claim *held* of *dead* ends.

    Where nothing may run twice (``hold``) a consumer is given a job only when the store has what became of the one
    before: so what it had not begun goes back. Everything else may have run, and is dead as ``unknown``.
    """
    delivery = Delivery(
        id=held.id, queue=held.queue, topic=held.topic, body=b"", attempt=held.attempts + 1, crashes=held.crashes,
        redelivered=False, traceparent="", content_type="", first_ms=0, owner=str(dead.owner),
        key=held.key, forgiven=held.forgiven,
    )
    outcome = outcome_of(dead, held)
    if rules.hold and dead.begun is not None and held.id not in dead.begun:
        outcome = Outcome(verdict=Verdict.RELEASED)
    return judge(delivery, outcome, rules, now_ms, draw)


def give_back(
    store: Store, owner: str, settlement: Callable[[Held], Settlement], log: structlog.typing.FilteringBoundLogger
) -> int:
    """
    End every claim of the dead *owner*, in portions; *log* gets those that became dead letters.

    Returns:
        How many were still its own.
    """
    claims = store.driver.held(owner)
    given: list[Settlement] = []
    for start in range(0, len(claims), CHUNK):
        portion = [settlement(held) for held in claims[start : start + CHUNK]]
        took_effect = store.driver.give_back(owner, portion)
        given += [one for one, ours in zip(portion, took_effect, strict=True) if ours]
        if store.traces is not None:
            for held, one, ours in zip(claims[start : start + CHUNK], portion, took_effect, strict=True):
                if ours:
                    store.traces.reclaimed(held.attempts + 1, one)
    dead = [one for one in given if one.move is Move.BURY]
    for one in dead[:LINES]:
        event = "job.unknown" if one.reason == UNKNOWN else "job.dead"
        log.warning(
            event, queue=one.queue, topic=one.topic, job=one.id, reason=one.reason, fingerprint=one.fingerprint,
            error=one.error,
        )
    if len(dead) > LINES:
        log.warning("claims.buried", owner=owner, omitted=len(dead) - LINES)
    return len(given)


def parsed(owners: Collection[str]) -> list[Owner]:
    """*owners* as the store lists them; what is not an owner is somebody else's business."""
    found = []
    for text in owners:
        try:
            found.append(Owner.parse(text))
        except ValueError:
            continue
    return found


class Reclaim:
    """The duty. Remembers when it last looked, and since when it leaves an owner to a delivery child."""

    name = "reclaim"

    def __init__(
        self, store: Store, own: Owner, scoreboard: Scoreboard, boots: Boots, rules: Mapping[tuple[str, str], Rules],
        clock: Clock, log: structlog.typing.FilteringBoundLogger, draw: Callable[[], float] = random.random,
        killed: bool = False, programs: Collection[str] = (), handed: Handed | None = None,
    ) -> None:
        """
        Args:
            own: The scheduler itself; its boot is the living one.
            rules: Of each (queue, topic): whether a job that killed its consumer is tried again.
            killed: The dead were ended by pbus (a stop whose grace was over): no job is to blame.
            programs: Topics (``queue/topic``) whose processes take their jobs by a token.
            handed: What these were handed.
        """
        self._programs = frozenset(programs)
        self._handed = handed
        self._store = store
        self._own = own
        self._scoreboard = scoreboard
        self._boots = boots
        self._rules = rules
        self._clock = clock
        self._log = log.bind(storage=store.name)
        self._draw = draw
        self._killed = killed
        self._news = (-1, -1)
        self._calm_at = 0.0
        self._pass_at = 0.0
        self._left_since: dict[Owner, float] = {}

    def turn(self) -> float:
        now = self._clock.monotonic_s()
        news = (self._scoreboard.deaths, self._boots.changes)
        if news != self._news:
            self._news, self._calm_at, self._pass_at = news, now + CALM_AFTER_S, 0.0
        if now >= self._pass_at:
            self.look()
            self._pass_at = now + (PASS_S if now < self._calm_at or self._left_since else IDLE_PASS_S)
        return LOOK_S

    def interrupted(self) -> None:
        """A delivery child could not settle either: its time begins anew."""
        self._left_since.clear()
        self._pass_at = 0.0

    def look(self) -> None:
        """Give back what dead processes of this machine hold."""
        owners = parsed(self._store.driver.owners())
        over = self._over(owners)
        rows = [self._completed(row) for row in self._scoreboard.rows()]
        dead = dead_owners(owners, self._own.boot, rows, over, self._programs)
        now = self._clock.monotonic_s()
        self._left_since = {one.owner: self._left_since.get(one.owner, now) for one in dead if one.linked}
        for one in dead:
            if not one.linked or now - self._left_since[one.owner] >= PATIENCE_S:
                self._give_back(one)
        for boot in over:
            self._store.driver.forget(boot)
            self._boots.finish(boot, self._store.name)

    def _completed(self, row: SlotView) -> SlotView:
        """That of a dead process which does not know itself what its program had in hand."""
        if row.alive or row.path not in self._programs or self._handed is None:
            return row
        hand = self._handed.read(Owner(self._own.node, self._own.boot, row.slot, row.n))
        return dataclasses.replace(row, current=hand.job_id if hand is not None else "", last="")

    def _over(self, owners: Sequence[Owner]) -> set[str]:
        """Earlier boots that are over; in a store of one node every boot that does not live, heard of or not."""
        over, living = self._boots.over(self._store.name), self._boots.living
        if living is not None and not self._store.driver.capabilities.many_nodes:
            over |= {owner.boot for owner in owners} - living - {self._own.boot}
        return over

    def _give_back(self, dead: Dead) -> None:
        if self._killed:
            dead = Dead(dead.owner, begun=dead.begun)
        now_ms = int(self._clock.wall_s() * 1000)

        def settlement(held: Held) -> Settlement:
            return settlement_of(dead, held, self._rules.get((held.queue, held.topic), Rules()), now_ms, self._draw())

        given = give_back(self._store, str(dead.owner), settlement, self._log)
        if given:
            self._log.warning("claims.given_back", owner=str(dead.owner), claims=given, job_id=dead.job_id)
