"""
One side of a TLS connection, without a socket: ciphertext in, plaintext out, and the other way round.

    socket --received--> [records] --> plaintext        handshake records leave by ``outgoing``, too
    socket <--outgoing-- [records] <-- seal

Rule: no I/O. Whatever ``received`` was given is used up when it returns, as far as whole records go (at most 16 KiB of
an unfinished one stay inside), so the readiness of the socket says all there is to know.
Source: RFC 8446 (TLS 1.3), RFC 5246 (1.2).
"""

from __future__ import annotations

import ssl
from typing import Final

HANDSHAKE: Final = 0x16
"""First byte of whatever speaks TLS (RFC 8446, 5.1)."""
RECORD_BYTES: Final = 16 * 1024
"""Most plaintext of one record."""


class TlsError(ConnectionError):
    """The other side does not do what TLS asks for, or shows no certificate that counts; the text says so."""


class Tls:
    """
    Attributes:
        ready: The handshake is over.
        ended: The other side sends nothing more.
    """

    __slots__ = ("_in", "_out", "_ssl", "ended", "ready")

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_side=server)
        self.ready = self.ended = False

    @property
    def validity_s(self) -> tuple[float, float]:
        """
        From when until when the certificate counts that the other side has shown, unix time.

        Raises:
            TlsError: it has shown none, or none was asked for.
        """
        shown = self._ssl.getpeercert() or {}
        try:
            return ssl.cert_time_to_seconds(str(shown["notBefore"])), ssl.cert_time_to_seconds(str(shown["notAfter"]))
        except (KeyError, ValueError) as error:
            raise TlsError("there is no certificate") from error

    def begin(self) -> None:
        """A client speaks first: its greeting is ``outgoing`` then."""
        self._shake()

    def received(self, data: bytes) -> bytes:
        """
        The plaintext in what came; empty when there is none yet.

        Args:
            data: What the socket gave; empty: its end.

        Raises:
            TlsError: that was no TLS that we speak. What is ``outgoing`` tells the other side why.
        """
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        if not self.ready and not self._shake():
            return b""
        return self._read()

    def seal(self, data: bytes) -> None:
        """
        Encrypt *data* behind what is ``outgoing``.

        Raises:
            TlsError: the connection is over.
        """
        try:
            self._ssl.write(data)
        except ssl.SSLError as error:
            raise TlsError(_said(error)) from error

    def outgoing(self) -> bytes:
        """What is to be sent next; it is given once."""
        return self._out.read()

    def end(self) -> None:
        """Say that nothing more comes; it is ``outgoing`` then. Idempotent, and free where there was no handshake."""
        if not self.ready:
            return
        try:
            self._ssl.unwrap()
        except (ssl.SSLError, ValueError):
            pass                                      # the other side has not said the same yet: nobody waits for that

    def _shake(self) -> bool:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self.ended = isinstance(error, ssl.SSLEOFError)
            raise TlsError("ended in the middle of the handshake" if self.ended else _said(error)) from error
        self.ready = True
        return True

    def _read(self) -> bytes:
        parts = []
        try:
            while part := self._ssl.read(RECORD_BYTES):
                parts.append(part)
                if not (self._in.pending or self._ssl.pending() or self._in.eof):
                    return part if len(parts) == 1 else b"".join(parts)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.ended = True
        except ssl.SSLError as error:
            if not parts:
                raise TlsError(_said(error)) from error
            self.ended = True                         # what came before was whole
        return b"".join(parts)


def _said(error: ssl.SSLError) -> str:
    """``no shared cipher``: the words of OpenSSL without its file and line."""
    words = (error.reason or str(error)).replace("_", " ").lower()
    detail = getattr(error, "verify_message", "")
    return f"{words}: {detail}" if detail else words
