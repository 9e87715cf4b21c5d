"""
Every backend that one delivery child calls, by name and by address.

Rule: the same address named twice is the same backend, so one limit holds whoever uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from pbus.clock import Clock
from pbus.config import schema
from pbus.delivery.address import Address, share_of
from pbus.delivery.backend import Backend
from pbus.delivery.congestion import UNLIMITED
from pbus.delivery.news import News
from pbus.delivery.pings import Roll
from pbus.delivery.watch import Watch


class Backends:
    """
    One owner: the delivery child.

    Args:
        settings: ``[backend.NAME]`` tables.
        processes: Delivery children of the node: limits are per node, so each gets its share.
        index: 0-based number of this child.
        clock: The clock to use.
        news: What the other children tell; None: there is nobody.
    """

    def __init__(
        self, settings: Mapping[str, schema.Backend], *, processes: int, index: int, clock: Clock,
        news: News | None = None,
    ) -> None:
        self._clock = clock
        self._processes = processes
        self._index = index
        self._news = news or News()
        self._rolls: dict[tuple[str, str], Roll] = {}
        self._named = {name: self._make(name, backend) for name, backend in settings.items()}
        self._by_address = {
            address.name: backend for backend in self._named.values() for address in backend.addresses
        }

    def _make(self, name: str, settings: schema.Backend) -> Backend:
        limit = UNLIMITED
        if settings.max_connections:
            limit = share_of(settings.max_connections, self._processes, self._index)
        addresses = [
            *(Address(each, "fastcgi", limit, settings) for each in settings.fastcgi),
            *(Address(http_address(url), "http", limit, settings) for url in settings.http),
        ]
        backend = Backend(name, addresses, settings, self._clock, self._processes, self._index)
        backend.watch = Watch(backend, self._news, self._clock)
        return backend

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
            self._by_address[address] = self._make("", settings)
        return self._by_address[address]

    def roll(self, backend: Backend, address: Address, endpoint: str) -> Roll:
        """Which topics *endpoint* takes at *address*; the same one for everybody who asks."""
        key = (address.name, endpoint)
        if key not in self._rolls:
            self._rolls[key] = Roll(backend, address, endpoint, self._news)
        return self._rolls[key]

    def __iter__(self) -> Iterator[Backend]:
        yield from dict.fromkeys((*self._named.values(), *self._by_address.values()))

    def used(self) -> Iterator[tuple[Backend, Address]]:
        """Every address that a topic of this child may call."""
        for backend in self:
            if backend.is_used:
                yield from ((backend, address) for address in backend.addresses)

    def leave(self) -> None:
        """Another child calls from now on: what is not in use is closed at once."""
        for backend in self:
            backend.leave()

    def close(self) -> None:
        """End probes and close connections; idempotent."""
        for roll in self._rolls.values():
            roll.close()
        for backend in self:
            backend.close()


def http_address(url: str) -> str:
    """``HOST:PORT`` of an ``http://`` URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or 80}" if ":" in host else f"{host}:{parts.port or 80}"
