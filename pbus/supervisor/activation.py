"""
Socket activation: listening sockets that the service manager made and passed to us (sd_listen_fds(3)).

    LISTEN_PID      whom they are for          LISTEN_FDS        how many, from descriptor 3 on
    LISTEN_FDNAMES  their names, with colons between: ``ingest`` or ``dashboard``; other names say nothing

Rule: a socket is used where the configuration has its address, and a socket that nobody would accept on is an error:
clients would wait in it for ever. The file of a unix socket belongs to the manager and is never removed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final

from pbus.config.values import Address
from pbus.errors import BootError, Exit

FIRST: Final = 3
_KINDS: Final = ("ingest", "dashboard")
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Activation:
    """What was passed at the start. One owner: the house."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ, first: int = FIRST) -> None:
        """Take the sockets over; *environ* loses the variables, so that nobody below takes them for his own."""
        told = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        is_ours = told["LISTEN_PID"] == str(os.getpid()) and told["LISTEN_FDS"].isdigit()
        count = int(told["LISTEN_FDS"]) if is_ours else 0
        names = told["LISTEN_FDNAMES"].split(":")
        self._passed: list[tuple[str, int]] = []
        for place in range(count):
            with contextlib.suppress(OSError):  # one that is not open is told by ``doors``
                os.set_inheritable(first + place, False)
            self._passed.append((names[place] if place < len(names) else "", first + place))
        self._files: set[str] = set()

    def doors(self, wanted: Mapping[str, Address]) -> dict[str, socket.socket]:
        """
        The sockets by the names of the doors that they are; each is handed out once.

        Args:
            wanted: Door -> address, everything that the configuration listens on.

        Raises:
            BootError: one is no listening socket, or the configuration does not have its address (78).
        """
        found: dict[str, socket.socket] = {}
        for name, descriptor in self._passed:
            sock = _listening(name, descriptor)
            outer = [door for door in wanted if _kind(door) in ((name,) if name in _KINDS else _KINDS)]
            door = next((door for door in outer if door not in found and _is_at(sock, wanted[door])), None)
            if door is None:
                with sock:
                    raise BootError(_unknown(name, sock, [wanted[door] for door in outer]), Exit.CONFIG)
            sock.setblocking(False)
            found[door] = sock
            self._files.add(wanted[door].path)
        self._passed = []
        return found

    @property
    def files(self) -> list[str]:
        """Socket files that are the manager's."""
        return sorted(path for path in self._files if path)

    def has(self, files: Iterable[str]) -> None:
        """These are the manager's, too: passed to who was here before an upgrade."""
        self._files.update(files)

    def owns(self, path: str) -> bool:
        """Whether the file of the unix socket *path* is the manager's."""
        return path in self._files


def _kind(door: str) -> str:
    return door.partition(".")[0]


def _listening(name: str, descriptor: int) -> socket.socket:
    what = f"the service manager passed descriptor {descriptor} (named {name!r})"
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise BootError(f"{what}, which is no socket: {error.strerror}", Exit.CONFIG) from error
    if sock.family not in _FAMILIES or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise BootError(f"{what}, which is no listening stream socket: ListenStream= with Accept=no", Exit.CONFIG)
    return sock


def _is_at(sock: socket.socket, address: Address) -> bool:
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX or address.path:
        return isinstance(where, str) and _is_same_file(where, address.path)
    if where[1] != address.port:
        return False
    # "ListenStream=12018" is [::] for both families: whoever configured either wildcard means that.
    both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    if both and where[0] == "::" and address.host in ("0.0.0.0", "::"):
        return True
    try:
        resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(family == sock.family and at[0] == where[0] for family, _, _, _, at in resolved)


def _is_same_file(one: str, other: str) -> bool:
    return bool(one) and bool(other) and os.path.realpath(one) == os.path.realpath(other)


def _unknown(name: str, sock: socket.socket, configured: list[Address]) -> str:
    where = sock.getsockname()
    at = Address(path=where) if isinstance(where, str) else Address(host=where[0], port=where[1])
    key = f"{name}.listen" if name in _KINDS else "ingest.listen or dashboard.listen"
    have = ", ".join(str(address) for address in configured) or "nothing"
    return f"{key}: the service manager passed a socket on {at}, configured is {have}: make them the same"
