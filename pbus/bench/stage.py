"""
What every measurement needs: a temporary folder, private servers, buses.

Rule: everything it started ends with it, and its folder goes.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from redis import Redis

from pbus.bench.bus import UNBOUNDED, Bus
from pbus.bench.load import QUEUE
from pbus.bench.servers import PhpFpm, RedisServer

STORES: Final[Mapping[str, Mapping[str, str]]] = {
    "sqlite": {},
    "redis": {"appendonly": "yes", "appendfsync": "everysec"},
    "redis-always": {"appendonly": "yes", "appendfsync": "always"},
}
"""Name -> how its redis-server is started."""


class Stage:
    """A context manager. *parent*: where its folder is made (empty: where temporary folders are made)."""

    def __init__(self, parent: str = "") -> None:
        self._parent = parent
        self._stack = contextlib.ExitStack()
        self._names = 0

    def __enter__(self) -> Stage:
        self.folder = Path(tempfile.mkdtemp(prefix="pbus-bench-", dir=self._parent or None))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def subfolder(self, name: str) -> Path:
        """A new one in its folder; names may repeat."""
        self._names += 1
        folder = self.folder / f"{name}-{self._names}"
        folder.mkdir()
        return folder

    def redis(self, **settings: str) -> RedisServer:
        """A private redis-server that writes nothing to disk unless *settings* say so."""
        server = RedisServer(self.subfolder("redis"), **settings)
        self._stack.callback(server.close)
        return server

    def client(self, server: RedisServer, **settings: Any) -> Redis:
        """A plain client of that server."""
        client: Redis = self._stack.enter_context(server.client(**settings))
        return client

    def fpm(self, children: int) -> PhpFpm:
        """A private php-fpm with so many processes."""
        fpm = PhpFpm(self.subfolder("fpm"), children)
        self._stack.callback(fpm.close)
        return fpm

    def store(self, name: str) -> RedisServer | None:
        """The server behind a store of that name (``STORES``); None: it is a file of the bus."""
        return None if name == "sqlite" else self.redis(**STORES[name])

    def bus(
        self, topics: Mapping[str, Any], store: RedisServer | None = None, environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Bus:
        """A running bus with one queue (*of_queue*: more of its keys) and these topics; in SQLite, or in *store*."""
        of_queue = more.pop("of_queue", {})
        return self.bus_of({QUEUE: {**UNBOUNDED, **of_queue, "topic": dict(topics)}}, store, environment, **more)

    def bus_of(
        self, queues: Mapping[str, Any], store: RedisServer | None = None,
        environment: Mapping[str, str] | None = None, **more: Any,
    ) -> Bus:
        """A running bus with these queues."""
        bus = self.new_bus(queues, store, environment, **more)
        return bus.start()

    def new_bus(
        self, queues: Mapping[str, Any], store: RedisServer | None = None,
        environment: Mapping[str, str] | None = None, **more: Any,
    ) -> Bus:
        """The same, not started."""
        tree: dict[str, Any] = {"queue": dict(queues), **more}
        if store is not None:
            tree["storage"] = {"main": {"url": store.url}}
        bus = Bus(self.subfolder("bus"), tree, environment)
        self._stack.callback(bus.close)
        return bus
