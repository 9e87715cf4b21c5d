"""
What the kernel knows of the client at the other end of a socket.

Rule: questions that cost a system call and change nothing but how soon the kernel notices a silent death.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final

import gevent.monkey

_Epoll: Any = gevent.monkey.get_original("select", "epoll")
KEEPALIVE_TRIES: Final = 3
_TCP_CLOSE: Final = 7
"""State of a connection that was reset (Linux, tcp_states.h)."""


def is_of_one_machine(sock: Any) -> bool:
    """Whether both ends have one address: the client is here, also when it came in by one that others see."""
    try:
        peer, own = sock.getpeername(), sock.getsockname()
    except OSError:                                   # it is gone already
        return False
    return bool(peer) and bool(peer[0] == own[0])


def has_ended(sock: Any) -> bool:
    """Whether the client has gone already, which nobody has noticed yet."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def was_reset(sock: Any) -> bool:
    """Whether what the kernel sent last met a closed socket: then the end of the stream says less than it seems."""
    if sock.family == socket.AF_UNIX:
        return False                                  # there it is an error
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)


def look_for_death(sock: Any, every_s: int, *, keen: bool) -> None:
    """
    Have the kernel ask each *every_s* whether the other end lives.

    *keen*: others wait for what this client has, so that what is on its way must not hide a death either.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, every_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every_s)
    # While something is on its way that nobody has acknowledged, the kernel sends no probes.
    silence_ms = every_s * (KEEPALIVE_TRIES + 1) * 1000 if keen else 0
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, silence_ms)


def forget(loop: Any, descriptor: int) -> None:
    """
    Take a descriptor out of *loop* that is about to be closed while another process has it, too.

    The kernel tells an epoll of what happens to an open file as long as anybody has it, also by a number that is closed
    here, and libev answers each such word by registering everything anew: all of 10,000 connections.
    """
    if loop.backend != "epoll":
        return
    epoll = _Epoll.fromfd(os.dup(loop.fileno()))
    try:
        epoll.unregister(descriptor)
    except OSError:
        pass                                          # it was in none
    finally:
        epoll.close()
