"""
What can be known beforehand of the programs that a bus starts: are they there, is their user, their folder.

Rule: as on this machine now, by the PATH of whoever asks; what is missing is named, so that a typing mistake is found
before a start.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from pbus.config.tree import KeyPath, Tree
from pbus.config.values import signal_number

_NAME: Final = re.compile(r"[^=\0]+\Z")
_NEVER: Final = ("KILL", "STOP")


class Process(Protocol):
    """What every process of user code is configured with."""

    @property
    def stop_signal(self) -> str:
        """Name of a signal."""

    @property
    def user(self) -> str:
        """Empty: the node's."""


class Started(Protocol):
    """What every program is configured with."""

    @property
    def argv(self) -> Sequence[str]:
        """Program and arguments."""

    @property
    def cwd(self) -> str:
        """Absolute."""

    @property
    def env(self) -> Mapping[str, str]:
        """Added to the environment."""


def check_process(tree: Tree, path: KeyPath, process: Process) -> None:
    """Its signal and its user."""
    try:
        signal_number(process.stop_signal)
    except ValueError as error:
        tree.add((*path, "stop_signal"), f'expected {error}, not "{process.stop_signal}"')
    if process.stop_signal.upper().removeprefix("SIG") in _NEVER:
        tree.add((*path, "stop_signal"), f"{process.stop_signal} asks nobody to finish")
    if process.user:
        try:
            pwd.getpwnam(process.user)
        except KeyError:
            tree.add((*path, "user"), f'there is no user "{process.user}" on this machine')


def check_program(tree: Tree, path: KeyPath, program: Started) -> None:
    """Its folder, its environment, and the program itself."""
    if not os.path.isdir(program.cwd):
        tree.add((*path, "cwd"), f"there is no folder {program.cwd}")
    for name, value in program.env.items():
        if not _NAME.match(name) or "\0" in value:
            tree.add((*path, "env", name), "cannot stand in an environment")
    if not tree.is_sound((*path, "argv")):
        return
    if not program.argv or not program.argv[0]:
        tree.add((*path, "argv"), 'is empty: expected a program and its arguments such as ["php", "credit.php"]')
    elif any("\0" in argument for argument in program.argv):
        tree.add((*path, "argv"), "holds a NUL")
    elif tree.is_sound((*path, "cwd")):
        wrong = _absence(program)
        if wrong:
            tree.add((*path, "argv"), wrong)


def _absence(program: Started) -> str:
    """Why the program cannot be started, as far as can be seen; empty when it can."""
    name = program.argv[0]
    if "/" not in name:
        where = program.env.get("PATH", os.environ.get("PATH", os.defpath))
        return "" if shutil.which(name, path=where) else f'there is no program "{name}" in PATH'
    place = os.path.join(program.cwd, name)
    if not os.path.exists(place):
        return f"there is no program {place}"
    if os.path.isdir(place):
        return f"{place} is a folder"
    return "" if os.access(place, os.X_OK) else f"{place} is not executable"
