"""
Everything about alarms that a scheduler child has, put together: a duty a store, one post, one eye on outages.

Rule: assembles; the parts decide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from pbus.clock import Clock
from pbus.config.schema import Alarm, Node
from pbus.core.alarms import Policy
from pbus.core.names import Owner
from pbus.errors import StorageError
from pbus.scheduler.alarms import Alarms
from pbus.scheduler.conditions import Conditions
from pbus.scheduler.elsewhere import Elsewhere
from pbus.scheduler.fitness import Fitness
from pbus.scheduler.looks import Looks
from pbus.scheduler.notify import Post
from pbus.scheduler.outages import Outages
from pbus.scheduler.readings import Path, Readings
from pbus.scheduler.returned import Returned
from pbus.scheduler.roster import Roster, Store
from pbus.scheduler.standing import Standing
from pbus.storage.pauses import pausers
from pbus.supervisor.histograms import Totals


class Watch:
    """One owner: the scheduler."""

    def __init__(
        self, args: Mapping[str, Any], owner: Owner, read: Callable[[], Mapping[Path, Totals]], clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """
        Args:
            args: Those of the role.
            read: What the children of this node counted.
        """
        self._args = args
        self._owner = owner
        self._read = read
        self._clock = clock
        self._log = log
        self._bounds: Alarm = args["alarm"]
        self._node: Node = args["node"]
        self._policy = _policy(args)
        self._post = Post(args["notify"], clock, self._bounds.retry_first_s)
        self._duties: dict[str, Alarms] = {}
        self._outages: Outages | None = None
        self.conditions = Conditions(self._node.name, owner.boot, clock)

    @property
    def look_s(self) -> float:
        """Between two looks."""
        return self._bounds.look_s

    def duty(self, store: Store, looks: Looks) -> Alarms:
        """The duty of *store*."""
        queues = {name: queue for name, queue in self._args["queues"].items() if queue.storage == store.name}
        is_first = store.name == next(iter(self._args["stores"]))
        returned = Returned(store.driver, queues, self.look_s) if self._bounds.error_back else None
        elsewhere = Elsewhere(store.driver, self._node.name) if store.driver.capabilities.many_nodes else None
        readings = Readings(queues, self._args["systems"], self._bounds, looks, self._read, is_first=is_first,
                            deployed_s=self.conditions.deployed_s, returned=returned,
                            pausers=functools.partial(pausers, store.driver), elsewhere=elsewhere)
        made = self._duties[store.name] = Alarms(
            store, str(self._owner), self._policy, readings, self.conditions, self._post, self._node.heartbeat_s,
            self._node.lost_after_s, self._clock, self._log, self._bounds.look_s,
        )
        return made

    def outages(self, rosters: Mapping[str, Roster], fitness: Mapping[str, Fitness]) -> Outages | None:
        """The eye on stores that are away, or not fit; None: nobody wants to know."""
        if not self._bounds.storage or not self._args["notify"]:
            return None
        wrong = {name: functools.partial(_wrong, roster, fitness[name]) for name, roster in rosters.items()}
        self._outages = Outages(wrong, self._policy, self._node.name, self._post, self._clock)
        return self._outages

    @property
    def standing(self) -> list[Standing]:
        """What fires, of each store, and of stores."""
        parts: list[Alarms | Outages] = [*self._duties.values(), *([self._outages] if self._outages else [])]
        return [part.standing for part in parts]

    def leave(self, store: Store) -> None:
        """This node ends in good order."""
        try:
            self._duties[store.name].leave()
        except StorageError as error:
            self._log.warning("alarm.late", storage=store.name, error=str(error))


def _wrong(roster: Roster, fitness: Fitness) -> str:
    return fitness.wrong if roster.is_up else "it does not do what it is asked"


def _policy(args: Mapping[str, Any]) -> Policy:
    bounds: Alarm = args["alarm"]
    return Policy(
        clear=bounds.clear_percent / 100.0, clear_s=bounds.clear_after_s, group_wait_s=bounds.group_wait_s,
        escalate_after_s=bounds.escalate_after_s, escalate_to=tuple(bounds.escalate_to), default=tuple(bounds.oncall),
        oncall={name: tuple(system.oncall) for name, system in args["systems"].items() if system.oncall},
    )
