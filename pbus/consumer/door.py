"""
The connection of a process to the port of its own bus, as the holder of a token: it says how its program ended.

    made at the start --AUTH token--> kept --PBUS.SETTLE--> integer | error
                          ^-- made again when the ingest child was replaced --+

Rule: what was said and not answered is said again: the second time there is nothing left to settle.
"""

from __future__ import annotations

import socket
from typing import Final

from pbus.clock import Clock

CONNECT_S: Final = 2.0
ANSWER_S: Final = 10.0
"""The bus itself answers within 5 s, also when its store is away."""
AGAIN_S: Final = 0.1
LINE_BYTES: Final = 4096
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class DoorError(Exception):
    """The bus refuses what was said, or nobody answers."""


def reachable(host: str) -> str:
    """Where a door that listens on *host* is reached from this machine."""
    return _ANYWHERE.get(host, host)


class Door:
    """
    One connection, made again when it is lost. One owner: the main thread.

    Args:
        host, port: Where the ingest children listen.
        token: Proves who we are; never logged, never in an error text.
        clock: Where deadlines come from.
    """

    def __init__(self, host: str, port: int, token: str, clock: Clock) -> None:
        self._place = (reachable(host), port)
        self._token = token
        self._clock = clock
        self._sock: socket.socket | None = None

    @property
    def fd(self) -> int:
        """What is readable when the other side has closed; -1 without a connection."""
        return self._sock.fileno() if self._sock is not None else -1

    def open(self) -> bool:
        """Connect, if there is no connection; False: nobody is there now, or we are not let in."""
        try:
            self._connected()
        except DoorError:
            return False
        return True

    def close(self) -> None:
        """End it."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def settle(self, how: str, reason: str, timeout_s: float) -> int:
        """
        Say how the program ended: ``done``, ``failed``, ``crashed``, ``timeout`` or ``stopped``.

        Returns:
            How many jobs it held.

        Raises:
            DoorError: not within *timeout_s*, or it is refused.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            try:
                reply = self._ask(b"PBUS.SETTLE", how.encode(), reason.encode("utf-8", "replace"))
            except DoorError as error:
                if self._clock.monotonic_s() >= deadline_s:
                    raise
                reply = f"-UNAVAILABLE {error}"
            if reply.startswith(":"):
                return int(reply[1:])
            if not reply.startswith("-UNAVAILABLE") or self._clock.monotonic_s() >= deadline_s:
                raise DoorError(reply.removeprefix("-"))
            self._clock.sleep(AGAIN_S)

    def _ask(self, *words: bytes) -> str:
        sock = self._connected()
        try:
            return _exchange(sock, *words)
        except OSError as error:
            self.close()
            raise DoorError(f"the bus did not answer: {error.strerror or error}") from error

    def _connected(self) -> socket.socket:
        if self._sock is not None:
            return self._sock
        try:
            sock = socket.create_connection(self._place, CONNECT_S)
        except OSError as error:
            raise DoorError(f"the bus cannot be reached: {error.strerror or error}") from error
        try:
            sock.settimeout(ANSWER_S)
            reply = _exchange(sock, b"AUTH", self._token.encode())
        except OSError as error:
            sock.close()
            raise DoorError(f"the bus did not answer: {error.strerror or error}") from error
        if not reply.startswith("+"):
            sock.close()
            raise DoorError(f"the bus refuses the token: {reply.removeprefix('-')}")
        self._sock = sock
        return sock


def _exchange(sock: socket.socket, *words: bytes) -> str:
    """
    One command; its reply, which is a line.

    Raises:
        OSError: none came.
    """
    parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]
    sock.sendall(b"".join(parts))
    line = b""
    while not line.endswith(b"\r\n"):
        data = sock.recv(LINE_BYTES)
        if not data or len(line) > LINE_BYTES:
            raise ConnectionError("closed")
        line += data
    return line.decode("utf-8", "replace").strip()
