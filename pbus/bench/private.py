"""
Processes that measurements start: found where the machine has them, and gone with who started them.

Rule: each is in a session of its own (a ^C is for the command, which ends them in good order; the kernel schedules by
sessions), and told by the kernel to end when the command was killed before it could.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil

import pbus
from pbus.errors import Exit, PbusError
from pbus.supervisor.process import die_with_parent

_SBIN: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")
_PACKAGES: Final = {"redis-server": "redis-server", "redis-benchmark": "redis-tools", "php-fpm": "php-fpm"}
_ENDS_WITHIN_S: Final = 15.0
_MANAGERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What a service manager tells the command is not for the bus that it starts."""


class BenchError(PbusError):
    """A measurement cannot go on; the text says why."""

    exit_status = Exit.FAILED


class Missing(PbusError):
    """A part that a measurement needs is not on this machine; the text says what to install or to free."""


def find(program: str) -> str:
    """
    Absolute path of *program*: in PATH and the sbin folders, versioned names too (Debian: ``php-fpm8.2``).

    Raises:
        Missing: it is not there.
    """
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *_SBIN]
    exact = shutil.which(program, path=os.pathsep.join(folders))
    if exact is not None:
        return exact
    for folder in folders:
        versioned = sorted(glob.glob(os.path.join(folder, f"{program}[0-9]*")))
        if versioned and os.access(versioned[-1], os.X_OK):
            return versioned[-1]
    raise Missing(f"{program} is not installed (Debian: apt install {_PACKAGES.get(program, program)})")


def popen(argv: Sequence[str], environment: dict[str, str] | None = None, **settings: Any) -> subprocess.Popen[Any]:
    """Start *argv* in a session of its own, with this same pbus to import; it ends with this process at the latest."""
    known = {name: value for name, value in os.environ.items() if name not in _MANAGERS}
    paths = [str(Path(pbus.__file__).parents[1]), *filter(None, [known.get("PYTHONPATH")])]
    given = {**known, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
    return subprocess.Popen(
        argv, **{"stdin": subprocess.DEVNULL, **settings}, env=given, start_new_session=True,
        preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - the child execs at once
    )


def end(process: subprocess.Popen[Any]) -> None:
    """In good order; with all that descends from it when that takes too long."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        kill(process.pid)
        process.wait(_ENDS_WITHIN_S)


def kill(pid: int, itself: bool = True) -> None:
    """SIGKILL what descends from *pid*, and *itself*."""
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(pid).children(recursive=True)
        for each in [*([psutil.Process(pid)] if itself else []), *family]:
            with contextlib.suppress(psutil.Error):
                each.kill()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listened on a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in held]
    for sock in held:
        sock.close()
    return ports
