"""
How many calls at once an address is given when it says that it is short.

    busy answer        the window shrinks to seven tenths of what was in use, once a round trip
    one call, and busy a pause: what Retry-After says, or 0.1, 0.2 .. 5 s
    served             the window grows by one a round trip; by one a call after CALM_S without trouble
    deployed           one call, then one more for each that is served
    measured           all of php-fpm's processes are busy and calls became slower: it shrinks to eight tenths

Additive increase and multiplicative decrease (Chiu and Jain 1989) share an address fairly between
children that know nothing of each other. Rule: pure, time is passed in; never below one call.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
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
        total, idle: Processes now.
        listen_queue: Connections that wait for a process; php-fpm knows it of TCP sockets only.
        max_children_reached: How often ``pm.max_children`` was hit since its start.
        started: Unix time of its start, or of its last reload.
        size: ``pm.max_children``, as far as it can be told (see ``Gauge``); 0: not yet.
    """

    manager: str = ""
    total: int = 0
    idle: int = 0
    listen_queue: int = 0
    max_children_reached: int = 0
    started: int = 0
    size: int = 0

    @property
    def is_short(self) -> bool:
        """Who comes now waits for a process."""
        return self.listen_queue > 0 or (self.size > 0 and self.idle == 0)

    def fields(self) -> dict[str, Any]:
        """For a frame."""
        return asdict(self)


_NUMBERS: Final = {
    "listen_queue": b"listen queue", "max_children_reached": b"max children reached", "started": b"start time",
}
_MANAGER: Final = re.compile(rb'"process manager":"([a-z]+)"')
_PROCESS: Final = re.compile(rb'"pid":\d+,"state":"([A-Za-z ]+)"')


def pool_of(page: bytes, size_bytes: int) -> Pool:
    """
    The pool as its status page (``json&full``) has it.

    Its own sums of processes are not used: they count each call on a kept connection as one more
    active process, until php-fpm looks again (seen in 8.2: 85 of 2). The list is counted instead.

    Args:
        page: The beginning of the page, 64 KiB at least where it is longer.
        size_bytes: Of all of it; what is left out of the list is taken to be like what is there.

    Raises:
        ValueError: that is no status page.
    """
    found = {field: re.search(rb'"%b":(\d+)' % name, page) for field, name in _NUMBERS.items()}
    manager, states = _MANAGER.search(page), _PROCESS.findall(page)
    if manager is None or not states or not all(found.values()):
        raise ValueError(f"not a status page of php-fpm: {page[:80]!r}")
    whole = max(1.0, size_bytes / len(page))
    return Pool(
        manager=manager[1].decode(), total=int(len(states) * whole), idle=int(states.count(b"Idle") * whole),
        **{field: int(match[1]) for field, match in found.items() if match is not None},
    )


class Gauge:
    """
    Finds ``pm.max_children``, which the page does not name. Pure.

    A static pool always has that many processes. Of another one it is known from the moment that
    it would have liked to have more: then it has all it may have.
    """

    def __init__(self) -> None:
        self._last: Pool | None = None
        self._size = 0

    def read(self, pool: Pool) -> Pool:
        """*pool* with its size."""
        last, self._last = self._last, pool
        if pool.manager == "static":
            self._size = pool.total
        elif last is None or last.started != pool.started:
            self._size = 0
        elif pool.max_children_reached > last.max_children_reached:
            self._size = pool.total
        elif self._size:
            self._size = max(self._size, pool.total)
        return replace(pool, size=self._size)


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

    def measured(self, now_s: float, in_use: int, short: bool) -> None:
        """php-fpm's status page was read; *short*: who comes now waits for a process."""
        slower = self._latency_s > self._base_s * SLOWER > 0.0
        self._base_s = min(self._base_s * _BASE_RISES, self._latency_s) if self._base_s else self._latency_s
        if short and slower and in_use > 1:
            self._cut(now_s, in_use, SHRINK_GENTLY)

    def begin_small(self, now_s: float) -> None:
        """One call at first, then one more for each that is served: it doubles a round trip until there is trouble."""
        self._size, self.limit, self.is_cut = 1.0, 1, True
        self._cut_at_s = now_s - CALM_S - 1e-6

    def _cut(self, now_s: float, in_use: int, factor: float) -> None:
        size = min(self._size, float(in_use)) if self.is_cut else float(in_use)
        self._size = max(1.0, size * factor)
        self.limit = int(self._size)
        self.is_cut = True
        self._cut_at_s = now_s
