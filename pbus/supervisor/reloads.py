"""
Reloads: the acts that ``reload`` decides on, and what people are told of them.

    HUP, pbus reload --> check (``rehearsal``) --> doors bound, new generation born beside the old one
                     --> all of it ready: roles replaced, topics rolled over one by one, doors closed

Rule: nothing here waits. Until the commit everything can be taken back; the commit itself cannot fail: what it needs
was had before.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.clock import Clock
from pbus.errors import BootError, Exit
from pbus.supervisor import difference
from pbus.supervisor import reload as rules
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.children import PROGRAM, Children
from pbus.supervisor.control import Caller
from pbus.supervisor.difference import Difference
from pbus.supervisor.handle import Death, Handle
from pbus.supervisor.histograms import Histograms
from pbus.supervisor.house import House
from pbus.supervisor.notify import Notifier
from pbus.supervisor.plan import Plan, Rehearsed
from pbus.supervisor.reconcile import Key, Place
from pbus.supervisor.rehearsal import Failed, Rehearsals
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.topics import Topics
from pbus.supervisor.upgrade import State
from pbus.supervisor.workforce import Workforce
from pbus.telemetry import log as logs

WORKING: Final = "working"
DONE: Final = "done"
REFUSED: Final = "refused"
FAILED: Final = "failed"

NEW_SETTINGS: Final = "its configuration"
"""What has changed, where a topic is rolled over for that."""

_KEPT: Final = 16
_LOGGED: Final = 50


@dataclass(slots=True)
class Outcome:
    """
    What became of one reload.

    Attributes:
        number: Of it.
        began_s: When it was asked for (monotonic).
        state: working, done, refused (the files cannot be taken over), failed (the new generation was taken back).
        reason: Why it was refused or has failed.
        exit_status: That belongs to the reason.
        checked: What is known once the check is over: changes, topics.
        generation: The new one; 0: none was born.
        at_s: Unix time of its end.
    """

    number: int
    began_s: float
    state: str = WORKING
    reason: str = ""
    exit_status: int = Exit.DONE
    checked: bool = False
    changes: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()
    generation: int = 0
    at_s: float = 0.0
    callers: list[Caller] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Next:
    """The plan that is being born, what it touches, and what is needed to take it back."""

    plan: Plan
    difference: Difference
    generations: dict[Key, int]


class Reloads:
    """
    One owner: the master.

    Attributes:
        plan: The one that holds.
        generation: The newest one.
    """

    def __init__(
        self, plan: Plan, rehearse: Callable[[Plan], Rehearsed] | None, switchboard: Switchboard, house: House,
        children: Children, workforce: Workforce, topics: Topics, histograms: Histograms, notifier: Notifier,
        sentence: Callable[[], str], clock: Clock,
    ) -> None:
        """
        Args:
            rehearse: Reads the files and tries what they ask for, in a process of its own; None: there are no files.
            sentence: How the bus is, for the service manager.
        """
        self.plan = plan
        self.generation = 1
        self._rehearse = rehearse
        self._rehearsals = Rehearsals(switchboard, clock)
        self._comparisons = Rehearsals(switchboard, clock)
        self._house = house
        self._children = children
        self._workforce = workforce
        self._topics = topics
        self._histograms = histograms
        self._notifier = notifier
        self._sentence = sentence
        self._clock = clock
        self._log = logs.get()
        self._reload = rules.Reload()
        self._next: _Next | None = None
        self._outcomes: collections.OrderedDict[int, Outcome] = collections.OrderedDict()
        self._last: Outcome | None = None
        self._deaths: collections.Counter[Place] = collections.Counter()
        self._failures: dict[Place, str] = {}
        self._uncounted = 0
        self._since_s = 0.0
        self._held = True
        self._waiting: list[Caller] = []

    # -- who asks -------------------------------------------------------------------------------

    def ask(self, why: str, caller: Caller | None = None) -> None:
        """Somebody wants the files to be read: at once, or once more when what is under way is over."""
        if self._rehearse is None:
            text = "this bus was started without configuration files"
            self._log.warning("reload.refused", reason=text)
            if caller is not None:
                caller.refuse(text)
            return
        if caller is not None:
            self._waiting.append(caller)
        if self._held:
            self._reload = rules.Reload(again=True)
            return
        self._take(rules.asked(self._reload, self._clock.monotonic_s()), why)

    def asked(self, caller: Caller, _: dict[str, Any]) -> None:
        """``pbus reload``: answered when the check is over."""
        if self._children.stopping:
            caller.refuse("the bus is stopping", Exit.TEMPORARY)
        else:
            self.ask("asked", caller)

    def tell(self, caller: Caller, frame: dict[str, Any]) -> None:
        """``pbus reload --wait``: how that reload went, and who of the old generation is still there."""
        outcome = self._outcomes.get(int(frame["number"]))
        if outcome is None:
            caller.refuse("nothing is known of that reload any more", Exit.NOT_FOUND)
            return
        left, stay = self._left(outcome)
        state = WORKING if outcome.state == DONE and left else outcome.state
        caller.answer(
            state=state, reason=outcome.reason, exit_status=int(outcome.exit_status), left=left, stay=stay,
            took_s=round(self._clock.monotonic_s() - outcome.began_s, 3), generation=outcome.generation,
        )

    def compare(self, caller: Caller, _: dict[str, Any]) -> None:
        """``pbus config diff``: what a reload would change; nothing is changed."""
        if self._rehearse is None or self._comparisons.is_busy:
            why = "this bus was started without configuration files" if self._rehearse is None else "others compare now"
            caller.refuse(why, Exit.TEMPORARY)
            return

        def then(answer: Rehearsed | Failed) -> None:
            if isinstance(answer, Failed):
                caller.refuse(str(answer), answer.exit_status)
            else:
                self._answer(caller, 0, answer.changes, answer.touched, answer.plan.waiting)

        try:
            self._comparisons.begin(functools.partial(self._rehearse, self.plan), then)
        except OSError as error:
            caller.refuse(f"no process could be started for that: {error.strerror}", Exit.TEMPORARY)

    def release(self) -> None:
        """The start is over: what was asked for during it is done now."""
        self._held = False

    # -- duties ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Every turn: the next step, if it is time for one."""
        self._rehearsals.settle()
        self._comparisons.settle()
        if self._held or self._children.stopping:
            return
        if self._reload.is_under_way or self._reload.again:
            self._take(rules.decide(self._reload, self._places(), self._clock.monotonic_s()), "asked meanwhile")

    def buried(self, deaths: Sequence[Death]) -> None:
        """Some have died: of the new generation that counts."""
        if self._next is None:
            return
        for death in deaths:
            child = death.handle
            if child.generation == self.generation and child.stays and child.spec.key in self._children.kept:
                self._deaths[child.place] += 1
                if child.failure and child.ready_s is None:
                    self._failures[child.place] = child.failure

    def stop(self) -> None:
        """The bus stops: nothing more comes of it."""
        self._reload = rules.stopped(self._reload)
        self._rehearsals.give_up()
        self._comparisons.give_up()
        outcome = self._outcomes.get(self._reload.number)
        if outcome is not None and outcome.state == WORKING:
            self._end(outcome, FAILED, "the bus stopped", Exit.TEMPORARY)
        for caller in self._waiting:
            caller.refuse("the bus is stopping", Exit.TEMPORARY)
        self._waiting.clear()

    @property
    def next_s(self) -> float:
        """When ``settle`` has something to do by itself (monotonic)."""
        due = min(self._rehearsals.next_s, self._comparisons.next_s)
        return due if self._held else min(due, rules.due_s(self._reload))

    @property
    def is_free(self) -> bool:
        """The start is over, none is under way and none is asked for."""
        return not (self._held or self._reload.is_under_way or self._reload.again or self._children.stopping)

    @property
    def carried(self) -> dict[str, Any]:
        """What goes through an upgrade; see ``State``."""
        return {"generation": self.generation, "reloads": self._reload.number, "since_s": self._since_s}

    def resume(self, state: State) -> int:
        """Go on where *state* says, with a reload; its number."""
        self.generation, self._since_s = state.generation, state.since_s
        self._reload = rules.Reload(number=state.reloads)
        self._held = False
        self.ask("upgrade")
        return self._reload.number

    @property
    def is_under_way(self) -> bool:
        """One has begun and is not over."""
        return self._reload.is_under_way

    # -- what people see ------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What is in the files and does not hold."""
        found = []
        last = self._last
        if last is not None and last.state != DONE:
            first, _, more = last.reason.partition("\n")
            rest = f" (and {more.count(chr(10)) + 1} more)" if more else ""
            found.append(f"the last reload was {_word(last.state)}: {first}{rest}; what ran before goes on")
        if self.plan.waiting:
            keys = ", ".join(self.plan.waiting)
            found.append(f"changed in the files, but only 'pbus restart' takes it over: {keys}")
        if self._uncounted:
            found.append(f"{self._uncounted} new topics are not in the metrics: 'pbus restart' makes room for them")
        return found

    def view(self) -> dict[str, Any]:
        """
        For ``pbus status`` and the metrics: the last reload that is over.

        ``number``, ``state`` (none, done, refused, failed), ``reason``, ``at_s``: of its end, Unix time; ``waiting``:
        keys for which only a restart will do; ``since_s``: when what holds was taken over, 0: it was at the start.
        """
        last = self._last
        return {
            "number": last.number if last is not None else 0, "state": last.state if last is not None else "none",
            "at_s": round(last.at_s, 3) if last is not None else 0.0,
            "reason": last.reason if last is not None else "", "waiting": list(self.plan.waiting),
            "since_s": round(self._since_s, 3),
        }

    # -- steps ----------------------------------------------------------------------------------

    def _take(self, decided: rules.Decided, why: str) -> None:
        self._reload, step = decided
        match step:
            case rules.Check():
                self._check(why)
            case rules.Commit():
                self._commit()
            case rules.TakeBack(reason):
                self._take_back(reason)

    def _check(self, why: str) -> None:
        number, now = self._reload.number, self._clock.monotonic_s()
        self._outcomes[number] = Outcome(number, now, callers=self._waiting)
        self._waiting = []
        while len(self._outcomes) > _KEPT:
            self._outcomes.popitem(last=False)
        self._log.info("reload.started", number=number, why=why)
        self._workforce.rollouts.ask_for_age()
        self._notifier.reloading(f"reload {number}: checking the configuration")
        assert self._rehearse is not None
        try:
            self._rehearsals.begin(functools.partial(self._rehearse, self.plan), self._checked)
        except OSError as error:
            self._checked(Failed(f"no process could be started for the check: {error.strerror}", Exit.TEMPORARY))

    def _checked(self, answer: Rehearsed | Failed) -> None:
        outcome = self._outcomes[self._reload.number]
        failed = answer if isinstance(answer, Failed) else self._bear(answer, outcome)
        now = self._clock.monotonic_s()
        self._reload = rules.checked(self._reload, ok=failed is None, now=now)
        callers, outcome.callers, outcome.checked = outcome.callers, [], True
        if failed is not None:
            self._end(outcome, REFUSED, str(failed), failed.exit_status)
            self._log.error("reload.refused", number=outcome.number, problems=outcome.reason.split("\n"))
            for caller in callers:
                caller.refuse(outcome.reason, outcome.exit_status)
            return
        waiting = self._next.plan.waiting if self._next else ()
        for caller in callers:
            self._answer(caller, outcome.number, outcome.changes, outcome.touched, waiting)

    def _answer(
        self, caller: Caller, number: int, changes: Sequence[str], touched: Sequence[str], waiting: Sequence[str]
    ) -> None:
        """What a check has found; *number* 0: of no reload."""
        caller.answer(
            number=number, changes=list(changes), touched=list(touched), waiting=list(waiting),
            old_code=self._workforce.rollouts.old_code() if number else [],
        )

    def _bear(self, rehearsed: Rehearsed, outcome: Outcome) -> Failed | None:
        """Bind what is new and have the new generation born; None: it is on its way."""
        plan = rehearsed.plan
        try:
            self._house.bind_beside(plan)
        except BootError as error:
            self._house.go_back(self.plan)
            return Failed(str(error), error.exit_status)
        found = difference.between(self.plan, plan)
        self._uncounted = self._histograms.name((topic.queue, topic.topic) for topic in plan.topics)
        self.generation += 1
        outcome.changes, outcome.generation = rehearsed.changes, self.generation
        outcome.touched = tuple(sorted({*rehearsed.touched, *found.touched}))
        self._next = _Next(plan, found, dict(self._children.generations))
        self._deaths.clear()
        self._failures.clear()
        self._children.renew_all(found.renewed, found.ended, self.generation)
        return None

    def _commit(self) -> None:
        """The new generation takes over; topics that have changed begin to roll over."""
        assert self._next is not None
        after, found, self._next = self._next.plan, self._next.difference, None
        self.plan = after
        children, rollouts = self._children, self._workforce.rollouts
        children.replace_old()
        for key in found.removed:
            children.remove(key)
        for spec in found.added:
            children.add(spec)
        for spec in (*found.resized, *found.changed):
            children.swap(spec)
            if spec.role == PROGRAM:
                children.resize(spec.key, range(spec.count))
            self._tell(spec)
        children.retune(after.backoff)
        rollouts.replan()
        self._workforce.scaling.replan(f"{topic.queue}/{topic.topic}" for topic in after.topics)
        for spec in found.changed:
            rollouts.begin(spec.key, (NEW_SETTINGS,))
        self._topics.replan(
            [(topic.queue, topic.topic) for topic in after.topics if topic.has_consumers],
            [(topic.queue, topic.topic) for topic in after.topics],
        )
        self._house.close_old()
        outcome = self._outcomes[self._reload.number]
        self._since_s = self._clock.wall_s()
        self._end(outcome, DONE, "", Exit.DONE)
        self._log.info(
            "reload.done", number=outcome.number, generation=outcome.generation, topics=list(outcome.touched)[:_LOGGED],
            changes=list(outcome.changes)[:_LOGGED], more=max(0, len(outcome.changes) - _LOGGED),
            waiting=list(after.waiting), took_s=round(self._clock.monotonic_s() - outcome.began_s, 3),
        )

    def _tell(self, spec: RoleSpec) -> None:
        """Living consumers are told what has changed and is no reason to replace them."""
        for child in self._children.of(spec.key):
            for name in difference.TOLD:
                if name in spec.args and child.spec.args.get(name) != spec.args[name]:
                    child.tell(name, value=spec.args[name])

    def _take_back(self, reason: str) -> None:
        assert self._next is not None
        found, generations, self._next = self._next.difference, self._next.generations, None
        renewed = {spec.key for spec in found.renewed}.union(found.ended)
        self._children.take_back([spec for spec in self.plan.roles if spec.key in renewed], generations)
        self._house.go_back(self.plan)
        outcome = self._outcomes[self._reload.number]
        self._end(outcome, FAILED, f"{reason}; the new generation was taken back", Exit.FAILED)
        self._log.error("reload.failed", number=outcome.number, reason=reason)

    def _end(self, outcome: Outcome, state: str, reason: str, exit_status: int) -> None:
        outcome.state, outcome.reason, outcome.exit_status = state, reason, exit_status
        outcome.at_s = self._clock.wall_s()
        self._last = outcome
        if not self._children.stopping:
            self._notifier.ready(self._sentence())

    # -- facts ----------------------------------------------------------------------------------

    def _places(self) -> list[rules.Place]:
        """The needed places of the generation that is being born."""
        if self._next is None:
            return []
        return [
            self._place((spec.title or spec.role).format(index=index), (*spec.key, index))
            for spec in self._next.difference.renewed if spec.needed for index in range(spec.count)
        ]

    def _place(self, name: str, place: Place) -> rules.Place:
        ready = any(
            (child.place, child.generation) == (place, self.generation) and child.ready_s is not None and child.stays
            for child in self._children.of(place[:2])
        )
        return rules.Place(
            name=name, ready=ready, deaths=self._deaths[place], failure=self._failures.get(place, "")
        )

    def _left(self, outcome: Outcome) -> tuple[list[str], list[str]]:
        """Who of the generations before it is still handing over, and who stays for what it runs."""
        old = [
            child for child in self._children
            if not difference.is_user_code(child.spec) and 0 < child.generation < outcome.generation
        ]
        left = [child for child in old if not _runs_on(child)]
        return [f"{child.name} ({child.pid})" for child in left], [
            f"{child.name} ({child.pid})" for child in old if _runs_on(child)
        ]


def _runs_on(child: Handle) -> bool:
    return child.patient and bool(child.slot.running)


def _word(state: str) -> str:
    return {REFUSED: "refused", FAILED: "taken back"}.get(state, state)
