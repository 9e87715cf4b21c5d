"""
From a folder to the settings of a bus: read, build, check; every problem at once.

Rule: what leaves this file is complete. Paths are absolute, passwords are read, the node has a
name and a storage, and every value is in the unit that its attribute says.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pbus.config.build import Builder
from pbus.config.check import check
from pbus.config.schema import Queue, Settings, Storage, System
from pbus.config.tree import KeyPath, Tree, read
from pbus.errors import ConfigError

DEFAULT_STORAGE_URL: Final = "sqlite:pbus.db"
SYSTEM_WIDE: Final = {"run_dir": "/run/pbus", "data_dir": "/var/lib/pbus", "log_dir": "/var/log/pbus"}
"""Defaults of ``[node]`` when the folder is below /etc."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    Valid settings, and the tree that still knows which file each key came from.

    Attributes:
        orphans: (queue, topic) in the settings that are not in the files any more (``config.orphans``).
        kept: Their tables, as the files said them.
        over: Orphans that had nothing left.
    """

    settings: Settings
    tree: Tree
    orphans: tuple[tuple[str, str], ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict, repr=False)
    over: tuple[tuple[str, str], ...] = ()


def load(directory: str) -> Settings:
    """
    The settings that the folder *directory* describes.

    Raises:
        ConfigError: it is missing, unreadable or invalid; carries every problem found.
    """
    return load_with_origins(directory).settings


def run_dir_of(directory: str) -> str:
    """
    Where the bus of *directory* has its sockets, even if the folder is broken since it started.

    A bus that runs must be seen and stopped whatever somebody has just saved; so problems count
    only where they may be about this very key.

    Raises:
        ConfigError: the folder cannot be read, or ``[node]`` itself is wrong.
    """
    tree = read(directory, os.environ)
    run_dir = settings_of(tree).node.run_dir
    about = [each for each in tree.problems if each.key == "node" or "run_dir" in f"{each.key} {each.what}"]
    if about:
        raise ConfigError(about)
    return run_dir


def load_with_origins(directory: str, environment: Mapping[str, str] | None = None) -> Loaded:
    """
    ``load``, keeping where each key came from.

    Args:
        directory: The configuration folder.
        environment: Where ``${VAR}`` is looked up; None: the process' own.

    Raises:
        ConfigError: as ``load``.
    """
    tree = read(directory, os.environ if environment is None else environment)
    settings = settings_of(tree)
    if tree.problems:
        raise ConfigError(sorted(tree.problems, key=lambda problem: (problem.file, problem.key)))
    return Loaded(settings, tree)


def settings_of(tree: Tree) -> Settings:
    """What *tree* means; of use only if the tree has no problems after it."""
    settings = Builder(tree, os.path.dirname(tree.directory)).section(Settings, tree.values, ())
    settings = _with_defaults(settings, tree)
    check(settings, tree)
    return settings


def _with_defaults(settings: Settings, tree: Tree) -> Settings:
    """*settings* with what depends on the machine or on where the folder is."""
    node = settings.node
    if not node.name:
        node = dataclasses.replace(node, name=node_name(socket.gethostname()))
    if is_below_etc(tree.directory):
        absent: dict[str, Any] = {key: path for key, path in SYSTEM_WIDE.items() if ("node", key) not in tree.origin}
        node = dataclasses.replace(node, **absent)
    storages = dict(settings.storage) or {"main": Storage(url=DEFAULT_STORAGE_URL)}
    storages = {name: _place(storage, node.data_dir) for name, storage in storages.items()}
    systems = {name: System() for name in tree.systems} | dict(settings.system)
    base = os.path.dirname(tree.directory)
    queues = {name: _with_commands(queue, ("queue", name), tree) for name, queue in settings.queue.items()}
    programs = {
        name: program if program.cwd else dataclasses.replace(program, cwd=base)
        for name, program in settings.program.items()
    }
    return dataclasses.replace(
        settings, node=node, storage=storages, system=systems, queue=queues, program=programs
    )


def _with_commands(queue: Queue, path: KeyPath, tree: Tree) -> Queue:
    """*queue* with its programs where relative paths are meant from, and stopped as their protocol wants it."""
    topics = dict(queue.topic)
    for name, topic in queue.topic.items():
        handler = topic.command
        if handler is not None:
            if not handler.cwd:
                handler = dataclasses.replace(handler, cwd=os.path.dirname(tree.directory))
            if handler.protocol == "pepper" and (*path, "topic", name, "command", "stop_signal") not in tree.origin:
                handler = dataclasses.replace(handler, stop_signal="INT")
            topics[name] = dataclasses.replace(topic, command=handler)
    return dataclasses.replace(queue, topic=topics)


def is_below_etc(directory: str) -> bool:
    """Whether the folder belongs to the machine rather than to a checkout."""
    return os.path.commonpath((directory, "/etc")) == "/etc"


def node_name(host: str) -> str:
    """
    A valid name for the machine called *host*: what a name may not hold becomes ``-``.

    >>> node_name("bus 1.example.com")
    'bus-1.example.com'
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", host).lstrip(".-")[:64]
    return name or "node"


def _place(storage: Storage, data_dir: str) -> Storage:
    """*storage* with the absolute path of an SQLite file, and a Redis' password taken out of its URL."""
    scheme, _, rest = storage.url.partition(":")
    if scheme == "sqlite" and rest.strip("/"):
        path = os.path.normpath(os.path.join(data_dir, rest.removeprefix("//")))
        return dataclasses.replace(storage, url=f"sqlite:{path}")
    try:
        parts = urlsplit(storage.url)
    except ValueError:
        return storage
    if parts.password is None or not parts.scheme.startswith("redis"):
        return storage
    before, _, host = parts.netloc.rpartition("@")
    user = before.partition(":")[0]
    url = parts._replace(netloc=f"{user}@{host}" if user else host).geturl()
    return dataclasses.replace(storage, url=url, password=storage.password or unquote(parts.password))
