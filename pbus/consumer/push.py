"""
``job.push``: a handler's own pushes, through the same door and by the same rules as everybody's.

    first use --connect, AUTH token--> kept alive --PBUS.ADD--> id | error
                                          ^------------------------+

Rule: what was refused is certainly not stored, and only what is certainly not stored is sent again, once: a
connection that had ended before the command was begun. One connection a process, made when it is needed; threads
take turns; a forked process makes its own.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import pbus
from pbus.config.values import Address
from pbus.consumer import descriptors
from pbus.consumer.sealed import Sealed
from pbus.supervisor.listeners import connect_unix

if TYPE_CHECKING:
    from pbus.config.schema import Tls

CONNECT_S: Final = 2.0
ANSWER_S: Final = 10.0
"""The bus itself answers within 5 s, also when its store is away."""
READ_BYTES: Final = 4096
_TEMPORARY: Final = frozenset({"QUEUEFULL", "UNAVAILABLE"})
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class PushClient:
    """
    The connection of one process to its bus.

    Args:
        address: Where ingest listens.
        token: Proves who we are; never logged, never in an error text.
        tls: The certificate that it shows; None: it speaks no TLS.
    """

    def __init__(self, address: Address, token: str, tls: Tls | None = None) -> None:
        self._address = address
        self._token = token
        self._tls = tls
        self._pid = 0
        self._sock: socket.socket | Sealed | None = None
        self._inode = 0
        self._reader: Any = None
        self._become_ours()

    def add(self, queue: str, body: bytes, options: list[str | bytes | int]) -> str:
        """
        Push one job.

        Args:
            queue: Its queue.
            body: The job.
            options: Names and values of ``PBUS.ADD``.

        Returns:
            Its id, or that of the job which has the same ``dedupe`` key.

        Raises:
            pbus.PushRefused: it is not stored.
            pbus.MaybeStored: nobody knows.
        """
        command = _packed(b"PBUS.ADD", queue, body, *options)
        if os.getpid() != self._pid:
            self._become_ours()
        if not self._lock.acquire(timeout=ANSWER_S):
            raise pbus.PushRefused("another push of this process is not over: not stored", temporary=True)
        try:
            return _id_of(self._exchange(command))
        except pbus.PushError:
            raise
        except BaseException:  # a signal handler of the user's may raise anywhere: what is half said is over
            self.close()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the connection. The next push makes another one."""
        sock, self._sock = self._sock, None
        if sock is not None:
            descriptors.close(sock, self._inode)

    def _become_ours(self) -> None:
        """Begin anew, in this process: what was inherited belongs to the parent, its lock may be held for ever."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._sock = None

    def _exchange(self, command: bytes) -> Any:
        kept = self._is_usable()
        sock = self._sock if kept and self._sock is not None else self._connected()
        sent, why = _send(sock, command)
        if sent == 0 and kept:
            self.close()
            sock = self._connected()
            sent, why = _send(sock, command)
        if sent < len(command):
            reply = self._last_words(sock)
            self.close()
            if reply is not None:
                return reply
            raise pbus.PushRefused(f"the connection to the bus ended ({why}): not stored", temporary=True)
        try:
            return self._reply(sock)
        except OSError as error:
            self.close()
            text = f"the bus did not answer ({_said(error)}): nobody knows whether it is stored"
            raise pbus.MaybeStored(text) from error

    def _is_usable(self) -> bool:
        """Whether the kept connection is there, is still ours, and nothing has come on it."""
        if self._sock is None:
            return False
        if descriptors.inode(self._sock.fileno()) == self._inode:
            try:
                self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                pass  # over, like one that has ended
        self.close()
        return False

    def _connected(self) -> socket.socket | Sealed:
        """A fresh connection that has said who we are."""
        import hiredis

        try:
            raised = descriptors.raised(_connect(self._address), ANSWER_S, answers=True)
            self._sock = sock = Sealed(raised, self._tls) if self._tls is not None else raised
            self._inode = descriptors.inode(sock.fileno())
            self._reader = hiredis.Reader()
            sock.sendall(_packed(b"AUTH", self._token))
            reply = self._reply(sock)
        except OSError as error:
            self.close()
            text = f"the bus cannot be reached at {self._address} ({_said(error)}): not stored"
            raise pbus.PushRefused(text, temporary=True) from error
        if isinstance(reply, Exception):
            self.close()
            code, _, _ = str(reply).partition(" ")
            raise pbus.PushRefused(f"{reply}: not stored", code)
        return sock

    def _reply(self, sock: socket.socket | Sealed) -> Any:
        """
        The next reply; an error is an exception that is returned.

        Raises:
            OSError: none came.
        """
        while (reply := self._reader.gets()) is False:
            data = sock.recv(READ_BYTES)
            if not data:
                raise ConnectionError("closed")
            self._reader.feed(data)
        return reply

    def _last_words(self, sock: socket.socket | Sealed) -> Any:
        """Why the bus hung up in the middle of a command (one that is too large), if it said so."""
        try:
            reply = self._reply(sock)
        except OSError:
            return None
        return reply if isinstance(reply, Exception) else None


def _connect(address: Address) -> socket.socket:
    if address.path:
        return connect_unix(address.path, CONNECT_S)
    host = _ANYWHERE.get(address.host, address.host)
    sock = socket.create_connection((host, address.port), CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _packed(*words: str | bytes | int) -> bytes:
    import hiredis  # a handler that does not push does not pay for it

    data: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows one-tuples only
    return data


def _send(sock: socket.socket | Sealed, data: bytes) -> tuple[int, str]:
    """How many bytes of *data* the kernel took (sendall would not say), and why not all."""
    view = memoryview(data)
    sent = 0
    try:
        while sent < len(view):
            sent += sock.send(view[sent:])
    except OSError as error:
        return sent, _said(error)
    return sent, ""


def _said(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return f"nothing moved for {ANSWER_S:g} s"
    return error.strerror or str(error)


def _id_of(reply: Any) -> str:
    if isinstance(reply, bytes):
        return reply.decode()
    text = str(reply)
    code, _, _ = text.partition(" ")
    if not isinstance(reply, Exception):
        raise pbus.MaybeStored(f"the bus answered {text[:100]!r}: nobody knows whether it is stored")
    if code == "MAYBESTORED":
        raise pbus.MaybeStored(text, code)
    raise pbus.PushRefused(text, code, temporary=code in _TEMPORARY)
