"""
Locks that die with their holders: one for the master, one a boot for whoever may hold claims.

    run_dir/pbus.pid           held by the master; its text (the pid) is information only
    run_dir/boot/<boot>.lock   held by the master and inherited by every child that owns claims

Rule: flock lives as long as any copy of its descriptor, so a lock that can be taken proves that all
its holders are dead. A lock file is removed only by who holds its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import Final

from pbus.clock import Clock
from pbus.errors import BootError, Exit

PID_FILE: Final = "pbus.pid"
_BOOTS: Final = "boot"
_SUFFIX: Final = ".lock"
_TRIES: Final = 5
_BETWEEN_S: Final = 0.05
"""``holder`` takes a shared lock for a moment: one refusal is not yet another master."""


class PidLock:
    """The right to be the master of a run directory. One owner: the master process."""

    def __init__(self, run_dir: str, clock: Clock) -> None:
        self.path = os.path.join(run_dir, PID_FILE)
        self.fd = -1
        self._clock = clock

    def take(self) -> None:
        """
        Become the master.

        Raises:
            BootError: another one lives (75), or the file cannot be written (77).
        """
        for _ in range(_TRIES):
            self.fd = self._opened()
            if self._locked():
                os.ftruncate(self.fd, 0)
                os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
                return
            pid = _written_pid(self.fd)
            os.close(self.fd)
            self._clock.sleep(_BETWEEN_S)
        raise BootError(
            f"already running as pid {pid or 'unknown'}, which holds {self.path}: "
            "stop it with 'pbus stop', or configure another node.run_dir", Exit.TEMPORARY
        )

    def _opened(self) -> int:
        """Its descriptor; no link is followed, because the folder may be that of the user our children run as."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise BootError(f"cannot use {self.path}: {error.strerror}", Exit.NO_PERMISSION) from error

    def _locked(self) -> bool:
        """Whether the file of that name is ours now; its last holder may have removed the one we opened."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.stat(self.path).st_ino == os.fstat(self.fd).st_ino
        except (BlockingIOError, FileNotFoundError):
            return False

    def give_back(self) -> None:
        """Remove the file and let go."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        os.close(self.fd)


def holder(run_dir: str) -> int:
    """Pid of the living master of *run_dir*; 0 when there is none."""
    try:
        descriptor = os.open(os.path.join(run_dir, PID_FILE), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written_pid(descriptor)
    finally:
        os.close(descriptor)
    return 0


def _written_pid(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


class BootLocks:
    """The boots of this node: the one that lives now, and what earlier ones left behind."""

    def __init__(self, run_dir: str) -> None:
        self._folder = os.path.join(run_dir, _BOOTS)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def begin(self) -> tuple[str, int]:
        """
        A new boot.

        Returns:
            Its name, and the descriptor of its lock; every copy of it keeps the boot alive.
        """
        boot = secrets.token_hex(6)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)  # somebody may have tidied up since
        descriptor = os.open(self._path(boot), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return boot, descriptor

    def others(self, own: str) -> tuple[list[str], list[str]]:
        """Earlier boots: those that are over (nobody holds their lock), and those that live on."""
        over: list[str] = []
        living: list[str] = []
        for name in sorted(os.listdir(self._folder)):
            boot = name.removesuffix(_SUFFIX)
            if name.endswith(_SUFFIX) and boot != own:
                (over if self._is_over(boot) else living).append(boot)
        return over, living

    def forget(self, boot: str) -> None:
        """Nothing is left of *boot*: its claims went back, nobody lives."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(boot))

    def holders(self, boot: str) -> list[int]:
        """Pids that keep *boot* alive, as far as this user may see; for telling people."""
        inode = os.stat(self._path(boot)).st_ino
        return [pid for pid in _pids() if pid != os.getpid() and inode in _inodes(pid)]

    def _is_over(self, boot: str) -> bool:
        try:
            descriptor = os.open(self._path(boot), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _path(self, boot: str) -> str:
        return os.path.join(self._folder, boot + _SUFFIX)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _inodes(pid: int) -> set[int]:
    """Inodes of what *pid* has open."""
    folder = f"/proc/{pid}/fd"
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                found.add(os.stat(f"{folder}/{name}").st_ino)
    return found
