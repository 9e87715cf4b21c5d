"""
One attempt of one topic's job, and its ping: from a seat to an outcome.

Rule: whatever happens becomes an outcome; a delivery is never left behind. A server that goes away in
the middle of a call did not die of its job.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Protocol

from pbus.clock import Clock
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.address import Address, Seat
from pbus.delivery.backend import Backend
from pbus.delivery.exchange import Begun, Exchange, exchange
from pbus.delivery.relay import Relay, Source
from pbus.errors import HandlerRejected, HandlerUnavailable

PING_TIMEOUT_S: Final = 10.0


class Client(Protocol):
    """How one topic is called: ``FastcgiClient``, ``HttpClient``."""

    target: str

    endpoint: str
    """What is called, the same text in every child: topics that call the same are pinged for once."""

    @property
    def pings(self) -> bool:
        """The topic is pinged before it is consumed."""

    def new_reader(self) -> Any:
        """What reads one answer."""

    def encode(self, delivery: Delivery) -> tuple[bytes, int]:
        """The request and the size of its body; raises HandlerRejected when it must not be sent."""

    def encode_ping(self) -> tuple[bytes, int]:
        """The request that asks whether the topic is taken, and the size of its body."""

    def read(self, call: Exchange[Any], sent_bytes: int, run_s: float) -> Outcome:
        """What a whole answer means."""

    def done_at_once(self, data: bytes, sent_bytes: int, run_s: float, /) -> Outcome | None:
        """The outcome, if *data* is a whole answer that says done; None: nobody knows yet (``new_reader``)."""


class Caller:
    """
    One per call lane.

    Args:
        client: How the topic is called.
        backend: Where.
        timeout_s: Bound of one attempt; 0: none.
        hold: Nothing that may have run is sent again; every call has a connection of its own.
        clock: The clock to use.
    """

    def __init__(self, client: Client, backend: Backend, *, timeout_s: float, hold: bool, clock: Clock) -> None:
        self._client = client
        self._backend = backend
        self._timeout_s = timeout_s
        self._hold = hold
        self._clock = clock

    @property
    def target(self) -> str:
        """Where it runs, for people."""
        return self._client.target

    def attempts(self, delivery: Delivery, seat: Seat, source: Source) -> tuple[Delivery, Outcome] | None:
        """
        Call for *delivery* on *seat*, which stays with the caller, and for what *source* says as long as all goes well.

        Returns:
            The last delivery and its outcome; None: *source* was told.
        """
        begun: Begun | None = None
        if not self._hold and self._backend.is_ready(seat):
            relay = Relay(
                self._client, self._backend, seat, timeout_s=self._timeout_s, clock=self._clock, source=source
            )
            left = relay.run(delivery)
            if left is None:
                return None
            delivery, begun = left.delivery, left.begun
        return delivery, self.attempt(delivery, seat, begun)

    def attempt(self, delivery: Delivery, seat: Seat, begun: Begun | None = None) -> Outcome:
        """Call for *delivery* on *seat*, which stays with the caller; *begun*: that call is under way."""
        backend, client = self._backend, self._client
        begun_s = self._clock.monotonic_s() if begun is None else begun.begun_s
        try:
            request, size = client.encode(delivery) if begun is None else (begun.request, begun.size)
            call = exchange(
                backend, seat, request, client.new_reader, self._timeout_s,
                again=None if self._hold else lambda: self._again(delivery), fresh=self._hold, begun=begun,
            )
            run_s = self._clock.monotonic_s() - begun_s
            if call.broken is None:
                outcome = client.read(call, size, run_s)
                if outcome.verdict is Verdict.BUSY:
                    backend.busy(seat.address, begun_s, outcome.delay_s)
                else:
                    backend.served(seat.address, run_s)
                return outcome
            verdict, error, resent = call.broken, call.error, call.resent
            if verdict is Verdict.CRASHED and backend.has_gone(seat.address):
                # It did not die of this job: nobody knows whether that ran, and the next one is told so.
                verdict, error = Verdict.UNSURE, f"{seat.address.name} went away in the middle of the call: {error}"
        except HandlerRejected as rejected:
            verdict, error, resent, run_s = Verdict.UNSENT, str(rejected), False, 0.0
        except Exception as bug:  # noqa: BLE001 a mistake of ours costs this attempt, not the topic
            seat.close()
            run_s = self._clock.monotonic_s() - begun_s
            verdict = Verdict.UNSURE if self._hold else Verdict.FAILED
            error, resent = f"pbus itself failed: {bug!r}", False
        return Outcome(verdict=verdict, error=error, run_s=run_s, target=client.target, resent=resent)

    def _again(self, delivery: Delivery) -> bytes:
        """The request that goes out a second time says so."""
        return self._client.encode(replace(delivery, redelivered=True))[0]

    def ping(self, address: Address) -> Outcome:
        """Ask at *address* whether the topic is taken."""
        seat: Seat | None = None
        try:
            seat = self._backend.take_at(address, PING_TIMEOUT_S)
            request, size = self._client.encode_ping()
            begun_s = self._clock.monotonic_s()
            timeout_s = min(self._timeout_s or PING_TIMEOUT_S, PING_TIMEOUT_S)
            call = exchange(self._backend, seat, request, self._client.new_reader, timeout_s, again=lambda: request)
            if call.broken is None:
                return self._client.read(call, size, self._clock.monotonic_s() - begun_s)
            return Outcome(verdict=call.broken, error=call.error)
        except HandlerUnavailable as error:
            return Outcome(verdict=Verdict.DOWN, error=str(error))
        finally:
            if seat is not None:
                self._backend.give(seat)
