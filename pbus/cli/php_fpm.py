"""
What can be known of a php-fpm pool from beside it: its status page, its configuration, and what a script in it says.

Rule: only looks; whatever cannot be looked at is named in ``Pool.unread`` and raises nothing. One short connection a
question, without gevent: commands have no use for it.
"""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import json
import os
import re
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pbus.clock import SystemClock
from pbus.codec import fastcgi
from pbus.config.values import Address
from pbus.supervisor.listeners import unix_path

ASK_S: Final = 3.0
"""For one answer; a pool whose processes are all busy does not give one."""
TERMINATE: Final = "request_terminate_timeout"
CONTROL: Final = "process_control_timeout"
CHILDREN: Final = "pm.max_children"
POST: Final = "post_max_size"

_MASTER: Final = re.compile(rb"php-fpm: master process \((.+)\)")
_QUANTITY: Final = re.compile(r"(\d+)\s*([a-zA-Z]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_BYTES: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

Sections = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """
    What was found; None: it was not. Attributes as in ``core.doctor_facts.Pool``.

    Attributes:
        unread: What was not found, with the reason where there is one to tell.
        root: Where the file system that its scripts are in begins for us; None: not known.
    """

    away: str = ""
    file: str = ""
    terminate_s: float | None = None
    control_s: float | None = None
    max_children: int | None = None
    post_bytes: int | None = None
    reads_post: bool | None = None
    slowest_s: float | None = None
    root: str | None = None
    unread: tuple[str, ...] = ()


def look(address: Address, status_path: str, script: str, ours: Collection[str]) -> Pool:
    """
    Everything that can be known of the pool at *address*.

    Args:
        address: Where it accepts.
        status_path: Its ``pm.status_path``; empty: not configured.
        script: Path of pbus-doctor.php as php-fpm sees it; empty: not given.
        ours: Paths of the scripts that are called for jobs.
    """
    try:
        with _connected(address) as peer:
            master = _master_behind(peer)
    except OSError as error:
        return Pool(away=error.strerror or str(error))
    pool = _configured(Pool(), address, master)
    if script:
        pool = _by_script(pool, address, script)
    if status_path:
        pool = _by_page(pool, address, status_path, ours)
    return _with_unread(pool)


def absence(address: Address) -> str:
    """Why nobody is reached at *address*; empty: somebody is."""
    try:
        with _connected(address):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _with_unread(pool: Pool) -> Pool:
    values = {
        TERMINATE: pool.terminate_s, CONTROL: pool.control_s, CHILDREN: pool.max_children, POST: pool.post_bytes,
    }
    return replace(pool, unread=(*(name for name, value in values.items() if value is None), *pool.unread))


# -- questions --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(address: Address) -> Iterator[socket.socket]:
    """
    Raises:
        OSError: nobody is there.
    """
    if not address.path:
        with socket.create_connection((address.host, address.port), ASK_S) as peer:
            yield peer
        return
    with socket.socket(socket.AF_UNIX) as peer, unix_path(address.path) as path:
        peer.settimeout(ASK_S)
        peer.connect(path)
        yield peer


def _ask(address: Address, script: str, uri: str, **more: str) -> Any:
    """
    The JSON that *script* answers.

    Raises:
        OSError: no answer. ValueError: it is none, or not JSON.
    """
    query = uri.partition("?")[2]
    request = b"".join((
        fastcgi.begin(),
        fastcgi.params({
            "SCRIPT_NAME": script, "SCRIPT_FILENAME": script, "REQUEST_METHOD": "GET", "QUERY_STRING": query,
            "REQUEST_URI": uri, "SERVER_PROTOCOL": "HTTP/1.1", "GATEWAY_INTERFACE": "CGI/1.1",
            "REMOTE_ADDR": "127.0.0.1", **more,
        }),
        fastcgi.PARAMS_END, fastcgi.STDIN_END,
    ))
    reader, clock = fastcgi.ReplyReader(), SystemClock()
    until_s = clock.monotonic_s() + ASK_S
    with _connected(address) as peer:
        peer.sendall(request)
        while not reader.complete:
            peer.settimeout(max(0.001, until_s - clock.monotonic_s()))
            data = peer.recv(65_536)
            if not data:
                reader.eof()
                break
            reader.feed(data)
    _, body = fastcgi.cgi_answer(reader.stdout)
    return json.loads(body)


def _by_page(pool: Pool, address: Address, status_path: str, ours: Collection[str]) -> Pool:
    """*pool* with what its status page adds."""
    try:
        page = _ask(address, status_path, f"{status_path}?json&full")
        found = [(str(row["script"]), int(row["request duration"])) for row in page["processes"]]
        manager = page["process manager"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _not_told(pool, f"its status page {status_path}", error)
    return _measured(pool, manager, found, ours)


def _by_script(pool: Pool, address: Address, script: str) -> Pool:
    """*pool* with what pbus-doctor.php says: it knows better what is in force than any file."""
    try:
        told = _ask(address, script, "/pbus-doctor", PBUS_DOCTOR="1")
        post_bytes, reads_post = size_of(str(told["ini"]["post_max_size"] or "")), _is_on(told["ini"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _not_told(pool, f"script {script}", error)
    return replace(pool, post_bytes=post_bytes, reads_post=reads_post)


def _is_on(ini: Mapping[str, Any]) -> bool | None:
    value = ini.get("enable_post_data_reading")
    return None if value is None else str(value).lower() in ("1", "on", "yes", "true")


def _measured(pool: Pool, manager: str, calls: Sequence[tuple[str, int]], ours: Collection[str]) -> Pool:
    """*pool* with the longest of our calls (script, microseconds), and its size where that is fixed."""
    took_s = [micros / 1e6 for script, micros in calls if script in ours]
    children = len(calls) if manager == "static" and calls and pool.max_children is None else pool.max_children
    return replace(pool, slowest_s=max([*took_s, pool.slowest_s or 0.0]) or None, max_children=children)


def _not_told(pool: Pool, what: str, error: Exception) -> Pool:
    why = "its answer is not what it should be"
    if isinstance(error, OSError):
        why = "no answer in time" if isinstance(error, TimeoutError) else f"no answer: {error.strerror}"
    return replace(pool, unread=(*pool.unread, f"{what} ({why})"))


# -- its configuration ------------------------------------------------------------------------------


def _configured(pool: Pool, address: Address, master: int) -> Pool:
    """*pool* with what the file says that its master was started with, where we may read that."""
    for pid in [master] if master else _masters():
        title = _title(pid)
        if title is None:
            continue
        root = f"/proc/{pid}/root" if os.access(f"/proc/{pid}/root/", os.R_OK | os.X_OK) else ""
        try:
            sections = sections_of(title, root)
        except OSError:
            continue
        name = _pool_at(sections, address, only=bool(master))
        if name:
            chroot = sections[name].get("chroot", "").rstrip("/")
            return _read(replace(pool, root=root + chroot if root else None), title, sections, name)
    return pool


def _read(pool: Pool, file: str, sections: Sections, name: str) -> Pool:
    section, general = sections[name], sections.get("global", {})
    post = section.get(f"php_admin_value[{POST}]") or section.get(f"php_value[{POST}]")
    children = section.get(CHILDREN, "")
    return replace(
        pool, file=section.get("", file), terminate_s=seconds_of(section.get(TERMINATE, "0")),
        control_s=seconds_of(general.get(CONTROL, "0")), max_children=int(children) if children.isdecimal() else None,
        post_bytes=size_of(post) if post else None,
    )


def _master_behind(peer: socket.socket) -> int:
    """Who listens at the other end of a unix socket; 0: nobody knows."""
    if peer.family != socket.AF_UNIX:
        return 0
    pid: int = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid if _title(pid) is not None else 0


def _masters() -> list[int]:
    """Every php-fpm of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _title(int(name)) is not None]


def _title(pid: int) -> str | None:
    """Path of the configuration that php-fpm *pid* says it was started with; None: it is no php-fpm."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            found = _MASTER.match(file.read(4096))
    except OSError:
        return None
    return os.fsdecode(found[1]) if found else None


def _pool_at(sections: Sections, address: Address, *, only: bool) -> str:
    """Which section accepts at *address*; with *only* one pool there it is that one."""
    names = [name for name in sections if name != "global"]
    found = [name for name in names if _accepts(sections[name].get("listen", "").replace("$pool", name), address)]
    return (found or (names if only and len(names) == 1 else [""]))[0]


def _accepts(listen: str, address: Address) -> bool:
    if address.path:
        return listen.startswith("/") and os.path.realpath(listen) == os.path.realpath(address.path)
    host, _, port = listen.rpartition(":")
    everywhere = host in ("", "0.0.0.0", "[::]", "*")
    return port == str(address.port) and is_here(address) and (everywhere or host.strip("[]") == address.host)


def is_here(address: Address) -> bool:
    """Whether *address* is of this machine."""
    if address.path or address.host == "localhost":
        return True
    try:
        host = ipaddress.ip_address(address.host)
    except ValueError:
        return False
    if host.is_loopback:
        return True
    import psutil

    return any(each.address == address.host for row in psutil.net_if_addrs().values() for each in row)


@dataclass(slots=True)
class _Reading:
    """Sections as they are read; the value of the key ``""`` is the file that a section began in."""

    root: str
    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


def sections_of(path: str, root: str = "") -> Sections:
    """
    Configuration of php-fpm: section -> directive -> value; included files, too.

    Args:
        path: As php-fpm names it.
        root: Where that begins for us.

    Raises:
        OSError: *path* cannot be read (an included file that cannot is left out).
    """
    reading = _Reading(root)
    _take(reading, path, "global")
    return reading.sections


def _take(reading: _Reading, path: str, section: str) -> None:
    reading.seen.add(path)
    with open(reading.root + path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.strip() for line in file]
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif name == "include":
            _include(reading, os.path.join(os.path.dirname(path), _plain(value)), section)
        elif equals and line[0] not in ";#":
            reading.sections.setdefault(section, {"": path})[name] = _plain(value)


def _include(reading: _Reading, pattern: str, section: str) -> None:
    for found in sorted(glob.glob(glob.escape(reading.root) + pattern)):
        path = found.removeprefix(reading.root)
        if path not in reading.seen:
            with contextlib.suppress(OSError):
                _take(reading, path, section)


def _plain(value: str) -> str:
    """*value* without quotes, or without the comment behind it."""
    if value[:1] in ("'", '"') and value.rfind(value[0]) > 0:
        return value[1 : value.rfind(value[0])]
    return value.partition(";")[0].strip()


def seconds_of(text: str) -> float | None:
    """``30``, ``30s``, ``5m``, ``2h``, ``1d``; None: that is none of them."""
    return _quantity(text, _SECONDS)


def size_of(text: str) -> int | None:
    """``8388608``, ``8M``, ``512K``, ``1G``; None: that is none of them."""
    return _quantity(text, _BYTES)


def _quantity(text: str, units: Mapping[str, int]) -> int | None:
    found = _QUANTITY.fullmatch(text.strip())
    factor = units.get(found[2].lower()) if found else None
    return int(found[1]) * factor if found and factor else None
