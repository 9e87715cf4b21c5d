"""
Looking after the addresses of a backend: probes while one is down, its status page while there is
work, and what became of a server that hung up.

Rule: each is done once per node, by whoever is first (``news``); none of it runs on an idle bus,
except probes of what is down.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.codec import fastcgi
from pbus.delivery.address import Address, Seat
from pbus.delivery.backend import Backend
from pbus.delivery.congestion import Pool, pool_of
from pbus.delivery.exchange import exchange
from pbus.delivery.news import News
from pbus.errors import HandlerUnavailable

LOOK_S: Final = 1.0
FRESH_S: Final = 0.9
"""What another child has read so lately need not be read again."""
PAGE_S: Final = 2.0
PAGE_KEPT_BYTES: Final = 64 * 1024
"""A longer page (of some 180 processes) is not kept whole."""
GOING_S: Final = 1.0
"""So long a server that hung up is asked whether it is still there."""
GOING_LOOK_S: Final = 0.02
TCP_GOING_S: Final = 0.05

_PROBED: Final = "probed"


class Watch:
    """
    One per backend.

    Args:
        backend: Whose addresses.
        news: The other children.
        clock: The clock to use.
    """

    def __init__(self, backend: Backend, news: News, clock: Clock) -> None:
        self._backend = backend
        self._news = news
        self._clock = clock
        self._probing: dict[str, Any] = {}
        self._looker: Any = None
        self._read_s: dict[str, float] = {}
        self._inquiries: dict[str, gevent.event.AsyncResult] = {}
        for address in backend.addresses:
            news.listen(("circuit", address.name), functools.partial(self._circuit_told, address))
            news.listen(("pool", address.name), functools.partial(self._pool_told, address))

    def close(self) -> None:
        """End what runs; idempotent."""
        gevent.killall([each for each in (*self._probing.values(), self._looker) if each is not None])

    # -- probes ---------------------------------------------------------------------------------------

    def opened(self, address: Address) -> None:
        """Its circuit has opened: tell the others, and probe it until it answers."""
        self._tell_circuit(address)
        if address.name not in self._probing:
            self._probing[address.name] = gevent.spawn(self._probe, address)

    def _probe(self, address: Address) -> None:
        """Connect now and then until somebody answers; what is opened is closed at once."""
        circuit = address.circuit
        try:
            while circuit.is_open:
                due_s = circuit.probe_at_s
                gevent.sleep(max(0.0, due_s + self._news.later_s - self._clock.monotonic_s()))
                if not circuit.is_open or circuit.probe_at_s != due_s:
                    continue  # somebody else has probed meanwhile
                circuit.probe()
                try:
                    address.connect().close()
                except HandlerUnavailable as error:
                    address.problem = str(error)
                    circuit.probe_failed(self._clock.monotonic_s())
                    self._tell_circuit(address, probed=True)
                else:
                    self._backend.came_back(address)
                    self._tell_circuit(address)
        finally:
            self._probing.pop(address.name, None)

    def _tell_circuit(self, address: Address, probed: bool = False) -> None:
        told = {"state": address.circuit.state.value, "problem": address.problem, _PROBED: probed}
        self._news.tell(("circuit", address.name), **told)

    def _circuit_told(self, address: Address, frame: Mapping[str, Any]) -> None:
        if frame["state"] == "closed":
            self._backend.came_back(address)
        elif not address.circuit.is_open:
            self._backend.shut_down(address, str(frame["problem"]))
        elif frame[_PROBED]:
            address.circuit.probe_failed(self._clock.monotonic_s())

    # -- php-fpm's status page ------------------------------------------------------------------------

    def look(self) -> None:
        """There is work: read the status page about once a second as long as there is."""
        if self._looker is None:
            self._looker = gevent.spawn(self._look)

    def _look(self) -> None:
        """Ends when nobody has had a seat since the last round."""
        before = -1
        try:
            gevent.sleep(self._news.later_s)
            while (calls := sum(address.calls + address.taken for address in self._backend.addresses)) != before:
                before = calls
                for address in self._backend.addresses:
                    if not address.circuit.is_open and not self._is_fresh(address):
                        self._read(address)
                gevent.sleep(LOOK_S)
        finally:
            self._looker = None

    def _is_fresh(self, address: Address) -> bool:
        return self._clock.monotonic_s() - self._read_s.get(address.name, -LOOK_S) < FRESH_S

    def _read(self, address: Address) -> None:
        pool, problem = self._page(address)
        self._read_s[address.name] = self._clock.monotonic_s()
        address.pool_problem = problem
        if pool is not None:
            self._backend.measured(address, pool)
            self._news.tell(("pool", address.name), pool=pool.fields())

    def _page(self, address: Address) -> tuple[Pool | None, str]:
        """What the status page says, or why it could not be read."""
        seat: Seat | None = None
        try:
            seat = self._backend.take_at(address, LOOK_S)
            request = page_request(self._backend.settings.status_path)
            call = exchange(self._backend, seat, request, fastcgi.ReplyReader, PAGE_S)
            if call.broken is not None:
                return None, call.error
            page = bytes(call.reader.stdout)
            whole = call.reader.size if len(page) >= PAGE_KEPT_BYTES else 0
            return address.gauge.read(pool_of(page, whole)), ""
        except HandlerUnavailable as error:
            return None, str(error)
        except ValueError as error:
            return None, f"{self._backend.settings.status_path} is not the pool's pm.status_path: {error}"
        finally:
            if seat is not None:
                self._backend.give(seat)

    def _pool_told(self, address: Address, frame: Mapping[str, Any]) -> None:
        self._read_s[address.name] = self._clock.monotonic_s()
        self._backend.measured(address, Pool(**frame["pool"]))

    # -- did it go away? ------------------------------------------------------------------------------

    def has_gone(self, address: Address) -> bool:
        """
        Whether the server behind *address* is going away, asked after it hung up on a call.

        A php-fpm that is stopped ends its processes first and its listener last, so one look is not
        enough: it is asked until it refuses (gone) or somebody answers (it lives). One inquiry at a
        time, for everybody who was hung up on.
        """
        if address.circuit.is_open:
            return True
        going = self._inquiries.get(address.name)
        if going is not None:
            return bool(going.get())
        answer = self._inquiries[address.name] = gevent.event.AsyncResult()
        found = False
        try:
            found = self._inquire(address)
        finally:
            del self._inquiries[address.name]
            answer.set(found)
        return found

    def _inquire(self, address: Address) -> bool:
        if address.kind != "fastcgi":
            gevent.sleep(TCP_GOING_S)
            return not self._is_reached(address, TCP_GOING_S)
        until_s = self._clock.monotonic_s() + GOING_S
        while (left_s := until_s - self._clock.monotonic_s()) > 0.0:
            found = self._is_reached(address, left_s)
            if found is not None:
                return not found
            gevent.sleep(GOING_LOOK_S)
        return False

    def _is_reached(self, address: Address, patience_s: float) -> bool | None:
        """Whether somebody is there; None: nobody answered, but nobody refused."""
        try:
            connection = address.connect()
        except HandlerUnavailable as error:
            self._backend.failed(address, str(error))
            return False
        try:
            if address.kind != "fastcgi":
                return True
            with gevent.Timeout(patience_s, False):
                connection.send(fastcgi.GET_VALUES)
                connection.receive()  # an answer, or an end in order: it was accepted, and read
                return True
        except OSError:
            pass  # reset: it waited in the accept queue of a listener that was closed, or its process was killed
        finally:
            connection.close()
        return None


def page_request(path: str) -> bytes:
    """The request for php-fpm's status page, as JSON, with its list of processes."""
    return b"".join((
        fastcgi.begin(),
        fastcgi.params({
            "SCRIPT_NAME": path, "SCRIPT_FILENAME": path, "REQUEST_METHOD": "GET", "QUERY_STRING": "json&full",
            "REQUEST_URI": f"{path}?json&full", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
        }),
        fastcgi.PARAMS_END, fastcgi.STDIN_END,
    ))
