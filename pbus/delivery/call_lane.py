"""
The lane of a FastCGI or HTTP topic: calls at once up to its concurrency, each on a seat of its backend.

    accept --> waiting --> slot: seat, request, answer --> desk
                              |
                 down, not registered, misconfigured: what waits goes back, the lane rests

Rules
-----
* A slot is a greenlet that lives while there is work; concurrency 1 is one slot, so order holds. While all goes as
  usual its calls follow each other in the loop's callbacks (``relay``), and it only waits.
* Prefetch is about 40 ms of work at the measured rate, so that slots never wait for a claim
  and a slow topic hoards nothing.
* A topic of the pepper contract is pinged before it is consumed, and again after ``404`` and
  whenever an address came back (``pings``). A plain one is tried with one job instead.
* ``on_unknown = "hold"``: every call has a connection of its own, so that none meets one that its
  server is just closing, and nothing is sent twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import gevent

from pbus.clock import Clock
from pbus.config import schema
from pbus.core.job import Delivery
from pbus.core.names import topic_path
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.address import Address, Seat
from pbus.delivery.backend import Backend, Withdrawn
from pbus.delivery.backends import Backends
from pbus.delivery.caller import Caller, Client
from pbus.delivery.fastcgi_client import FastcgiClient
from pbus.delivery.http_client import HttpClient
from pbus.delivery.lane import Desk
from pbus.delivery.pings import Member, Roll
from pbus.delivery.prefetch import Prefetch
from pbus.delivery.rests import Rests
from pbus.delivery.shares import Flow
from pbus.delivery.throttle import Throttle, throttle_of
from pbus.errors import HandlerUnavailable
from pbus.storage.driver import Want

_AGAIN_S: Final = 0.1
_REFUSED: Final = frozenset({Verdict.NOT_REGISTERED, Verdict.MISCONFIGURED})
_NOT_THERE: Final = frozenset({Verdict.DOWN, Verdict.RELEASED, Verdict.UNSENT, Verdict.UNSURE})


class CallLane:
    """
    See ``lane.Lane``.

    Args:
        queue, topic: Whose deliveries.
        caller: Calls the handler.
        backend: Where.
        flow: This topic at the backend.
        rolls: Which topics are taken, one for each address; empty for a contract without pings.
        desk: Where outcomes go.
        owner: In whose name this child claims.
        concurrency: Calls at once in this child, at first (``resize``); 0: none.
        exclusive: The topic has concurrency 1 over all children and nodes.
        hold: Nothing that may have run is sent again.
        throttle: How many jobs may begin; None: any number.
        clock: The clock to use.
        rests: How long it rests.
        of_node: Calls at once in all of the node, at first; 0: there is this child only.
    """

    def __init__(
        self, queue: str, topic: str, *, caller: Caller, backend: Backend, flow: Flow, rolls: Sequence[Roll],
        desk: Desk, owner: str, concurrency: int, exclusive: bool, hold: bool, throttle: Throttle | None, clock: Clock,
        rests: Rests, of_node: int = 0,
    ) -> None:
        self.queue = queue
        self.topic = topic
        self._caller = caller
        self._backend = backend
        self._flow = flow
        self._desk = desk
        self._owner = owner
        self._concurrency = concurrency
        self._of_node = of_node or concurrency
        self._rate_per_s = 0.0 if throttle is None else throttle.rate_per_s * self._of_node / max(1, concurrency)
        self._exclusive = exclusive
        self._hold = hold
        self._throttle = throttle
        self._clock = clock
        self._rests = rests
        self._waiting: deque[Delivery] = deque()  # claimed, not begun
        self._running: dict[str, Delivery] = {}   # on a seat, each in its slot
        self._slots: set[Any] = set()             # greenlets that run or queue for a seat
        self._prefetch = Prefetch()
        self._told = False                        # the desk knows about our room
        self._draining = False
        self._problem = ""                        # plain: why the topic rests; empty: it does not
        self._rest_s = 0.0                        # length of the last rest, until a job is taken again
        self._rester: Any = None                  # greenlet that ends a rest
        self._trial_due = False                   # a rest is over: one job may try
        self._trial = ""                          # its id
        self._members: dict[str, tuple[Roll, Member]] = {}  # by name of the address
        backend.on_change(self._backend_changed)
        for roll in rolls:
            member = Member(flow.path, flow, caller.ping, self._backend_changed, rests)
            self._members[roll.address.name] = (roll, member)
            roll.join(member)

    # -- what the child asks ------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``running``, ``paused`` (not registered, misconfigured) or ``down`` (backend away)."""
        if self._backend.is_down:
            return "down"
        return "paused" if self._refusal else "running"

    @property
    def backend(self) -> Backend:
        """Where its handler is called."""
        return self._backend

    @property
    def reason(self) -> str:
        """Why it is not running; empty while it is."""
        return self._backend.reason if self._backend.is_down else self._refusal

    @property
    def _refusal(self) -> str:
        """Why no address that can be reached takes the topic; empty: one does, or nobody was asked yet."""
        if not self._flow.shut:
            return self._problem
        there = [(roll, member) for roll, member in self._members.values() if not roll.address.circuit.is_open]
        if any(roll.address.name not in self._flow.shut for roll, _ in there):
            return self._problem
        return self._problem or "; ".join(dict.fromkeys(member.refusal for _, member in there if member.refusal))

    @property
    def concurrency(self) -> int:
        """Calls that can be under way at once now."""
        return self._slot_limit

    @property
    def busy(self) -> int:
        """Deliveries in hand."""
        return len(self._waiting) + len(self._running)

    def known(self, owner: str) -> set[str]:
        """Ids in hand."""
        if owner != self._owner:
            return set()
        return {*self._running, *(delivery.id for delivery in self._waiting)}

    def wants(self) -> list[Want]:
        """
        Room for work, asked for in one piece when half of the prefetch is used up.

        The first look at a pepper topic sends the ping.
        """
        count = self._room()
        if count <= 0:
            self._told = False  # who asks now knows of no room: the mark, or a limit, may have sunk since it was told
            return []
        return [Want(owner=self._owner, queue=self.queue, topic=self.topic, count=count, exclusive=self._exclusive)]

    def _room(self) -> int:
        if self._draining:
            return 0
        if self._flow.shut:
            for roll, _ in self._members.values():
                roll.look()
        if not self._slot_limit:
            return 0
        if self._problem:
            return 1 if self._trial_due and not self.busy else 0
        if self._throttle is not None or self._hold:
            free = self._slot_limit - self.busy  # what is claimed begins at once
            return min(free, self._throttle.room()) if self._throttle is not None and free > 0 else free
        if self.busy > self._low_mark:
            return 0
        return self._slot_target + self._prefetch.jobs - self.busy

    @property
    def _slot_limit(self) -> int:
        return min(self._concurrency, self._backend.seats_of(self._flow))

    @property
    def _slot_target(self) -> int:
        """Calls that can be under way soon: where slots queue for a seat, those that run and one."""
        running = len(self._running)
        return running + 1 if len(self._slots) > running else self._slot_limit

    @property
    def _low_mark(self) -> int:
        return self._slot_target + self._prefetch.jobs // 2

    # -- work ---------------------------------------------------------------------------------------

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """See ``lane.Lane.accept``."""
        self._told = False
        self._waiting.extend(deliveries)
        if self._throttle is not None:
            self._throttle.spend(len(deliveries))
        if self._draining or not self._slot_limit or (self._problem and not self._trial_due):
            self._release_waiting()
            return
        if self._trial_due:
            self._trial_due, self._trial = False, deliveries[0].id
        self._fill_slots()

    def resize(self, concurrency: int, of_node: int) -> None:
        """
        So many calls at once from now on; calls above that end by themselves, and no other begins in their place.

        Args:
            concurrency: In this child; 0: none.
            of_node: In all of the node; the topic's rate is shared by that.
        """
        if concurrency == self._concurrency and of_node == self._of_node:
            return
        grows = concurrency > self._concurrency
        self._concurrency, self._of_node = concurrency, of_node
        self._backend.resize(self._flow, concurrency, of_node)
        if self._throttle is not None and concurrency:
            self._throttle.change(self._rate_per_s * concurrency / of_node)
        if not concurrency:
            self._release_waiting()
        elif grows and not self._draining:
            self._fill_slots()
            self._desk.wake()

    def _fill_slots(self) -> None:
        for _ in range(min(self._slot_limit, self.busy) - len(self._slots)):
            self._slots.add(gevent.spawn(self._slot))

    def _slot(self) -> None:
        """Run what waits, one after the other, on one seat as long as nobody else needs it."""
        seat: Seat | None = None
        try:
            while self._waiting and len(self._slots) <= self._concurrency:  # else this one is too many since then
                if seat is None:
                    seat = self._backend.take(self._flow)
                    continue  # what waited may have been released meanwhile
                last = self._caller.attempts(self._next(), seat, self)
                if last is not None and not self._ended(*last, seat.address):
                    gevent.sleep(_AGAIN_S)
                    continue
                if self._backend.must_yield(seat):
                    self._backend.give(seat)
                    seat = None
        except (HandlerUnavailable, Withdrawn):
            self._release_waiting()
        finally:
            self._slots.discard(gevent.getcurrent())
            if seat is not None:
                self._backend.give(seat)

    def _next(self) -> Delivery:
        delivery = self._waiting.popleft()
        self._running[delivery.id] = delivery
        return delivery

    def following(self, seat: Seat) -> Delivery | None:
        """See ``relay.Source``."""
        if not self._waiting or len(self._slots) > self._concurrency or self._backend.must_yield(seat):
            return None
        return self._next()

    def done(self, delivery: Delivery, outcome: Outcome, seat: Seat) -> None:
        """See ``relay.Source``."""
        self._finish(delivery, outcome, seat.address)

    def _ended(self, delivery: Delivery, outcome: Outcome, where: Address) -> bool:
        """Report; False: it goes first again, a moment later."""
        if self._exclusive and outcome.verdict is Verdict.DOWN and self._is_first_again(delivery):
            return False
        self._finish(delivery, outcome, where)
        if self._exclusive and outcome.verdict is Verdict.UNSURE:
            self._release_waiting()  # behind it
        return True

    def _is_first_again(self, delivery: Delivery) -> bool:
        """
        Whether a job that nobody took now goes before what came after it, because order counts.

        Given back it would be overtaken by what waits here. If its backend is down (or we drain),
        everything has been given back, and so is this one.
        """
        if self._draining or self._backend.is_down or self._running.pop(delivery.id, None) is None:
            return False
        self._waiting.appendleft(delivery)
        return True

    def _finish(self, delivery: Delivery, outcome: Outcome, where: Address) -> None:
        """Report, and look whether the topic goes on."""
        if self._running.pop(delivery.id, None) is None:
            return  # kill() has reported it
        self._desk.finish(delivery, outcome)
        if outcome.verdict not in _NOT_THERE:
            self._prefetch.count(self._clock.monotonic_s(), len(delivery.body))
        if outcome.verdict in _REFUSED:
            self._refused(delivery, outcome, where)
        elif self._rest_s:
            self._taken(delivery, outcome.verdict, where)
        if not self._told and self.busy <= self._concurrency + self._prefetch.jobs // 2 and self.busy <= self._low_mark:
            self._told = True
            self._desk.wake()

    def _release_waiting(self) -> None:
        """Everything that has not begun goes back as it was."""
        self._backend.withdraw(self._flow)
        while self._waiting:
            delivery = self._waiting.popleft()
            if delivery.id == self._trial:
                self._trial, self._trial_due = "", True  # it was not made
            self._desk.finish(delivery, Outcome(verdict=Verdict.RELEASED, target=self._caller.target))

    # -- rests --------------------------------------------------------------------------------------

    def _refused(self, delivery: Delivery, outcome: Outcome, where: Address) -> None:
        """The handler does not take this topic (now, or as it is configured): rest, or leave that address."""
        text = outcome.error or outcome.verdict.value
        if where.name in self._members:
            roll, member = self._members[where.name]
            roll.refused(member, text, outcome.verdict)
            self._rest_s = roll.rest_s
            return
        if self._problem and delivery.id != self._trial:
            return  # one of several that were under way; the first one counts
        self._trial = ""
        self._problem = text
        self._release_waiting()
        misconfigured = outcome.verdict is Verdict.MISCONFIGURED
        self._rest_s = self._rests.misconfigured_s if misconfigured else self._rests.next_s(self._rest_s)
        self._rest(self._rest_s)
        self._desk.wake()

    def _taken(self, delivery: Delivery, verdict: Verdict, where: Address) -> None:
        """A job was not refused, after a rest: that ends it, unless the job never got there."""
        if where.name in self._members:
            if verdict not in _NOT_THERE:
                self._members[where.name][0].works()
                self._rest_s = 0.0
            return
        if self._problem and delivery.id != self._trial:
            return  # it began before the rest
        self._trial = ""
        if verdict in _NOT_THERE:
            self._trial_due = bool(self._problem)
            return
        self._problem, self._rest_s = "", 0.0
        self._desk.wake()

    def _rest(self, seconds: float) -> None:
        """Do nothing for so long, then try one job."""
        if self._rester is None:
            self._rester = gevent.spawn(self._end_rest, seconds)

    def _end_rest(self, seconds: float) -> None:
        try:
            gevent.sleep(seconds)
            self._trial_due = True
        finally:
            self._rester = None
        self._desk.wake()

    def _backend_changed(self) -> None:
        """An address went down, came back, rests or goes on, takes the topic or does not any more."""
        if self._slots and not self._slot_limit:
            self._release_waiting()
        self._desk.wake()

    # -- the end ------------------------------------------------------------------------------------

    def drain(self) -> None:
        """See ``lane.Lane.drain``."""
        self._draining = True
        self._release_waiting()
        if self._rester is not None:
            self._rester.kill(block=False)
        if self._throttle is not None:
            self._throttle.close()
        for roll, member in self._members.values():
            roll.leave(member)

    def kill(self) -> None:
        """See ``lane.Lane.kill``: what still runs may have run, and php runs on."""
        self.drain()
        running, self._running = self._running, {}
        for delivery in running.values():
            text = "pbus stopped before the answer came"
            self._desk.finish(delivery, Outcome(verdict=Verdict.UNSURE, error=text, target=self._caller.target))
        gevent.killall(list(self._slots), block=False)


