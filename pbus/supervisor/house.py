"""
The house a bus lives in: its folders, its locks, its earlier boots and its listening sockets.

    folders -> pid lock -> (wait for the children of an earlier life) -> listeners -> open

Rule: nothing here waits. What cannot be had yet is tried again each turn until a deadline, so the
master hears signals and answers ``pbus status`` in the meantime.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
import stat
from collections.abc import Mapping
from typing import Any, Final

from pbus.clock import Clock
from pbus.config.values import Address
from pbus.errors import BootError, Exit
from pbus.supervisor import foreign, listeners
from pbus.supervisor.activation import Activation
from pbus.supervisor.lock import BootLocks, PidLock
from pbus.supervisor.plan import Plan
from pbus.supervisor.spawn import identity
from pbus.supervisor.upgrade import State
from pbus.telemetry import log as logs

PORT_WAIT_S: Final = 10.0
AFTER_GRACE_S: Final = 5.0
"""Children of a dead master are gone after the grace and so much more."""

_UNIX_MODE: Final = 0o666
_FOLDER_MODE: Final = 0o750
_TOPIC_LOGS: Final = "topic"
_HANDOVER: Final = "handover."
_DOOR_KEYS: Final = {"ingest": "ingest.listen", "dashboard": "dashboard.listen"}
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class House:
    """
    One owner: the master.

    Attributes:
        uid, gid: Of ``node.user`` and ``node.status_group``, -1 where none is configured.
        boot: Name of the boot that lives now; empty before the house is open.
        boot_lock_fd: Its lock.
        doors: Listener name -> listening socket.
        addresses: Where they are.
        over: Earlier boots that nobody lives in any more and that are not forgotten yet.
        living: Earlier boots that somebody still lives in.
    """

    def __init__(self, plan: Plan, clock: Clock, passed: Activation | None = None) -> None:
        self._plan = plan
        self._clock = clock
        self.uid, self.gid = identity(plan.user, plan.status_group)
        self.boot = ""
        self.boot_lock_fd = -1
        self.doors: dict[str, socket.socket] = {}
        self.addresses = dict(plan.doors)
        self._before: tuple[dict[str, socket.socket], dict[str, Address]] | None = None
        self._passed = Activation() if passed is None else passed
        self.over: list[str] = []
        self.living: list[str] = []
        self._holders: list[int] = []
        self._since: float | None = None
        self._refused_since: float | None = None
        self._refused: Address | None = None

    def move_in(self) -> None:
        """
        Make the folders and take the pid lock.

        Raises:
            BootError: another master lives here (75), or a folder cannot be written (77).
        """
        plan = self._plan
        self._folder("node.data_dir", plan.data_dir)
        if plan.log_dir != "-":
            self._folder("node.log_dir", plan.log_dir)
            self._folder("node.log_dir", os.path.join(plan.log_dir, _TOPIC_LOGS))
        # Last and always: it may be the data folder, too, and what is in it is for us alone.
        self._folder("node.run_dir", plan.run_dir, 0o710 if plan.status_group else 0o700, self.gid)
        self._pid_lock = PidLock(plan.run_dir, self._clock)
        self._pid_lock.take()
        self._boots = BootLocks(plan.run_dir)

    @property
    def carried(self) -> dict[str, Any]:
        """What of it goes through an upgrade: boot, boot_fd, pid_fd, doors, passed; see ``State``."""
        doors = [
            [name, sock.fileno(), at.path, at.host, at.port]
            for name, sock in self.doors.items() for at in (self.addresses[name],)
        ]
        return {
            "boot": self.boot, "boot_fd": self.boot_lock_fd, "pid_fd": self._pid_lock.fd, "doors": doors,
            "passed": self._passed.files,
        }

    def adopt(self, state: State) -> None:
        """Live on in the house of who was here before an upgrade, its doors open and its locks held."""
        self._pid_lock = PidLock(self._plan.run_dir, self._clock)
        self._pid_lock.fd = state.pid_fd
        self._boots = BootLocks(self._plan.run_dir)
        self.boot, self.boot_lock_fd = state.boot, state.boot_fd
        self._passed.has(state.passed)
        self.doors, self.addresses = {}, {}
        for name, descriptor, path, host, port in state.doors:
            self.doors[name] = socket.socket(fileno=descriptor)
            self.doors[name].setblocking(False)
            self.addresses[name] = Address(path=path, host=host, port=port)

    def open(self) -> bool:
        """
        One step towards being open; True once it is: nobody of an earlier life is left, all is bound.

        Raises:
            BootError: a door cannot be had (75 after ten seconds of trying, 77, 78).
        """
        if self.boot:
            return True
        if not self._alone() or not self._bound():
            return False
        self.begin_boot()
        return True

    def begin_boot(self) -> None:
        """A new boot; copies of the old one's lock live on in the children that were born into it."""
        old_fd = self.boot_lock_fd
        self.boot, self.boot_lock_fd = self._boots.begin()
        if old_fd >= 0:
            os.close(old_fd)

    def look_at_boots(self) -> bool:
        """
        Look who of an earlier life is left; True when that changed.

        Cheap while there was none: the folder then holds our own lock only.
        """
        before = (self.over, self.living)
        try:
            self.over, self.living = self._boots.others(self.boot)
        except OSError:
            if not self.boot:
                raise
            return False  # no descriptor is left, or somebody tidied up: a bus that runs goes on
        return (self.over, self.living) != before

    def forget_boots(self, boots: list[str]) -> None:
        """Their claims went back: nothing is left of them."""
        for boot in boots:
            if boot in self.over:
                self._boots.forget(boot)
        self.over = [boot for boot in self.over if boot not in boots]

    @property
    def waits_for(self) -> str:
        """Why it is not open yet, one sentence; empty when nothing is in the way."""
        if self.boot:
            return ""
        if self.living:
            pids = ", ".join(str(pid) for pid in self._holders) or "unknown"
            return f"processes of an earlier life have not left yet (pid {pids}): waiting until they have finished"
        if self._refused is not None:
            return f"{self._refused} is in use: trying again for {PORT_WAIT_S:g} s"
        return ""

    def close_up(self) -> None:
        """
        The bus stops: whoever comes from outside now is refused as soon as the children have closed theirs.

        Else the kernel would go on to take connections for us, and producers would wait for
        answers as long as the slowest job takes. Our own children's doors stay until the end.
        """
        for name, sock in self.doors.items():
            if not foreign.is_inner(name):
                sock.close()

    def move_out(self) -> None:
        """Give everything back, the pid lock last."""
        for name, sock in self.doors.items():
            sock.close()
            self.remove(self.addresses[name])
        if self.boot:
            os.close(self.boot_lock_fd)
        self._pid_lock.give_back()

    # -- a later plan -------------------------------------------------------------------------

    def bind_beside(self, plan: Plan) -> None:
        """
        Have the doors of *plan*, too: what has the same address is the same door, whatever its name.

        Raises:
            BootError: one cannot be had; nothing has changed.
        """
        ours = {address: self.doors[name] for name, address in self.addresses.items() if name in self.doors}
        before, self._plan = (self.doors, self.addresses), plan
        self.doors, self.addresses, self._before = {}, dict(plan.doors), before
        try:
            for name, address in plan.doors.items():
                self.doors[name] = ours[address] if address in ours else self._bind_now(name, address)
                if address.path and address in ours and not self._passed.owns(address.path):
                    os.chmod(address.path, self._mode(name))
        except (BootError, OSError) as error:
            self.give_doors_back()
            raise error if isinstance(error, BootError) else BootError(str(error)) from error

    def have_handover(self, count: int) -> None:
        """
        Doors by which *count* ingest children take connections over, beside those that there are.

        Raises:
            BootError: one cannot be had.
        """
        for index in range(count):
            name = f"{_HANDOVER}{index}"
            if name not in self.doors:
                address = Address(path=os.path.join(self._plan.run_dir, f"{name}.sock"))
                self.doors[name] = self._bind_now(name, address)
                self.addresses[name] = address

    def close_old(self) -> None:
        """Doors that only the earlier plan had are closed; who has come in there stays."""
        if self._before is not None:
            self._close_all(*self._before, but=self.doors)
            self._before = None

    def give_doors_back(self) -> None:
        """The earlier plan goes on: doors that only the later one had are closed."""
        if self._before is not None:
            (doors, addresses), self._before = self._before, None
            self._close_all(self.doors, self.addresses, but=doors)
            self.doors, self.addresses = doors, addresses

    def go_back(self, plan: Plan) -> None:
        """As ``give_doors_back``, and *plan* is the one that holds."""
        self.give_doors_back()
        self._plan = plan

    def _close_all(
        self, doors: Mapping[str, socket.socket], addresses: Mapping[str, Address], but: Mapping[str, socket.socket]
    ) -> None:
        kept = {id(sock) for sock in but.values()}
        for name, sock in doors.items():
            if id(sock) not in kept:
                sock.close()
                self.remove(addresses[name])

    def _bind_now(self, name: str, address: Address) -> socket.socket:
        try:
            return listeners.bind(address, self._mode(name), self.uid)
        except listeners.Busy:
            raise BootError(listeners.in_use(address), Exit.TEMPORARY) from None

    def remove(self, address: Address) -> None:
        """Remove the socket file of a door of ours, if it has one and it is not the service manager's."""
        if address.path and not self._passed.owns(address.path):
            listeners.remove(address.path)

    def forget(self) -> None:
        """In a forked child: the pid lock is not for children (the doors and the boot lock may be)."""
        os.close(self._pid_lock.fd)

    def give_logs_away(self) -> None:
        """Children that run as another user append to the same log file, or to one of their own."""
        if self.uid != -1:
            with contextlib.suppress(OSError):
                # The folder is theirs: a link that they put there must not give them somebody else's file.
                os.chown(os.path.join(self._plan.log_dir, logs.FILE_NAME), self.uid, -1, follow_symlinks=False)
        with contextlib.suppress(OSError):  # their own writing tells what is wrong
            foreign.give_logs(self._plan.roles, self._plan.log_dir)

    # -- steps --------------------------------------------------------------------------------

    def _alone(self) -> bool:
        """Whether everybody of an earlier life has left, or has had the time to."""
        now = self._clock.monotonic_s()
        if self._since is None:
            self._since = now
        self.look_at_boots()
        if self.living and not self._holders:
            self._holders = [pid for boot in self.living for pid in self._boots.holders(boot)]
        return not self.living or now >= self._since + self._plan.grace_s + AFTER_GRACE_S

    def _bound(self) -> bool:
        """Take what the service manager passed, bind what is not bound yet."""
        self.doors.update(self._passed.doors(self._plan.doors))
        for name, address in self._plan.doors.items():
            if name not in self.doors and not self._bind(name, address):
                return False
        return True

    def _bind(self, name: str, address: Address) -> bool:
        key = _DOOR_KEYS.get(name.partition(".")[0], "node.run_dir")
        try:
            self.doors[name] = listeners.bind(address, self._mode(name), self.uid)
        except BootError as error:
            raise BootError(f"{key}: {error}; configure another one", error.exit_status) from error
        except listeners.Busy:
            now = self._clock.monotonic_s()
            if self._refused != address or self._refused_since is None:
                self._refused, self._refused_since = address, now
            if now >= self._refused_since + PORT_WAIT_S:
                raise BootError(f"{key}: {listeners.in_use(address)}", Exit.TEMPORARY) from None
            return False
        return True

    def _mode(self, name: str) -> int:
        """Of the socket file of a door, where it has one."""
        for_foreign = foreign.is_inner(name) and any(spec.user for spec in self._plan.roles)
        return _UNIX_MODE if name.startswith("ingest.") or for_foreign else 0o600

    def _folder(self, key: str, path: str, mode: int = 0, gid: int = -1) -> None:
        """Make *path*, which *key* names, ours; without a *mode*, a folder that was there before keeps its own."""
        try:
            if not os.path.isdir(path):
                os.makedirs(path, _FOLDER_MODE)
            if (self.uid, gid) != (-1, -1):
                os.chown(path, self.uid, gid)
            if mode and stat.S_IMODE(os.stat(path).st_mode) != mode:
                os.chmod(path, mode)
        except OSError as error:
            hint = _let_us_write() if error.errno in _FORBIDDEN else "configure another one"
            text = f"{key}: cannot make the folder {path}: {error.strerror}; {hint}"
            raise BootError(text, Exit.NO_PERMISSION) from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise BootError(f"{key}: cannot write to the folder {path}; {_let_us_write()}", Exit.NO_PERMISSION)


def _let_us_write() -> str:
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    return f"let user {name} write there, or configure another one"
