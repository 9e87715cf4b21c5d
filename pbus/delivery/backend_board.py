"""
What the master is told of backends, for ``pbus status`` and ``pbus backend ls``: one frame an address.

Rule: a change of state is told at the next round, counters at most once in COUNTERS_S, nothing while
nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pbus.clock import Clock
from pbus.delivery.address import Address
from pbus.delivery.backend import Backend
from pbus.delivery.backends import Backends
from pbus.delivery.congestion import UNLIMITED

COUNTERS_S: Final = 1.0

Tell = Callable[..., None]
"""``Child.tell``."""


class BackendBoard:
    """
    One per delivery child.

    Args:
        backends: What is told of.
        tell: Sends a frame to the master.
        clock: The clock to use.
        shadows: Topics that shadow others (``queue/topic``): what only they call concerns nobody else.
    """

    def __init__(
        self, backends: Backends, tell: Tell, clock: Clock, shadows: frozenset[str] = frozenset()
    ) -> None:
        self._backends = backends
        self._shadows = shadows
        self._tell = tell
        self._clock = clock
        self._states: dict[str, tuple[Any, ...]] = {}
        self._counts: dict[str, tuple[int, ...]] = {}
        self._told_s: dict[str, float] = {}

    def forget(self) -> None:
        """Frames to the master may be dropped: tell everything again."""
        self._states.clear()

    def tell(self) -> None:
        """Tell what has changed."""
        now_s = self._clock.monotonic_s()
        for backend, address in self._backends.used():
            name = address.name
            state = (address.state, address.limit, address.problem, address.pool_problem, address.pool)
            counts = (
                address.calls, address.failures, address.refusals, address.taken, len(address.parked),
                backend.shares.waiting,
            )
            is_old = now_s - self._told_s.get(name, -COUNTERS_S) >= COUNTERS_S
            if self._states.get(name) != state or (is_old and self._counts.get(name) != counts):
                self._states[name], self._counts[name], self._told_s[name] = state, counts, now_s
                known = row(backend, address)
                self._tell("backend", **known, shadows=self._shadows.issuperset(known["topics"]))


def row(backend: Backend, address: Address) -> dict[str, Any]:
    """The fields of the frame ``backend``; ``limit`` is None where there is none, ``pool`` where nothing is known."""
    rests = "resting: it says that it is busy" if not address.limit and address.window.is_cut else ""
    return {
        "backend": backend.name,
        "address": address.name,
        "protocol": address.kind,
        "state": address.state,
        "reason": address.problem or rests or address.pool_problem,
        "connections": address.taken + len(address.parked),
        "limit": address.limit if address.limit < UNLIMITED else None,
        "max_connections": backend.settings.max_connections,
        "in_use": address.taken,
        "waiting": backend.shares.waiting,
        "calls_total": address.calls,
        "failed_total": address.failures,
        "busy_total": address.refusals,
        "rate_per_s": backend.rate_per_s,
        "pool": address.pool.fields() if address.pool is not None else None,
        "topics": sorted(flow.path for flow in backend.shares.flows()),
    }
