"""
The start of somebody else's program: as whom, where, with what, and what is said when that is impossible.

Rule: a program dies with the process that started it (PDEATHSIG KILL), belongs to its process group, and inherits
nothing but three descriptors and an environment without secrets.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_LONGEST_SHOWN: Final = 80


class LaunchError(Exception):
    """The program cannot be started as configured; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """
    How a program is started.

    Attributes:
        argv: Program and arguments; a name without a slash is looked up in PATH.
        cwd: Working directory; empty: ours.
        env: Added to our environment.
        user: Run it as this user; empty: as ours.
        nice: Its scheduling priority.
        talks: It is written to by a pipe; else its standard input is empty.
        heard: Its output is read by pipes; else it goes nowhere.
        shown: What people are told instead of its arguments (a token stands in them).
        terminal: It has our standard error, and what is not spoken with it.
    """

    argv: Sequence[str]
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    nice: int = 0
    talks: bool = False
    heard: bool = True
    shown: str = ""
    terminal: bool = False

    @property
    def name(self) -> str:
        """What people call it: its arguments on one line, cut."""
        said = self.shown or " ".join(" ".join(self.argv).split())
        return said if len(said) <= _LONGEST_SHOWN else f"{said[:_LONGEST_SHOWN]}.."

    def start(self) -> subprocess.Popen[bytes]:
        """
        Start it. Its life is bound to the calling thread.

        Raises:
            LaunchError: no such program, user or folder, or no right to it.
        """
        process = self._start()
        try:
            if self.nice:
                os.setpriority(os.PRIO_PROCESS, process.pid, self.nice)
        except OSError as error:
            process.kill()
            process.wait()
            raise LaunchError(f"cannot start {self.argv[0]!r} with nice = {self.nice}: {error.strerror}") from error
        return process

    def files(self) -> list[str]:
        """Which of its arguments are files: a change of one of them is new code."""
        paths = [os.path.join(self.cwd, argument) for argument in self.argv]
        return [path for path in paths if os.path.isfile(path)]

    def in_terminal(self, argv: Sequence[str]) -> Launch:
        """The same with *argv*, for a person who looks on."""
        return replace(self, argv=argv, shown=self.name, terminal=True)

    def _pipes(self) -> dict[str, Any]:
        if self.terminal:
            return dict.fromkeys(("stdin", "stdout"), subprocess.PIPE) if self.talks else {}
        output = subprocess.PIPE if self.heard else subprocess.DEVNULL
        return {"stdin": subprocess.PIPE if self.talks else subprocess.DEVNULL, "stdout": output, "stderr": output}

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                list(self.argv), cwd=self.cwd or None, env={**os.environ, **self._identity_env(), **self.env},
                preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509 - it takes no lock, see there
                bufsize=0, **self._pipes(), **self._identity(),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise LaunchError(f"cannot start {self.argv[0]!r}: {self._reason(error)}") from error

    def _identity(self) -> dict[str, Any]:
        if not self.user or self._entry().pw_uid == os.geteuid():
            return {}
        entry = self._entry()
        if os.geteuid() != 0:
            raise LaunchError(f"cannot start {self.argv[0]!r} as user {self.user!r}: pbus does not run as root")
        return {
            "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(self.user, entry.pw_gid)
        }

    def _identity_env(self) -> dict[str, str]:
        if not self.user:
            return {}
        return {"HOME": self._entry().pw_dir, "USER": self.user, "LOGNAME": self.user}

    def _entry(self) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam(self.user)
        except KeyError as error:
            raise LaunchError(f"cannot start {self.argv[0]!r}: there is no user {self.user!r}") from error

    def _reason(self, error: Exception) -> str:
        if not isinstance(error, OSError):
            return str(error)
        if self.cwd and not os.path.isdir(self.cwd):
            return f"its folder {self.cwd} is not there"
        where = f" ({error.filename})" if error.filename and error.filename != self.argv[0] else ""
        return f"{error.strerror or error}{where}"


def _dies_with(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec; everything it needs is looked up before the fork."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    kill = int(signal.SIGKILL)

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent died meanwhile, and nothing tells us any more

    return prepare
