"""
One place to connect to, and the right to use it: limits, circuit, window, parked connections.

Rule: state only. Who gets a seat is decided by the backend, when to probe by its watch.
"""

from __future__ import annotations

import ipaddress
import math
from collections import deque
from typing import Any

from pbus.config import schema, values
from pbus.delivery.circuit import Circuit
from pbus.delivery.congestion import UNLIMITED, Gauge, Pool, Window
from pbus.delivery.connection import Connection, connect
from pbus.delivery.shares import Flow


def share_of(total: int, processes: int, index: int) -> int:
    """The part of *total* that child *index* of *processes* may use; the parts add up to *total*."""
    return total // processes + (1 if index < total % processes else 0)


class Address:
    """
    Owner: its backend.

    Attributes:
        name: ``unix:PATH`` or ``HOST:PORT``.
        kind: ``fastcgi`` or ``http``.
        is_local: On this machine, by its name.
        limit: Connections this child may have to it now.
        lent: Of our share, connections that older children of the node still have.
        taken: Seats given out; with the parked connections never more than ``limit`` (after the
            limit has sunk: as soon as calls end).
        turn: Number of the last seat that was given out, over all addresses of the backend.
        problem: Why it was not reached last time; empty while it is.
        recycled_s: When a kept connection was found closed, monotonic seconds; its server ends processes after so many
            requests, or went away.
        parked: (since, connection) that nobody uses now, the oldest first.
        errands: Calls of our own (pings, status page) that wait for a seat at this address.
        gauge: Finds the size of the pool.
        pool: What php-fpm said of itself last; None: nothing.
        pool_problem: Why its status page could not be read; empty: it could, or was not tried.
        calls, failures, refusals: Counts of calls, of those that reached nobody, of busy answers.
    """

    def __init__(self, name: str, kind: str, share: int, settings: schema.Backend) -> None:
        self.name = name
        self.kind = kind
        self.is_local = is_local(name)
        self.circuit = Circuit(settings.circuit)
        self.window = Window()
        self.lent = 0
        self.taken = 0
        self.turn = 0
        self.problem = ""
        self.recycled_s = -math.inf
        self.parked: deque[tuple[float, Connection]] = deque()
        self.errands: deque[Any] = deque()
        self.gauge = Gauge()
        self.pool: Pool | None = None
        self.pool_problem = ""
        self.calls = self.failures = self.refusals = 0
        self._share = share
        self._measured = UNLIMITED
        self._timeout_s = settings.connect_timeout_s
        self.limit = share

    @property
    def has_room(self) -> bool:
        """A seat can be given out now."""
        return not self.circuit.is_open and self.taken < self.limit

    @property
    def is_limited(self) -> bool:
        """The configuration bounds it."""
        return self._share < UNLIMITED

    @property
    def state(self) -> str:
        """``up``, ``busy`` (fewer calls than allowed, or a pause), ``open`` (left alone) or ``probing``."""
        if self.circuit.is_open:
            return self.circuit.state.value
        return "busy" if self.window.is_cut else "up"

    def measure(self, pool: Pool, connections: int) -> None:
        """*pool* was read: it has room for so many connections of this child (UNLIMITED: not known)."""
        self.pool = pool
        self._measured = connections

    def adjust(self, now_s: float) -> bool:
        """Work the limit out again; True when it has changed."""
        before = self.limit
        paused = now_s < self.window.paused_until_s
        self.limit = 0 if paused else min(max(0, self._share - self.lent), self._measured, self.window.limit)
        return self.limit != before

    def connect(self) -> Connection:
        """
        A fresh connection.

        Raises:
            HandlerUnavailable: nothing was reached.
        """
        sock = connect(self.name, self._timeout_s)
        self.problem = ""
        return Connection(sock)

    def trim(self) -> None:
        """Seats and parked connections together stay within the limit."""
        while self.parked and self.taken + len(self.parked) > self.limit:
            self.parked.popleft()[1].close()

    def close_parked(self) -> None:
        """Nobody will use them."""
        while self.parked:
            self.parked.popleft()[1].close()


class Seat:
    """The right to one connection to *address*. Owner: the call that took it, for *flow* (None: our own)."""

    __slots__ = ("address", "connection", "flow", "since_s")

    def __init__(self, address: Address, connection: Connection | None, flow: Flow | None, since_s: float) -> None:
        self.address = address
        self.connection = connection
        self.flow = flow
        self.since_s = since_s

    def close(self) -> None:
        """Close the connection; the seat stays."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def is_local(name: str) -> bool:
    """Whether an address is a unix socket or on the loopback, by its name alone."""
    where = values.address(name)
    if where.path:
        return True
    try:
        return ipaddress.ip_address(where.host).is_loopback
    except ValueError:
        return where.host == "localhost"
