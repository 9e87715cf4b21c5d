"""``pbus topic debug`` of php-fpm and HTTP handlers: one direct call, beside whatever the bus is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.debug import Result, Run
from pbus.clock import SystemClock
from pbus.delivery.backends import Backends
from pbus.delivery.caller import Client
from pbus.delivery.connection import Connection, connect
from pbus.delivery.exchange import Exchange
from pbus.delivery.fastcgi_client import FastcgiClient
from pbus.delivery.http_client import HttpClient
from pbus.errors import HandlerRejected, HandlerUnavailable

if TYPE_CHECKING:
    from pbus.config.schema import Settings, Topic
    from pbus.core.job import Delivery
    from pbus.delivery.backend import Backend

CONNECT_S: Final = 2.0


def run_call(settings: Settings) -> Run:
    """One call on a connection of its own, to the first address that answers; without a limit of time."""
    return lambda job, section: _call(settings, job, section)


def _call(settings: Settings, job: Delivery, section: Topic) -> Result:
    backend, client = _client(settings, job, section)
    connection = None
    try:
        request, size = client.encode(job)
        connection = _connected(backend)
        clock = SystemClock()
        begun_s = clock.monotonic_s()
        reader = client.new_reader()
        broken = _talk(connection, request, reader)
        if broken:
            return Result(verdict="crashed", error=broken)
        outcome = client.read(Exchange(reader), size, clock.monotonic_s() - begun_s)
    except HandlerUnavailable as error:
        return Result(verdict="down", error=str(error))
    except HandlerRejected as error:
        return Result(verdict="unsent", error=str(error))
    finally:
        if connection is not None:
            connection.close()
    return Result(
        verdict=str(outcome.verdict), error=outcome.error, delay_s=outcome.delay_s, status=outcome.status,
        headers=outcome.headers, output=_text(outcome.output), stderr=_text(outcome.stderr),
    )


def _client(settings: Settings, job: Delivery, section: Topic) -> tuple[Backend, Client]:
    backends = Backends(settings.backend, processes=1, index=0, clock=SystemClock())
    retry = section.retry.policy
    if section.fastcgi is not None:
        backend = backends.of_fastcgi(section.fastcgi)
        return backend, FastcgiClient(
            job.queue, job.topic, section.fastcgi, retry=retry, max_post_bytes=backend.settings.max_post_bytes,
            address=backend.label, clock=SystemClock(),
        )
    if section.http is None:
        raise click.UsageError("this handler is not called")
    backend = backends.of_http(section.http)
    return backend, HttpClient(
        job.queue, job.topic, section.http, retry=retry, max_post_bytes=backend.settings.max_post_bytes,
        clock=SystemClock(),
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


def _text(excerpt: Any) -> str:
    return excerpt.decode("utf-8", "replace") if isinstance(excerpt, bytes) else str(excerpt)
