"""
A few connections to one Redis, each lent to one call at a time.

Rules: a call ends by its deadline whatever the network does (a Redis that sends a byte a second,
too). A connection on which anything went wrong, an exception of the caller included, is closed and
never lent again. Whether a command may have been executed is always known (``Lost.sent``).

redis-py makes the connection, packs and parses; it never repeats a command, never speaks more than
AUTH and SELECT by itself (RESP2, no CLIENT SETINFO, no notifications), never checks health.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pbus.clock import Clock
from pbus.storage.redis_address import Address
from pbus.storage.redis_errors import Lost, lost, refusal

Words = Sequence[Any]
"""One command: str, bytes and int arguments."""

SESSIONS: Final = 16
"""Calls at once over one Link; further ones wait for their turn."""


class Deadline:
    """Until when the call that holds a connection may take; shared with its socket."""

    __slots__ = ("at_s", "clock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.at_s = 0.0

    def left_s(self) -> float:
        """
        Seconds left.

        Raises:
            socket.timeout: none.
        """
        left = self.at_s - self.clock.monotonic_s()
        if left <= 0:
            raise TimeoutError("the deadline is over")  # what socket.timeout is since Python 3.10
        return left


class _Socket:
    """A connected socket whose waits end at the Deadline, however many of them a reply takes."""

    __slots__ = ("_deadline", "_socket")

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket = connected
        self._deadline = deadline

    def recv_into(self, buffer: bytearray) -> int:
        self._socket.settimeout(self._deadline.left_s())
        return self._socket.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._deadline.left_s())
        self._socket.sendall(data)

    def is_stale(self) -> bool:
        """Whether an idle connection cannot be used: it ended, or bytes came that nobody asked for."""
        self._socket.settimeout(0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def settimeout(self, _timeout_s: float | None) -> None:
        """Nothing: the deadline rules (redis-py sets its own after each read)."""

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()


class _Bounded(redis.connection.AbstractConnection):
    """Mixin of the two kinds: a connection whose socket keeps to a Deadline."""

    deadline: Deadline
    def _connect(self) -> _Socket:
        self.socket_connect_timeout = self.deadline.left_s()
        return _Socket(super()._connect(), self.deadline)  # type: ignore[no-untyped-call, safe-super]

    def is_stale(self) -> bool:
        """See ``_Socket.is_stale``; True for one that is not connected."""
        connected: _Socket | None = self._sock
        return connected is None or connected.is_stale()


class _TcpConnection(_Bounded, redis.Connection):
    """By TCP."""


class _UnixConnection(_Bounded, redis.UnixDomainSocketConnection):
    """By unix socket."""

    port = 0  # redis-py 8.1 asks for it when a connect takes too long


def connection(address: Address, deadline: Deadline) -> Any:
    """
    A connection of redis-py to *address*, not connected yet, that keeps to *deadline*.

    It is used untyped: half of redis-py's methods carry no types.
    """
    settings: dict[str, Any] = {
        "db": address.db,
        "username": address.username or None,
        "password": address.password or None,
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "socket_read_size": 65536,
    }
    if address.path:
        kind: Any = _UnixConnection
        settings["path"] = address.path
    else:
        kind = _TcpConnection
        settings |= {"host": address.host, "port": address.port}
    made = kind(**settings)
    made.deadline = deadline
    return made


class Session:
    """One connection and its turn; made and lent by Link."""

    def __init__(self, name: str, address: Address, clock: Clock) -> None:
        self.name = name
        """Unique among all processes; names the answers that the store keeps for this session."""
        self.deadline = Deadline(clock)
        self._connection = connection(address, self.deadline)
        self._clock = clock
        self._number = 0
        self._heard_s = 0.0

    def next_number(self) -> int:
        """A number for a command whose answer the store keeps, never used before in this session."""
        self._number += 1
        return self._number

    def quiet_s(self) -> float:
        """Seconds since the connection last answered; long ones die without telling. 0 for a new one."""
        return self._clock.monotonic_s() - self._heard_s if self._connection.is_connected else 0.0

    def exchange(self, commands: Sequence[Words]) -> list[Any]:
        """
        Send *commands* in one piece and read their replies.

        Returns:
            A reply a command; an error reply is a ``redis.exceptions.ResponseError`` in its place.

        Raises:
            Lost: the connection failed; ``sent`` is False when no command can have been executed.
            Refused: Redis does not let us in, or does not serve now.
        """
        fresh = self._ensure_connected()
        sent = False
        try:
            # An incomplete command is never executed, an earlier complete one may have been.
            sent = len(commands) > 1
            # One write, packed by hiredis itself: redis-py looks at every argument in Python first.
            packed = b"".join([hiredis.pack_command(tuple(words)) for words in commands])
            self._connection.send_packed_command([packed], check_health=False)
            sent = True
            replies = [self._read() for _ in commands]
            self._heard_s = self._clock.monotonic_s()
            return replies
        except redis.exceptions.RedisError as error:
            self.close()
            refused = refusal(error)
            if refused is not None:
                raise refused from None
            raise lost(error, sent=sent, stale=not fresh) from None
        except BaseException:
            # A greenlet may be ended here: replies would be left for the next call.
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        self._connection.disconnect()

    def _ensure_connected(self) -> bool:
        """Whether the connection had to be made."""
        if not self._connection.is_stale():
            return False
        self.close()
        try:
            self._connection.connect()
            self._heard_s = self._clock.monotonic_s()
        except redis.exceptions.RedisError as error:
            self.close()
            refused = refusal(error)
            if refused is not None:
                raise refused from None
            raise lost(error, sent=False, stale=False) from None
        except BaseException:
            self.close()
            raise
        return True

    def _read(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.exceptions.ResponseError as error:
            return error


class Link:
    """The sessions of one process with one Redis. Safe for threads and greenlets."""

    def __init__(self, address: Address, clock: Clock, sessions: int = SESSIONS) -> None:
        instance = secrets.token_hex(5)
        self._clock = clock
        self._turns = threading.BoundedSemaphore(sessions)
        # Last in, first out: few connections stay warm, the others are made when they are needed.
        self._free = [Session(f"{instance}.{index}", address, clock) for index in reversed(range(sessions))]
        self._all = tuple(self._free)

    @contextlib.contextmanager
    def session(self, timeout_s: float) -> Iterator[Session]:
        """
        Borrow a session for at most *timeout_s* seconds of waiting and working.

        Raises:
            Lost: none became free in time.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        if not self._turns.acquire(timeout=timeout_s):
            raise Lost("all connections to it are waiting", sent=False)
        try:
            session = self._free.pop()
            session.deadline.at_s = until_s
            try:
                yield session
            finally:
                self._free.append(session)
        finally:
            self._turns.release()

    def close(self) -> None:
        """Close every connection, the ones in use as well."""
        for session in self._all:
            session.close()