def make_call_lane(
    queue: str, topic: str, settings: schema.Topic, *, concurrency: int, backends: Backends, desk: Desk, owner: str,
    clock: Clock, rests: Rests | None = None, system: str = "", system_weight: int = 1, of_node: int = 0,
) -> CallLane:
    """
    The lane of a topic whose handler is ``fastcgi`` or ``http``.

    Args:
        queue, topic: Which topic.
        settings: Its table.
        concurrency: Calls at once in this child, at first; 0: none (another child has its share).
        backends: The pools of this child.
        desk: Where outcomes go.
        owner: In whose name this child claims.
        clock: The clock to use.
        rests: How long it rests where the handler refuses it.
        system, system_weight: The business system that its queue belongs to.
        of_node: Calls at once in all of the node, at first; 0: what the configuration says at least.

    Raises:
        ValueError: it has another handler.
    """
    backend, client = _client(queue, topic, settings, backends, clock)
    of_node = of_node or max(1, concurrency, settings.concurrency.min)
    flow = backend.join(
        topic_path(queue, topic), slots=concurrency, slots_of_node=of_node, weight=settings.weight, system=system,
        system_weight=system_weight,
    )
    rolls = [backends.roll(backend, each, client.endpoint) for each in backend.addresses] if client.pings else []
    hold = settings.on_unknown == "hold"
    caller = Caller(client, backend, timeout_s=settings.timeout_s, hold=hold, clock=clock)
    return CallLane(
        queue, topic, caller=caller, backend=backend, flow=flow, rolls=rolls, desk=desk, owner=owner,
        concurrency=concurrency, exclusive=settings.concurrency.max == 1, hold=hold,
        throttle=throttle_of(settings.rate_per_s, max(1, concurrency) / of_node, desk.wake, clock), clock=clock,
        rests=rests or Rests(), of_node=of_node,
    )


def _client(
    queue: str, topic: str, settings: schema.Topic, backends: Backends, clock: Clock
) -> tuple[Backend, Client]:
    """Where the topic is called, and how."""
    retry = settings.retry.policy
    if settings.fastcgi is not None:
        backend = backends.of_fastcgi(settings.fastcgi)
        return backend, FastcgiClient(
            queue, topic, settings.fastcgi, retry=retry, max_post_bytes=backend.settings.max_post_bytes,
            address=backend.label, clock=clock,
        )
    if settings.http is not None:
        backend = backends.of_http(settings.http)
        return backend, HttpClient(
            queue, topic, settings.http, retry=retry, max_post_bytes=backend.settings.max_post_bytes, clock=clock
        )
    raise ValueError(f"{queue}/{topic} is neither fastcgi nor http")
