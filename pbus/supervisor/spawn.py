"""
The birth of a child: everything between ``fork`` and ``run(child)``.

    block signals - fork - default signals - own group - user - PDEATHSIG - descriptors - title -
    log - import the role - run - exit

Rule: a child keeps the descriptors that its spec names and not one more (else a dead bus keeps its
port: producers connect and hang). The role is imported here, in the child, so the master stays
free of whatever a role needs. A child never returns into the master's code.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import faulthandler
import gc
import grp
import importlib
import os
import pwd
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import setproctitle

from pbus.clock import Clock
from pbus.config.values import Address
from pbus.core import tokens
from pbus.core.names import Owner
from pbus.errors import BootError, Exit, PbusError
from pbus.supervisor import foreign, notify, process
from pbus.supervisor.child import Child
from pbus.supervisor.histograms import Histograms
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard, Slot
from pbus.telemetry import log as logs

_DEFAULT: Final = (signal.SIGTERM, signal.SIGCHLD)
_IGNORED: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
_STDERR: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Nursery:
    """
    What all children of one boot have in common.

    Attributes:
        node, boot: Owners are made of them.
        boot_lock_fd: Inherited by whoever may hold claims.
        run_dir, log_dir: Folders.
        log_settings: ``[log]``.
        secrets: Values that must not reach the log.
        grace_s: How long a drain may take.
        user: Run the children as this user; empty: as the master.
        scoreboard, histograms, clock: Shared.
        listeners: Every listening socket by its name.
        doors: Where they are.
        forget: Closes what the master has open; called in the child, first thing.
        files: Open files that user code may have (soft limit), as the master was given it; 0: as it is.
        token_key: What the tokens of consumers are made with.
    """

    node: str
    boot: str
    boot_lock_fd: int
    run_dir: str
    log_dir: str
    log_settings: logs.LogSettings
    secrets: tuple[str, ...] = field(repr=False)
    grace_s: float
    user: str
    scoreboard: Scoreboard
    histograms: Histograms
    clock: Clock
    listeners: Mapping[str, socket.socket]
    doors: Mapping[str, Address]
    forget: Callable[[], None]
    token_key: bytes = field(default=b"", repr=False)
    files: int = 0


@dataclass(frozen=True, slots=True)
class Newborn:
    """
    Who is to be born: which child of which role, its serial number, generation, row, column (-1: none), and whether it
    has to wait for its turn.
    """

    spec: RoleSpec
    index: int
    n: int
    generation: int
    slot: Slot
    column: int = -1
    waits: bool = False


def spawn(nursery: Nursery, newborn: Newborn) -> tuple[int, socket.socket]:
    """
    Fork *newborn*.

    Returns:
        Its pid and the master's end of its control socket.

    Raises:
        OSError: no process or descriptor is left (the caller tries again later).
    """
    spec = newborn.spec
    newborn.slot.update(
        n=newborn.n, role=spec.role, index=newborn.index, path=spec.path, generation=newborn.generation,
        stage=spec.drain_stage, own_group=spec.own_group, started_s=nursery.clock.monotonic_s(), state="boot",
    )
    ours, theirs = socket.socketpair()
    master_pid = os.getpid()
    # Blocked until the child has its own dispositions: no handler of the master may run in it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _live(nursery, newborn, theirs.detach(), master_pid, before)
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return pid, ours


def _live(nursery: Nursery, newborn: Newborn, control_fd: int, master_pid: int, mask: Iterable[int]) -> NoReturn:
    """The whole life of a child. What ends it, however it ends, ends the process."""
    status: int = Exit.BUG
    try:
        child = _settle_in(nursery, newborn, control_fd, master_pid, mask)
        status = _run(child)
        _clean_up()
        child.last_words()
        child.leave_nothing()
    except BaseException:  # noqa: BLE001 - nothing may return into the master's stack
        with contextlib.suppress(Exception):
            sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _settle_in(nursery: Nursery, newborn: Newborn, control_fd: int, master_pid: int, mask: Iterable[int]) -> Child:
    spec, index = newborn.spec, newborn.index
    atexit._clear()
    _reset_signals(mask)
    nursery.forget()
    notify.forget()
    if spec.own_group:
        os.setsid()
        process.brand(newborn.n)
        _leave_out(nursery.secrets)
    way = foreign.ways(spec, nursery.doors, nursery.log_dir)
    trouble = _dress(spec, nursery.user)
    process.die_with_parent(signal.SIGTERM)
    if os.getppid() != master_pid:
        os._exit(Exit.TEMPORARY)
    listener_fds = {name: nursery.listeners[name].detach() for name in kept(spec, index, nursery.listeners)}
    holds = [nursery.boot_lock_fd] if spec.holds_claims else []
    close_all_but([0, 1, 2, control_fd, *holds, *way.fds, *listener_fds.values()])
    _open_stdin()
    if spec.own_group:
        _limit_descriptors(nursery.files)
    else:
        allow_descriptors()
    setproctitle.setproctitle(f"pbus: {(spec.title or spec.role).format(index=index)}")
    newborn.slot.update(pid=os.getpid(), birth=process.birth(os.getpid()))
    bound: dict[str, Any] = {"role": spec.role, "index": index} | ({"path": spec.path} if spec.path else {})
    logs.configure(
        nursery.log_settings, way.log_dir or nursery.log_dir, secrets=nursery.secrets, clock=nursery.clock,
        node=nursery.node, **bound,
    )
    owner = Owner(nursery.node, nursery.boot, newborn.slot.slot, newborn.n)
    key = nursery.token_key
    made = {kind: tokens.make(key, kind, owner, spec.path) for kind in tokens.KINDS} if spec.role == "consumer" else {}
    child = Child(
        spec=dataclasses.replace(spec, args=foreign.moved(spec.args, way)), doors=way.doors, index=index, owner=owner,
        tokens=made, token_key=key if spec.checks_tokens else b"",
        slot=newborn.slot, scoreboard=nursery.scoreboard, histograms=nursery.histograms, column=newborn.column,
        listener_fds=listener_fds, control_fd=control_fd, master_pid=master_pid, waits=newborn.waits,
        log=logs.get(), clock=nursery.clock, run_dir=nursery.run_dir, grace_s=nursery.grace_s,
    )
    if trouble:
        child.fail(trouble, Exit.CONFIG)
    return child


def _dress(spec: RoleSpec, user: str) -> str:
    """Take on the priority and the user that the role asks for; what stands against it, empty for nothing."""
    try:
        if spec.nice:
            os.setpriority(os.PRIO_PROCESS, 0, spec.nice)
    except OSError:
        return f"nice = {spec.nice}: only root may give a process more than others have"
    user = "" if spec.stays_master else spec.user or user
    try:
        if user:
            become(user)
    except KeyError:
        return f"user = {user!r}: there is no such user on this machine"
    except OSError:
        return f"user = {user!r}: only root can run a process as another user; start pbus as root"
    return ""


def _run(child: Child) -> int:
    """Import the role and run it; its exit status, with the reason told to the master."""
    try:
        importlib.import_module(child.spec.module).run(child)
        return Exit.DONE
    except SystemExit as leaving:
        if isinstance(leaving.code, int) or leaving.code is None:
            return leaving.code or Exit.DONE
        child.fail(str(leaving.code), Exit.FAILED)
    except BootError as error:
        child.fail(str(error), error.exit_status)
    except Exception as error:  # the last net: the log gets the traceback, the master the reason
        child.log.error("child.crashed", exc_info=error)
        status = error.exit_status if isinstance(error, PbusError) else Exit.BUG
        child.fail(f"{type(error).__name__}: {error}", status)


def kept(spec: RoleSpec, index: int, listeners: Iterable[str]) -> list[str]:
    """
    Names of *listeners* that child *index* of *spec* keeps.

    ``{index}`` in a pattern is its index; a pattern that ends in ``.*`` keeps all that begin like it.
    """
    patterns = [pattern.format(index=index) for pattern in spec.keeps]
    exact = {pattern for pattern in patterns if not pattern.endswith(".*")}
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith(".*"))
    return [name for name in listeners if name in exact or (prefixes and name.startswith(prefixes))]


def close_all_but(descriptors: Iterable[int]) -> None:
    """Close every descriptor of this process that is not in *descriptors* (close_range between them)."""
    start = 0
    for descriptor in sorted(set(descriptors)):
        if start < descriptor:  # closerange(0, 0) closes everything: its end wraps around in the kernel
            os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def become(user: str) -> None:
    """Run as *user* from now on, with its groups and its HOME."""
    entry = pwd.getpwnam(user)
    if os.geteuid() != entry.pw_uid:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        process.own_proc_again()
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)


def identity(user: str, group: str) -> tuple[int, int]:
    """
    Uid of *user* and gid of *group*, -1 for an empty one.

    Raises:
        BootError: one does not exist, or only root could become it.
    """
    try:
        uid = pwd.getpwnam(user).pw_uid if user else -1
        gid = grp.getgrnam(group).gr_gid if group else -1
    except KeyError as error:
        raise BootError(f"node.user or node.status_group: {error.args[0]}", Exit.CONFIG) from error
    if uid not in (-1, os.geteuid()) and os.geteuid() != 0:
        raise BootError(f"node.user: only root can run the children as {user!r}", Exit.NO_PERMISSION)
    return uid, gid


def _reset_signals(mask: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for signum in _DEFAULT:
        signal.signal(signum, signal.SIG_DFL)
    for signum in _IGNORED:
        # A handler that does nothing, not SIG_IGN, which programs started by a handler would inherit.
        signal.signal(signum, _ignore)
    faulthandler.register(signal.SIGQUIT, file=_STDERR, all_threads=True, chain=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_out(secrets: Iterable[str]) -> None:
    """User code, and what it starts, does not inherit variables that the configuration took a password from."""
    hidden = set(secrets)
    for name in [name for name, value in os.environ.items() if value in hidden]:
        del os.environ[name]


def _ignore(signum: int, frame: object) -> None:
    """INT and HUP of a terminal are for the master."""


def _open_stdin() -> None:
    """Nobody types into a child; descriptor 0 must not become somebody's socket either."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0, inheritable=True)
        os.close(null)


def allow_descriptors() -> int:
    """
    As many open files as the machine lets us: a door with 10,000 connections needs them, a master of 1,000 consumers.

    Returns:
        How many were allowed before.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def _limit_descriptors(count: int) -> None:
    """User code gets what the master was given: programs that still use select() fail above 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _clean_up() -> None:
    """What an interpreter would do at its end, without tearing down what the master's stack still holds."""
    gc.disable()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
