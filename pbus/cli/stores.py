"""
How a command opens the stores: as any process of this node, with the bus running or stopped.

Rule: this is the only place of ``pbus/cli`` that makes a driver. A command only names what the store or the
configuration has, so nothing comes into being by a typing error; a store that is away ends a command with 69.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pbus.errors import BootError, Exit, NotFound, NotRunning, PbusError, StorageError, Unavailable

if TYPE_CHECKING:
    from pbus.config.schema import Queue, Settings, Topic
    from pbus.storage.driver import Driver, QueueNumbers, TopicNumbers

_SQLITE: Final = "sqlite:"
_NAMED: Final = 12


class Refused(PbusError):
    """It would destroy something, or cannot be done as things are."""

    exit_status = Exit.REFUSED


@contextlib.contextmanager
def opened(settings: Settings, storage: str) -> Iterator[Driver]:
    """
    The store *storage*.

    Raises:
        Unavailable: it is away, or has never been made; BootError: it is not for us as it is.
    """
    from pbus.app import stores
    from pbus.storage.open import make

    target = stores(settings)[storage]
    if target.url.startswith(_SQLITE):
        _must_be_ours(storage, target.url.removeprefix(_SQLITE))
        be_its_owner(settings.node.user)
    driver = make(target)
    try:
        driver.open()
    except StorageError as error:
        raise type(error)(f"storage {storage}: {error}") from None
    try:
        yield driver
    except StorageError as error:
        raise type(error)(f"storage {storage}: {error}") from None
    finally:
        driver.close()


def _must_be_ours(storage: str, path: str) -> None:
    """
    Raises:
        Unavailable: nobody has made it yet. BootError: it is there, but not for this user.
    """
    try:
        ours = bool(os.stat(path)) and os.access(path, os.R_OK | os.W_OK)
    except PermissionError:
        ours = False
    except OSError:
        raise Unavailable(f"storage {storage}: there is no {path} yet; the first 'pbus start' makes it") from None
    if not ours:
        text = f"storage {storage}: no permission to use {path}; run this as the user that runs the bus"
        raise BootError(text, Exit.NO_PERMISSION)


def be_its_owner(user: str) -> None:
    """Files that root leaves beside the store would be closed to the children that run as *user*."""
    if not user or os.geteuid() != 0:
        return
    import pwd

    entry = pwd.getpwnam(user)
    if entry.pw_uid != 0:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)


@dataclass(slots=True)
class Stock:
    """
    What is there, in the configuration and in the stores that could be read.

    Attributes:
        settings: The configuration.
        topics, queues: Numbers, as the stores have them.
        storage_of: Queue -> the storage that has it, or should.
        away: Storage -> why it could not be read.
    """

    settings: Settings
    topics: dict[tuple[str, str], TopicNumbers] = field(default_factory=dict)
    queues: dict[str, QueueNumbers] = field(default_factory=dict)
    storage_of: dict[str, str] = field(default_factory=dict)
    away: dict[str, StorageError] = field(default_factory=dict)

    def queue_names(self) -> list[str]:
        """Of the configuration and of the stores, in order."""
        return sorted({*self.settings.queue, *self.queues, *(queue for queue, _ in self.topics)})

    def topic_names(self, queue: str = "") -> list[tuple[str, str]]:
        """(queue, topic) of the configuration and of the stores, in order; of one queue, or of all."""
        configured = {(name, topic) for name, section in self.settings.queue.items() for topic in section.topic}
        return sorted(name for name in configured | set(self.topics) if queue in ("", name[0]))

    def section(self, queue: str) -> Queue | None:
        """The queue's section, if it has one."""
        return self.settings.queue.get(queue)

    def topic_section(self, name: tuple[str, str]) -> Topic | None:
        """The topic's section, if it has one."""
        section = self.section(name[0])
        return section.topic.get(name[1]) if section else None

    def queue(self, name: str) -> str:
        """
        The queue that *name* (or an alias) means.

        Raises:
            NotFound: none.
        """
        if name in self.queue_names():
            return name
        for queue, section in self.settings.queue.items():
            if name in section.alias:
                return queue
        if name in ("/".join(each) for each in self.topic_names()):
            raise NotFound(f"{name!r} is a topic of {name.rpartition('/')[0]!r}")
        raise self._not_found("queue", name, self.queue_names())

    def topic(self, path: str) -> tuple[str, str]:
        """
        The queue and topic that *path* (``gift/credit``) means.

        Raises:
            NotFound: none.
        """
        queue, slash, topic = path.rpartition("/")
        names = self.topic_names()
        if slash and (self._unaliased(queue), topic) in names:
            return (self._unaliased(queue), topic)
        paths = ["/".join(name) for name in names]
        if not slash and path in self.queue_names():
            own = [each for each in paths if each.startswith(path + "/")]
            raise NotFound(f"{path!r} is a queue; its topics: {_listed(own)}")
        raise self._not_found("topic", path, paths)

    def _unaliased(self, queue: str) -> str:
        return next((name for name, section in self.settings.queue.items() if queue in section.alias), queue)

    def _not_found(self, kind: str, name: str, known: Iterable[str]) -> NotFound | StorageError:
        """What to raise; with a store away, nobody can say that there is no such thing."""
        for error in self.away.values():
            return error
        names = list(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {_listed(names)}"
        return NotFound(f"there is no {kind} {name!r}; {hint}")

    def check(self) -> None:
        """
        Raises:
            Unavailable: a store could not be read; what was found has been shown.
        """
        for error in self.away.values():
            raise error


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED]) or "none"
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def take_stock(settings: Settings) -> Stock:
    """Read every store; one that is away is noted."""
    stock = Stock(settings, storage_of={name: section.storage for name, section in settings.queue.items()})
    for storage in settings.storage:
        try:
            with opened(settings, storage) as driver:
                topics, queues = driver.numbers(), driver.queue_numbers()
        except StorageError as error:
            stock.away[storage] = error
            continue
        stock.topics.update(topics)
        stock.queues.update(queues)
        for queue in queues:
            stock.storage_of.setdefault(queue, storage)
    return stock


