"""
One request, one answer, on a seat of a backend: what went wrong on the way is told apart here.

    nothing reached the handler             down      (no connection, or closed before a byte was written)
    no byte of an answer, kept connection   sent once more on a fresh one; unsure if that is not wanted,
                                            or there is none
    no byte of an answer, fresh connection  crashed
    an answer that breaks off               crashed
    an answer that breaks its protocol      failed
    no whole answer within the timeout      timeout
    a whole answer                          for the contract to read

Whatever ends without a whole answer closes the connection: what it would carry next is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import gevent

from pbus.core.outcome import Verdict
from pbus.delivery.address import Seat
from pbus.delivery.backend import Backend
from pbus.delivery.connection import Connection
from pbus.errors import HandlerUnavailable


class Reader(Protocol):
    """What turns bytes into one answer (``fastcgi.ReplyReader``, ``http1.ResponseReader``)."""

    complete: bool

    @property
    def started(self) -> bool:
        """At least one byte came."""

    @property
    def keep(self) -> bool:
        """The connection may carry another call."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises ValueError when they break the protocol."""

    def eof(self) -> None:
        """The peer closed."""


AnyReader = TypeVar("AnyReader", bound=Reader)


@dataclass(slots=True)
class Exchange(Generic[AnyReader]):
    """
    How one request went.

    Attributes:
        reader: What came; whole only if ``broken`` is None.
        broken: Why there is no whole answer: DOWN, UNSURE, CRASHED, FAILED or TIMEOUT.
        error: The same for people.
        resent: The request went out twice.
    """

    reader: AnyReader
    broken: Verdict | None = None
    error: str = ""
    resent: bool = False


@dataclass(slots=True)
class Begun:
    """
    A call that was begun on the kept connection of its seat (``relay``).

    Attributes:
        request: What it asks; the connection knows how much of it was sent.
        size: Of its body, bytes.
        begun_s: When, monotonic seconds.
        left_s: Of its time; 0: it has no bound.
        reader: What came so far.
        failure: What sending or receiving met; None: nothing.
        is_over: Nothing more is to be read.
    """

    request: bytes
    size: int
    begun_s: float
    left_s: float
    reader: Any
    failure: Exception | None = None
    is_over: bool = False


def exchange(
    backend: Backend, seat: Seat, request: bytes, new_reader: Callable[[], AnyReader], timeout_s: float, *,
    again: Callable[[], bytes] | None = None, fresh: bool = False, begun: Begun | None = None,
) -> Exchange[AnyReader]:
    """
    Send *request* and read its answer. Returns in every case; the seat stays with the caller.

    Args:
        timeout_s: Bound of all of it, however the bytes drip; 0: none.
        again: Makes what is sent when it goes out a second time; None: it does not.
        fresh: On a connection that has carried nothing before.
        begun: It is under way, this goes on with it.
    """
    run: Exchange[AnyReader] = Exchange(new_reader() if begun is None else begun.reader)
    timeout = gevent.Timeout.start_new((timeout_s if begun is None else begun.left_s) or None)
    try:
        _run(run, backend, seat, request, new_reader, again, fresh, begun)
    except gevent.Timeout as fired:
        if fired is not timeout:
            raise
        _out_of_time(run, backend, seat, timeout_s)
    finally:
        timeout.close()
        if run.broken is not None or not run.reader.keep:
            seat.close()
    return run


def _run(
    run: Exchange[AnyReader], backend: Backend, seat: Seat, request: bytes, new_reader: Callable[[], AnyReader],
    again: Callable[[], bytes] | None, only_fresh: bool, begun: Begun | None,
) -> None:
    while True:
        fresh = _opened(run, backend, seat, only_fresh) if begun is None else False
        if fresh is None:
            return
        connection = seat.connection
        assert connection is not None, "open() gives the seat a connection"
        failure = _talk(connection, request, run.reader, begun)
        begun = None
        if run.reader.complete:
            return
        if isinstance(failure, ValueError):
            run.broken, run.error = Verdict.FAILED, f"not an answer: {failure}"
            return
        if run.reader.started:
            run.broken, run.error = Verdict.CRASHED, f"the answer broke off: {failure or 'closed'}"
            return
        if fresh:
            _without_answer(run, backend, seat, connection.sent, failure)
            return
        # A kept connection that ended under our hands: closed between two requests, or with ours.
        if connection.sent:
            if again is None:
                run.broken, run.error = Verdict.UNSURE, f"the connection ended without an answer: {failure or 'closed'}"
                return
            run.resent, request = True, again()
        backend.recycled(seat)
        run.reader = new_reader()


def _opened(run: Exchange[AnyReader], backend: Backend, seat: Seat, only_fresh: bool) -> bool | None:
    """Whether the seat's connection is a fresh one; None: nobody was reached, and *run* says so."""
    try:
        return backend.open(seat, fresh=only_fresh)
    except HandlerUnavailable as error:
        run.broken = Verdict.UNSURE if run.resent else Verdict.DOWN
        run.error = str(error)
        return None


def _out_of_time(run: Exchange[AnyReader], backend: Backend, seat: Seat, timeout_s: float) -> None:
    """The attempt's time is over: it may have run, unless nothing was written."""
    if run.resent or (seat.connection is not None and seat.connection.sent > 0):
        run.broken, run.error = Verdict.TIMEOUT, f"no answer within {timeout_s:g} s"
        return
    run.broken, run.error = Verdict.DOWN, f"{seat.address.name}: no connection within {timeout_s:g} s"
    if seat.connection is None:
        backend.failed(seat.address, run.error)


def _without_answer(
    run: Exchange[AnyReader], backend: Backend, seat: Seat, sent: int, failure: Exception | None
) -> None:
    """A fresh connection ended without a byte of an answer."""
    if sent:
        run.broken = Verdict.CRASHED
        run.error = f"the connection ended without an answer: {failure or 'closed'}"
        return
    run.broken = Verdict.UNSURE if run.resent else Verdict.DOWN
    run.error = f"{seat.address.name}: closed before anything was written: {failure or 'closed'}"
    backend.failed(seat.address, run.error)


def _talk(connection: Connection, request: bytes, reader: Reader, begun: Begun | None = None) -> Exception | None:
    """Send, then read until the answer is whole (*begun*: from there on); what stopped it, None for a plain close."""
    failure: Exception | None = None
    try:
        if begun is None:
            connection.send(request)
        elif begun.failure is None:
            connection.send_rest(request)
        else:
            failure = begun.failure
    except OSError as error:
        failure = error  # a server may have answered and closed before it read everything
    if begun is not None and begun.is_over:
        return failure
    try:
        while not reader.complete:
            data = connection.receive()
            if not data:
                reader.eof()
                break
            reader.feed(data)
    except (OSError, ValueError) as error:
        return error if isinstance(error, ValueError) else failure or error
    return failure
