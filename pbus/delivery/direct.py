"""
One call of a php-fpm or HTTP handler outside of every lane, for a person who looks on.

Rule: a connection of its own, nothing claimed or settled; what is sent and what the answer means is what it is to a
lane, because the same caller does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pbus.clock import Clock
from pbus.codec import fastcgi
from pbus.config.schema import Settings, Topic
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.address import Seat
from pbus.delivery.backend import Backend
from pbus.delivery.backends import Backends
from pbus.delivery.caller import Caller, Client
from pbus.delivery.fastcgi_client import FastcgiClient
from pbus.delivery.http_client import HttpClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    A call as it goes out.

    Attributes:
        address: ``unix:PATH`` or ``HOST:PORT``, the first one of its backend.
        path: What the request line of HTTP asks for; empty: it is FastCGI.
        fields: Headers, or FastCGI parameters, by name as sent.
        body: After them.
        target: What is called, for people.
    """

    address: str
    path: str
    fields: dict[str, str]
    body: bytes
    target: str


def call(settings: Settings, job: Delivery, section: Topic, clock: Clock, timeout_s: float = 0.0) -> Outcome:
    """
    Call the handler of *section* with *job*, at the first of its addresses that can be reached.

    Args:
        timeout_s: Bound of the attempt; 0: none.

    Raises:
        ValueError: it is a handler that is not called.
    """
    with _client(settings, job, section, clock) as (backend, client):
        caller = Caller(client, backend, timeout_s=timeout_s, hold=section.rules.hold, clock=clock)
        said = []
        for address in backend.addresses:
            seat = Seat(address, None, None, clock.monotonic_s())
            try:
                outcome = caller.attempt(job, seat)
            finally:
                seat.close()
            if outcome.verdict is not Verdict.DOWN:
                return outcome
            said.append(outcome.error)
    return replace(outcome, error="; ".join(dict.fromkeys(said)))


def request_of(settings: Settings, job: Delivery, section: Topic, clock: Clock) -> Request:
    """
    What ``call`` would send; nothing is connected to.

    Raises:
        HandlerRejected: it must not be sent. ValueError: it is a handler that is not called.
    """
    with _client(settings, job, section, clock) as (backend, client):
        data, _ = client.encode(job)
        address = backend.addresses[0].name
        if section.fastcgi is not None:
            fields, body = fastcgi.request_parts(data)
            return Request(address=address, path="", fields=fields, body=body, target=client.target)
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        return Request(address=address, path=first.split(" ")[1], fields=fields, body=body, target=client.target)


@contextmanager
def _client(settings: Settings, job: Delivery, section: Topic, clock: Clock) -> Iterator[tuple[Backend, Client]]:
    backends = Backends(settings.backend, processes=1, index=0, clock=clock)
    try:
        yield _made(backends, job, section, clock)
    finally:
        backends.close()


def _made(backends: Backends, job: Delivery, section: Topic, clock: Clock) -> tuple[Backend, Client]:
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
