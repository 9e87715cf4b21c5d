"""
Doors that speak TLS: shaking hands, and the socket that a connection then has.

    accepted --> Handshake --ready--> TlsSocket --> Connection
                   | plain Redis bytes: one error, the end
                   | no certificate of the authority, no common version: an alert, the end
                   +-- not over within command_time: closed

Rule: nobody waits, as everywhere at the door; a connection knows nothing of TLS. Whoever has not shaken hands counts as
a connection, and costs no more than that.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pbus.clock import Clock
from pbus.codec.resp_reply import error
from pbus.codec.tls import HANDSHAKE, RECORD_BYTES, Tls, TlsError
from pbus.config import tls as files
from pbus.config.schema import Ingest
from pbus.config.schema import Tls as Settings
from pbus.config.tls import Unfit
from pbus.errors import Exit
from pbus.supervisor.child import Child

if TYPE_CHECKING:
    from pbus.ingest.server import Server

LINGER_S: Final = 1.0
"""How long who was refused is still read from, so that its last words are not lost to a reset."""
LOOK_S: Final = 2.0
"""Between two looks whether the files were renewed."""
SOON_S: Final = 7 * 86_400.0
SOON_SHARE: Final = 0.1
"""A certificate that ends within that time, and within that share of its life, ought to have been renewed."""
_RECV_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 4 * RECORD_BYTES
"""Encrypted ahead of what the kernel takes."""
_CIPHER_BYTES: Final = 4 * _CHUNK_BYTES
"""What TLS itself may want to say to a client that does not read."""
_READ: Final = 1
_NOT_TLS: Final = "ERR this port speaks TLS (redis-cli --tls, rediss://): not stored, this connection ends"


class Certificates:
    """
    What doors shake hands with, as the files have it: renewed ones count for whoever comes next.

    Attributes:
        context: The last that was good.
        problem: Why the files of now are not, or that they will not be soon; empty: they are.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            Unfit: a file cannot be used.
        """
        self._settings = settings
        self._seen = files.signature(settings)
        self._bad_looks = 0
        self.context: ssl.SSLContext = files.server_context(settings)
        self._validity_s = _validity_s(self.context, settings)
        self.problem = ""

    def look(self, wall_s: float) -> bool:
        """Read the files again if they have changed; whether there is another context now. *wall_s*: unix time."""
        seen = files.signature(self._settings)
        if seen == self._seen:
            self.problem = _ageing(*self._validity_s, wall_s)
            return False
        try:
            context = files.server_context(self._settings)
            validity_s = _validity_s(context, self._settings)
        except Unfit as unfit:
            self._bad_looks += 1                      # certificate and key are seldom replaced in one instant
            self.problem = f"ingest.tls: {unfit}; the certificate from before goes on" if self._bad_looks > 1 else ""
            return False
        self.context, self._validity_s = context, validity_s
        self._seen, self._bad_looks, self.problem = seen, 0, _ageing(*validity_s, wall_s)
        return True


def _validity_s(context: ssl.SSLContext, settings: Settings) -> tuple[float, float]:
    """
    From when until when the certificate counts, unix time: a handshake with ourselves tells (no file is parsed here).

    The end is 0 when it is over, and far away when nobody can tell.
    """
    door, client = Tls(context, server=True), Tls(files.client_context(settings), server=False)
    try:
        client.begin()
        while not client.ready:
            door.received(client.outgoing())
            client.received(door.outgoing())
        return client.validity_s
    except TlsError as error:
        return (0.0, 0.0) if "expired" in str(error) else (0.0, float("inf"))


def _ageing(begin_s: float, end_s: float, wall_s: float) -> str:
    """What is to be said of a certificate that has expired, or will before anybody looks again."""
    if wall_s >= end_s:
        return "ingest.tls: the certificate has expired, clients refuse it: renew it"
    left_s = end_s - wall_s
    if left_s >= min(SOON_S, (end_s - begin_s) * SOON_SHARE):
        return ""
    left = f"{left_s / 86_400:.0f} d" if left_s >= 2 * 86_400 else f"{left_s / 3600:.0f} h"
    return f"ingest.tls: the certificate expires in {left}: renew it"


def certificates_of(child: Child, ingest: Ingest) -> Certificates | None:
    """What the doors show that speak TLS, None: none does. Files that cannot be used end the child, and the start."""
    if not ingest.tls.cert:
        return None
    try:
        return Certificates(ingest.tls)
    except Unfit as unfit:
        child.fail(f"ingest.tls: {unfit}", Exit.CONFIG)


class TlsSocket:
    """
    A non-blocking socket with TLS around it: the methods that ``Connection`` uses, with their meaning.

    A ``send`` says what the kernel has, not what was encrypted: bytes that it has not yet are to be sent again, first
    and in the same order, as those of any socket.
    """

    __slots__ = ("_broken", "_cipher", "_ended", "_over", "_plain", "_sealed", "_sock", "_tls", "family")

    def __init__(self, sock: Any, tls: Tls, plain: bytes, broken: Callable[[str], None]) -> None:
        """
        Args:
            plain: What came behind the handshake.
            broken: Called with the reason when the other side breaks the rules of TLS.
        """
        self._sock = sock
        self.family = sock.family
        self._tls = tls
        self._plain = plain
        self._broken = broken
        self._cipher = b""                            # not taken by the kernel
        self._sealed = 0                              # plaintext that was encrypted and not said to be sent
        self._ended = tls.ended                       # the client has said so
        self._over = False                            # we have said that nothing more comes

    def fileno(self) -> int:
        """Its descriptor."""
        return int(self._sock.fileno())

    def getpeername(self) -> Any:
        """Where the client is."""
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        """Where it came in."""
        return self._sock.getsockname()

    def getsockopt(self, *what: int) -> Any:
        """An option of the socket."""
        return self._sock.getsockopt(*what)

    def setsockopt(self, *what: int) -> None:
        """Set an option of the socket."""
        self._sock.setsockopt(*what)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """
        What came; empty: the client has ended. With *flags* only whether the stream has.

        Raises:
            BlockingIOError: nothing now.
            OSError: the connection is over.
        """
        if self._plain:
            plain, self._plain = self._plain, b""
            return plain
        if self._ended:
            return b""
        data = self._sock.recv(size, flags)
        if self._over or flags & socket.MSG_PEEK:
            return bytes(data)
        try:
            plain = self._tls.received(data)
            self._flush()
            if len(self._cipher) > _CIPHER_BYTES:
                raise TlsError("asks for new keys again and again, and reads nothing")
        except TlsError as failure:
            self._broken(str(failure))
            raise
        self._ended = self._tls.ended
        if not plain and not self._ended:
            raise BlockingIOError
        if plain and self._ended:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)   # so that the end is seen after what came before it
        return plain

    def send(self, data: bytes) -> int:
        """
        How many bytes of *data* the kernel has.

        Raises:
            BlockingIOError: none.
            OSError: the connection is over.
        """
        sent = 0
        while sent < len(data):
            if not self._sealed:
                piece = data[sent:sent + _CHUNK_BYTES]
                self._tls.seal(piece)
                self._sealed = len(piece)
            if not self._flush():
                break
            sent, self._sealed = sent + self._sealed, 0
        if not sent and data:
            raise BlockingIOError
        return sent

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes."""
        self._over = True
        self._tls.end()
        self._flush()
        self._sock.shutdown(how)

    def close(self) -> None:
        """End it, in good order where the kernel takes the last words."""
        with contextlib.suppress(OSError):
            if not self._over:
                self._tls.end()
            self._flush()
        self._sock.close()

    def _flush(self) -> bool:
        """Give the kernel what it takes; whether that was all."""
        self._cipher += self._tls.outgoing()
        if self._cipher:
            try:
                self._cipher = self._cipher[self._sock.send(self._cipher):]
            except BlockingIOError:
                pass
        return not self._cipher


