"""
One call of a php-fpm or HTTP handler outside of every lane, for a person who looks on.

Rule: a connection of its own, no limit of time, nothing claimed or settled; what the answer means is what it means to
a lane.
"""

from __future__ import annotations

from typing import Any, Final

from pbus.clock import Clock
from pbus.config.schema import Settings, Topic
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.backend import Backend
from pbus.delivery.backends import Backends
from pbus.delivery.caller import Client
from pbus.delivery.connection import Connection, connect
from pbus.delivery.exchange import Exchange
from pbus.delivery.fastcgi_client import FastcgiClient
from pbus.delivery.http_client import HttpClient
from pbus.errors import HandlerRejected, HandlerUnavailable

CONNECT_S: Final = 2.0


def call(settings: Settings, job: Delivery, section: Topic, clock: Clock) -> Outcome:
    """
    Call the handler of *section* with *job*, at the first of its addresses that can be reached.

    Raises:
        ValueError: it is a handler that is not called.
    """
    backend, client = _client(settings, job, section, clock)
    connection = None
    try:
        request, size = client.encode(job)
        connection = _connected(backend)
        begun_s = clock.monotonic_s()
        reader = client.new_reader()
        broken = _talk(connection, request, reader)
        if broken:
            return Outcome(verdict=Verdict.CRASHED, error=broken)
        return client.read(Exchange(reader), size, clock.monotonic_s() - begun_s)
    except HandlerUnavailable as error:
        return Outcome(verdict=Verdict.DOWN, error=str(error))
    except HandlerRejected as error:
        return Outcome(verdict=Verdict.UNSENT, error=str(error))
    finally:
        if connection is not None:
            connection.close()


def _client(settings: Settings, job: Delivery, section: Topic, clock: Clock) -> tuple[Backend, Client]:
    backends = Backends(settings.backend, processes=1, index=0, clock=clock)
    retry = section.retry.policy
    if section.fastcgi is not None:
        backend = backends.of_fastcgi(section.fastcgi)
        return backend, FastcgiClient(
            job.queue, job.topic, section.fastcgi, retry=retry, max_post_bytes=backend.settings.max_post_bytes,
            address=backend.label, clock=clock,
        )
    if section.http is None:
        raise ValueError("its handler is not called")
    backend = backends.of_http(section.http)
    return backend, HttpClient(
        job.queue, job.topic, section.http, retry=retry, max_post_bytes=backend.settings.max_post_bytes, clock=clock
    )


def _connected(backend: Backend) -> Connection:
    """
    To the first of its addresses that can be reached.

    Raises:
        HandlerUnavailable: none; with what each said.
    """
    said = []
    for address in backend.addresses:
        try:
            return Connection(connect(address.name, CONNECT_S))
        except HandlerUnavailable as error:
            said.append(str(error))
    raise HandlerUnavailable("; ".join(said))


def _talk(connection: Connection, request: bytes, reader: Any) -> str:
    """Send and read to the end of the answer; why there is none, empty when it is whole."""
    try:
        connection.send(request)
        while not reader.complete:
            data = connection.receive()
            if not data:
                reader.eof()
                break
            reader.feed(data)
    except (OSError, ValueError) as error:
        return f"the answer broke off: {error}"
    return "" if reader.complete else "the connection ended without a whole answer"
