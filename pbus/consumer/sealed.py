"""
The way to a door that speaks TLS, for processes of ours: a blocking socket with TLS around it.

Rule: the socket is one of ours as before user code patched anything, and so is what is done with it; the certificate
of the door is read anew for each connection, because it is renewed while we live.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pbus.config.schema import Tls as TlsSettings

READ_BYTES: Final = 16 * 1024


class Sealed:
    """The methods of a socket that ``PushClient`` uses. It owns the socket."""

    def __init__(self, sock: socket.socket, settings: TlsSettings) -> None:
        """
        Shake hands on a connected *sock*, which blocks with a bound.

        Raises:
            OSError: the door shows another certificate than the configured one, or does not answer. *sock* is closed.
        """
        from pbus.codec.tls import Tls, TlsError  # who needs no TLS does not load it
        from pbus.config.tls import Unfit, client_context

        self._sock = sock
        self._plain = b""
        try:
            self._tls = Tls(client_context(settings), server=False)
            self._tls.begin()
            while not self._tls.ready:
                self._sock.sendall(self._tls.outgoing())
                self._plain += self._tls.received(self._sock.recv(READ_BYTES))
            self._sock.sendall(self._tls.outgoing())
        except Unfit as error:
            sock.close()
            raise TlsError(f"ingest.tls: {error}") from error
        except OSError:
            sock.close()
            raise

    def fileno(self) -> int:
        """Of the socket."""
        return self._sock.fileno()

    def send(self, data: Any) -> int:
        """Send one record of *data*; how many bytes that was. What is in a record that was cut, nobody can read."""
        piece = bytes(data[:READ_BYTES])
        self._tls.seal(piece)
        self._sock.sendall(self._tls.outgoing())
        return len(piece)

    def sendall(self, data: bytes) -> None:
        """Send all of *data*."""
        for begin in range(0, len(data), READ_BYTES):
            self.send(data[begin:begin + READ_BYTES])

    def recv(self, size: int, flags: int = 0) -> bytes:
        """
        At least one byte, and empty at the end. With *flags* (a look without waiting) it stays there.

        Raises:
            BlockingIOError: there is nothing now.
        """
        while not self._plain and not self._tls.ended:
            self._plain = self._tls.received(self._sock.recv(READ_BYTES, flags & socket.MSG_DONTWAIT))
        if flags & socket.MSG_PEEK:
            return self._plain[:size]
        plain, self._plain = self._plain[:size], self._plain[size:]
        return plain

    def close(self) -> None:
        """End it."""
        self._sock.close()

    def detach(self) -> int:
        """Forget the descriptor, which is somebody else's now."""
        return self._sock.detach()
