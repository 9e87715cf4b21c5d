"""
Who gets the next seat when there are fewer than wanted: fair queueing by weight.

    backend --> business systems, by system.weight --> topics, by topic.weight --> callers, in turn

A flow (a topic, or a system with all of its topics) pays for the time that it had seats while
others waited, divided by its weight; the one that has paid least is next. One that comes back from
idleness starts where the others are: nobody saves up. (Start-time fair queueing, Goyal, Vin and
Cheng 1996; the length of a call is known afterwards, so seats in use count with what a seat was
kept for lately.)

Rule: pure, time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

_LEAST_S: Final = 0.0001
_MEAN_WEIGHT: Final = 1 / 8


class _Payer:
    """Something that pays: a system or a topic."""

    __slots__ = ("paid_s", "seats", "turn", "waiting", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.paid_s = 0.0    # by weight: what makes two of them comparable
        self.seats = 0       # in use
        self.waiting = 0     # callers in the queue
        self.turn = 0        # number of its last grant

    def tag_s(self, mean_s: float) -> float:
        """What it will have paid when the seats it has are given back."""
        return self.paid_s + self.seats * mean_s / self.weight


class Flow(_Payer):
    """
    A topic at a backend. One owner: its lane's backend.

    Attributes:
        path: ``queue/topic``.
        shut: Names of addresses where nobody takes this topic (or nobody was asked yet).
        callers: Who waits, in order.
    """

    __slots__ = ("callers", "path", "shut", "system")

    def __init__(self, path: str, weight: int, system: _System) -> None:
        super().__init__(weight)
        self.path = path
        self.system = system
        self.shut: set[str] = set()
        self.callers: deque[Any] = deque()


class _System(_Payer):
    __slots__ = ("clock_s", "flows")

    def __init__(self, weight: int) -> None:
        super().__init__(weight)
        self.flows: list[Flow] = []
        self.clock_s = 0.0   # tag of the flow that was served last


class Shares:
    """The queue of one backend. One owner: it."""

    def __init__(self) -> None:
        self._systems: dict[str, _System] = {}
        self._clock_s = 0.0
        self._mean_s = _LEAST_S
        self._short_since_s = 0.0
        self._turns = 0
        self.waiting = 0

    def join(self, path: str, weight: int = 1, system: str = "", system_weight: int = 1) -> Flow:
        """A flow for the topic *path* of that business system."""
        of_system = self._systems.setdefault(system, _System(system_weight))
        flow = Flow(path, weight, of_system)
        of_system.flows.append(flow)
        return flow

    def add(self, flow: Flow, caller: Any, now_s: float) -> None:
        """*caller* waits for a seat."""
        if not self.waiting:
            self._short_since_s = now_s
        self._enter(flow)
        flow.callers.append(caller)
        self._count(flow, 1)

    def remove(self, flow: Flow, caller: Any) -> bool:
        """*caller* does not wait any more; False: it did not wait."""
        if caller not in flow.callers:
            return False
        flow.callers.remove(caller)
        self._count(flow, -1)
        return True

    def withdraw(self, flow: Flow) -> list[Any]:
        """Everybody of *flow* who waits; they do not any more."""
        callers = list(flow.callers)
        flow.callers.clear()
        self._count(flow, -len(callers))
        return callers

    def next(self, address: str) -> tuple[Flow, Any] | None:
        """Who gets a seat at *address* now (``began`` counts it); None: nobody who waits may go there."""
        systems = (each for each in self._systems.values() if each.waiting)
        for system in sorted(systems, key=self._order):
            flows = [flow for flow in system.flows if flow.callers and address not in flow.shut]
            if flows:
                flow = min(flows, key=self._order)
                self._clock_s = max(self._clock_s, system.tag_s(self._mean_s))
                system.clock_s = max(system.clock_s, flow.tag_s(self._mean_s))
                self._turns += 1
                flow.turn = system.turn = self._turns
                self._count(flow, -1)
                return flow, flow.callers.popleft()
        return None

    def began(self, flow: Flow) -> None:
        """A seat was given to *flow*."""
        self._enter(flow)
        flow.seats += 1
        flow.system.seats += 1

    def ended(self, flow: Flow, since_s: float, now_s: float) -> None:
        """
        *flow* gives back a seat that it had since *since_s*.

        It pays for the time in which somebody waited: what nobody else wanted costs nothing.
        """
        flow.seats -= 1
        flow.system.seats -= 1
        if not self.waiting:
            return
        held_s = max(_LEAST_S, now_s - max(since_s, self._short_since_s))
        self._mean_s += (held_s - self._mean_s) * _MEAN_WEIGHT
        flow.paid_s += held_s / flow.weight
        flow.system.paid_s += held_s / flow.system.weight

    def flows(self) -> Iterator[Flow]:
        """All of them."""
        for system in self._systems.values():
            yield from system.flows

    def _order(self, payer: _Payer) -> tuple[float, int]:
        return payer.tag_s(self._mean_s), payer.turn

    def _enter(self, flow: Flow) -> None:
        """One that was idle has not saved up."""
        system = flow.system
        if not system.seats and not system.waiting:
            system.paid_s = max(system.paid_s, self._clock_s)
        if not flow.seats and not flow.waiting:
            flow.paid_s = max(flow.paid_s, system.clock_s)

    def _count(self, flow: Flow, more: int) -> None:
        flow.waiting += more
        flow.system.waiting += more
        self.waiting += more
