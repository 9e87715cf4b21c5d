"""
Topics that are gone from the files and still hold jobs: they go on with the handler that they had.

    data_dir/topics.json  (0600)  what ran last, as the files said it: the scheduler writes it when it begins
    files without a topic + topics.json with it  -->  the topic goes on, as an orphan
    forget(topics)  -->  the next reading of the files is without them

Rule: the files win. An orphan that cannot be had beside them (its storage or backend is gone, its module too) is left
out: its jobs stay in the store, and ``pbus status`` says so.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pbus.config.load import Loaded, settings_of
from pbus.config.schema import Queue, Settings
from pbus.config.tree import Tree
from pbus.errors import ConfigError

FILE_NAME: Final = "topics.json"

Name = tuple[str, str]


def adopted(loaded: Loaded) -> Loaded:
    """*loaded* with the topics that ran last, are not in it and have not been forgotten."""
    known = _read(loaded.settings.node.data_dir)
    missing = [
        (queue, topic) for queue, section in known["queue"].items() for topic in section.get("topic", {})
        if topic not in _topics_of(loaded.tree.values, queue)
    ]
    if missing:
        for names in (missing, *([name] for name in missing)):  # all at once; or, with a problem, one by one
            together = _with(loaded, known, names)
            if together is not None:
                loaded = together
                if len(names) == len(missing):
                    break
    over = {(str(queue), str(topic)) for queue, topic in known["over"]} - set(loaded.orphans)
    over = {name for name in over if name[1] not in _topics_of(loaded.tree.values, name[0])}
    return dataclasses.replace(loaded, over=tuple(sorted(over)))


def said(loaded: Loaded) -> Loaded:
    """*loaded* as the files said it."""
    queues = {}
    for name, section in loaded.settings.queue.items():
        topics = {topic: each for topic, each in section.topic.items() if (name, topic) not in loaded.orphans}
        if topics or name in loaded.tree.values.get("queue", {}):
            queues[name] = section if len(topics) == len(section.topic) else dataclasses.replace(section, topic=topics)
    backends = {
        name: each for name, each in loaded.settings.backend.items() if name in loaded.tree.values.get("backend", {})
    }
    settings = dataclasses.replace(loaded.settings, queue=queues, backend=backends)
    return dataclasses.replace(loaded, settings=settings, orphans=(), kept={})


def gone(loaded: Loaded) -> frozenset[str]:
    """Queues of which nothing is in the files any more."""
    return frozenset(queue for queue, _ in loaded.orphans if queue not in loaded.tree.values.get("queue", {}))


def to_keep(loaded: Loaded) -> dict[str, Any]:
    """What has to be known of *loaded* when the files do not say it any more; see ``keep``."""
    tables = {name: loaded.tree.values.get(name, {}) for name in ("queue", "backend")}
    return _merged(tables, loaded.kept) if loaded.kept else tables


def keep(data_dir: str, tables: Mapping[str, Any]) -> None:
    """
    Write down what runs now.

    Raises:
        OSError: it could not be written; what was there stays.
    """
    path = os.path.join(data_dir, FILE_NAME)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".new")
    descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"v": 1, "over": [], **tables}, file, default=str)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def forget(data_dir: str, names: Iterable[Name]) -> bool:
    """
    The next reading of the files is without these; whether one of them was known.

    Raises:
        OSError: it could not be written.
    """
    known, found = _read(data_dir), False
    for queue, topic in names:
        section = known["queue"].get(queue, {})
        if section.get("topic", {}).pop(topic, None) is not None:
            found = True
            known["over"].append([queue, topic])
        if not section.get("topic"):
            known["queue"].pop(queue, None)
    if found:
        keep(data_dir, known)
    return found


def _read(data_dir: str) -> dict[str, Any]:
    """What was kept; nothing of a file that is not there or makes no sense."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open(os.path.join(data_dir, FILE_NAME), encoding="utf-8") as file:
            known = json.load(file)
        if isinstance(known, dict) and known.get("v") == 1:
            return {"queue": known["queue"], "backend": known["backend"], "over": known["over"]}
    return {"queue": {}, "backend": {}, "over": []}


def _topics_of(values: Mapping[str, Any], queue: str) -> Mapping[str, Any]:
    section = values.get("queue", {}).get(queue, {})
    topics: Mapping[str, Any] = section.get("topic", {}) if isinstance(section, Mapping) else {}
    return topics


def _with(loaded: Loaded, known: Mapping[str, Any], names: list[Name]) -> Loaded | None:
    """*loaded* with the orphans *names*; None: they cannot be had beside it."""
    values = loaded.tree.values
    wanted: dict[str, Any] = {"queue": {}, "backend": {}}
    for queue, topic in names:
        section = known["queue"][queue]
        own = {key: value for key, value in section.items() if key not in ("topic", "alias")}
        if own.get("system") not in {*values.get("system", {}), *loaded.tree.systems}:
            own.pop("system", None)
        table = wanted["queue"].setdefault(queue, {} if queue in values.get("queue", {}) else own)
        table.setdefault("topic", {})[topic] = handler = section["topic"][topic]
        backend = (handler.get("fastcgi") or {}).get("backend") if isinstance(handler, Mapping) else None
        if backend in known["backend"] and backend not in values.get("backend", {}):
            wanted["backend"][backend] = known["backend"][backend]
    kept = _merged(wanted, loaded.kept) if loaded.kept else wanted
    tree = dataclasses.replace(loaded.tree, values=_merged(copy.deepcopy(values), kept), problems=[], bad_items=set())
    settings = _settings(tree)
    if settings is None:
        return None
    orphans = tuple(sorted({*loaded.orphans, *names}))
    settings = _grafted(loaded.settings, settings, orphans)
    return dataclasses.replace(loaded, settings=settings, orphans=orphans, kept=kept)


def _settings(tree: Tree) -> Settings | None:
    try:
        settings = settings_of(tree)
    except (ConfigError, LookupError, TypeError, ValueError):
        return None
    return None if tree.problems else settings


def _grafted(into: Settings, of: Settings, orphans: Iterable[Name]) -> Settings:
    queues: dict[str, Queue] = dict(into.queue)
    backends = dict(into.backend)
    for queue, topic in orphans:
        section = queues.get(queue) or dataclasses.replace(of.queue[queue], topic={})
        new = of.queue[queue].topic[topic]
        queues[queue] = dataclasses.replace(section, topic={**section.topic, topic: new})
        if new.fastcgi is not None and new.fastcgi.backend:
            backends.setdefault(new.fastcgi.backend, of.backend[new.fastcgi.backend])
    return dataclasses.replace(into, queue=queues, backend=backends)


def _merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Tables in tables; where both say something else, *values* wins."""
    found = dict(values)
    for key, value in more.items():
        if key not in found:
            found[key] = value
        elif isinstance(value, Mapping) and isinstance(found[key], Mapping):
            found[key] = _merged(found[key], value)
    return found
