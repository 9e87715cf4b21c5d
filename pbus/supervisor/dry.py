"""
Trying a plan without doing anything: what a new generation would only find out when it is there.

Rule: for a throw-away process. Whatever is opened is closed again; every problem is told, not the first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import socket
from collections.abc import Iterator, Mapping

from pbus.errors import BootError, ConfigError, Problem
from pbus.supervisor import listeners
from pbus.supervisor.plan import Plan


def try_out(before: Plan, after: Plan, folders: Mapping[str, str]) -> None:
    """
    Whether what *after* asks for can be had by a bus that runs *before*.

    *folders*: key of the configuration -> folder that has to be there, or can be made.

    Raises:
        ConfigError: it cannot; carries every problem.
    """
    problems = [*_modules(after), *_users(before, after), *_doors(before, after), *_folders(folders)]
    if problems:
        raise ConfigError(problems)


def _modules(plan: Plan) -> Iterator[Problem]:
    for module in sorted({spec.module for spec in plan.roles}):
        if importlib.util.find_spec(module) is None:
            yield Problem("", "", f"the program has no module {module}: it is not whole")


def _users(before: Plan, after: Plan) -> Iterator[Problem]:
    known = {spec.user for spec in before.roles}
    for spec in after.roles:
        if not spec.user or spec.user in known:
            continue
        known.add(spec.user)
        try:
            uid = pwd.getpwnam(spec.user).pw_uid
        except KeyError:
            yield Problem("", spec.path, f"user = {spec.user!r}: there is no such user on this machine")
        else:
            if os.geteuid() not in (0, uid):
                yield Problem("", spec.path, f"user = {spec.user!r}: only root can run a process as another user")


def _folders(folders: Mapping[str, str]) -> Iterator[Problem]:
    for key, folder in folders.items():
        there = folder
        while not os.path.exists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            yield Problem("", key, f"{there} is no folder")
        elif not os.access(there, os.W_OK | os.X_OK):
            yield Problem("", key, f"cannot write to the folder {there}")


def _doors(before: Plan, after: Plan) -> Iterator[Problem]:
    """Addresses that are not ours yet."""
    ours = set(before.doors.values())
    for name, address in after.doors.items():
        if address in ours:
            continue
        key = "dashboard.listen" if name == "dashboard" else "ingest.listen"
        sock: socket.socket | None = None
        try:
            sock = listeners.bind(address)
        except listeners.Busy:
            yield Problem("", key, listeners.in_use(address))
        except BootError as error:
            yield Problem("", key, str(error))
        finally:
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.close()
                listeners.remove(address.path)
