"""
Roll-outs under way, and who watches for new code: the acts that ``rollout`` decides on.

    consumer --changed {files}--+
    pbus topic restart ---------+--> begin --> the canary is born --> .. --> an old one is told to go --> ..

The oldest process among those with the newest code watches the files of its topic (``watch_files``): nothing that
changed since it loaded them can be missed, and those with older code have nothing new to tell.

Rule: a process is marked with the number of its code at its birth. How a canary dies is the roll-out's business
alone: it is not born again, and no crash loop is made of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.supervisor import rollout as rules
from pbus.supervisor.children import PROGRAM, Children
from pbus.supervisor.handle import Death, Handle
from pbus.supervisor.reconcile import Key
from pbus.supervisor.rollout import Member, Rollout
from pbus.supervisor.scaling import Scaling
from pbus.supervisor.upgrade import State
from pbus.telemetry import log as logs

WATCH: Final = "watch_files"
_FILES_NAMED: Final = 3


class Rollouts:
    """One owner: the master."""

    def __init__(self, children: Children, scaling: Scaling, clock: Clock) -> None:
        self._children = children
        self._scaling = scaling
        self._clock = clock
        self._log = logs.get()
        self._rollouts: dict[Key, Rollout] = {}
        self._watchers: dict[Key, int] = {}
        self._watched = [key for key, spec in children.specs.items() if spec.watch]

    def of(self, key: Key) -> Rollout:
        """How far that role and path is."""
        return self._rollouts.get(key, Rollout())

    @property
    def carried(self) -> dict[str, Any]:
        """How far each is, and who watches: through an upgrade; see ``State``."""
        return {
            "rollouts": [[*key, dataclasses.asdict(rollout)] for key, rollout in self._rollouts.items()],
            "watchers": [[*key, n] for key, n in self._watchers.items()],
        }

    def resume(self, state: State) -> None:
        """Go on where *state* says."""
        known = {each.name for each in dataclasses.fields(Rollout)}
        for role, path, fields in state.rollouts:
            said = {name: value for name, value in fields.items() if name in known}
            self._rollouts[role, path] = Rollout(**said | {"files": tuple(said.get("files", ()))})
        self._watchers = {(role, path): n for role, path, n in state.watchers}

    def replan(self) -> None:
        """Another configuration: what is not there any more is not rolled out."""
        specs = self._children.specs
        self._rollouts = {key: rollout for key, rollout in self._rollouts.items() if key in specs}
        self._watchers = {key: n for key, n in self._watchers.items() if key in specs}
        self._watched = [key for key, spec in specs.items() if spec.watch]

    def extra(self, key: Key) -> int:
        """Processes of it above the plan."""
        return self.of(key).extra

    # -- what begins one ------------------------------------------------------------------------

    def changed(self, child: Handle, files: Sequence[str]) -> None:
        """*child* says that its files are other ones on the disk now; none: they are as it has loaded them."""
        key = child.spec.key
        if key not in self._children.specs:
            return
        ready = [each for each in self._children.of(key) if each.stays and each.ready_s is not None]
        newest = max((each.code for each in ready), default=0)
        if not child.stays or child.code < newest:
            return  # those with newer code tell of what is newer than that
        if files:
            self.begin(key, files)
        else:
            alone = child.spec.alone
            decided = rules.withdraw(self.of(key), self._members(key), self._clock.monotonic_s(), alone=alone)
            self._take(key, decided, "rollout.withdrawn")

    def begin(self, key: Key, files: Sequence[str] = ()) -> str:
        """
        Load the code of that role and path again.

        Returns:
            What that means: ``restarting``; ``started``, where it had been given up or is not running; ``idle``,
            where none is wanted now.
        """
        alone = self._children.specs[key].alone
        decided = rules.begin(self.of(key), self._members(key), files, self._clock.monotonic_s(), alone=alone)
        was_fatal = self._children.forgive(key)
        self._take(key, decided, "rollout.begun" if decided[0].is_under_way else "rollout.loaded", files=list(files))
        self._scaling.fit(key)
        if decided[0].is_under_way:
            return "restarting"
        return "started" if was_fatal or self._scaling.wanted(key) else "idle"

    # -- what happens meanwhile -----------------------------------------------------------------

    def born(self, child: Handle) -> None:
        """A newborn has the newest code; the first one of a roll-out is its canary."""
        key = child.spec.key
        if key not in self._rollouts:
            return  # as it was when the bus was started
        before = self._rollouts[key]
        after = rules.born(before, child.n, alone=child.spec.alone)
        child.code, child.trial = after.code, after.canary == child.n
        self._rollouts[key] = after
        if before.stage == rules.FAILED:
            self._log.warning("rollout.in_by_death", child=child.name, code=after.code)

    def died(self, death: Death) -> None:
        """Somebody ended; unasked ends may be the end of a roll-out."""
        child, key = death.handle, death.handle.spec.key
        if key not in self._rollouts:
            return
        now = self._clock.monotonic_s()
        if child.leaving:
            self._take(key, (rules.left(self._rollouts[key], child.n, now), []), "")
        elif child.stays:
            late = "" if child.overdue_since is None else " (its job was out of time)"
            after = rules.died(self._rollouts[key], _member(child), death.how + late, now)
            self._take(key, (after, []), "")

    def settle(self) -> None:
        """Steps that are due; a duty of every turn."""
        for key, rollout in list(self._rollouts.items()):
            if rollout.is_under_way:
                members, wanted = self._members(key), self._scaling.wanted(key)
                alone = self._children.specs[key].alone
                self._take(key, rules.decide(rollout, members, wanted, self._clock.monotonic_s(), alone=alone), "")

    def look_for_watchers(self) -> None:
        """Once a second: whoever should watch the files of a topic is told to."""
        for key in self._watched:
            ready = [child for child in self._children.of(key) if child.stays and child.ready_s is not None]
            if ready:
                newest = max(child.code for child in ready)
                watcher = min((child for child in ready if child.code == newest), key=lambda child: child.n)
                if self._watchers.get(key) != watcher.n:
                    self._watchers[key] = watcher.n
                    watcher.tell(WATCH, on=True)

    def ask_for_age(self) -> None:
        """Have those whose files nobody watches say whether these have changed."""
        for key, spec in self._children.specs.items():
            if not spec.watch:
                ready = [child for child in self._children.of(key) if child.stays and child.ready_s is not None]
                if spec.own_group and ready:
                    min(ready, key=lambda child: child.n).tell("stale_please")

    def old_code(self) -> list[str]:
        """Paths whose processes run code that is older than their files, as far as anybody knows."""
        failed = {key for key, rollout in self._rollouts.items() if rollout.stage == rules.FAILED}
        return sorted(
            key[1] for key in self._children.specs
            if (key in failed and self.row(key)["old"])
            or any(child.stale and child.stays for child in self._children.of(key))
        )

    # -- what people see ------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """One sentence for each that failed."""
        return [self._failure(key, rollout) for key, rollout in self._rollouts.items() if rollout.stage == rules.FAILED]

    def failed_paths(self, role: str) -> dict[str, str]:
        """Path -> why, of topics (or programs) whose last roll-out failed."""
        return {
            path: rollout.reason for (kind, path), rollout in self._rollouts.items()
            if rollout.stage == rules.FAILED and kind == role
        }

    @property
    def codes(self) -> dict[Key, int]:
        """How often the code of each role and path has changed, of those of which it has."""
        return {key: rollout.code for key, rollout in self._rollouts.items() if rollout.code}

    def rows(self) -> dict[Key, dict[str, Any]]:
        """Of each role and path that ever had one: ``stage``, ``code``, ``files``, ``reason``, ``old``."""
        return {key: self.row(key) for key in self._rollouts}

    def row(self, key: Key) -> dict[str, Any]:
        """The same of one; ``old``: processes that have older code and stay."""
        rollout = self.of(key)
        old = sum(1 for child in self._children.of(key) if child.stays and child.code < rollout.code)
        return {
            "stage": rollout.stage, "code": rollout.code, "files": list(rollout.files), "reason": rollout.reason,
            "old": old,
        }

    def _failure(self, key: Key, rollout: Rollout) -> str:
        here = [child for child in self._children.of(key) if child.stays]
        newer = sum(1 for child in here if child.code >= rollout.code)
        noun = "program" if key[0] == PROGRAM else "topic"
        grown = f" ({newer} of {len(here)} were born after the change)" if newer else ""
        return (
            f"{key[1]} rollout-failed: {rollout.reason}{_changed(rollout.files)}; the old processes go on{grown}; "
            f"tried again when the code changes, or by 'pbus {noun} restart {key[1]}'"
        )

    # -- acts -----------------------------------------------------------------------------------

    def _members(self, key: Key) -> list[Member]:
        return [_member(child) for child in self._children.of(key)]

    def _take(self, key: Key, decided: rules.Decided, event: str, **fields: Any) -> None:
        """Make what was decided the truth."""
        before, (after, steps) = self.of(key), decided
        if after == before and not steps:
            return
        self._rollouts[key] = after
        if after.stage != before.stage or after.code != before.code:
            self._tell(key, before, after, event, fields)
        handles = {child.n: child for child in self._children.of(key)}
        if after.canary != before.canary and before.canary in handles:
            handles[before.canary].trial = False
        for step in steps:
            match step:
                case rules.Retire(n):
                    self._scaling.give_up(handles[n])
                case rules.Renew(n):
                    self._children.renew(handles[n])
        if after.extra != before.extra or after.stage != before.stage:
            self._scaling.fit(key)

    def _tell(self, key: Key, before: Rollout, after: Rollout, event: str, fields: dict[str, Any]) -> None:
        where = {"program" if key[0] == PROGRAM else "topic": key[1], "code": after.code}
        if after.stage == rules.FAILED:
            self._log.error("rollout.failed", **where, reason=after.reason, files=list(after.files))
        elif event:
            self._log.info(event, **where, **fields)
        elif before.stage == rules.CANARY:
            self._log.info("rollout.canary_is_good", **where)
        elif after.stage == rules.NONE:
            self._log.info("rollout.done", **where)


def _member(child: Handle) -> Member:
    done, failed = child.slot.attempts
    return Member(
        n=child.n, code=child.code, ready_s=child.ready_s, done=done, failed=failed, idle=not child.slot.in_job,
        leaving=not child.stays,
    )


def _changed(files: Iterable[str]) -> str:
    names = list(files)
    if not names:
        return ""
    more = f" and {len(names) - _FILES_NAMED} more" if len(names) > _FILES_NAMED else ""
    return f" (changed: {', '.join(names[:_FILES_NAMED])}{more})"
