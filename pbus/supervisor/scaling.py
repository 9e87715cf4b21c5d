"""
The scaling plan, as far as the master carries it out: how many consumers of each topic there are.

    scheduler --plan--> wanted of each topic --> places of consumers (``places``) --> reconcile
                                             \\--> shares, expected --> delivery children

Rule: the last plan holds as long as nobody sends another; before the first one a topic has what its role says. The
master adds nothing to a plan: it births the lowest free places, and gives up those of the idle. Who works goes only
when nobody has been idle for a while, and finishes its job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pbus.clock import Clock
from pbus.supervisor.children import CONSUMER, Children
from pbus.supervisor.handle import Handle
from pbus.supervisor.places import Resident, leavers, lowest_free
from pbus.supervisor.reconcile import Key

PATIENCE_S: Final = 2.0
"""So long is waited for an idle one before one that works is told to go after its job."""

MOST: Final = 10_000
"""Consumers of one topic: the bound of the configuration, whatever an order says."""

SHARES: Final = "shares"
EXPECTED: Final = "expected"

Decision = Mapping[str, Any]


class Scaling:
    """The last plan and what has been made of it. One owner: the master."""

    def __init__(self, children: Children, clock: Clock) -> None:
        self._children = children
        self._clock = clock
        self._decisions: dict[str, Decision] = {}
        self._surplus_since: dict[Key, float] = {}
        self._unfit: set[Key] = set()
        self._changed: set[str] = set()
        self.extra: Callable[[Key], int] = lambda _: 0
        """Places above the plan (a roll-out needs one); whoever rolls out sets it."""
        self._look_at_roles()

    def _look_at_roles(self) -> None:
        specs = self._children.specs
        self._deliveries = sum(spec.count for spec in specs.values() if EXPECTED in spec.hears)
        self._consumers = [key for key in specs if key[0] == CONSUMER]

    def replan(self, paths: Iterable[str]) -> None:
        """Another configuration, with these topics: everybody who delivers is told everything again."""
        self._look_at_roles()
        known = set(paths)
        self._decisions = {path: decision for path, decision in self._decisions.items() if path in known}
        self._unfit = {key for key in self._unfit if key in self._children.specs}
        self._surplus_since = {key: at for key, at in self._surplus_since.items() if key in self._children.specs}
        for key in self._consumers:
            self.fit(key)
        self._changed.clear()
        for child in self._children.hearing(EXPECTED):
            self.introduce(child)

    def plan(self, topics: Mapping[str, Decision]) -> None:
        """What the scheduler decided, for the topics that it names."""
        shares = {}
        for path, decision in topics.items():
            wanted, before = int(decision["wanted"]), self.decision(path).get("wanted")
            self._decisions[path] = dict(decision)
            if (CONSUMER, path) in self._children.specs:
                self.fit((CONSUMER, path))
            elif wanted != before:
                shares[path] = wanted
        self._tell(SHARES, shares)

    @property
    def decided(self) -> dict[str, int]:
        """Path -> wanted, of everything that the plan names."""
        return {path: int(decision["wanted"]) for path, decision in self._decisions.items()}

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """What was decided last, by path."""
        return self._decisions

    def resume(self, decisions: Mapping[str, Decision]) -> None:
        """What was decided before an upgrade holds."""
        self._decisions = dict(decisions)

    def decision(self, path: str) -> Decision:
        """What was decided about that topic last; empty: nothing yet."""
        return self._decisions.get(path, {})

    def wanted(self, key: Key) -> int:
        """How many of it there ought to be, without what a roll-out adds."""
        decision = self._decisions.get(key[1]) if key[0] == CONSUMER else None
        return self._children.specs[key].count if decision is None else min(MOST, max(0, int(decision["wanted"])))

    def tick(self) -> None:
        """What could not be done at once is tried again."""
        for key in list(self._unfit):
            self.fit(key)

    def fit(self, key: Key) -> None:
        """Have as many places as are wanted now, as far as that is possible at this moment."""
        have = self._children.indexes(key)
        missing = self.wanted(key) + self.extra(key) - len(have)
        if missing > 0:
            lived_in = {child.index for child in self._children.of(key)}
            self._resize(key, have.union(lowest_free(have | lived_in, missing)))
        elif missing < 0:
            self._resize(key, have.difference(self._leavers(key, have, -missing)))
        self._note(key)

    def give_up(self, child: Handle) -> None:
        """That child's place is wanted no more: it leaves after its job."""
        key = child.spec.key
        self._resize(key, self._children.indexes(key) - {child.index})
        self._note(key)

    def _leavers(self, key: Key, have: frozenset[int], surplus: int) -> list[int]:
        now = self._clock.monotonic_s()
        since = self._surplus_since.setdefault(key, now)
        here = [child for child in self._children.of(key) if child.stays]
        newest = max((child.code for child in here), default=0)
        residents = [
            Resident(
                n=child.n, index=child.index, ready=child.ready_s is not None, idle=not child.slot.in_job,
                old=child.code < newest, on_trial=child.trial,
            )
            for child in here
        ]
        return leavers(have, residents, surplus, busy_too=now - since >= PATIENCE_S)

    def _resize(self, key: Key, indexes: frozenset[int]) -> None:
        if indexes != self._children.indexes(key):
            self._children.resize(key, indexes)
            if key[0] == CONSUMER:
                self._changed.add(key[1])

    def _note(self, key: Key) -> None:
        """Whether it has to be looked at again."""
        missing = self.wanted(key) + self.extra(key) - len(self._children.indexes(key))
        if missing >= 0:
            self._surplus_since.pop(key, None)
        (self._unfit.add if missing else self._unfit.discard)(key)

    # -- delivery children ----------------------------------------------------------------------

    def introduce(self, child: Handle) -> None:
        """A delivery child has become ready: it is told everything."""
        if SHARES in child.spec.hears:
            calls = {path: each["wanted"] for path, each in self._decisions.items() if not self._is_consumed(path)}
            child.tell(SHARES, topics=calls)
        if EXPECTED in child.spec.hears:
            child.tell(EXPECTED, topics={path: self._expected(path, child.index) for _, path in self._consumers})

    def settle(self) -> None:
        """Tell delivery children what has changed; a duty of every turn."""
        if not self._changed:
            return
        for child in self._children.hearing(EXPECTED):
            child.tell(EXPECTED, topics={path: self._expected(path, child.index) for path in self._changed})
        self._changed.clear()

    def _expected(self, path: str, delivery: int) -> list[int]:
        """Consumers of a topic that attach to that delivery child, and all of them."""
        indexes = self._children.indexes((CONSUMER, path))
        return [sum(1 for index in indexes if index % self._deliveries == delivery), len(indexes)]

    def _is_consumed(self, path: str) -> bool:
        return (CONSUMER, path) in self._children.specs

    def _tell(self, kind: str, topics: Mapping[str, Any]) -> None:
        if topics:
            for child in self._children.hearing(kind):
                child.tell(kind, topics=topics)
