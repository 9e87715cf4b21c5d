"""
The bus that foreign clients talk to, its stores, and what their programs may ask to be done to them.

Rule: what one program asks for harms no other one. The store of ``away`` freezes for one at a time; connections
are closed, and the bus is restarted, when every program has come to that step or has ended.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import redis

from tests.conformance.clients.foreign.clients import Client
from tests.support.bus import Bus, write_config
from tests.support.fault_proxy import FaultProxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

_PULL = {"topic": {"t": {"pull": {}}}}
_SAFE = {"password": "pw", "topic": {"t": {"pull": {}, "password": "tpw"}}}


class Stage:
    """
    Use it as a context.

    Args:
        folder: Of the bus; empty.
        clients: Those that will run: each has its queues.

    Attributes:
        problems: What went wrong with something that was asked for.
    """

    def __init__(self, folder: Path, clients: Iterable[Client]) -> None:
        self.folder = folder
        self.problems: list[str] = []
        (folder / "redis").mkdir(parents=True)
        self._bus = Bus(folder)
        self._store = RedisServer(folder / "redis")
        self._proxy: CuttingProxy | None = None
        self._met = threading.Condition()
        self._here = {client.name for client in clients}
        self._waiting: dict[str, str] = {}
        self._frozen = threading.Lock()
        self._frozen_by = ""
        queues: dict[str, object] = {"full": {**_PULL, "max_backlog": 1}, "away": {**_PULL, "storage": "away"}}
        for client in clients:
            queues |= {client.queue: _PULL, f"{client.queue}.safe": _SAFE}
            queues |= {f"{client.queue}.bulk": _PULL, f"{client.queue}.cut": _PULL}
        stores = {"main": {"url": "sqlite:pbus.db"}, "away": {"url": self._store.url, "call_timeout": "500ms"}}
        write_config(folder, {"storage": stores, "queue": queues})

    def __enter__(self) -> Stage:
        try:
            self._store.start()
            self._bus.start()
            self._proxy = CuttingProxy(("127.0.0.1", self._bus.port))
            with redis.Redis(port=self._bus.port) as client:
                client.lpush("full", "x")
            until(self._away_works, 10, "the second store works")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._bus.has_not_crashed()

    def _end(self) -> None:
        if self._proxy is not None:
            self._proxy.__exit__(None, None, None)
        self._bus.clean_up()
        self._store.close()

    # -- what programs need -------------------------------------------------------------------

    def variables(self, client: Client) -> dict[str, str]:
        """Of the environment of a program."""
        assert self._proxy is not None
        return {
            "PBUS_HOST": "127.0.0.1", "PBUS_PORT": str(self._bus.port), "PBUS_CUT_PORT": str(self._proxy.port),
            "PBUS_QUEUE": client.queue,
        }

    def stored(self, client: Client) -> dict[str, list[bytes]]:
        """Takes everything from Q.bulk and Q.cut; bodies by ``bulk`` and ``cut``, sorted."""
        found: dict[str, list[bytes]] = {}
        with redis.Redis(port=self._bus.port) as own:
            for name in ("bulk", "cut"):
                bodies: list[bytes] = []
                while some := own.rpop(f"{client.queue}.{name}/t", 1000):
                    bodies += some
                found[name] = sorted(bodies)
        return found

    # -- what programs ask for ----------------------------------------------------------------

    def ask(self, name: str, what: str) -> None:
        """Do what program *name* asks for; returns when it is done."""
        if what == "freeze":
            self._frozen.acquire()
            self._frozen_by = name
            self._store.freeze()
        elif what == "thaw":
            self._thaw(name)
        elif what in ("close", "restart"):
            self._meet(name, what)
        else:
            self.problems.append(f"{name} asks for '{what}'")

    def leave(self, name: str) -> None:
        """Program *name* has ended: nobody waits for it."""
        self._thaw(name)
        with self._met:
            self._here.discard(name)
            self._met.notify_all()

    def _thaw(self, name: str) -> None:
        if self._frozen_by == name:
            self._store.resume()
            try:
                until(self._away_works, 10, "the second store works again")
            except AssertionError as error:
                self.problems.append(str(error))
            self._frozen_by = ""
            self._frozen.release()

    def _away_works(self) -> bool:
        with redis.Redis(port=self._bus.port) as client, contextlib.suppress(redis.RedisError):
            return bool(client.lpush("away", "x"))
        return False

    def _meet(self, name: str, what: str) -> None:
        """Wait until everybody is here, and it has been done."""
        with self._met:
            self._waiting[name] = what
            self._met.notify_all()
            self._met.wait_for(lambda: name not in self._waiting)

    def serve(self) -> None:
        """
        Do what all programs wait for, until all have ended.

        Called by the main thread: a bus ends with the thread that started it (``leftovers.end_with_the_tests``).
        """
        with self._met:
            while self._here:
                self._met.wait_for(lambda: set(self._waiting) >= self._here)
                if self._waiting:
                    self._do(min(self._waiting.values()))  # "close" comes before "restart"

    def _do(self, what: str) -> None:
        try:
            if what == "close":
                self._close()
            else:
                self._bus.restart()
        except (AssertionError, OSError) as error:
            self.problems.append(f"{what}: {error}")
        self._waiting = {name: other for name, other in self._waiting.items() if other != what}
        self._met.notify_all()

    def _close(self) -> None:
        """Kill the ingest child: every connection is gone, the port is not."""
        before = self._bus.kill("ingest")
        until(lambda: self._bus.pids("ingest") not in ([], before), 10, "another ingest child")
        self._bus.wait()


class CuttingProxy(FaultProxy):
    """
    Loses the reply to the first push of each *pattern* that it sees: its connection is closed instead.

    Args:
        pattern: What is looked for in the bytes of commands; what it matches (or its groups) is what is seen.
    """

    def __init__(
        self, target: tuple[str, int], *, pattern: re.Pattern[bytes] = re.compile(rb"CUT:[\w.:-]+"), port: int = 0
    ) -> None:
        self._pattern = pattern
        self._seen: set[bytes | tuple[bytes, ...]] = set()
        self._doomed: set[socket.socket] = set()
        super().__init__(target, name="cutting proxy", port=port)

    def _forward(self, server: socket.socket, data: bytes) -> bool:
        bodies = set(self._pattern.findall(data)) - self._seen
        if bodies:
            self._seen |= bodies
            with self._lock:
                self._doomed |= {pair.client for pair in self._open if pair.server is server}
        return super()._forward(server, data)

    def _reply(self, client: socket.socket, data: bytes) -> bool:
        return client not in self._doomed and super()._reply(client, data)