@contextlib.contextmanager
def topic_store(settings: Settings, path: str) -> Iterator[tuple[Driver, str, str]]:
    """
    The store that has the topic *path*, the queue and the topic. A configured one is made if need be.

    Raises:
        NotFound: there is no such topic. Unavailable: the store is away.
    """
    stock = take_stock(settings)
    queue, topic = stock.topic(path)
    with queue_driver(stock, queue) as driver:
        if (queue, topic) not in stock.topics:
            declare(driver, settings, queue)
        yield driver, queue, topic


@contextlib.contextmanager
def queue_driver(stock: Stock, queue: str) -> Iterator[Driver]:
    """The store that has *queue*, or should."""
    storage = stock.storage_of[queue]
    if storage in stock.away:
        raise stock.away[storage]
    with opened(stock.settings, storage) as driver:
        yield driver


def declare(driver: Driver, settings: Settings, queue: str) -> None:
    """Make a queue of the configuration, as the next start would."""
    from pbus.storage.open import queue_specs

    driver.declare(queue_specs({queue: settings.queue[queue]}, settings.queue[queue].storage))


def running_states(settings: Settings) -> Mapping[tuple[str, str], Mapping[str, object]]:
    """Rows of the topics in ``pbus status``; none when the bus does not run here, unknown when it does not tell us."""
    from pbus.supervisor.control import call

    try:
        rows = call(settings.node.run_dir, "status", _STATUS_S, reads=True)["status"]["topics"]
    except NotRunning:
        return {}
    except PbusError as error:
        unknown = {"state": "unknown", "reason": str(error)}
        return {(name, topic): unknown for name, section in settings.queue.items() for topic in section.topic}
    return {(str(row["queue"]), str(row["topic"])): row for row in rows}


_STATUS_S: Final = 5.0
