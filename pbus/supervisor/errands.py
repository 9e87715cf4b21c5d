"""
Errands: what a caller asks the master and only a child can do (an order for the planner).

    caller --scale {..}--> master --order {id, ..}--> scheduler
    caller <--ok {..}----- master <--ordered {id, ..} or {id, error, exit_status}

Rule: the master understands neither the question nor the answer. Who asked is told when nobody can do it, or when
nobody has answered in time; it never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbus.clock import Clock
from pbus.errors import Exit
from pbus.supervisor.control import Caller
from pbus.supervisor.handle import Handle

ORDER: Final = "order"
_ANSWER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Errand:
    caller: Caller
    child: int
    answer_by: float


class Errands:
    """Those that are not answered yet. One owner: the master."""

    def __init__(self, doers: Callable[[], Iterable[Handle]], clock: Clock) -> None:
        """*doers* gives the children that can do them now."""
        self._doers = doers
        self._clock = clock
        self._open: dict[int, _Errand] = {}
        self._id = 0

    def send(self, caller: Caller, frame: Mapping[str, Any]) -> None:
        """A caller asks for one."""
        fields = {name: value for name, value in frame.items() if name not in ("kind", "id")}
        for child in self._doers():
            self._id += 1
            self._open[self._id] = _Errand(caller, child.n, self._clock.monotonic_s() + _ANSWER_S)
            child.tell(ORDER, id=self._id, **fields)
            return
        caller.refuse("the scheduler is not running; try again in a moment", Exit.TEMPORARY)

    def done(self, frame: Mapping[str, Any]) -> None:
        """A child answers."""
        errand = self._open.pop(frame["id"], None)
        if errand is None:
            return
        if frame.get("error"):
            errand.caller.refuse(str(frame["error"]), int(frame.get("exit_status") or Exit.FAILED))
        else:
            errand.caller.answer(**{name: value for name, value in frame.items() if name not in ("kind", "id")})

    def settle(self) -> None:
        """Answer those whose child is gone or silent; a duty of every turn."""
        if not self._open:
            return
        alive, now = {child.n for child in self._doers()}, self._clock.monotonic_s()
        for number, errand in list(self._open.items()):
            if errand.child not in alive or now >= errand.answer_by:
                del self._open[number]
                errand.caller.refuse("the scheduler does not answer; what was asked may have been done", Exit.TEMPORARY)

    @property
    def next_s(self) -> float:
        """When ``settle`` has something to do by itself."""
        return min((errand.answer_by for errand in self._open.values()), default=float("inf"))
