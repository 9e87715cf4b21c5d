"""
Calls one after the other on a kept connection, each begun in the callback that ended the one before.

    slot (greenlet) --first job--> send --readable--> whole answer: done --> told --> the next job is sent
         ^                                                |
         +---- anything else: no work, the seat is wanted or the connection old, another answer, an error, late

Rule: only the usual is done here, whatever is not goes back to the slot, with what was sent and what came so far: all
cases are known there (``exchange``). Nothing here may block or switch. What it spares each call: two switches of
greenlets, a timeout that is made and cancelled, a look at the connection, and the turn of the loop between an answer
and the next request, in which php-fpm has nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import gevent
from gevent.hub import Waiter

from pbus.clock import Clock
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.address import Seat
from pbus.delivery.backend import Backend
from pbus.delivery.exchange import Begun, Exchange

RECEIVE_BYTES: Final = 16 * 1024
"""Of one look; nearly every answer is shorter, and memory for more costs each."""

_LEAST_S: Final = 0.0001


class Source(Protocol):
    """Whoever knows the jobs (``CallLane``). Nothing here blocks or switches."""

    def following(self, seat: Seat) -> Delivery | None:
        """What is called for next on that seat; None: nothing, or others want it."""

    def done(self, delivery: Delivery, outcome: Outcome, seat: Seat) -> None:
        """That one is done."""


@dataclass(slots=True)
class Left:
    """
    A delivery that the slot goes on with.

    Attributes:
        delivery: Which.
        begun: How far its call is; None: nothing was sent.
    """

    delivery: Delivery
    begun: Begun | None = None


class Relay:
    """
    One run on one seat; its owner is the greenlet that calls ``run``.

    Args:
        client: How the topic is called (``caller.Client``).
        backend, seat: Where; the seat has a connection that can carry a call.
        timeout_s: Bound of each attempt; 0: none.
        clock: The clock to use.
        source: Knows what is next.
    """

    __slots__ = (
        "_backend", "_begun_s", "_client", "_clock", "_connection", "_delivery", "_hub", "_reader", "_recv",
        "_request", "_seat", "_send", "_size", "_source", "_timeout_s", "_timer", "_waiter",
    )

    def __init__(
        self, client: Any, backend: Backend, seat: Seat, *, timeout_s: float, clock: Clock, source: Source
    ) -> None:
        assert seat.connection is not None
        self._client = client
        self._backend = backend
        self._seat = seat
        self._connection = seat.connection
        self._recv = seat.connection.sock.recv
        self._send = seat.connection.sock.send
        self._timeout_s = timeout_s
        self._clock = clock
        self._source = source
        self._hub: Any = gevent.get_hub()
        self._waiter: Any = Waiter(self._hub)
        self._timer: Any = None
        self._delivery: Delivery | None = None
        self._request = b""
        self._size = 0
        self._begun_s = 0.0
        self._reader: Any = None  # of an answer that did not come at once

    def run(self, delivery: Delivery) -> Left | None:
        """
        Call for *delivery*, and for what follows.

        Returns:
            What is not ended yet; None: everything was reported, and the seat is clean.
        """
        connection = self._connection
        connection.watch(self._readable)
        try:
            left = self._begin(delivery)
            if left is None:
                if self._timeout_s:
                    self._look_in(self._timeout_s)
                left = self._waiter.get()
            return left
        except BaseException:  # killed, or a mistake of ours: what the connection would carry next is unknown
            self._seat.close()
            raise
        finally:
            self._stop()

    # -- a call -----------------------------------------------------------------------------------------

    def _begin(self, delivery: Delivery) -> Left | None:
        """Send; what the slot has to go on with, None: the answer is waited for."""
        try:
            request, self._size = self._client.encode(delivery)
        except Exception:  # noqa: BLE001 it is not sent: the slot will meet the same, and says what it means
            return Left(delivery)
        self._delivery, self._request, self._reader = delivery, request, None
        self._begun_s = self._clock.monotonic_s()
        connection = self._connection
        connection.sent = 0
        try:
            sent = connection.sent = self._send(request)
        except BlockingIOError:
            return self._left()
        except OSError as error:
            return self._left(error)
        if sent < len(request):
            return self._left()
        if connection.is_tcp:
            connection.acknowledge()
        return None

    def _readable(self) -> None:
        """Something came, in the loop's callback."""
        try:
            data = self._recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._leave(self._left(error, is_over=True))
            return
        now_s = self._clock.monotonic_s()
        run_s = now_s - self._begun_s
        try:
            outcome = self._client.done_at_once(data, self._size, run_s) if data and self._reader is None else None
            if outcome is None:
                outcome = self._in_pieces(data, run_s)
            if outcome is not None:
                self._go_on(outcome, now_s)
        except Exception as bug:  # noqa: BLE001 it is the slot's, not the loop's
            self._stop()
            self._waiter.throw(bug)

    def _go_on(self, outcome: Outcome, now_s: float) -> None:
        """That call is done: the next one first, so that its handler works while this one is told."""
        delivery, seat, backend = self._delivery, self._seat, self._backend
        assert delivery is not None
        following, left = None, None
        if backend.stays(seat, now_s):
            following = self._source.following(seat)
            if following is not None:
                left = self._begin(following)
        backend.served(seat.address, outcome.run_s)
        self._source.done(delivery, outcome, seat)
        if following is None or left is not None:
            self._leave(left)

    def _in_pieces(self, data: bytes, run_s: float) -> Outcome | None:
        """The outcome, if that ends an answer that says done; else it is waited for more, or the slot goes on."""
        reader = self._reader
        if reader is None:
            reader = self._reader = self._client.new_reader()
        if not data:
            reader.eof()
            self._leave(self._left(is_over=True))
            return None
        try:
            reader.feed(data)
        except ValueError as error:
            self._leave(self._left(error, is_over=True))
            return None
        if not reader.complete:
            if self._connection.is_tcp:
                self._connection.acknowledge()
            return None
        if reader.keep:
            outcome: Outcome = self._client.read(Exchange(reader), self._size, run_s)
            if outcome.verdict is Verdict.DONE:
                return outcome
        self._leave(self._left(is_over=True))
        return None

    # -- time -------------------------------------------------------------------------------------------

    def _look_in(self, seconds: float) -> None:
        """One timer for all calls: it looks when the first would be late, and then when the present one will be."""
        self._timer = self._hub.loop.timer(seconds)
        self._timer.start(self._look)

    def _look(self) -> None:
        self._timer.close()
        self._timer = None
        left_s = self._left_s()
        if left_s > 0.0:
            self._look_in(left_s)
        else:
            self._leave(self._left())

    def _left_s(self) -> float:
        return self._begun_s + self._timeout_s - self._clock.monotonic_s()

    # -- the end ----------------------------------------------------------------------------------------

    def _left(self, failure: Exception | None = None, *, is_over: bool = False) -> Left:
        """The call under way, for the slot."""
        assert self._delivery is not None
        left_s = max(_LEAST_S, self._left_s()) if self._timeout_s else 0.0
        reader = self._reader or self._client.new_reader()
        begun = Begun(self._request, self._size, self._begun_s, left_s, reader, failure, is_over)
        return Left(self._delivery, begun)

    def _leave(self, left: Left | None) -> None:
        """The slot's greenlet goes on, now."""
        self._stop()
        self._waiter.switch(left)

    def _stop(self) -> None:
        """No callback comes any more."""
        self._connection.unwatch()
        if self._timer is not None:
            self._timer.close()
            self._timer = None
