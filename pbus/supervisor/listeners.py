"""
Sockets: binding them once for all children, and reaching unix sockets by any path.

Rule: the master binds, roles inherit; never SO_REUSEPORT. A unix socket's file is removed only when
nobody accepts on it. ``sun_path`` ends after 107 bytes, folders do not: longer paths go through a
descriptor of their folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from typing import Final

import psutil

from pbus.config.values import Address
from pbus.errors import BootError, Exit

BACKLOG: Final = 4096
"""The kernel cuts it to net.core.somaxconn. It is where connections wait while a child is reborn."""

_SUN_PATH: Final = 107


class Busy(Exception):
    """Somebody listens there already (or has not stopped yet)."""


def bind(address: Address, mode: int = 0o666, uid: int = -1, gid: int = -1) -> socket.socket:
    """
    A listening socket on *address*; *mode*, *uid* and *gid* are for the file of a unix socket.

    Raises:
        Busy: taken; it may become free.
        BootError: it can never be had (permission, no such host or folder).
    """
    try:
        if address.path:
            return bind_unix(address.path, mode, uid, gid)
        return _bind_tcp(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Busy(str(address)) from error
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.CONFIG
        raise BootError(f"cannot listen on {address}: {_reason(error)}", status) from error


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    if isinstance(error, PermissionError):
        return f"{error.strerror} (ports below 1024 and folders of others are not for every user)"
    return error.strerror or str(error)


def _bind_tcp(address: Address) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def stream(descriptor: int) -> socket.socket:
    """One of our own unix sockets, by its number."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=descriptor)


def bind_unix(path: str, mode: int, uid: int = -1, gid: int = -1) -> socket.socket:
    """
    A listening unix socket at *path*; a file that a dead process left there is replaced.

    Raises:
        OSError: EADDRINUSE when somebody accepts there or the file is no socket.
    """
    with unix_path(path) as short:
        _remove_stale(short)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o777 & ~mode)
        try:
            sock.bind(short)
            os.chmod(short, mode)
            if (uid, gid) != (-1, -1):
                os.chown(short, uid, gid)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        finally:
            os.umask(mask)
    return sock


def connect_unix(path: str, timeout_s: float) -> socket.socket:
    """
    A connection to the unix socket at *path*, with *timeout_s* set.

    Raises:
        OSError: nobody listens, no permission, no such file.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        with unix_path(path) as short:
            sock.connect(short)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def unix_path(path: str) -> Iterator[str]:
    """
    A name for *path* that fits into ``sun_path``; good inside the ``with`` only.

    Raises:
        OSError: the folder of a long path does not exist, or the last part alone is too long.
    """
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield path
        return
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{descriptor}/{name}"
        if len(os.fsencode(short)) > _SUN_PATH:
            raise OSError(errno.ENAMETOOLONG, "the name of a unix socket is too long", path)
        yield short
    finally:
        os.close(descriptor)


def _remove_stale(path: str) -> None:
    """Remove the socket file at *path* if nobody accepts there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "a file that is no socket is in the way", path)
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:
        pass  # a full backlog: somebody listens
    finally:
        probe.close()
    raise OSError(errno.EADDRINUSE, "somebody listens there", path)


def remove(path: str) -> None:
    """Remove a socket file of ours; one that is gone is no error."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def in_use(address: Address) -> str:
    """
    What to tell a person who cannot have *address*: who has it, as far as we may see, and what to do.
    """
    who = _holder(address)
    by = f" by {who}" if who else ""
    return f"{address} is in use{by}: stop that program, or configure another address"


def _holder(address: Address) -> str:
    try:
        connections = psutil.net_connections("unix" if address.path else "tcp")
    except (psutil.Error, OSError):
        return ""
    for connection in connections:
        here = connection.laddr == address.path if address.path else _listens(connection, address.port)
        if here and connection.pid:
            with contextlib.suppress(psutil.Error):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def _listens(connection: psutil._ntuples.sconn, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port)
