"""
Topics that a ``pbus deploy`` holds: paused on all nodes under a lease that ends by itself when nobody renews it.

Rule: every look into a store is made by a child process that is thrown away. Who opens a SQLite store as root becomes
its owner, and the command that is deployed has to stay who started it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pbus.errors import BootError, Exit, PbusError
from pbus.storage.leases import KIND, Lease, parse

if TYPE_CHECKING:
    from pbus.config.schema import Settings
    from pbus.storage.driver import Driver

Name = tuple[str, str]
_RENEWALS: Final = 4
"""In a lease."""


class Hold:
    """
    The hold of one deploy on *names*; ``take`` before anything else.

    Attributes:
        names: All that are meant.
        renew_s: How often it is to be renewed; the pause ends a lease after the last time.
        held: Topics that this deploy has paused; the others had been paused by somebody before, and stay so.
    """

    def __init__(self, settings: Settings, names: Sequence[Name], by: str, lease_s: float) -> None:
        self._settings = settings
        self.names = list(names)
        self._lease = Lease(by, secrets.token_hex(8), lease_s)
        self._turn = 0
        self.renew_s = lease_s / _RENEWALS
        self.held: list[Name] = []

    def take(self) -> list[Name]:
        """
        Pause them.

        Raises:
            Refused: another deploy holds one of them; none is paused then. StorageError: the store is away.
        """
        self.held = elsewhere(lambda: _take(self._settings, self.names, self._lease))
        return self.held

    def running(self) -> dict[str, int]:
        """``queue/topic`` -> jobs that run there now, on all nodes; those without any are left out."""
        found: dict[str, int] = elsewhere(lambda: _running(self._settings, self.names))
        return found

    def renew(self) -> list[str]:
        """Say that we are still there; topics that were taken from us meanwhile (somebody resumed or paused them)."""
        self._turn += 1
        text = self._lease.text(self._turn)
        lost: list[str] = elsewhere(lambda: _renew(self._settings, self.held, self._lease.token, text))
        self.held = [name for name in self.held if "/".join(name) not in lost]
        return lost

    def release(self) -> bool:
        """Resume what we still hold, if anything; what somebody has paused meanwhile stays as it is."""
        held, self.held = self.held, []
        elsewhere(lambda: _release(self._settings, held, self._lease.token))
        return bool(held)


def elsewhere(act: Callable[[], Any]) -> Any:
    """
    What *act* answers, in a child process that Ctrl-C does not reach.

    Raises:
        PbusError: *act* raised one.
    """
    receive, send = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be_the_child(act, send)
    os.close(send)
    with open(receive, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    if not told:
        raise BootError("the process that looked into the store died", Exit.BUG)
    good, value = pickle.loads(told)
    if not good:
        raise value
    return value


def _be_the_child(act: Callable[[], Any], send: int) -> NoReturn:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    try:
        try:
            told = (True, act())
        except PbusError as error:
            told = (False, _Told(str(error), error.exit_status))
        with open(send, "wb") as pipe:
            pipe.write(pickle.dumps(told))
    finally:
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        os._exit(0)


class _Told(PbusError):
    """An error of the child process, as its parent has it."""

    def __init__(self, text: str, exit_status: int) -> None:
        self.exit_status = Exit(exit_status)
        super().__init__(text)

    def __reduce__(self) -> tuple[type[_Told], tuple[str, int]]:
        return (_Told, (str(self), int(self.exit_status)))


# -- in the child process -----------------------------------------------------------------------------


@contextlib.contextmanager
def _stores(settings: Settings, names: Sequence[Name]) -> Iterator[Mapping[str, Driver]]:
    """Queue -> its store."""
    from pbus.cli.stores import opened

    with contextlib.ExitStack() as stack:
        drivers: dict[str, Driver] = {}
        for queue, _ in names:
            storage = settings.queue[queue].storage
            if storage not in drivers:
                drivers[storage] = stack.enter_context(opened(settings, storage))
        yield {queue: drivers[settings.queue[queue].storage] for queue, _ in names}


def _take(settings: Settings, names: Sequence[Name], lease: Lease) -> list[Name]:
    from pbus.cli.pauses import set_paused

    held: list[Name] = []
    with _stores(settings, names) as stores:
        free = [name for name in names if not _is_paused(stores[name[0]], name)]
        paths = ["/".join(name) for name in names]
        for driver in {id(driver): driver for driver in stores.values()}.values():
            for note in driver.documents(KIND, paths):
                raise _busy(note.name, note.text)
        try:
            for name in free:
                if not stores[name[0]].write_document(KIND, "/".join(name), lease.text(), 0):
                    raise _busy("/".join(name), "")
                held.append(name)
                set_paused(stores[name[0]], *name, True, f"{settings.node.name} (pbus deploy)", leased=True)
        except PbusError:
            _let_go(stores, held, lease.token)
            raise
    return held


def _is_paused(driver: Driver, name: Name) -> bool:
    numbers = driver.numbers([name[0]]).get(name)
    return bool(numbers and numbers.paused_ms)


def _busy(path: str, text: str) -> PbusError:
    from pbus.cli.stores import Refused

    with contextlib.suppress(ValueError):
        lease = parse(text)
        return Refused(
            f"{path}: a deploy of {lease.by} is under way; if that one has died, its hold ends {lease.lease_s:g} s "
            f"after it, or with 'pbus topic resume {path}'"
        )
    return Refused(f"{path}: another deploy has just begun")


def _running(settings: Settings, names: Sequence[Name]) -> dict[str, int]:
    with _stores(settings, names) as stores:
        found = {name: stores[name[0]].numbers([name[0]]).get(name) for name in names}
    return {"/".join(name): each.running for name, each in found.items() if each is not None and each.running}


def _renew(settings: Settings, names: Sequence[Name], token: str, text: str) -> list[str]:
    lost = []
    with _stores(settings, names) as stores:
        for name in names:
            path, driver = "/".join(name), stores[name[0]]
            notes = [note for note in driver.documents(KIND, [path]) if _is_ours(note.text, token)]
            if not notes or not driver.write_document(KIND, path, text, notes[0].version):
                lost.append(path)
    return lost


def _release(settings: Settings, names: Sequence[Name], token: str) -> None:
    with _stores(settings, names) as stores:
        _let_go(stores, names, token)


def _let_go(stores: Mapping[str, Driver], names: Sequence[Name], token: str) -> None:
    from pbus.cli.pauses import set_paused

    for name in names:
        driver = stores[name[0]]
        if any(_is_ours(note.text, token) for note in driver.documents(KIND, ["/".join(name)])):
            set_paused(driver, *name, False, "")


def _is_ours(text: str, token: str) -> bool:
    try:
        return parse(text).token == token
    except ValueError:
        return False