class Handshake:
    """One that has come to a TLS door. Its owner is the reception; it runs in callbacks of the loop."""

    __slots__ = ("_first", "_reader", "_reception", "_sock", "_tls", "began_s", "local", "peer", "refused")

    def __init__(self, reception: Reception, sock: Any, peer: str, local: bool, reader: Any) -> None:
        self._reception = reception
        self._sock = sock
        self._tls = Tls(reception.certificates.context, server=True)
        self._first = True
        self.peer = peer
        self.local = local
        self.began_s = reception.clock.monotonic_s()
        self.refused = False
        self._reader = reader
        self._reader.start(self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_RECV_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self.refused:
            self._take(data)

    def _take(self, data: bytes) -> None:
        if self._first and data[0] != HANDSHAKE:
            self.refuse("garbage", _NOT_TLS, error(_NOT_TLS))
            return
        self._first = False
        try:
            plain = self._tls.received(data)
        except TlsError as failure:
            self.refuse("tls", f"TLS: {failure}", self._tls.outgoing())
            return
        answer = self._tls.outgoing()
        try:
            sent = self._sock.send(answer) if answer else 0
        except OSError:
            sent = -1
        if sent < len(answer):                        # the first bytes on a fresh connection find room
            self.close()
        elif self._tls.ready:
            self._reader.stop()
            self._reader.close()
            self._reception.done(self, self._sock, self._tls, plain)

    def refuse(self, reason: str, text: str, last_words: bytes) -> None:
        """Say why, and wait a moment until that was read."""
        self.refused, self.began_s = True, self._reception.clock.monotonic_s()
        self._reception.refused(self.peer, reason, text)
        with contextlib.suppress(OSError):
            self._sock.send(last_words)
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Forget it."""
        self._reception.forget(self)
        self._reader.stop()
        self._reader.close()
        self._sock.close()


class Reception:
    """
    Everybody who has come to a TLS door and has not shaken hands yet. One owner: the server.

    Args:
        server: Where they become connections.
        certificates: What they are shown.
    """

    def __init__(self, server: Server, certificates: Certificates) -> None:
        self.certificates = certificates
        self.clock: Clock = server.clock
        self._server = server
        self._waiting: dict[Handshake, None] = {}
        self._look_s = self.clock.monotonic_s() + LOOK_S

    def __len__(self) -> int:
        return len(self._waiting)

    def receive(self, sock: Any, peer: str, local: bool) -> None:
        """A connection has come in."""
        self._waiting[Handshake(self, sock, peer, local, self._server.loop.io(sock.fileno(), _READ))] = None

    def done(self, handshake: Handshake, sock: Any, tls: Tls, plain: bytes) -> None:
        """They have shaken hands; *plain* came behind that."""
        self.forget(handshake)
        peer = handshake.peer
        sealed = TlsSocket(sock, tls, plain, lambda text: self.refused(peer, "tls", f"TLS: {text}"))
        connection = self._server.admit(sealed, peer, handshake.local)
        if plain:
            connection.look()

    def refused(self, peer: str, reason: str, text: str) -> None:
        """Somebody breaks the rules: count it, and tell the log."""
        self._server.note_handshake(peer, reason, text)

    def forget(self, handshake: Handshake) -> None:
        """It is over."""
        self._waiting.pop(handshake, None)

    def close(self) -> None:
        """The door closes: nobody who has not shaken hands has said anything yet."""
        for handshake in list(self._waiting):
            handshake.close()

    def sweep(self, now_s: float, longest_s: float) -> None:
        """Once a second: end those that take longer than *longest_s*; look whether the files were renewed."""
        for handshake in list(self._waiting):
            age_s = now_s - handshake.began_s
            if handshake.refused and age_s >= LINGER_S:
                handshake.close()
            elif not handshake.refused and age_s >= longest_s:
                self.refused(handshake.peer, "command_time", "TLS: did not complete its handshake")
                handshake.close()
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            renewed = self.certificates.look(self.clock.wall_s())
            self._server.note_certificates(renewed, self.certificates.problem)
