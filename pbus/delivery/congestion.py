"""
How many calls at once an address is given when it says that it is short.

    busy answer        the window shrinks to seven tenths of what was in use, once a round trip
    one call, and busy a pause: what Retry-After says, or 0.1, 0.2 .. 5 s
    served             the window grows by one a round trip; by one a call after CALM_S without trouble
    measured           php-fpm's own queue is not empty and calls became slower: it shrinks to eight tenths

Additive increase and multiplicative decrease (Chiu and Jain 1989) share an address fairly between
children that know nothing of each other. Rule: pure, time is passed in; never below one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

UNLIMITED: Final = 1_000_000
SHRINK: Final = 0.7
SHRINK_GENTLY: Final = 0.8
SLOWER: Final = 1.3
CALM_S: Final = 10.0
FORGET_S: Final = 30.0
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
RETRY_AFTER_MAX_S: Final = 30.0
"""A whole address is not left alone for longer because of one answer; the job itself waits as long as it says."""

_LATENCY_WEIGHT: Final = 1 / 16
_BASE_RISES: Final = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """
    What php-fpm's status page says of a pool.

    Attributes:
        manager: ``static``, ``dynamic`` or ``ondemand``.
        total, active, idle: Processes now.
        listen_queue: Connections that wait for a process.
        max_active: Most processes that were active at once since its start.
        max_children_reached: How often ``pm.max_children`` was hit since its start.
    """

    manager: str = ""
    total: int = 0
    active: int = 0
    idle: int = 0
    listen_queue: int = 0
    max_active: int = 0
    max_children_reached: int = 0

    @property
    def size(self) -> int:
        """
        ``pm.max_children``, as far as it can be told; 0: not yet.

        The page does not name it. A static pool always has that many processes; another one is
        known to be full when it once would have liked to have more.
        """
        if self.manager == "static":
            return self.total
        return max(self.max_active, self.total) if self.max_children_reached else 0

    def fields(self) -> dict[str, Any]:
        """For a frame."""
        return {**asdict(self), "size": self.size}


_NAMES: Final = {
    "total": "total processes", "active": "active processes", "idle": "idle processes",
    "listen_queue": "listen queue", "max_active": "max active processes",
    "max_children_reached": "max children reached",
}


def pool_of(page: Mapping[str, Any]) -> Pool:
    """
    The pool as its status page (JSON) has it.

    Raises:
        ValueError: that is no status page.
    """
    numbers = {field: page.get(name) for field, name in _NAMES.items()}
    if not all(isinstance(value, int) and value >= 0 for value in numbers.values()):
        raise ValueError("not a status page of php-fpm")
    return Pool(manager=str(page.get("process manager", "")), **numbers)  # type: ignore[arg-type]


class Window:
    """
    Calls at once that one child makes to one address. One owner: the address.

    Attributes:
        limit: Whole calls; UNLIMITED while there is no trouble.
        paused_until_s: Monotonic; no call begins before.
        is_cut: There was trouble, and the window has not grown over all that is asked for.
    """

    __slots__ = ("_base_s", "_cut_at_s", "_latency_s", "_pause_s", "_size", "is_cut", "limit", "paused_until_s")

    def __init__(self) -> None:
        self.limit = UNLIMITED
        self.is_cut = False
        self.paused_until_s = 0.0
        self._size = 0.0
        self._cut_at_s = 0.0
        self._pause_s = 0.0
        self._latency_s = 0.0
        self._base_s = 0.0

    def busy(self, now_s: float, begun_s: float, in_use: int, retry_after_s: float | None = None) -> None:
        """
        A call that began at *begun_s* was refused for want of room.

        Args:
            in_use: Calls under way, that one included.
            retry_after_s: What the answer says, if it does.
        """
        if self.is_cut and begun_s < self._cut_at_s:
            return  # of the round trip that the window was cut for
        if self.is_cut and self._size <= 1.0:
            self._pause_s = min(max(self._pause_s * 2, PAUSE_FIRST_S), PAUSE_MAX_S)
            pause_s = self._pause_s if retry_after_s is None else min(retry_after_s, RETRY_AFTER_MAX_S)
            self.paused_until_s = max(self.paused_until_s, now_s + pause_s)
            self._cut_at_s = now_s
            return
        self._cut(now_s, in_use, SHRINK)

    def served(self, now_s: float, run_s: float, in_use: int, most: int) -> None:
        """
        A call was answered, whatever it said about its job.

        Args:
            run_s: What it took.
            in_use: Calls under way, that one included.
            most: Calls that would be made at once without a window.
        """
        self._latency_s += (run_s - self._latency_s) * (_LATENCY_WEIGHT if self._latency_s else 1.0)
        if not self.is_cut:
            return
        self._pause_s = 0.0
        calm_s = now_s - self._cut_at_s
        if in_use >= self.limit:
            self._size += 1.0 if calm_s > CALM_S else 1.0 / self._size
        elif calm_s > FORGET_S:
            self._size = float(most)
        self.limit = int(self._size)
        if self.limit >= most:
            self.is_cut, self.limit, self.paused_until_s = False, UNLIMITED, 0.0

    def measured(self, now_s: float, in_use: int, listen_queue: int) -> None:
        """php-fpm's status page was read: *listen_queue* connections wait for a process there."""
        slower = self._latency_s > self._base_s * SLOWER > 0.0
        self._base_s = min(self._base_s * _BASE_RISES, self._latency_s) if self._base_s else self._latency_s
        if listen_queue > 0 and slower and in_use > 1:
            self._cut(now_s, in_use, SHRINK_GENTLY)

    def _cut(self, now_s: float, in_use: int, factor: float) -> None:
        size = min(self._size, float(in_use)) if self.is_cut else float(in_use)
        self._size = max(1.0, size * factor)
        self.limit = int(self._size)
        self.is_cut = True
        self._cut_at_s = now_s
