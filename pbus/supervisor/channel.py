"""
Connections of the master that carry frames, and the one wait for all of them.

Rule: nothing here blocks and every buffer has a bound. A peer that does not read is dropped, one
that announces more than it may is dropped; the master's loop never notices either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pbus.codec import frames

_READ_BYTES: Final = 256 * 1024
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)


def _spare() -> int:
    """A descriptor that is kept for the moment when there is no other."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class Channel:
    """
    One non-blocking connection.

    Attributes:
        closed: It is over: end of file, an error, or a peer that broke a bound.
        lost: Frames that were not sent because the peer did not read.
    """

    def __init__(self, sock: socket.socket, *, send_bytes: int, receive_bytes: int) -> None:
        """
        Args:
            sock: The connection; this object owns it from now on.
            send_bytes: What may wait to be sent.
            receive_bytes: The largest frame the peer may send.
        """
        sock.setblocking(False)
        self._sock = sock
        self._send_bytes = send_bytes
        self._receive_bytes = receive_bytes
        self._reader = frames.FrameReader()
        self._arrived: list[dict[str, Any]] = []
        self._out = bytearray()
        self.closed = False
        self.lost = 0

    def fileno(self) -> int:
        """Its descriptor, -1 once closed."""
        return self._sock.fileno()

    @property
    def waiting_bytes(self) -> int:
        """What has been sent but not taken by the kernel."""
        return len(self._out)

    def send(self, data: bytes) -> bool:
        """Send an encoded frame, now or when the peer reads; False: it does not, the frame is lost."""
        if self.closed or len(self._out) + len(data) > self._send_bytes:
            self.lost += 1
            return False
        self._out += data
        self.flush()
        return not self.closed

    def flush(self) -> None:
        """Hand to the kernel what it takes."""
        while self._out and not self.closed:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            del self._out[:sent]

    @property
    def has_more(self) -> bool:
        """Frames that have arrived wait for the next ``receive``."""
        return bool(self._arrived)

    def receive(self, most: int | None = None) -> list[dict[str, Any]]:
        """
        Frames that have arrived, *most* of them; nothing more is read while others wait.

        Closes at the end of file and on anything that is not a frame.
        """
        if not self._arrived:
            self._arrived = self._read()
        taken, self._arrived = self._arrived[:most], self._arrived[most:] if most is not None else []
        return taken

    def _read(self) -> list[dict[str, Any]]:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.close()
            return []
        try:
            arrived = self._reader.feed(data)
        except frames.FrameError:
            self.close()
            return []
        if self._reader.pending_bytes > self._receive_bytes:
            self.close()
        return arrived

    @property
    def on_its_way(self) -> tuple[bytes, bytes]:
        """What has come of a frame that is not complete, and what has not left yet."""
        return self._reader.pending, bytes(self._out)

    def go_on(self, unread: bytes, unsent: bytes) -> None:
        """Another object had this connection before, and that was ``on_its_way``."""
        self._arrived += self._reader.feed(unread)
        self._out += unsent

    def close(self) -> None:
        """
        It is over; idempotent.

        The descriptor is given back by ``release``: while a selector knows its number, nobody else
        may get it.
        """
        self.closed = True
        self._out.clear()
        self._arrived.clear()

    def release(self) -> None:
        """Close, and give the descriptor back."""
        self.close()
        self._sock.close()


@dataclass(frozen=True, slots=True)
class _Line:
    """A channel, and what happens on it."""

    channel: Channel
    on_frame: Callable[[dict[str, Any]], None]
    on_close: Callable[[], None]
    most: int | None


class Switchboard:
    """The master's only wait: wake-ups, callers and children in one selector."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._spare = _spare()
        self._channels: dict[int, _Line] = {}

    def listen(self, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        """Call *accepted* with each connection that comes in on *sock*."""

        def accept() -> None:
            try:
                connection, _ = sock.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    self._turn_away(sock)
                return  # else it is gone again
            accepted(connection)

        self._selector.register(sock, selectors.EVENT_READ, accept)

    def _turn_away(self, sock: socket.socket) -> None:
        """
        No descriptor is left: hang up on who waits, by means of the spare one.

        Left waiting, it would keep *sock* readable and the loop turning without end.
        """
        with contextlib.suppress(OSError):  # the machine may have none left either: then next time
            os.close(self._spare)
            self._spare = -1
            sock.accept()[0].close()
        with contextlib.suppress(OSError):
            self._spare = _spare()

    def watch(self, descriptor: int, readable: Callable[[], None]) -> None:
        """Call *readable* whenever *descriptor* can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, readable)

    def unwatch(self, descriptor: int | socket.socket) -> None:
        """Forget a descriptor, or a listening socket."""
        self._selector.unregister(descriptor)

    def connect(
        self, channel: Channel, on_frame: Callable[[dict[str, Any]], None], on_close: Callable[[], None],
        most: int | None = None,
    ) -> None:
        """
        Call *on_frame* with each frame that arrives on *channel*, *on_close* once when it is over.

        *most* frames are handled in one turn, so that who asks much holds nobody up (None: all).
        """
        self._channels[channel.fileno()] = _Line(channel, on_frame, on_close, most)
        self._selector.register(channel.fileno(), selectors.EVENT_READ, channel)

    def hang_up(self, channel: Channel) -> None:
        """Close *channel* from our side; its ``on_close`` is not called."""
        if channel.fileno() in self._channels:
            self._forget(channel.fileno())
        channel.release()

    def turn(self, timeout_s: float) -> None:
        """Wait until something happens, at most *timeout_s*, and handle all of it."""
        self._tend()
        left = [descriptor for descriptor, line in self._channels.items() if line.channel.has_more]
        for key, mask in self._selector.select(0.0 if left else timeout_s):
            if not isinstance(key.data, Channel):
                key.data()
                continue
            if mask & selectors.EVENT_WRITE:
                key.data.flush()
            if mask & selectors.EVENT_READ and key.fd in self._channels and key.fd not in left:
                self._receive(key.fd)
        for descriptor in left:
            if descriptor in self._channels:
                self._receive(descriptor)
        self._tend()

    def close(self) -> None:
        """Close every channel and the selector itself (a forked child does, first thing)."""
        for line in self._channels.values():
            line.channel.release()
        self._channels.clear()
        self._selector.close()
        with contextlib.suppress(OSError):
            os.close(self._spare)

    def _receive(self, descriptor: int) -> None:
        line = self._channels[descriptor]
        for frame in line.channel.receive(line.most):
            if line.most is not None and line.channel.closed:
                break  # nobody waits for the answers any more
            line.on_frame(frame)

    def _tend(self) -> None:
        """Ask for what each channel needs now; bury the closed ones."""
        for descriptor, line in list(self._channels.items()):
            if line.channel.closed:
                self._forget(descriptor)
                line.on_close()
                continue
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.channel.waiting_bytes else 0)
            if self._selector.get_key(descriptor).events != wanted:
                self._selector.modify(descriptor, wanted, line.channel)

    def _forget(self, descriptor: int) -> None:
        line = self._channels.pop(descriptor)
        self._selector.unregister(descriptor)
        line.channel.release()
