"""
Descriptors of ours in a process that belongs to somebody else's code.

Rule: user code may close any number and open its own files under it. So ours stand high, and before
something is closed (or written to a connection that was left alone for a while) it is looked whether the number
still leads to what we opened. And it may patch modules (gevent): ours are sockets and polls as they were before.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
import struct
from typing import Final, Protocol

Poll: Final = select.poll
_Socket: Final = socket.socket
_HIGHEST: Final = 768
_LOWEST: Final = 16


def raised(sock: socket.socket, timeout_s: float, *, answers: bool = False) -> socket.socket:
    """
    *sock* on a high descriptor, blocking, with a bound of *timeout_s* on sends (and, with *answers*, on reads).

    User code that closes "all" descriptors usually begins at 3 and ends early. The kernel's bounds save the poll()
    that a Python timeout costs before each call; what they end raises BlockingIOError.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        high = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, min(max(soft // 2, _LOWEST), _HIGHEST))
    except OSError:
        high = os.dup(sock.fileno())
    lifted = _Socket(sock.family, sock.type, sock.proto, fileno=high)
    sock.close()
    sock = lifted
    sock.setblocking(True)
    bound = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
    if answers:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
    return sock


def inode(fd: int) -> int:
    """What tells our descriptor from another one of the same number; 0 for none."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0


class Held(Protocol):
    """A socket, or what is one with something around it."""

    def fileno(self) -> int:
        """Its descriptor."""

    def close(self) -> None:
        """Give it back."""

    def detach(self) -> int:
        """Forget it."""


def close(sock: Held, known: int) -> bool:
    """
    Close *sock*, whose inode is *known*; False: user code has closed it.

    Then whatever has its number now is not ours to close.
    """
    if inode(sock.fileno()) == known:
        sock.close()
        return True
    sock.detach()
    return False
