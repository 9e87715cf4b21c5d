"""
A server for tests that answers each request with a plan: bytes, pauses, a close, a reset, silence.

Runs in threads of its own, so that it goes on whatever the code under test does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

Request = TypeVar("Request")


@dataclass(frozen=True)
class Pause:
    """Send nothing for so long."""

    seconds: float


@dataclass(frozen=True)
class Drip:
    """Send these bytes one by one, so far apart."""

    data: bytes
    every_s: float


CLOSE: Final = "close"
"""End the connection in order (FIN)."""

RESET: Final = "reset"
"""End it at once (RST, what was not read is lost)."""

HANG: Final = "hang"
"""Say nothing until the client goes."""

Step = bytes | Pause | Drip | str
Plan = Iterable[Step]


class Talker(Generic[Request]):
    """
    Answers request number n (from 0, over all connections) with ``plan(request, n)``.

    Args:
        read: Reads one request from a connection's file; None at its end.
        plan: What to do about it; after a plan without an end the connection stays open.
        tcp: Listen on a loopback port instead of a unix socket.

    Attributes:
        requests: Every request that was read, in order.
        accepted: Connections so far.
        peak: Most connections that clients had open at once.
        unclosed_peak: The same as the server's threads see it: until they have closed their side.
    """

    def __init__(
        self, read: Callable[[Any], Request | None], plan: Callable[[Request, int], Plan], *, tcp: bool = False
    ) -> None:
        self._read = read
        self.plan = plan
        self._folder = tempfile.mkdtemp(prefix="pbus-stub-")
        self.requests: list[Request] = []
        self.accepted = 0
        self.peak = 0
        self.unclosed_peak = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._tcp = tcp
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._where: Any = ("127.0.0.1", 0) if tcp else os.path.join(self._folder, "stub.sock")
        self.listen()

    @property
    def address(self) -> str:
        """As a backend's configuration names it."""
        return f"127.0.0.1:{self._where[1]}" if self._tcp else f"unix:{self._where}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return len(self._open)

    def listen(self) -> None:
        """Accept connections (again, on the same address)."""
        listener = socket.socket(socket.AF_INET if self._tcp else socket.AF_UNIX)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._where)
        listener.listen(512)
        if self._tcp:
            self._where = listener.getsockname()
        self._listener = listener
        self._closing = False
        self._spawn(self._accept, listener)

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closing:
                    connection.close()
                    return
                self.accepted += 1
                self._open.add(connection)
                self.unclosed_peak = max(self.unclosed_peak, len(self._open))
                self.peak = max(self.peak, sum(not _has_ended(each) for each in self._open))
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as stream:
                while (request := self._read(stream)) is not None:
                    with self._lock:
                        number = len(self.requests)
                        self.requests.append(request)
                    if not self._perform(connection, self.plan(request, number)):
                        return
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _perform(self, connection: socket.socket, plan: Plan) -> bool:
        """False when the plan ended the connection."""
        for step in plan:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif isinstance(step, Pause):
                threading.Event().wait(step.seconds)
            elif isinstance(step, Drip):
                for byte in step.data:
                    connection.sendall(bytes((byte,)))
                    threading.Event().wait(step.every_s)
            elif step == HANG:
                connection.recv(1)
                return False
            else:
                if step == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.shutdown(socket.SHUT_RDWR)
                return False
        return True

    def stop(self) -> None:
        """Close the listener and every connection; ``listen`` starts again."""
        listener, self._listener = self._listener, None
        with self._lock:
            self._closing = True
            connections = list(self._open)
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            if not self._tcp:
                os.unlink(self._where)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
        self._threads.clear()

    def close(self) -> None:
        """Stop and clean up; idempotent."""
        if self._listener is not None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _has_ended(connection: socket.socket) -> bool:
    """The client has closed it already, whether or not its thread has noticed."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
