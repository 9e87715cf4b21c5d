"""
A child that runs as another user than the rest of the bus, and what it reaches all the same.

    run_dir/           0700, not its own          logs/topic/QUEUE.TOPIC.log   given to it by the master
    delivery.0.sock    by a descriptor            logs/                        by a descriptor

Rule: nothing is opened to everybody. Before the child becomes the other user it opens what it will need as *places*
(O_PATH: nothing can be read or written through these), and goes to them by /proc/self/fd: the folders above are not
asked then. A socket that it finds that way has to let it in, and is hidden from everybody else by the folder; whoever
stands behind it looks at the peer's pid besides.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.config.values import Address
from pbus.supervisor.roles import RoleSpec
from pbus.telemetry.sink import STDOUT
from pbus.telemetry.topic_log import FOLDER, file_name

_PLACE: Final = os.O_PATH | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOG_MODE: Final = 0o640
_SEARCH: Final = 0o011
"""Who knows a name in the folder of logs may look for it; the files have rights of their own."""


@dataclass(frozen=True, slots=True)
class Ways:
    """
    What such a child goes by.

    Attributes:
        doors: Name of a door -> path.
        log_dir: Path.
        fds: What must stay open for that.
    """

    doors: Mapping[str, str] = field(default_factory=dict)
    log_dir: str = ""
    fds: tuple[int, ...] = ()


def ways(spec: RoleSpec, doors: Mapping[str, Address], log_dir: str) -> Ways:
    """
    Open the places that a child of *spec* will need. In the child, before it becomes another user.

    Raises:
        OSError: one of them is not there.
    """
    if not spec.user:
        return Ways()
    opened = {name: os.open(door.path, _PLACE) for name, door in doors.items() if is_inner(name)}
    paths = {name: f"/proc/self/fd/{fd}" for name, fd in opened.items()}
    if log_dir == STDOUT:
        return Ways(paths, log_dir, tuple(opened.values()))
    logs = os.open(log_dir, _PLACE | os.O_DIRECTORY)
    return Ways(paths, f"/proc/self/fd/{logs}", (*opened.values(), logs))


def is_inner(door: str) -> bool:
    """Whether that door is for our own children."""
    return door.startswith("delivery.")


def moved(args: Mapping[str, Any], way: Ways) -> Mapping[str, Any]:
    """The section of the role, with the folder of logs as the child reaches it."""
    return {**args, "log_dir": way.log_dir} if way.log_dir and "log_dir" in args else args


def give_logs(specs: Iterable[RoleSpec], log_dir: str) -> None:
    """
    Make the logs of topics whose processes have a user of their own, and give them to that user. In the master.

    Links are not followed: the folder may be somebody's who must not choose what is given away. A user that does not
    exist is said by the child.

    Raises:
        OSError: a folder or file that cannot be had.
    """
    foreign = [(spec, uid) for spec in specs if spec.user and (uid := _uid(spec.user)) >= 0]
    if not foreign or log_dir == STDOUT:
        return
    top = os.open(log_dir, _FOLDER)
    try:
        folder = os.open(FOLDER, _FOLDER, dir_fd=top)
        try:
            for each in (top, folder):
                os.fchmod(each, os.fstat(each).st_mode & 0o7777 | _SEARCH)
            for spec, uid in foreign:
                _give(file_name(*spec.path.split("/")), folder, uid)
        finally:
            os.close(folder)
    finally:
        os.close(top)


def _give(name: str, folder: int, uid: int) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    log = os.open(name, flags, _LOG_MODE, dir_fd=folder)
    try:
        os.fchown(log, uid, -1)
    finally:
        os.close(log)


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return -1
