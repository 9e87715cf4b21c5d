"""
The nodes of a storage: our own beat, and those whose beat stands still.

Every node moves a counter; there is no expiry in the store, because a store that stands still would
expire the healthy too. An observer judges on its own monotonic clock alone, and only over time in
which its own calls succeeded: a boot whose counter stood still for ``lost_after`` is declared dead.
The declaration is one write that fences the boot, so a node that was merely frozen finds its
settles refused, takes a new boot id and goes on. Then its claims go back, attempt not counted, or are dead as
``unknown`` where nothing may run twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from pbus.clock import Clock
from pbus.core.job import Settlement
from pbus.core.names import Owner
from pbus.core.outcome import Rules
from pbus.scheduler.boots import Boots
from pbus.scheduler.reclaim import Dead, give_back, parsed, settlement_of
from pbus.scheduler.roster import Store
from pbus.storage.driver import Held

FORGET_AFTER_S: Final = 3_600.0
"""A fenced boot is remembered so long: who was frozen must still be told when it thaws."""


class Observer:
    """
    Which boots stand still, and for how long. One owner: the duty below.

    Args:
        lost_after_s: Still for so long is dead.
        most_s: Time between two looks counts up to this: if we ourselves stood still, the others
            had no chance to be seen moving.
    """

    def __init__(self, lost_after_s: float, most_s: float) -> None:
        self._lost_after_s = lost_after_s
        self._most_s = most_s
        self._counters: dict[str, int | None] = {}
        self._still_s: dict[str, float] = {}
        self._looked_s: float | None = None

    def look(self, counters: Mapping[str, int | None], now_s: float) -> list[str]:
        """
        Boots that are dead by now.

        Args:
            counters: Every boot but our own; None for one that holds claims but has no counter.
            now_s: Our monotonic clock.
        """
        passed_s = 0.0 if self._looked_s is None else min(self._most_s, now_s - self._looked_s)
        self._looked_s = now_s
        self._still_s = {
            boot: self._still_s[boot] + passed_s if boot in self._still_s and self._counters[boot] == counter else 0.0
            for boot, counter in counters.items()
        }
        self._counters = dict(counters)
        return [boot for boot, still_s in self._still_s.items() if still_s >= self._lost_after_s]

    def moving(self, within_s: float) -> int:
        """Boots whose counter has moved within that time, by our clock."""
        return sum(
            1 for boot, still_s in self._still_s.items()
            if self._counters.get(boot) is not None and still_s < within_s
        )

    def interrupted(self) -> None:
        """A call failed: silence until now says nothing about anybody."""
        self._still_s.clear()
        self._counters.clear()
        self._looked_s = None


class Nodes:
    """The duty, for storages that several nodes may use."""

    name = "nodes"

    def __init__(
        self, store: Store, own: Owner, heartbeat_s: float, lost_after_s: float, boots: Boots,
        rules: Mapping[tuple[str, str], Rules], clock: Clock, log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._store = store
        self._own = own
        self._heartbeat_s = heartbeat_s
        self._boots = boots
        self._rules = rules
        self._clock = clock
        self._log = log.bind(storage=store.name)
        self._observer = Observer(lost_after_s, most_s=heartbeat_s)
        self._fenced_at: dict[str, float] = {}

    def turn(self) -> float:
        driver, now = self._store.driver, self._clock.monotonic_s()
        driver.beat(self._own.node, self._own.boot)
        counters: dict[str, int | None] = dict(driver.beats())
        owners = parsed(driver.owners())
        for owner in owners:
            counters.setdefault(owner.boot, None)
        for boot in {self._own.boot, *self._boots.known(), *self._fenced_at}:
            counters.pop(boot, None)
        for boot in self._observer.look(counters, now):
            driver.fence(boot)
            self._fenced_at[boot] = now
            self._log.critical("node.lost", boot=boot, node=_node_of(boot, owners))
        for owner in owners:
            if owner.boot in self._fenced_at:
                self._give_back(owner)
        self._forget_old(now)
        return self._heartbeat_s

    def living(self) -> int:
        """Nodes that use the storage and gave a sign of life lately, ourselves included."""
        return 1 + self._observer.moving(self._heartbeat_s * 2)

    def interrupted(self) -> None:
        """Our own calls failed: the silence of the others means nothing."""
        self._observer.interrupted()

    def _give_back(self, owner: Owner) -> None:
        def settlement(held: Held) -> Settlement:
            rules = self._rules.get((held.queue, held.topic), Rules())
            return settlement_of(Dead(owner), held, rules, 0, 0.0)

        given = give_back(self._store, str(owner), settlement, self._log)
        if given:
            self._log.warning("claims.given_back", owner=str(owner), claims=given, job_id="")

    def _forget_old(self, now_s: float) -> None:
        for boot in [boot for boot, at in self._fenced_at.items() if now_s - at >= FORGET_AFTER_S]:
            self._store.driver.forget(boot)
            del self._fenced_at[boot]


def _node_of(boot: str, owners: list[Owner]) -> str:
    """The node of *boot*, as far as a claim of it tells; empty for a boot without claims."""
    return next((owner.node for owner in owners if owner.boot == boot), "")
