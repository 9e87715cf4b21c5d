"""
One open connection to a handler's address: connect, send, receive, peek.

Rule: every byte that leaves is counted, because "nothing was written" and "it may have run" are
different outcomes; sendall() loses that count when it is interrupted. Plain non-blocking sockets
with the hub's watchers: a reply is never there at once, so the first try that gevent's own socket
makes would be wasted on every call.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any, Final

import gevent
import gevent.monkey
import gevent.socket

from pbus.config import values
from pbus.errors import HandlerUnavailable
from pbus.supervisor.listeners import unix_path

RECEIVE_BYTES: Final = 64 * 1024
RETIRE_S: Final = 0.02

_READ: Final = 1
_WRITE: Final = 2
_original_socket: Any = gevent.monkey.get_original("socket", "socket")


class Connection:
    """
    Owner: the seat that opened it; used by one greenlet at a time.

    Attributes:
        hot_since_s: Monotonic time of its first reuse; 0: it was not reused yet.
        sent: Bytes of the current request that the kernel took.
        is_tcp: No unix socket.
        sock: For whoever watches it.
    """

    __slots__ = ("_hub", "_readable", "_writable", "hot_since_s", "is_tcp", "sent", "sock")

    def __init__(self, sock: Any) -> None:
        self.hot_since_s = 0.0
        self.sent = 0
        self.sock = sock
        self._hub = gevent.get_hub()
        self._readable = self._hub.loop.io(sock.fileno(), _READ)
        self._writable: Any = None
        self.is_tcp = sock.family != socket.AF_UNIX

    def send(self, request: bytes) -> None:
        """
        Hand *request* to the kernel; ``sent`` says how far it got when this raises.

        Raises:
            OSError: the peer closed or reset.
        """
        self.sent = 0
        self.send_rest(request)

    def send_rest(self, request: bytes) -> None:
        """The same from ``sent`` on."""
        view: bytes | memoryview = memoryview(request)[self.sent :] if self.sent else request
        while self.sent < len(request):
            try:
                taken = self.sock.send(view)
            except BlockingIOError:
                self._wait_writable()
                continue
            self.sent += taken
            view = memoryview(request)[self.sent :]

    def _wait_writable(self) -> None:
        if self._writable is None:
            self._writable = self._hub.loop.io(self.sock.fileno(), _WRITE)
        self._hub.wait(self._writable)

    def receive(self) -> bytes:
        """
        The next bytes; empty when the peer closed.

        Raises:
            OSError: the peer reset.
        """
        while True:
            if self.is_tcp:
                self.acknowledge()
            self._hub.wait(self._readable)
            try:
                data: bytes = self.sock.recv(RECEIVE_BYTES)
                return data
            except BlockingIOError:
                continue

    def acknowledge(self) -> None:
        """
        TCP only: what comes next is acknowledged at once.

        A server that writes head and body apart waits for our ACK of the head, which the kernel would hold back for
        40 ms. The option is not sticky.
        """
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def watch(self, act: Callable[[], None]) -> None:
        """Call *act* in the loop whenever there is something to read, until ``unwatch``; nobody else reads then."""
        self._readable.start(act)

    def unwatch(self) -> None:
        """Idempotent, also when it is closed."""
        self._readable.stop()

    def is_quiet(self) -> bool:
        """Open and nothing to read: the only state in which it may carry another call."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def retire(self, within_s: float = RETIRE_S) -> None:
        """
        Say that nothing more comes and wait a moment, *within_s* at most, for the peer to close too.

        So a server never sees more connections than we may have, and the php-fpm process behind
        this one is free before its successor queues up.
        """
        with contextlib.suppress(OSError), gevent.Timeout(within_s, False):
            self.sock.shutdown(socket.SHUT_WR)
            while self.receive():
                self.acknowledge()

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        if self.sock is None:
            return
        self._readable.close()
        if self._writable is not None:
            self._writable.close()
        self.sock.close()
        self.sock = None


def connect(address: str, timeout_s: float) -> Any:
    """
    A connected non-blocking socket to ``unix:PATH`` or ``HOST:PORT``.

    Raises:
        HandlerUnavailable: refused, no such socket, backlog full, unreachable, DNS, timeout.
    """
    ours = gevent.Timeout(timeout_s)
    try:
        with ours:
            where = values.address(address)
            return _connect_unix(where.path) if where.path else _connect_tcp(where.host, where.port)
    except gevent.Timeout as fired:
        if fired is not ours:
            raise  # the caller's own, for more than this
        raise HandlerUnavailable(f"{address}: no connection within {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise HandlerUnavailable(f"{address}: {text}") from error


def _connect_unix(path: str) -> Any:
    """A unix connect answers at once: connected, refused, or EAGAIN when the backlog is full."""
    sock = _original_socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with unix_path(path) as short:
            sock.connect(short)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_tcp(host: str, port: int) -> Any:
    failure: OSError = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    for family, target in _resolve(host, port):
        sock = _original_socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _finish_connect(sock, target)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


def _finish_connect(sock: Any, target: tuple[Any, ...]) -> None:
    code = sock.connect_ex(target)
    if code == errno.EINPROGRESS:
        hub = gevent.get_hub()
        watcher = hub.loop.io(sock.fileno(), _WRITE)
        try:
            hub.wait(watcher)
        finally:
            watcher.close()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        version = ipaddress.ip_address(host).version
        return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
    except ValueError:
        found = gevent.socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        return [(entry[0], entry[4]) for entry in found]
