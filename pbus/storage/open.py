"""
From a storage's URL to its driver, and from settings to what a store must know.

Rule: a driver's module is imported only when a URL asks for it, in the child that will use it
(never before the fork). Further drivers are entry points of the group ``pbus.storage``: the name is
the URL's scheme, the object is called with a ``StoreTarget``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Final

from pbus.config.schema import Queue
from pbus.core.sample import residues
from pbus.errors import ConfigError, Problem
from pbus.storage.driver import Driver, QueueSpec, TopicSpec

GROUP: Final = "pbus.storage"

# Found without installed metadata, so that a checkout runs as it is.
BUILT_IN: Final[Mapping[str, tuple[str, str]]] = {
    "sqlite": ("pbus.storage.sqlite", "SqliteDriver"),
    "redis": ("pbus.storage.redis_streams", "RedisStreamsDriver"),
    "redis+unix": ("pbus.storage.redis_streams", "RedisStreamsDriver"),
}


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """
    One storage, as one node reaches it.

    Attributes:
        name: Its name in the configuration (``main``).
        url: Where it is; paths in it are absolute.
        password: Empty when it needs none.
        call_timeout_s: No call takes longer, seconds.
        node: Name of this node (an embedded file belongs to one node).
        min_free_bytes: A file's disk: pushes are refused (``StoreFull``) below this free space.
        high_water: Share of what the store may use at which the first pushes are refused; the door's business.
    """

    name: str
    url: str
    password: str = field(repr=False)
    call_timeout_s: float
    node: str
    min_free_bytes: int = 64 * 1024 * 1024
    high_water: float = 0.85


def schemes() -> frozenset[str]:
    """Every URL scheme that has a driver here, built in or installed."""
    return frozenset(BUILT_IN) | {point.name for point in entry_points(group=GROUP)}


def make(target: StoreTarget) -> Driver:
    """
    The driver for *target*, not opened yet.

    Raises:
        ConfigError: no driver is called by the scheme of its URL.
    """
    scheme = target.url.partition(":")[0]
    factory = _factory(scheme)
    if factory is None:
        known = ", ".join(sorted(schemes()))
        what = f"no storage driver is called {scheme!r}; there are {known}"
        raise ConfigError([Problem("", f"storage.{target.name}.url", what)])
    return factory(target)


def queue_specs(queues: Mapping[str, Queue], storage_name: str) -> list[QueueSpec]:
    """What the store *storage_name* must know of *queues*: those it keeps, in name order."""
    return [
        QueueSpec(
            name=name,
            topics=tuple(
                TopicSpec(
                    topic, settings.start, settings.dead.keep_s, settings.dead.max,
                    residues(settings.sample) if settings.shadow_of else 0,
                )
                for topic, settings in sorted(queue.topic.items())
            ),
            retention_s=queue.retention_s,
            retention_bytes=queue.retention_bytes,
            max_backlog=queue.max_backlog,
            max_backlog_bytes=queue.max_backlog_bytes,
            dedupe_window_s=queue.dedupe_window_s,
        )
        for name, queue in sorted(queues.items())
        if queue.storage == storage_name
    ]


def _factory(scheme: str) -> Callable[[StoreTarget], Driver] | None:
    if scheme in BUILT_IN:
        module, name = BUILT_IN[scheme]
        built_in: Callable[[StoreTarget], Driver] = getattr(import_module(module), name)
        return built_in
    for point in entry_points(group=GROUP, name=scheme):
        installed: Callable[[StoreTarget], Driver] = point.load()
        return installed
    return None
