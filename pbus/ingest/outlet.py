"""
The half of a connection that speaks: replies, from the turn in which they are made until the kernel has them.

    replies of a turn -> one send -> what the kernel did not take -> again when it is writable
                                            |
                                            +-- too much of it: the client is not read from

Rule: nothing is lost between two turns, and whoever waits for a reply to leave hears of it exactly once. What hears,
parses and executes is ``connection``.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pbus.ingest.sent import OnSent
    from pbus.ingest.server import Server

SEND_BYTES: Final = 256 * 1024
_WRITE: Final = 2


class State(enum.Enum):
    """
    Life of a connection.

        OPEN --EOF from the client------> ENDING --everything is answered-----------> CLOSED
          | ---QUIT, garbage on the wire-> SHUT --replies sent, client gone or LINGER_S-> CLOSED
    """

    OPEN = "open"
    ENDING = "ending"
    SHUT = "shut"
    CLOSED = "closed"


class Outlet(abc.ABC):
    """
    What a connection has to say. Its owner is the connection, which it is a part of.

    Attributes:
        server: Where the client came in.
        who: What the client is called in traces (``stories.peer_of``); None: nobody has asked.
    """

    __slots__ = ("_on_sent", "_out", "_shut_s", "_socket", "_state", "_stuck_s", "_unsent", "_writer", "server", "who")

    def __init__(self, server: Server, sock: Any) -> None:
        self.server = server
        self.who: Any = None
        self._socket = sock
        self._state = State.OPEN
        self._out: list[bytes] = []                   # replies of this turn
        self._unsent: bytearray | None = None         # what the kernel did not take, and since when it stands still
        self._stuck_s = 0.0
        self._shut_s = 0.0                            # since when a client that was shut may linger
        self._on_sent: list[OnSent] | None = None
        self._writer: Any = None

    @abc.abstractmethod
    def proceed(self) -> None:
        """There is room again."""

    @abc.abstractmethod
    def close(self) -> None:
        """The client is gone."""

    @abc.abstractmethod
    def account(self) -> None:
        """What is kept for the client has changed."""

    @abc.abstractmethod
    def _regulate(self) -> None:
        """Read on, or wait."""

    @property
    @abc.abstractmethod
    def _all_answered(self) -> bool:
        """Every command that came completely has its reply."""

    @abc.abstractmethod
    def _watch(self) -> None:
        """It must not take for ever."""

    @property
    def _clogged(self) -> bool:
        """The client leaves too many replies unread."""
        return self._unsent is not None and len(self._unsent) > self.server.limits.unread_bytes

    def _flush(self) -> None:
        """Send the replies of this turn at once."""
        out = self._out
        if out and self._state is not State.CLOSED:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._out = []
            if self._unsent is None:
                self._send(data)
            else:
                self._unsent += data
                self.account()
                self._regulate()
        if self._unsent is None:
            self._all_sent()

    def _send(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._unsent = bytearray(data[sent:])
            self._stuck_s = self.server.clock.monotonic_s()
            self._watch()
            if self._writer is None:
                self._writer = self.server.loop.io(self._socket.fileno(), _WRITE)
            self._writer.start(self._writable)
            self.account()
            self._regulate()

    def _writable(self) -> None:
        unsent = self._unsent
        if unsent is None:
            return
        try:
            sent = self._socket.send(bytes(unsent[:SEND_BYTES]))
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        clogged = self._clogged
        del unsent[:sent]
        if not clogged or not self._clogged:          # too far behind counts from when it fell behind
            self._stuck_s = self.server.clock.monotonic_s()
        if not unsent:
            self._unsent = None
            self._shut_s = self._stuck_s              # a client that was shut lingers from here
            self._writer.stop()
        self.account()
        self.proceed()

    def _all_sent(self) -> None:
        """The kernel has everything."""
        if self._on_sent is not None:
            self._tell_sent(self._state is not State.CLOSED)
        if self._state is State.SHUT:
            with contextlib.suppress(OSError):        # the client may have gone first
                self._socket.shutdown(socket.SHUT_WR)
        elif self._state is State.ENDING and self._all_answered:
            self.close()

    def _tell_sent(self, sent: bool) -> None:
        """Whoever waits for replies to leave hears of it once."""
        waiting, self._on_sent = self._on_sent or [], None
        for on_sent in waiting:
            on_sent(sent)

    def _end_output(self) -> None:
        """Nothing is sent any more."""
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
        self._socket.close()
        self._out, self._unsent = [], None
