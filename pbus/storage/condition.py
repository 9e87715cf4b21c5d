"""
What a store is like, for ``pbus doctor``: asked without opening it, so that one that would be refused can be judged.

Rule: nothing is written, nothing is raised. What it does not tell is None, and named in ``unread`` where that matters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbus.clock import Clock, SystemClock
from pbus.errors import BootError, StorageError
from pbus.storage.open import StoreTarget

_SQLITE: Final = "sqlite"
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"})
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
"""How blanks and such are written in /proc/mounts."""
_INFO: Final = ("server", "memory", "persistence", "replication")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """
    One store; attributes that are not explained here are those of ``core.doctor_facts.Store``.

    Attributes:
        used_bytes, bound_bytes: Memory of a Redis, and how much it may use (0: no bound).
    """

    kind: str
    place: str
    is_made: bool = True
    away: str = ""
    old: str = ""
    policy: str | None = None
    role: str | None = None
    aof: bool | None = None
    saves: bool | None = None
    fsync: str | None = None
    write_problem: str = ""
    used_bytes: int | None = None
    bound_bytes: int | None = None
    network: str = ""
    clock_ahead_s: float | None = None
    unread: tuple[str, ...] = ()


def condition(target: StoreTarget, clock: Clock | None = None) -> Condition:
    """What the store of *target* is like; of a driver that was installed only its name."""
    scheme, _, rest = target.url.partition(":")
    if scheme == _SQLITE:
        return _sqlite(rest)
    if scheme in ("redis", "redis+unix"):
        return _redis(target, clock or SystemClock())
    return Condition(kind=scheme, place=scheme)


# -- SQLite -----------------------------------------------------------------------------------------


def _sqlite(path: str) -> Condition:
    import apsw

    from pbus.storage.sqlite_trust import refuse_old_library

    return Condition(
        kind=_SQLITE, place=path, is_made=_is_made(path), network=network_of(path),
        old=_said(lambda: refuse_old_library(apsw.sqlite_lib_version())),
    )


def _is_made(path: str) -> bool:
    """Whether there is a file, as far as we may see: what is hidden from us is there."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _said(refuse: Callable[[], None]) -> str:
    try:
        refuse()
    except BootError as error:
        return str(error)
    return ""


def network_of(path: str, mounts: str = "/proc/mounts") -> str:
    """Kind of the file system that holds *path* where that is of another machine; else empty."""
    path, found = os.path.realpath(path), ("", "")
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split(" ") for line in file]
    except OSError:
        return ""
    for row in rows:
        folder = _OCTAL.sub(lambda match: chr(int(match[1], 8)), row[1])
        if f"{path}/".startswith(f"{folder.rstrip('/')}/") and len(folder) >= len(found[0]):
            found = (folder, row[2])
    return found[1] if found[1] in _NETWORK else ""


# -- Redis ------------------------------------------------------------------------------------------


def _redis(target: StoreTarget, clock: Clock) -> Condition:
    from pbus.storage.redis_address import parse
    from pbus.storage.redis_calls import Calls

    place = ""
    try:
        address = parse(target.url, target.password)
        place = str(address)
        calls = Calls(address, target.call_timeout_s, clock)
    except BootError as error:
        return Condition(kind="redis", place=place, away=str(error))
    try:
        return _asked(calls, place, clock)
    except StorageError as error:
        return Condition(kind="redis", place=place, away=str(error).removeprefix(f"{place}: "))
    finally:
        calls.close()


def _asked(calls: Any, place: str, clock: Clock) -> Condition:
    """
    Raises:
        StorageError: it cannot be reached, or tells us nothing.
    """
    from pbus.storage.redis_calls import raising
    from pbus.storage.redis_store import info

    with calls.session() as session:
        begun_s = clock.wall_s()
        ((seconds, micros),) = raising(calls.each(session, [("TIME",)], repeat=True))
        ours_s = (begun_s + clock.wall_s()) / 2
        told = raising(calls.each(session, [("INFO", part) for part in _INFO], repeat=True))
        configured = calls.each(session, [("CONFIG", "GET", key) for key in ("appendfsync", "save")], repeat=True)
    fields = {name: value for part in told for name, value in info(part).items()}
    fsync, saves = (_configured(answer) for answer in configured)
    return Condition(
        kind="redis", place=place, old=_old(fields), policy=fields.get("maxmemory_policy"), role=fields.get("role"),
        aof=_flag(fields.get("aof_enabled")), saves=None if saves is None else bool(saves.strip()), fsync=fsync,
        write_problem=_write_problem(fields), used_bytes=_number(fields.get("used_memory")),
        bound_bytes=_number(fields.get("maxmemory")),
        clock_ahead_s=int(seconds) + int(micros) / 1e6 - ours_s,
        unread=tuple(name for name, value in (("appendfsync", fsync), ("save", saves)) if value is None),
    )


def _old(fields: Mapping[str, str]) -> str:
    from pbus.storage.redis_streams import OLDEST

    version = fields.get("redis_version", "")
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    is_old = len(numbers) == len(OLDEST) and tuple(numbers) < OLDEST
    return f"Redis {version} is too old; pbus needs {OLDEST[0]}.{OLDEST[1]} or newer" if is_old else ""


def _write_problem(fields: Mapping[str, str]) -> str:
    """The file that it could not write last."""
    what = {"aof_last_write_status": "write of the append-only file", "rdb_last_bgsave_status": "snapshot"}
    return next((f"its last {text} failed" for name, text in what.items() if fields.get(name, "ok") != "ok"), "")


def _configured(answer: Any) -> str | None:
    """The value of ``CONFIG GET key``; None: it is not ours to know."""
    return answer[1].decode() if isinstance(answer, list) and len(answer) > 1 else None


def _flag(text: str | None) -> bool | None:
    return None if text is None else text == "1"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
