"""
A link between two ingest children of this bus: frames, and descriptors beside them.

Rule: who is at the other end is said by the kernel, never by the frames. Descriptors that came are ours to close.
"""

from __future__ import annotations

import array
import collections
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

import gevent

from pbus.codec import frames
from pbus.supervisor import process
from pbus.supervisor.child import Child
from pbus.supervisor.scoreboard import SlotView

MOST_DESCRIPTORS: Final = 64
"""Of one frame; the kernel takes 253."""
SEND_S: Final = 5.0
"""Who does not read for so long is given up."""
_RECV_BYTES: Final = 256 * 1024
_CREDENTIALS: Final = struct.Struct("3i")
_ROOM: Final = socket.CMSG_SPACE(4 * MOST_DESCRIPTORS) + socket.CMSG_SPACE(_CREDENTIALS.size)


class LinkError(Exception):
    """The link is of no further use; the text says why."""


class Link:
    """
    One end. Two greenlets may use it: one says, one hears.

    Attributes:
        pid: Of the process that said what was heard last, where it was asked for (``SO_PASSCRED``); else 0.
    """

    def __init__(self, sock: Any) -> None:
        self.pid = 0
        self._uid = -1
        self._sock = sock
        self._reader = frames.FrameReader()
        self._descriptors: collections.deque[int] = collections.deque()

    def ask_for_credentials(self) -> None:
        """Whatever is heard from now on says by whom."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def say(self, kind: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """
        One frame.

        Raises:
            LinkError: the other end is gone, or does not read.
        """
        data = memoryview(frames.encode(kind, **fields))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            with gevent.Timeout(SEND_S, LinkError(f"it takes nothing for {SEND_S:g} s")):
                sent = self._sock.sendmsg([data], rights)
                self._sock.sendall(data[sent:])
        except OSError as error:
            raise LinkError(error.strerror or str(error)) from None

    def hear(self) -> list[dict[str, Any]]:
        """
        The next frames; waits for one.

        Raises:
            LinkError: the other end is gone, or speaks no frames.
        """
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(_RECV_BYTES, _ROOM, socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                raise LinkError(error.strerror or str(error)) from None
            self._note(ancillary)
            if not data:
                raise LinkError("it has ended")
            if flags & socket.MSG_CTRUNC:
                raise LinkError("descriptors were lost on the way: none are left")
            try:
                found = self._reader.feed(data)
            except frames.FrameError as error:
                raise LinkError(str(error)) from None
            if found:
                return found

    def _note(self, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array.array("i")
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
                self._descriptors.extend(descriptors)
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self.pid, self._uid, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])

    def take(self, count: int) -> list[int]:
        """
        Descriptors that came with the frame at hand.

        Raises:
            LinkError: there are fewer.
        """
        if len(self._descriptors) < count:
            raise LinkError(f"{count} descriptors were announced, {len(self._descriptors)} came")
        return [self._descriptors.popleft() for _ in range(count)]

    def speaker(self, child: Child) -> SlotView | None:
        """Which sibling said what was heard last (``ask_for_credentials``); None: none of ours."""
        return sibling(child, self.pid, self._uid)

    def end_hearing(self) -> None:
        """What was said is still heard, nothing that comes after it."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Give up what nobody has taken; idempotent."""
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._sock.close()


def caller(child: Child, sock: Any) -> SlotView | None:
    """Which sibling has connected to us; None: somebody who may not."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return sibling(child, pid, uid)


def sibling(child: Child, pid: int, uid: int) -> SlotView | None:
    """The row of a living child of our role, other than this one, with that pid and our user; None: there is none."""
    if uid != os.geteuid():
        return None
    rows = [row for row in child.scoreboard.living() if row.pid == pid and row.role == child.spec.role]
    return next((row for row in rows if row.n != child.owner.n and process.is_same(row.pid, row.birth)), None)
