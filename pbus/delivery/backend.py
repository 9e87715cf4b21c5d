"""
The addresses of one backend: how many connections, who gets the next one, up or down.

Rules
-----
* Never more connections to an address than its limit, whoever uses it. A *seat* is the right to
  one connection; when there are too few, callers get them by weight (``shares``).
* ``prefer = "local"``: unix sockets and the loopback first, others when those are full or down;
  ``"spread"``: where the fewest seats are taken.
* A kept-alive connection pins one php-fpm process, so only a hot one is reused: work waits for it,
  and it has been reused for less than HOT_S. That limit lets the server's accept queue move: with
  fewer processes than connections those that have one would otherwise keep it for ever. (It counts
  from the first reuse: what waited in the accept queue is not old.) A connection without work is
  closed after LINGER_S. None is opened ahead of a request: php-fpm drops one that is silent for 5 s.
* Failures that reached nobody open the circuit of an address; what is known of an address is told
  to the other delivery children of the node (``news``), and theirs is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import gevent
from gevent.event import AsyncResult

from pbus.clock import Clock
from pbus.config import schema
from pbus.delivery.address import Address, Seat, share_of
from pbus.delivery.congestion import UNLIMITED, Pool
from pbus.delivery.connection import Connection
from pbus.delivery.shares import Flow, Shares
from pbus.delivery.throttle import Throttle
from pbus.errors import HandlerUnavailable

HOT_S: Final = 0.1
LINGER_S: Final = 0.05
CAREFUL_S: Final = 10.0
"""
So long after a kept connection was found closed none of its address is used at once after an answer: php-fpm ends a
process that has had its ``pm.max_requests`` some microseconds after it answered. Of 80 such ends 3 to 11 meet a request
that is sent after the usual way of a call, and 79 one that is sent at once; each of these is sent twice.
"""


class Withdrawn(Exception):
    """The caller no longer wants the seat it queued for."""


class Watch(Protocol):
    """Who looks after the addresses (``watch.Watch``)."""

    def opened(self, address: Address) -> None:
        """Its circuit has opened: probe it."""

    def look(self) -> None:
        """There is work: read the status pages now and then."""

    def has_gone(self, address: Address) -> bool:
        """Whether the server behind it went away just now; waits for what becomes of it."""

    def close(self) -> None:
        """End what runs."""


class Backend:
    """
    The addresses of one ``[backend.NAME]`` (or of one unnamed address), shared by topics.

    Args:
        name: For people; empty: an unnamed one.
        addresses: In the order they are tried.
        settings: Limits and timeouts.
        clock: The clock to use.
        processes, index: Delivery children of the node, and which of them this is.
    """

    def __init__(
        self, name: str, addresses: Sequence[Address], settings: schema.Backend, clock: Clock, processes: int = 1,
        index: int = 0,
    ) -> None:
        self.name = name
        self.settings = settings
        self.shares = Shares()
        self.watch: Watch | None = None
        self._spread = settings.prefer == "spread"
        # sorted() is stable: among local ones, and among others, the order of the configuration holds
        self.addresses = tuple(addresses if self._spread else sorted(addresses, key=lambda each: not each.is_local))
        self._clock = clock
        self._processes = processes
        self._index = index
        self._throttle: Throttle | None = None
        self._slots: dict[Flow, tuple[int, int]] = {}  # of a topic: calls at once in this child, in all of the node
        self._turns = 0
        self._measures = bool(settings.status_path and settings.fastcgi)
        self._watchers: list[Callable[[], None]] = []
        self._comebacks: list[Callable[[Address], None]] = []
        self._sweeper: Any = None
        self._leaving = False
        self._resumes: set[Any] = set()

    # -- what it is -----------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """What people call it: its name, or the address of an unnamed one."""
        return self.name or self.addresses[0].name

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
        return bool(self.shares.waiting)

    @property
    def slots(self) -> int:
        """Calls that the topics of this child would make at once."""
        return sum(ours for ours, _ in self._slots.values())

    @property
    def is_used(self) -> bool:
        """A topic of this child calls it, now or when it is given a share."""
        return bool(self._slots)

    @property
    def rate_per_s(self) -> float:
        """Calls a second that this child may begin; 0: no bound."""
        return self._throttle.rate_per_s if self._throttle is not None else 0.0

    def seats_of(self, flow: Flow) -> int:
        """Connections that calls of *flow* may have now."""
        if not flow.shut:
            return self.seats
        return sum(each.limit for each in self.addresses if not each.circuit.is_open and each.name not in flow.shut)

    # -- who uses it ----------------------------------------------------------------------------------

    def join(
        self, path: str, *, slots: int, slots_of_node: int, weight: int = 1, system: str = "", system_weight: int = 1
    ) -> Flow:
        """
        A topic that calls this backend.

        Args:
            path: ``queue/topic``.
            slots, slots_of_node: Calls it makes at once, in this child and in all of the node.
            weight, system, system_weight: What it gets when there are too few seats.
        """
        flow = self.shares.join(path, weight, system, system_weight)
        self.resize(flow, slots, slots_of_node)
        return flow

    def resize(self, flow: Flow, slots: int, slots_of_node: int) -> None:
        """The topic of *flow* makes so many calls at once from now on; see ``join``."""
        self._slots[flow] = slots, slots_of_node
        if self.settings.rate_per_s <= 0.0:
            return
        # Children that have a part of the work share the rate: those with a part of the largest topic.
        users = min(self._processes, max(1, *(of_node for _, of_node in self._slots.values())))
        if self._throttle is None:
            self._throttle = Throttle(self.settings.rate_per_s / users, self._serve, self._clock)
        else:
            self._throttle.change(self.settings.rate_per_s / users)

    def on_change(self, act: Callable[[], None]) -> None:
        """Call *act* whenever the backend goes down, comes back, rests or goes on."""
        self._watchers.append(act)

    def on_comeback(self, act: Callable[[Address], None]) -> None:
        """Call *act* with each address that answers again."""
        self._comebacks.append(act)

    def changed(self) -> None:
        """Tell who wanted to hear of changes."""
        for act in self._watchers:
            act()

    # -- seats ----------------------------------------------------------------------------------------

    def take(self, flow: Flow) -> Seat:
        """
        A seat for a call of *flow*; waits for its turn when all are taken.

        Raises:
            HandlerUnavailable: every address is down.
            Withdrawn: ``withdraw`` was called for the topic meanwhile.
        """
        if self.is_down:
            raise HandlerUnavailable(self.reason)
        if self._measures and self.watch is not None:
            self.watch.look()
        now_s = self._clock.monotonic_s()
        if not self.shares.waiting:
            for address in self._with_room():
                if address.name not in flow.shut and self._may_begin():
                    return self._seat(flow, address, now_s)
        turn = AsyncResult()
        self.shares.add(flow, turn, now_s)
        self._serve()
        try:
            granted: Seat = turn.get()
            return granted
        except gevent.GreenletExit:
            if turn.successful():
                self.give(turn.value)
            else:
                self.shares.remove(flow, turn)
            raise

    def take_at(self, address: Address, timeout_s: float) -> Seat:
        """
        A seat at *address* for a call of our own; goes before everybody else.

        Raises:
            HandlerUnavailable: it is down, or there was none within *timeout_s*.
        """
        if address.circuit.is_open:
            raise HandlerUnavailable(address.problem)
        if address.has_room:
            return self._seat(None, address, self._clock.monotonic_s())
        turn = AsyncResult()
        address.errands.append(turn)
        try:
            turn.wait(timeout_s)
        except gevent.GreenletExit:
            self._not_wanted(address, turn)
            raise
        if not turn.ready():
            address.errands.remove(turn)
            raise HandlerUnavailable(f"{address.name}: no connection is free")
        granted: Seat = turn.get()
        return granted

    def _not_wanted(self, address: Address, turn: AsyncResult) -> None:
        """A caller was killed while it waited, or between the grant and its own turn."""
        if turn.successful():
            self.give(turn.value)
        elif turn in address.errands:
            address.errands.remove(turn)

    def _with_room(self) -> list[Address]:
        """Addresses that may be used now, the best first."""
        free = [address for address in self.addresses if address.has_room]
        if self._spread and len(free) > 1:
            free.sort(key=lambda address: (address.taken, address.turn))
        return free

    def _may_begin(self) -> bool:
        return self._throttle is None or self._throttle.room() > 0

    def _seat(self, flow: Flow | None, address: Address, now_s: float) -> Seat:
        address.taken += 1
        self._turns += 1
        address.turn = self._turns
        connection = address.parked.pop()[1] if address.parked else None
        return self._began(Seat(address, connection, flow, now_s))

    def _began(self, seat: Seat) -> Seat:
        if seat.flow is not None:
            self.shares.began(seat.flow)
            if self._throttle is not None:
                self._throttle.spend(1)
        return seat

    def must_yield(self, seat: Seat) -> bool:
        """After a call: the seat is to be given back, even though its topic has more to do."""
        address = seat.address
        return (
            self.shares.waiting > 0 or self._throttle is not None or address.taken > address.limit
            or bool(address.errands) or (seat.flow is not None and address.name in seat.flow.shut)
        )

    def give(self, seat: Seat) -> None:
        """Give a seat back, with its connection if that is still of use; whoever waits gets it as it is."""
        address, now_s = seat.address, self._clock.monotonic_s()
        if seat.flow is not None:
            self.shares.ended(seat.flow, seat.since_s, now_s)
        connection, seat.connection = seat.connection, None
        if not address.circuit.is_open and address.taken <= address.limit and self._hand_on(address, connection, now_s):
            return
        address.taken -= 1
        if connection is not None:
            if self._leaving or address.circuit.is_open or address.taken + len(address.parked) >= address.limit:
                connection.close()
            else:
                self._park(address, connection, now_s)
        self._serve()

    def _hand_on(self, address: Address, connection: Connection | None, now_s: float) -> bool:
        """The seat goes to the next one as it is."""
        if address.errands:
            address.errands.popleft().set(Seat(address, connection, None, now_s))
            return True
        if not self.shares.waiting or self._throttle is not None:
            return False
        found = self.shares.next(address.name)
        if found is None:
            return False
        found[1].set(self._began(Seat(address, connection, found[0], now_s)))
        return True

    def _serve(self) -> None:
        """Give free seats to those who wait."""
        for address in self.addresses:
            while address.errands and address.has_room:
                address.errands.popleft().set(self._seat(None, address, self._clock.monotonic_s()))
        while self.shares.waiting and self._may_begin():
            for address in self._with_room():
                found = self.shares.next(address.name)
                if found is not None:
                    found[1].set(self._seat(found[0], address, self._clock.monotonic_s()))
                    break
            else:
                return

    def withdraw(self, flow: Flow) -> None:
        """Callers of *flow* that still wait get Withdrawn."""
        for turn in self.shares.withdraw(flow):
            turn.set_exception(Withdrawn())

    # -- connections ----------------------------------------------------------------------------------

    def open(self, seat: Seat, *, fresh: bool = False) -> bool:
        """
        Make sure that the seat has a connection that can carry a call.

        A connection that was closed or spoke meanwhile, or was hot for HOT_S, is replaced silently
        (always with *fresh*). Where the seat's address is not reached the others are tried in order.

        Returns:
            Whether the connection is fresh (False: it carried calls before).

        Raises:
            HandlerUnavailable: no address was reached.
        """
        connection = seat.connection
        if connection is not None:
            if not connection.is_quiet():
                self.recycled(seat)
            elif fresh or self._is_old(connection):
                connection.retire()
                seat.close()
                self._move(seat, better=True)
            else:
                if not connection.hot_since_s:
                    connection.hot_since_s = self._clock.monotonic_s()
                return False
        while True:
            try:
                seat.connection = seat.address.connect()
                return True
            except HandlerUnavailable as error:
                self._not_reached(seat.address, error)
                if not self._move(seat):
                    raise HandlerUnavailable(self.reason) from error

    def recycled(self, seat: Seat) -> None:
        """The kept connection of *seat* was closed by its server."""
        seat.close()
        seat.address.recycled_s = self._clock.monotonic_s()

    def is_ready(self, seat: Seat) -> bool:
        """Calls can follow each other on its connection from now on; False: ``open`` knows what is to be done."""
        connection, now_s = seat.connection, self._clock.monotonic_s()
        if connection is None or now_s - seat.address.recycled_s < CAREFUL_S or self._is_old(connection):
            return False
        if not connection.is_quiet():
            return False
        connection.hot_since_s = connection.hot_since_s or now_s
        return True

    def stays(self, seat: Seat, now_s: float) -> bool:
        """
        Its connection, whose answer has just been read, can carry another call.

        Sending to a unix socket whose peer has closed fails before anything is sent, so nobody has to look; a TCP
        connection would take it.
        """
        connection = seat.connection
        if connection is None or now_s - seat.address.recycled_s < CAREFUL_S:
            return False
        return now_s - connection.hot_since_s <= HOT_S and (not connection.is_tcp or connection.is_quiet())

    def _is_old(self, connection: Connection) -> bool:
        since_s = connection.hot_since_s
        return since_s > 0.0 and self._clock.monotonic_s() - since_s > HOT_S

    def _move(self, seat: Seat, better: bool = False) -> bool:
        """Turn the seat into one of another address that has room; *better*: only of one that is preferred."""
        if seat.flow is None or len(self.addresses) == 1:
            return False
        now, shut = seat.address, seat.flow.shut
        for address in self._with_room():
            if address is now or address.name in shut or (better and not self._is_better(address, now)):
                continue
            now.taken -= 1
            address.taken += 1
            seat.address = address
            seat.connection = None
            address.trim()
            return True
        return False

    def _is_better(self, address: Address, than: Address) -> bool:
        if self._spread:
            return address.taken + 1 < than.taken
        return self.addresses.index(address) < self.addresses.index(than)

    # -- what is learnt of an address -----------------------------------------------------------------

    def _not_reached(self, address: Address, error: HandlerUnavailable) -> None:
        now_s = self._clock.monotonic_s()
        if isinstance(error.__cause__, BlockingIOError):  # its accept queue is full: it is there, and short
            self.busy(address, now_s)
        self.failed(address, str(error))

    def failed(self, address: Address, problem: str) -> None:
        """A call reached nobody at *address*."""
        address.problem = problem
        address.failures += 1
        if address.circuit.failed(self._clock.monotonic_s()):
            self._opened(address)

    def shut_down(self, address: Address, problem: str) -> None:
        """Another child found that nobody is reached at *address*."""
        address.problem = problem
        if address.circuit.open(self._clock.monotonic_s()):
            self._opened(address)

    def _opened(self, address: Address) -> None:
        address.close_parked()
        if self.watch is not None:
            self.watch.opened(address)
        while address.errands:
            address.errands.popleft().set_exception(HandlerUnavailable(address.problem))
        if self.is_down:
            for flow in self.shares.flows():
                for turn in self.shares.withdraw(flow):
                    turn.set_exception(HandlerUnavailable(self.reason))
        self.changed()

    def came_back(self, address: Address) -> None:
        """Somebody answers at *address* again."""
        if not address.circuit.close():
            return
        address.problem = ""
        for act in self._comebacks:
            act(address)
        self.changed()
        self._serve()

    def start_slowly(self) -> None:
        """Somebody put other code there: on new connections, ask it what it takes, one call first, then more."""
        for address in self.addresses:
            address.close_parked()
            address.window.begin_small(self._clock.monotonic_s())
            for act in self._comebacks:
                act(address)
            self._adjust(address)
        self.changed()

    def has_gone(self, address: Address) -> bool:
        """Whether the server behind *address* went away just now."""
        return self.watch is not None and self.watch.has_gone(address)

    def busy(self, address: Address, begun_s: float, retry_after_s: float | None = None) -> None:
        """A call that began at *begun_s* was refused for want of room."""
        address.refusals += 1
        address.window.busy(self._clock.monotonic_s(), begun_s, address.taken, retry_after_s)
        self._adjust(address)

    def served(self, address: Address, run_s: float) -> None:
        """A call was answered after *run_s* seconds, whatever it said about its job."""
        address.calls += 1
        if address.window.is_cut or self._measures:
            address.window.served(self._clock.monotonic_s(), run_s, address.taken, self.slots)
            self._adjust(address)

    def measured(self, address: Address, pool: Pool) -> None:
        """php-fpm's status page was read."""
        room = UNLIMITED
        if pool.size:
            room = share_of(max(1, pool.size - self.settings.reserve), self._processes, self._index)
        address.measure(pool, room)
        address.window.measured(self._clock.monotonic_s(), address.taken, pool.is_short)
        self._adjust(address)

    def _adjust(self, address: Address) -> None:
        before, now_s = address.limit, self._clock.monotonic_s()
        if not address.adjust(now_s):
            return
        address.trim()
        if now_s < address.window.paused_until_s:
            self._resume_in(address, address.window.paused_until_s - now_s)
        if address.limit > before:
            self._serve()
        if not (address.limit and before):
            self.changed()

    def _resume_in(self, address: Address, seconds: float) -> None:
        resume = gevent.spawn_later(seconds, self._resume, address)
        self._resumes.add(resume)
        resume.link(self._resumes.discard)

    def _resume(self, address: Address) -> None:
        """A pause is over, unless it was prolonged, or the timer came a little early."""
        left_s = address.window.paused_until_s - self._clock.monotonic_s()
        if left_s > 0.0:
            self._resume_in(address, left_s)
        else:
            self._adjust(address)

    # -- parked connections ---------------------------------------------------------------------------

    def _park(self, address: Address, connection: Connection, now_s: float) -> None:
        address.parked.append((now_s, connection))
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

    def lend(self, address: Address, count: int) -> None:
        """So many of our connections are still in other hands."""
        if address.lent != count and address.is_limited:
            address.lent = count
            self._adjust(address)

    def leave(self) -> None:
        """Another child calls here from now on: keep nothing open that is not in use."""
        self._leaving = True
        for address in self.addresses:
            address.close_parked()

    def close(self) -> None:
        """End probes and close what is parked; idempotent."""
        if self.watch is not None:
            self.watch.close()
        if self._throttle is not None:
            self._throttle.close()
        gevent.killall(list(self._resumes), block=False)
        if self._sweeper is not None:
            self._sweeper.kill()
        for address in self.addresses:
            address.close_parked()
