"""
What children did that are no more, so that counters of the node go on when one is replaced.

Rule: sums only, by role and backend: bounded by the configuration however many have died.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pbus.supervisor.handle import Death, Handle

_CALLS: Final = ("calls_total", "failed_total", "busy_total")


class Past:
    """
    One owner: the master's ``Children``.

    Attributes:
        ended: (role, why) -> how many ended unasked: ``boot``, ``exit``, ``signal``, ``memory``, ``timeout``.
        cpu_s: Role -> processor time, as far as somebody looked.
    """

    def __init__(self) -> None:
        self.ended: collections.Counter[tuple[str, str]] = collections.Counter()
        self.cpu_s: dict[str, float] = {}
        self._calls: dict[str, collections.Counter[str]] = {}

    @property
    def carried(self) -> dict[str, Any]:
        """All of it, for an upgrade."""
        return {
            "ended": [[*key, count] for key, count in self.ended.items()], "cpu_s": dict(self.cpu_s),
            "calls": {name: dict(counts) for name, counts in self._calls.items()},
        }

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on from what was ``carried``."""
        self.ended.update({(role, why): count for role, why, count in carried.get("ended", ())})
        self.cpu_s.update(carried.get("cpu_s", {}))
        self._calls = {name: collections.Counter(counts) for name, counts in carried.get("calls", {}).items()}

    def buried(self, death: Death, unasked: bool) -> None:
        """*death* is over; *unasked*: nobody had told it to end."""
        child = death.handle
        role = child.spec.role
        self.cpu_s[role] = self.cpu_s.get(role, 0.0) + child.sample.cpu_s
        if unasked:
            self.ended[role, _why(death)] += 1
        for row in child.backends.values():
            _add(self._calls, row)

    def calls(self, children: Iterable[Handle]) -> dict[str, Mapping[str, int]]:
        """Backend -> calls_total, failed_total, busy_total, of the dead and of *children*."""
        calls = {name: collections.Counter(counts) for name, counts in self._calls.items()}
        for child in children:
            for row in child.backends.values():
                _add(calls, row)
        return {name: dict(counts) for name, counts in calls.items()}


def backend_of(row: Mapping[str, Any]) -> str:
    """The name of its backend; an address that a topic names itself is its own."""
    return str(row["backend"] or row["address"])


def _add(calls: dict[str, collections.Counter[str]], row: Mapping[str, Any]) -> None:
    calls.setdefault(backend_of(row), collections.Counter()).update({name: int(row.get(name) or 0) for name in _CALLS})


def _why(death: Death) -> str:
    child = death.handle
    if child.condemned:
        return "timeout"
    if child.too_big:
        return "memory"
    if death.exit_status < 0:
        return "signal"
    return "boot" if child.ready_s is None else "exit"
