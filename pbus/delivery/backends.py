"""
Addresses that handlers live at: how many connections, who gets the next one, up or down.

Rules
-----
* Never more connections to an address than its limit, whoever uses it. A *seat* is the right to
  one connection; callers queue for seats, first come first served within a topic and in turn
  between topics.
* A kept-alive connection pins one php-fpm process, so only a hot one is reused: work waits for it,
  and it has been reused for less than HOT_S. That limit lets the server's accept queue move: with
  fewer processes than connections those that have one would otherwise keep it for ever. (It counts
  from the first reuse: what waited in the accept queue is not old.) A connection without work is
  closed after LINGER_S. None is opened ahead of a request: php-fpm drops one that is silent for 5 s.
* Failures that reached nobody open the circuit of an address (``failures`` within ``window``);
  while it is open one probe at a time connects after 0.5, 1, 2, 2 s, and no job is spent on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
from gevent.event import AsyncResult

from pbus.clock import Clock
from pbus.config import schema
from pbus.delivery.connection import Connection, connect
from pbus.errors import HandlerUnavailable

HOT_S: Final = 0.1
LINGER_S: Final = 0.05
UNLIMITED: Final = 1_000_000


class Withdrawn(Exception):
    """The caller no longer wants the seat it queued for."""


def share_of(total: int, processes: int, index: int) -> int:
    """The part of *total* that child *index* of *processes* may use; the parts add up to *total*."""
    return total // processes + (1 if index < total % processes else 0)


class Circuit:
    """Whether an address is left alone, and until when. Pure: time is passed in."""

    def __init__(self, settings: schema.Circuit) -> None:
        self._settings = settings
        self._failed_at: deque[float] = deque(maxlen=settings.failures)
        self.is_open = False
        self.probe_in_s = settings.probe_first_s

    def failed(self, now_s: float) -> bool:
        """Nothing was reached at *now_s*; True when that opens the circuit."""
        self._failed_at.append(now_s)
        full = len(self._failed_at) == self._settings.failures
        if self.is_open or not full or now_s - self._failed_at[0] > self._settings.window_s:
            return False
        self.is_open = True
        self.probe_in_s = self._settings.probe_first_s
        return True

    def probe_failed(self) -> None:
        """The next probe waits twice as long, up to the most."""
        self.probe_in_s = min(self.probe_in_s * 2, self._settings.probe_max_s)

    def close(self) -> None:
        """The address answered."""
        self.is_open = False
        self._failed_at.clear()


class Address:
    """
    One place to connect to. Owner: its backend.

    Attributes:
        name: ``unix:PATH`` or ``HOST:PORT``.
        limit: Connections this child may have to it.
        taken: Seats given out; with the parked connections never more than ``limit``.
        problem: Why it was not reached last time; empty while it is.
    """

    def __init__(self, name: str, limit: int, settings: schema.Backend) -> None:
        self.name = name
        self.limit = limit
        self.taken = 0
        self.problem = ""
        self.circuit = Circuit(settings.circuit)
        self.parked: deque[tuple[float, Connection]] = deque()
        self._timeout_s = settings.connect_timeout_s

    @property
    def has_room(self) -> bool:
        return not self.circuit.is_open and self.taken < self.limit

    def connect(self) -> Connection:
        """
        A fresh connection.

        Raises:
            HandlerUnavailable: nothing was reached.
        """
        sock = connect(self.name, self._timeout_s)
        self.problem = ""
        return Connection(sock)


class Seat:
    """The right to one connection to *address*. Owner: the call that took it."""

    __slots__ = ("address", "connection")

    def __init__(self, address: Address, connection: Connection | None) -> None:
        self.address = address
        self.connection = connection

    def close(self) -> None:
        """Close the connection; the seat stays."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Backend:
    """
    The addresses of one ``[backend.NAME]`` (or of one unnamed address), shared by topics.

    Args:
        name: For people.
        addresses: In the order they are tried.
        settings: Limits and timeouts.
        clock: The clock to use.
    """

    def __init__(self, name: str, addresses: Sequence[Address], settings: schema.Backend, clock: Clock) -> None:
        self.name = name
        self.addresses = tuple(addresses)
        self.settings = settings
        self._clock = clock
        self._queues: dict[str, deque[AsyncResult]] = {}  # topic -> its callers; first key is served next
        self._watchers: list[Callable[[], None]] = []
        self._probes: set[Any] = set()
        self._sweeper: Any = None

    @property
    def is_down(self) -> bool:
        """No address can be reached now; probes go on."""
        return all(address.circuit.is_open for address in self.addresses)

    @property
    def reason(self) -> str:
        """What the last attempts to reach it met."""
        return "; ".join(address.problem for address in self.addresses if address.problem)

    @property
    def seats(self) -> int:
        """Connections this child may have to addresses that are not down."""
        return sum(address.limit for address in self.addresses if not address.circuit.is_open)

    @property
    def is_contended(self) -> bool:
        """Somebody waits for a seat."""
        return bool(self._queues)

    def watch(self, act: Callable[[], None]) -> None:
        """Call *act* whenever the backend goes down or comes back."""
        self._watchers.append(act)

    def take(self, topic: str) -> Seat:
        """
        A seat for a call of *topic*; waits for its turn when all are taken.

        Raises:
            HandlerUnavailable: every address is down.
            Withdrawn: ``withdraw`` was called for the topic meanwhile.
        """
        if self.is_down:
            raise HandlerUnavailable(self.reason)
        if not self._queues:
            seat = self._free_seat()
            if seat is not None:
                return seat
        turn = AsyncResult()
        self._queues.setdefault(topic, deque()).append(turn)
        try:
            granted: Seat = turn.get()
            return granted
        except gevent.GreenletExit:
            self._forget(topic, turn)
            raise

    def _forget(self, topic: str, turn: AsyncResult) -> None:
        """A caller was killed while it waited, or between the grant and its own turn."""
        if turn.successful():
            self.give(turn.value)
            return
        queue = self._queues.get(topic)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[topic]

    def _free_seat(self) -> Seat | None:
        for address in self.addresses:
            if address.has_room:
                address.taken += 1
                return Seat(address, address.parked.pop()[1] if address.parked else None)
        return None

    def give(self, seat: Seat) -> None:
        """Give a seat back, with its connection if that is still of use; whoever waits gets it as it is."""
        address = seat.address
        if self._queues and not address.circuit.is_open:
            self._next_turn().set(Seat(address, seat.connection))
            seat.connection = None
            return
        address.taken -= 1
        connection, seat.connection = seat.connection, None
        if connection is not None:
            if address.circuit.is_open:
                connection.close()
            else:
                self._park(address, connection)
        self._serve()

    def _serve(self) -> None:
        """Give free seats to those who wait."""
        while self._queues:
            seat = self._free_seat()
            if seat is None:
                return
            self._next_turn().set(seat)

    def _next_turn(self) -> AsyncResult:
        """The caller that is served next: the first of the topic whose turn it is, which then goes last."""
        topic = next(iter(self._queues))
        queue = self._queues.pop(topic)
        turn = queue.popleft()
        if queue:
            self._queues[topic] = queue
        return turn

    def withdraw(self, topic: str) -> None:
        """Callers of *topic* that still wait get Withdrawn."""
        for turn in self._queues.pop(topic, ()):
            turn.set_exception(Withdrawn())

    def open(self, seat: Seat) -> bool:
        """
        Make sure that the seat has a connection that can carry a call.

        A connection that was closed or spoke meanwhile, or was hot for HOT_S, is replaced silently.
        Where the seat's address is not reached the others are tried in order.

        Returns:
            Whether the connection is fresh (False: it carried calls before).

        Raises:
            HandlerUnavailable: no address was reached.
        """
        connection = seat.connection
        if connection is not None:
            if not connection.is_quiet():
                seat.close()
            elif self._is_old(connection):
                connection.retire()
                seat.close()
            else:
                if not connection.hot_since_s:
                    connection.hot_since_s = self._clock.monotonic_s()
                return False
        while True:
            try:
                seat.connection = seat.address.connect()
                return True
            except HandlerUnavailable as error:
                self.failed(seat.address, str(error))
                if not self._move(seat):
                    raise HandlerUnavailable(self.reason) from error

    def _is_old(self, connection: Connection) -> bool:
        since_s = connection.hot_since_s
        return since_s > 0.0 and self._clock.monotonic_s() - since_s > HOT_S

    def _move(self, seat: Seat) -> bool:
        """Turn the seat into one of a later address that has room."""
        later = self.addresses[self.addresses.index(seat.address) + 1 :]
        for address in later:
            if address.has_room:
                seat.address.taken -= 1
                address.taken += 1
                seat.address = address
                seat.connection = None
                self._trim(address)
                return True
        return False

    @staticmethod
    def _trim(address: Address) -> None:
        """Seats and parked connections together stay within the limit."""
        while address.parked and address.taken + len(address.parked) > address.limit:
            address.parked.popleft()[1].close()

    def failed(self, address: Address, problem: str) -> None:
        """A call reached nobody at *address*."""
        address.problem = problem
        if not address.circuit.failed(self._clock.monotonic_s()):
            return
        self._close_parked(address)
        probe = gevent.spawn(self._probe, address)
        self._probes.add(probe)
        probe.link(self._probes.discard)
        if self.is_down:
            for topic in list(self._queues):
                for turn in self._queues.pop(topic):
                    turn.set_exception(HandlerUnavailable(self.reason))
            self._changed()

    def _probe(self, address: Address) -> None:
        """Connect now and then until somebody answers; what it opens it closes at once."""
        while address.circuit.is_open:
            gevent.sleep(address.circuit.probe_in_s)
            try:
                address.connect().close()
            except HandlerUnavailable as error:
                address.problem = str(error)
                address.circuit.probe_failed()
            else:
                address.circuit.close()
        self._changed()
        self._serve()

    def _changed(self) -> None:
        for act in self._watchers:
            act()

    def _park(self, address: Address, connection: Connection) -> None:
        address.parked.append((self._clock.monotonic_s(), connection))
        if self._sweeper is None:
            self._sweeper = gevent.spawn_later(LINGER_S, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody wanted for LINGER_S; ends when nothing is parked."""
        try:
            while any(address.parked for address in self.addresses):
                before = self._clock.monotonic_s() - LINGER_S * 0.9
                for address in self.addresses:
                    while address.parked and address.parked[0][0] <= before:
                        address.parked.popleft()[1].close()
                gevent.sleep(LINGER_S / 2)
        finally:
            self._sweeper = None

    @staticmethod
    def _close_parked(address: Address) -> None:
        while address.parked:
            address.parked.popleft()[1].close()

    def close(self) -> None:
        """End probes and close what is parked; idempotent."""
        gevent.killall(list(self._probes))
        if self._sweeper is not None:
            self._sweeper.kill()
        for address in self.addresses:
            self._close_parked(address)


class Backends:
    """
    Every backend this child uses; the same address named twice is the same backend.

    Args:
        settings: ``[backend.NAME]`` tables.
        processes: Delivery children of the node: limits are per node, so each gets its share.
        index: 0-based number of this child.
        clock: The clock to use.
    """

    def __init__(self, settings: Mapping[str, schema.Backend], *, processes: int, index: int, clock: Clock) -> None:
        self._clock = clock
        self._processes = processes
        self._index = index
        self._named = {name: self._make(name, backend) for name, backend in settings.items()}
        self._by_address = {
            address.name: backend for backend in self._named.values() for address in backend.addresses
        }

    def _make(self, name: str, settings: schema.Backend) -> Backend:
        limit = UNLIMITED
        if settings.max_connections:
            limit = share_of(settings.max_connections, self._processes, self._index)
        names = [*settings.fastcgi, *(http_address(url) for url in settings.http)]
        addresses = [Address(address, limit, settings) for address in names]
        return Backend(name, addresses, settings, self._clock)

    def of_fastcgi(self, handler: schema.FastcgiHandler) -> Backend:
        """The backend that a FastCGI handler names, or the one of its address."""
        if handler.backend:
            return self._named[handler.backend]
        return self._of_address(handler.address, schema.Backend(fastcgi=[handler.address]))

    def of_http(self, handler: schema.HttpHandler) -> Backend:
        """The backend of the host and port of an HTTP handler's URL."""
        return self._of_address(http_address(handler.url), schema.Backend(http=[handler.url]))

    def _of_address(self, address: str, settings: schema.Backend) -> Backend:
        if address not in self._by_address:
            self._by_address[address] = self._make(address, settings)
        return self._by_address[address]

    def close(self) -> None:
        """End probes and close connections; idempotent."""
        for backend in {*self._named.values(), *self._by_address.values()}:
            backend.close()


def http_address(url: str) -> str:
    """``HOST:PORT`` of an ``http://`` URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or 80}" if ":" in host else f"{host}:{parts.port or 80}"
