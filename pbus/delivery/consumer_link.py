"""
The delivery child's end of a consumer's connection, and the door where consumers come in.

Rule: frames in, frames out, nothing decided here: what a frame means is the lane's business. The
frames are drawn in codec/frames.py.
"""

from __future__ import annotations

import collections
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

import gevent
import gevent.event

from pbus.codec.frames import FrameError, FrameReader

READ_BYTES: Final = 256 * 1024
ATTACH_S: Final = 5.0
"""A connection that has not said who it is by then is closed."""


class Guest(Protocol):
    """Whoever listens to one connection: an attached consumer, seen by its lane."""

    def heard(self, frames: list[dict[str, Any]]) -> float:
        """What one read brought, in order. Never blocks. Answers in how many seconds to read again."""

    def gone(self) -> None:
        """Nothing more will come: everything that was sent has been heard."""


class Link:
    """One connection. Sends are queued, so nobody waits for a consumer that is at work."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(brief=True)
        self._outbox: collections.deque[bytes] = collections.deque()
        self._filled = gevent.event.Event()
        self._open = True
        self._finishing = False

    @property
    def peer_pid(self) -> int:
        """Whose end the other one is, as the kernel says (of whoever connected); 0: it does not say."""
        try:
            return int(struct.unpack("3i", self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
        except OSError:
            return 0

    def send(self, data: bytes) -> None:
        """Queue *data*; it goes out as soon as the consumer takes it."""
        self._outbox.append(data)
        self._filled.set()

    def finish(self) -> None:
        """End it when everything that was queued has been sent."""
        self._finishing = True
        self._filled.set()

    def close(self) -> None:
        """End it; the reading greenlet leaves. Idempotent."""
        if self._open:
            self._open = False
            self._filled.set()
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the peer was faster

    def first(self, timeout_s: float) -> list[dict[str, Any]]:
        """The frames up to and with the first one that is complete; empty when none comes in time."""
        frames: list[dict[str, Any]] = []
        with gevent.Timeout(timeout_s, False):
            while not frames and (data := self._read()):
                frames = self._reader.feed(data)
        return frames

    def serve(self, guest: Guest) -> None:
        """Read until the end, telling *guest*. Returns when the connection is over."""
        writer = gevent.spawn(self._write)
        try:
            while data := self._read():
                pause_s = guest.heard(self._reader.feed(data))
                if pause_s:
                    gevent.sleep(pause_s)
        except FrameError:
            pass  # over, like any other end: what was understood counts
        finally:
            self.close()
            guest.gone()
            writer.join()

    def release(self) -> None:
        """Give the descriptor back. Called by whoever ran ``serve``, after it."""
        self._sock.close()

    def _read(self) -> bytes:
        try:
            return self._sock.recv(READ_BYTES)
        except OSError:
            return b""

    def _write(self) -> None:
        while self._open:
            self._filled.wait()
            self._filled.clear()
            while self._outbox and self._open:
                data = b"".join(self._outbox)
                self._outbox.clear()
                try:
                    self._sock.sendall(data)
                except OSError:
                    self.close()
            if self._finishing:
                self.close()


class Door:
    """
    Accepts consumers and finds their lane.

    Args:
        listener: The socket that the master has bound; it stays open there when we die, so that
            consumers wait in its backlog for the next delivery child.
        admit: Given a link and its ``attach`` frame, answers who listens, or None to refuse.
    """

    def __init__(self, listener: socket.socket, admit: Callable[[Link, dict[str, Any]], Guest | None]) -> None:
        self._listener = listener
        self._admit = admit
        self._greenlet: Any = None

    def open(self) -> None:
        """Begin to accept."""
        self._greenlet = gevent.spawn(self._accept)

    def close(self) -> None:
        """Accept nobody any more; those inside stay. Idempotent."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                gevent.sleep(0.1)  # out of descriptors, or the peer left again: neither ends the door
                continue
            gevent.spawn(self._welcome, Link(sock))

    def _welcome(self, link: Link) -> None:
        try:
            frames = link.first(ATTACH_S)
            guest = self._admit(link, frames[0]) if frames and frames[0]["kind"] == "attach" else None
        except (FrameError, LookupError, TypeError, ValueError):
            guest = None  # whoever that is, it does not speak as a consumer does
        try:
            if guest is not None:
                if len(frames) > 1:
                    guest.heard(frames[1:])
                link.serve(guest)
        finally:
            link.close()
            link.release()
